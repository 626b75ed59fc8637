//! The anchored objective: factors for what the compressed prefix really produces, judged against the original outputs.
//!
//! AA-SVD (arXiv 2604.02119). A layer saw inputs `x`; behind compressed layers it sees `x'`. The weight is refitted to
//! the outputs that it gave before, `W* = W (C_xx' + ρI)(C_x'x' + ρI)⁻¹`, and taken apart in the metric `D = C_x'x'`.
//! With `P = U_r U_rᵀ` the loss `E‖W x − P W* x'‖²` is
//!
//! ```text
//! tr(W D_xx Wᵀ) − Σ_{i≤r} uᵢᵀ (2 W D_xx' W*ᵀ − W* D_x'x' W*ᵀ) uᵢ
//! ```

use calabi_api::{DecomposeError, Decomposer, Factors, Rank, Shape};
use calabi_svd::dense::{divided, product64};
use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::basis::{find, to_f32};
use super::factorize::{Basis, Factorization};
use super::form::{Form, centred, mean_diagonal, rank_one, shrunk};
use super::losses::energy_of_mean;
use super::measure::left_over;
use super::root::Rooted;
use super::route::route;
use super::{Bias, Shrinkage};
use crate::statistics::CrossStatistics;

/// `ρ`, as a share of the mean of the diagonal of `C_x'x'`.
const RIDGE: f64 = 1e-4;

/// The metric of one distinct input before and after its prefix was compressed.
#[derive(Debug)]
pub(crate) struct Anchored {
    /// `C_x'x'` that finds `U`, shrunk.
    find: Rooted,
    /// `C_xx'` of the refit, shrunk alike: else the refit drifts from the weight.
    towards: Array2<f64>,
    /// What losses are measured in, as measured: `D_xx`, `D_xx'`, `D_x'x'`.
    original: Form,
    cross: Array2<f64>,
    compressed: Form,
    /// `μ` and `μ'`; none where the bias makes up for nothing.
    means: Option<(Array1<f64>, Array1<f64>)>,
}

impl Anchored {
    /// The metric of inputs that were seen in pairs. Moments are centred to find `U` with the bias `joint` alone, and
    /// to judge with `residual` too.
    pub(crate) fn new(statistics: CrossStatistics, bias: Bias, shrinkage: Shrinkage) -> Self {
        let CrossStatistics { original, compressed, cross } = statistics;
        let alpha = shrinkage.alpha(compressed.tokens, compressed.mean.len());
        let (mean, mean_after) = (original.mean, compressed.mean);
        let seen = [original.gram, cross, compressed.gram];
        let moments = || {
            let [xx, xy, yy] = &seen;
            let mut cross = xy.clone();
            rank_one(&mut cross, -1.0, &mean, &mean_after);
            [centred(xx, &mean), cross, centred(yy, &mean_after)]
        };
        let (find, judge, means) = match bias {
            Bias::None => (seen.clone(), seen, None),
            Bias::Residual => (seen.clone(), moments(), Some((mean, mean_after))),
            Bias::Joint => (moments(), moments(), Some((mean, mean_after))),
        };
        let ([_, towards, find], [original, cross, compressed]) = (find, judge);
        let shift = alpha * mean_diagonal(&find);
        Self {
            towards: shrunk(towards, alpha, shift),
            find: Rooted::new(Form::from(shrunk(find, alpha, shift))),
            original: Form::from(original),
            cross,
            compressed: Form::from(compressed),
            means,
        }
    }

    /// `W*`: the weight that gives, for compressed inputs, what the original gave for its own, as nearly as one can.
    ///
    /// # Errors
    /// Where the moments are no moments: not symmetric, negative, not finite.
    pub(crate) fn refit(&self, weight: ArrayView2<'_, f32>) -> Result<Array2<f32>, DecomposeError> {
        let find = self.find.form().full();
        if mean_diagonal(&find) == 0.0 {
            return Ok(weight.to_owned());
        }
        let ridge = RIDGE * mean_diagonal(&find);
        let (towards, find) = (shrunk(self.towards.clone(), 0.0, ridge), shrunk(find.into_owned(), 0.0, ridge));
        Ok(to_f32(divided(product64(&weight.mapv(f64::from), &towards).view(), find.view())?.view()))
    }

    /// Takes apart what a weight was refitted to. Losses are against the outputs of the weight itself, relative to
    /// `E‖W x‖²`; factors come from the refitted weight.
    ///
    /// # Errors
    /// As [`factorize`](super::factorize).
    pub(crate) fn factorize(
        &self,
        weight: ArrayView2<'_, f32>,
        refitted: ArrayView2<'_, f32>,
        decomposer: &dyn Decomposer,
        limit: Rank,
    ) -> Result<Factorization<'static>, DecomposeError> {
        let shape = Shape::of(weight).ok_or(DecomposeError::Empty { rows: weight.nrows(), cols: weight.ncols() })?;
        if weight.dim() != refitted.dim() || weight.ncols() != self.find.form().size() {
            return Err(DecomposeError::Beyond { asked: weight.ncols(), available: self.find.form().size() });
        }
        let (weight, refitted) = (weight.mapv(f64::from), refitted.mapv(f64::from));
        let route = route(shape, self.find.form());
        let found = find(refitted.view(), &self.find, route, decomposer, limit)?;
        let kept =
            self.kept(product64(&found.basis.t(), &weight).view(), product64(&found.basis.t(), &refitted).view());
        let total = self.original.of_rows(weight.view()).sum();
        let mut losses = vec![total; kept.len() + 1];
        let mut loss = total;
        for (after, kept) in losses.iter_mut().skip(1).zip(&kept) {
            loss -= kept;
            *after = loss.max(0.0);
        }
        let mean = self.means.as_ref().map(|(mean, _)| mean);
        let energy = total + energy_of_mean(weight.view(), mean);
        Factorization::new(found.spectrum, Basis::Precise(found.basis), found.remark, losses, energy)
    }

    /// The bias that makes up for what these factors cut and for how the prefix moved the mean, `W μ − left · right
    /// μ'`, to be added to the layer's own; none where nothing is made up for.
    pub(crate) fn compensation(&self, weight: ArrayView2<'_, f32>, factors: &Factors) -> Option<Array1<f64>> {
        let (mean, after) = self.means.as_ref()?;
        let right = factors.right.mapv(f64::from).dot(after);
        Some(weight.mapv(f64::from).dot(mean) - factors.left.mapv(f64::from).dot(&right))
    }

    /// The mean square difference between the original outputs and those of these factors on compressed inputs;
    /// `added` as in [`measured_loss`](super::measured_loss).
    pub(crate) fn measured_loss(
        &self,
        weight: ArrayView2<'_, f32>,
        factors: &Factors,
        added: Option<&Array1<f64>>,
    ) -> f64 {
        let weight = weight.mapv(f64::from);
        let replaced = product64(&factors.left.mapv(f64::from), &factors.right.mapv(f64::from));
        let kept: f64 = self.kept(weight.view(), replaced.view()).sum();
        let wanted = self.means.as_ref().map(|(mean, after)| weight.dot(mean) - replaced.dot(after));
        (self.original.of_rows(weight.view()).sum() - kept).max(0.0) + left_over(wanted, added)
    }

    /// `2 p D_xx' qᵀ − q D_x'x' qᵀ` for the rows `p` and `q` of two matrices.
    fn kept(&self, p: ArrayView2<'_, f64>, q: ArrayView2<'_, f64>) -> Array1<f64> {
        let mixed = (&product64(&p, &self.cross) * &q).sum_axis(Axis(1));
        2.0 * mixed - self.compressed.of_rows(q)
    }
}
