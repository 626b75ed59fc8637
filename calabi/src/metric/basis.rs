//! Orthonormal directions of the outputs, best first, by any of the routes.

use calabi_api::{DecomposeError, Decomposer, Decomposition, Rank, Shape, Side, Spectrum, SpectrumError};
use calabi_svd::dense::{orthonormal, product64};
use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::form::Form;
use super::root::Rooted;
use super::route::Route;

/// What a route finds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Roots of the eigenvalues of `W D Wᵀ`, no more than there are vectors.
    pub(crate) spectrum: Spectrum,
    /// `U`, `m × limit`.
    pub(crate) basis: Array2<f64>,
    pub(crate) remark: Option<String>,
}

/// Directions before they are orthonormal, best first; they span what counts in the metric.
struct Directions {
    roots: Vec<f64>,
    /// Whether all `min(m, n)` roots are known; else the energy of all.
    complete: bool,
    energy: f64,
    columns: Array2<f64>,
    /// Whether the columns are orthonormal already.
    ready: bool,
    /// Roots below this share of the largest are rounding.
    rounding: f64,
    remark: Option<String>,
}

/// The leading `limit` vectors of a weight in a metric; the same ones by every route, to rounding.
///
/// Where the metric sees nothing (few tokens, dead inputs), vectors are completed with those of what the others leave
/// of the weight itself: full rank is exact.
pub(crate) fn find(
    weight: ArrayView2<'_, f64>,
    metric: &Rooted,
    route: Route,
    decomposer: &dyn Decomposer,
    limit: Rank,
) -> Result<Found, DecomposeError> {
    let full =
        Shape::of(weight).ok_or(DecomposeError::Empty { rows: weight.nrows(), cols: weight.ncols() })?.full_rank();
    let limit = limit.min(full);
    let mut directions = match route {
        Route::Singular => by_singular_vectors(weight, metric.form(), decomposer, limit)?,
        Route::Outputs => by_outputs(weight, metric, decomposer, limit)?,
        Route::Inputs => by_inputs(weight, metric.root(decomposer)?, decomposer, limit)?,
    };
    directions.roots.truncate(full.get());
    let spectrum = directions.spectrum().map_err(|error| no_convergence(decomposer, &error))?.truncated(limit);
    let counted = directions.counted().min(limit.get());
    let mut basis = directions.columns;
    basis.slice_axis_inplace(Axis(1), (..counted).into());
    if !directions.ready {
        basis = orthonormal(basis.view())?;
    }
    if counted < limit.get() {
        basis = completed(weight, basis, limit.get() - counted, decomposer)?;
    }
    Ok(Found { spectrum, basis, remark: directions.remark })
}

impl Directions {
    fn spectrum(&self) -> Result<Spectrum, SpectrumError> {
        let roots = self.roots.clone();
        if self.complete { Spectrum::complete(roots) } else { Spectrum::leading(roots, self.energy) }
    }

    /// How many roots are more than rounding.
    fn counted(&self) -> usize {
        let floor = self.rounding * self.roots.first().copied().unwrap_or_default();
        self.roots.iter().take_while(|&&root| root > floor).count().min(self.columns.ncols())
    }
}

/// The rounding of roots of eigenvalues that were computed in `f64` at this size.
fn rounding(weight: ArrayView2<'_, f64>) -> f64 {
    (4.0 * f64::EPSILON * weight.nrows().max(weight.ncols()) as f64).sqrt()
}

fn by_outputs(
    weight: ArrayView2<'_, f64>,
    metric: &Rooted,
    decomposer: &dyn Decomposer,
    limit: Rank,
) -> Result<Directions, DecomposeError> {
    let outputs = product64(&metric.form().applied(weight), &weight.t());
    let decomposition = match decomposer.eigh(outputs.view(), limit) {
        // The rounding of a Gram matrix that was summed in f32 can pass for more in a weight that sees little else.
        Err(DecomposeError::Indefinite { .. }) => {
            let images = product64(&weight, metric.root(decomposer)?);
            decomposer.eigh(product64(&images, &images.t()).view(), limit)?
        }
        other => other?,
    };
    let (_, columns) = decomposition.precise_basis(limit)?;
    Ok(Directions { ready: true, columns, ..Directions::of(&*decomposition, rounding(weight)) })
}

