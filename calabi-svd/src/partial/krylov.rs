//! A block Krylov subspace of a symmetric matrix, and what it captures of it (Golub and Underwood, 1977).

use faer::{Mat, MatRef};

use crate::eigen::Eigen;
use crate::noise::Noise;
use crate::orthonormal::{orthonormal, orthonormal_by_products};
use crate::products::{add_gram, product, replace, subtract, take_out};
use crate::real::Real;
use crate::scale::Scale;
use crate::tridiagonal::Lower;

/// How far from orthonormal Ritz vectors may be.
const ORTHONORMAL: f32 = 1e-5;

/// Orthonormal blocks `Q₁, Q₂, ...` that span `M S, M² S, ...` for a random sparse `S`, and `Qᵀ M Q`.
///
/// Each block is made orthogonal to the two before it, which its image lies in, then to all: in `f32` the three-term recurrence
/// alone would lose that.
#[derive(Debug)]
pub(super) struct Krylov {
    basis: Mat<f32>,
    /// The upper triangle of blocks counts.
    projected: Mat<f32>,
    /// Blocks so far, all but the last of which have been multiplied.
    blocks: usize,
    width: usize,
    /// What is new in the image of the last block.
    beyond: Mat<f32>,
}

/// What is known of the leading Ritz pairs of a matrix `M` besides the vectors `X`.
#[derive(Debug)]
pub(super) struct Ritz {
    /// `θ₁ ≥ θ₂ ≥ ...`, what each vector captures.
    pub(super) values: Vec<f64>,
    /// The Ritz value after these.
    pub(super) next: f64,
    /// `RᵀR` for the residuals `R = M X − X Θ`, as a multiple of `unit²`; the lower triangle counts.
    pub(super) residuals: Mat<f32>,
    /// A power of two near `θ₁`: squares of residuals are fourth powers of a weight, and `f32` does not reach as far.
    pub(super) unit: f64,
}

impl Ritz {
    /// The trace of `RᵀR`.
    pub(super) fn strayed(&self) -> f64 {
        let squares: f64 = self.residuals.diagonal().column_vector().iter().map(|&v| f64::from(v)).sum();
        squares * self.unit.powi(2)
    }
}

impl Krylov {
    /// A subspace that may grow to `most` blocks of `width` vectors.
    pub(super) fn begin(matrix: MatRef<'_, f32>, width: usize, most: usize) -> Self {
        let (n, dimensions) = (matrix.nrows(), width * most);
        let beyond = image_of_signs(matrix, width);
        let (basis, projected) = (Mat::with_capacity(n, dimensions), Mat::with_capacity(dimensions, dimensions));
        Self { basis, projected, blocks: 0, width, beyond }
    }

    /// Goes on until there are so many blocks.
    pub(super) fn extend(&mut self, matrix: MatRef<'_, f32>, blocks: usize) {
        while self.blocks < blocks {
            let first = self.blocks * self.width;
            let beyond = std::mem::replace(&mut self.beyond, Mat::new());
            let block = orthonormal_by_products(beyond.clone()).unwrap_or_else(|| orthonormal(beyond));
            let dimensions = first + self.width;
            self.basis.resize_with(block.nrows(), dimensions, |i, j| block[(i, j - first)]);
            self.projected.resize_with(dimensions, dimensions, |_, _| 0.0);
            self.blocks += 1;
            // The matrix on the right, where no copy of it is made; it is symmetric.
            self.beyond = product(block.transpose(), matrix).transpose().to_owned();
            self.take_out_known(first);
        }
    }

    /// Makes the image of the last block orthogonal to the subspace, and notes what it had there: in the last two blocks, but
    /// for rounding.
    fn take_out_known(&mut self, first: usize) {
        let nearest = first.saturating_sub(self.width);
        let known = self.basis.subcols(0, first + self.width);
        let near = known.subcols(nearest, known.ncols() - nearest);
        let along = take_out(self.beyond.as_mut(), near);
        let mut all = self.projected.submatrix_mut(0, first, known.ncols(), self.width);
        replace(all.as_mut(), known.transpose(), self.beyond.as_ref());
        subtract(self.beyond.as_mut(), known, all.as_ref());
        let mut near = all.subrows_mut(nearest, along.nrows());
        near += along;
    }

    /// The leading `r` Ritz pairs, fewer than there are dimensions, and their vectors in the basis of the subspace; none where they do
    /// not converge.
    pub(super) fn captured(&self, r: usize) -> Option<(Ritz, Mat<f32>)> {
        let dimensions = self.blocks * self.width;
        let eigen = Eigen::of(Lower::of(self.projected.submatrix(0, 0, dimensions, dimensions).transpose()))?;
        let coordinates = eigen.leading_alone(r)?;
        let (leading, behind) = eigen.values().split_at(r);
        let scale = Scale::of(leading.first().map_or(0.0, |v| v.abs()));
        let mut beyond = product(self.beyond.as_ref(), coordinates.subrows(dimensions - self.width, self.width));
        beyond *= faer::Scale(Real::of(scale.down(1.0)));
        let mut residuals = Mat::zeros(r, r);
        add_gram(residuals.as_mut(), beyond.transpose());
        let (values, next) = (leading.to_vec(), *behind.first()?);
        Some((Ritz { values, next, residuals, unit: scale.up(1.0) }, coordinates))
    }

    /// Orthonormal vectors from their coordinates in the basis of the subspace; none where rounding took it apart.
    pub(super) fn vectors(&self, coordinates: &Mat<f32>) -> Option<Mat<f32>> {
        let (dimensions, r) = coordinates.shape();
        let vectors = product(self.basis.subcols(0, dimensions), coordinates.as_ref());
        let mut off = Mat::from_fn(r, r, |i, j| if i == j { -1.0 } else { 0.0 });
        add_gram(off.as_mut(), vectors.transpose());
        (off.norm_max() <= ORTHONORMAL).then_some(vectors)
    }
}

/// `M S` for a matrix `S` of `width` columns, each row of which has one entry, 1 or −1: a pass over `M`.
fn image_of_signs(matrix: MatRef<'_, f32>, width: usize) -> Mat<f32> {
    let mut noise = Noise::new(0);
    let mut image = Mat::zeros(matrix.nrows(), width);
    for column in matrix.col_iter() {
        let (to, negative) = noise.signed_index(width);
        let by = if negative { -1.0 } else { 1.0 };
        image.col_mut(to).iter_mut().zip(column.iter()).for_each(|(to, &v)| *to += by * v);
    }
    image
}
