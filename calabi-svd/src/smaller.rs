//! Singular vectors of the smaller side, made already or still to be transformed back.

use faer::Mat;

use crate::eigen::Eigen;

/// Singular vectors of the smaller side.
#[derive(Debug)]
pub(crate) enum Smaller {
    /// Eigenvectors of a Gram matrix, transformed back when they are asked for.
    Reduced(Eigen),
    /// The vectors, in columns, largest singular value first.
    Ready(Mat<f64>),
}

/// What a route finds: all singular values of the scaled weight, largest first, and vectors.
#[derive(Debug)]
pub(crate) struct Solved {
    pub(crate) values: Vec<f64>,
    pub(crate) smaller: Smaller,
}

impl Smaller {
    /// The leading `r` vectors in columns, in `f64`, signs as they come.
    pub(crate) fn leading(&self, r: usize) -> Mat<f64> {
        match self {
            Self::Reduced(eigen) => eigen.leading(r),
            Self::Ready(vectors) => vectors.subcols(0, r).to_owned(),
        }
    }
}