fn by_inputs(
    weight: ArrayView2<'_, f64>,
    root: &Array2<f64>,
    decomposer: &dyn Decomposer,
    limit: Rank,
) -> Result<Directions, DecomposeError> {
    let images = product64(&weight, root);
    let decomposition = decomposer.eigh(product64(&images.t(), &images).view(), limit)?;
    let (_, vectors) = decomposition.precise_basis(limit)?;
    let columns = unit_columns(product64(&images, &vectors));
    Ok(Directions { columns, ..Directions::of(&*decomposition, rounding(weight)) })
}

fn by_singular_vectors(
    weight: ArrayView2<'_, f64>,
    form: &Form,
    decomposer: &dyn Decomposer,
    limit: Rank,
) -> Result<Directions, DecomposeError> {
    let (scaled, scale) = scaled(weight, form);
    let single = to_f32(scaled.view());
    let decomposition = decomposer.svd(single.view(), limit)?;
    let (side, vectors) = decomposition.precise_basis(limit)?;
    let exact = matches!(form, Form::Identity(_));
    let rounding = rounding(weight).max(if exact { 0.0 } else { f64::from(f32::EPSILON) });
    let mut directions = Directions::of(&*decomposition, rounding);
    directions.roots.iter_mut().for_each(|root| *root *= scale);
    directions.energy *= scale * scale;
    directions.ready = side == Side::Left;
    directions.columns = if side == Side::Left { vectors } else { unit_columns(product64(&scaled, &vectors)) };
    Ok(directions)
}

impl Directions {
    fn of(decomposition: &dyn Decomposition, rounding: f64) -> Self {
        let spectrum = decomposition.spectrum();
        Self {
            roots: spectrum.values().to_vec(),
            complete: spectrum.is_complete(),
            energy: spectrum.energy(),
            columns: Array2::zeros((0, 0)),
            ready: false,
            rounding,
            remark: decomposition.remark().map(str::to_owned),
        }
    }
}

/// `W D^½ / s` and `s`: scales of at most one overflow nothing.
fn scaled(weight: ArrayView2<'_, f64>, form: &Form) -> (Array2<f64>, f64) {
    let Form::Diagonal(d) = form else { return (weight.to_owned(), 1.0) };
    let largest = d.iter().fold(0.0, |max: f64, &v| max.max(v)).sqrt();
    let scale = if largest > 0.0 { largest } else { 1.0 };
    (&weight * &d.mapv(|v| v.max(0.0).sqrt() / scale), scale)
}

/// `basis`, and further columns after it: the leading singular vectors of what it leaves of the weight.
fn completed(
    weight: ArrayView2<'_, f64>,
    basis: Array2<f64>,
    more: usize,
    decomposer: &dyn Decomposer,
) -> Result<Array2<f64>, DecomposeError> {
    let rest = &weight - &product64(&basis, &product64(&basis.t(), &weight));
    let Some(more) = Rank::new(more) else { return Ok(basis) };
    let (side, vectors) = decomposer.svd(to_f32(rest.view()).view(), more)?.precise_basis(more)?;
    let further = if side == Side::Left { vectors } else { unit_columns(product64(&rest, &vectors)) };
    let columns = concatenate(Axis(1), &[basis.view(), further.view()]).unwrap_or(basis);
    orthonormal(columns.view())
}

/// Columns of length one; a column of zeros stays.
fn unit_columns(mut columns: Array2<f64>) -> Array2<f64> {
    for mut column in columns.columns_mut() {
        let length = column.dot(&column).sqrt();
        if length > 0.0 {
            column.mapv_inplace(|v| v / length);
        }
    }
    columns
}

#[allow(clippy::cast_possible_truncation)] // decomposers take weights in f32
pub(crate) fn to_f32(matrix: ArrayView2<'_, f64>) -> Array2<f32> {
    matrix.mapv(|v| v as f32)
}

fn no_convergence(decomposer: &dyn Decomposer, error: &SpectrumError) -> DecomposeError {
    DecomposeError::NoConvergence { backend: "the decomposer", routes: format!("{decomposer:?}: {error}") }
}
