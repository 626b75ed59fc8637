//! A subspace that power steps turn towards the leading singular vectors, and what it captures of the weight.

use faer::{Mat, MatRef};

use crate::eigen::Eigen;
use crate::noise::Noise;
use crate::orthonormal::orthonormal;
use crate::products;
use crate::tridiagonal::Lower;
use crate::weight::Weight;

/// Orthonormal columns `Q` on the smaller side of the weight.
#[derive(Debug)]
pub(super) struct Subspace<'a> {
    weight: &'a Weight<'a>,
    q: Mat<f64>,
    /// `A Aᵀ Q`, where it is known already.
    image: Option<Mat<f64>>,
}

/// What a subspace captures: the Rayleigh-Ritz pairs of `M = A Aᵀ` on it, and how far they are from invariant.
#[derive(Debug)]
pub(super) struct Ritz {
    /// `Q W`, in columns, largest Ritz value first.
    pub(super) vectors: Mat<f64>,
    /// `θ₁ ≥ θ₂ ≥ ...`, the energy that each vector captures.
    pub(super) values: Vec<f64>,
    /// `RᵀR` of the residual `R = M X − X Θ` of the Ritz vectors `X`.
    pub(super) residual: Mat<f64>,
}

impl<'a> Subspace<'a> {
    /// A random subspace of so many dimensions.
    pub(super) fn random(weight: &'a Weight<'a>, dimensions: usize, noise: &mut Noise) -> Self {
        let start = noise.matrix(weight.full_rank().get(), dimensions);
        Self { weight, q: orthonormal(start), image: None }
    }

    /// `Q ← orth(A Aᵀ Q)`, products in `f32`: enough while more than 1e-7 of the weight lies outside.
    pub(super) fn rough_step(&mut self) {
        let wide = self.weight.wide();
        let image = products::product(wide.transpose(), narrowed(self.q.as_ref()).as_ref());
        let back = products::product(wide, image.as_ref());
        self.q = orthonormal(Mat::from_fn(back.nrows(), back.ncols(), |i, j| f64::from(back[(i, j)])));
        self.image = None;
    }

    /// `Q ← orth(A Aᵀ Q)` in `f64`; costs nothing after the Ritz pairs.
    pub(super) fn fine_step(&mut self) {
        let image = self.image.take().unwrap_or_else(|| self.projections().1);
        self.q = orthonormal(image);
    }

    /// The Ritz pairs, in `f64`; the subspace is turned into them. None where the small eigenproblem does not converge.
    pub(super) fn ritz(&mut self) -> Option<Ritz> {
        let dimensions = self.q.ncols();
        let (captured, image) = self.projections();
        let mut off = image.clone();
        products::subtract(off.as_mut(), self.q.as_ref(), captured.as_ref());
        let eigen = Eigen::of(Lower::of(captured.as_ref()))?;
        let turn = eigen.precise(dimensions)?;
        let off = products::product(off.as_ref(), turn.as_ref());
        let residual = products::product(off.transpose(), off.as_ref());
        self.q = products::product(self.q.as_ref(), turn.as_ref());
        self.image = Some(products::product(image.as_ref(), turn.as_ref()));
        let values = eigen.values().iter().map(|v| v.max(0.0)).collect();
        Some(Ritz { vectors: self.q.clone(), values, residual })
    }

    /// `Qᵀ M Q` and `M Q`, in one pass over the weight.
    fn projections(&self) -> (Mat<f64>, Mat<f64>) {
        let (small, dimensions) = self.q.shape();
        let mut captured = Mat::zeros(dimensions, dimensions);
        let mut image = Mat::zeros(small, dimensions);
        self.weight.for_each_block(|_, block| {
            let seen = products::product(block.transpose(), self.q.as_ref());
            products::add(captured.as_mut(), seen.transpose(), seen.as_ref());
            products::add(image.as_mut(), block, seen.as_ref());
        });
        (captured, image)
    }
}

#[allow(clippy::cast_possible_truncation)] // the purpose
fn narrowed(x: MatRef<'_, f64>) -> Mat<f32> {
    Mat::from_fn(x.nrows(), x.ncols(), |i, j| x[(i, j)] as f32)
}
