//! Singular vectors of the smaller side, made already or still to be transformed back.

use faer::{Mat, MatRef};

use crate::eigen::Eigen;
use crate::orthonormal::orthonormal;
use crate::signs;

/// Singular vectors of the smaller side.
#[derive(Debug)]
pub(crate) enum Smaller {
    /// Eigenvectors of a Gram matrix, found when they are asked for.
    Reduced(Eigen<f64>),
    /// As `Reduced`, in `f32`.
    Single(Eigen<f32>),
    /// The vectors, in columns, largest singular value first.
    Ready(Mat<f64>),
    /// As `Ready`, in `f32`.
    ReadyInSingle(Mat<f32>),
}

/// What a route finds: all singular values of the scaled weight, largest first, and vectors.
#[derive(Debug)]
pub(crate) struct Solved {
    pub(crate) values: Vec<f64>,
    pub(crate) smaller: Smaller,
}

impl Smaller {
    /// The leading `r` vectors in columns, signs as they come, orthonormal to 1e-7; none where they do not converge.
    pub(crate) fn leading(&self, r: usize) -> Option<Mat<f64>> {
        match self {
            Self::Reduced(eigen) => eigen.leading(r),
            Self::Single(eigen) => eigen.leading(r).map(|vectors| widened(vectors.as_ref())),
            Self::Ready(vectors) => Some(vectors.subcols(0, r).to_owned()),
            Self::ReadyInSingle(vectors) => Some(widened(vectors.subcols(0, r))),
        }
    }

    /// As [`leading`](Self::leading), orthonormal to the precision of `f64`.
    pub(crate) fn precise(&self, r: usize) -> Option<Mat<f64>> {
        match self {
            Self::Reduced(eigen) => eigen.precise(r),
            Self::Single(_) | Self::ReadyInSingle(_) => {
                let vectors = self.leading(r)?;
                let mut precise = orthonormal(vectors.clone());
                signs::follow(&mut precise, vectors.as_ref());
                Some(precise)
            }
            Self::Ready(_) => self.leading(r),
        }
    }
}

fn widened(vectors: MatRef<'_, f32>) -> Mat<f64> {
    Mat::from_fn(vectors.nrows(), vectors.ncols(), |i, j| f64::from(vectors[(i, j)]))
}
