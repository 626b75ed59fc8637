//! Decomposers.
mod bidiagonal;
mod decomposed;
mod eigen;
mod exact;
mod faer;
mod gram;
mod lapack;
mod orthonormal;
mod products;
mod randomized;
mod routes;
mod scale;
mod signs;
mod smaller;
mod symmetric;
mod weight;

pub use self::faer::{Accuracy, Faer};
pub use self::lapack::Lapack;
pub use self::randomized::Randomized;
