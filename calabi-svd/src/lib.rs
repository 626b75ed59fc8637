//! Decomposers.
mod bidiagonal;
mod decomposed;
mod eigen;
mod exact;
mod faer;
mod gram;
mod orthonormal;
mod products;
mod routes;
mod scale;
mod signs;
mod smaller;
mod symmetric;
mod weight;

pub use self::faer::{Accuracy, Faer};
