//! Decomposers: singular values and vectors of weights, eigenpairs of Gram matrices.
//!
//! | kind | type | finds | when |
//! |---|---|---|---|
//! | `faer` | [`Faer`] | all singular values, or the leading ones where few are wanted | the default |
//! | `randomized` | [`Randomized`] | the leading ones, with a bound on what is missed | large weights, steep spectra, small limits |
//! | `lapack` | [`Lapack`] | all singular values, by the system's LAPACK | to compare; feature `lapack` |
//!
//! ```
//! use calabi_api::{Decomposer, Rank};
//! use calabi_svd::Faer;
//! use ndarray::array;
//!
//! let weight = array![[3.0_f32, 0.0, 0.0], [0.0, 4.0, 0.0]];
//! let decomposition = Faer::default().svd(weight.view(), Rank::ONE)?;
//! assert_eq!(decomposition.spectrum().values(), [4.0, 3.0]);
//! assert_eq!(decomposition.basis(Rank::ONE)?.vectors, array![[0.0], [1.0]]);
//! # Ok::<(), calabi_api::DecomposeError>(())
//! ```
//!
//! # Design
//!
//! Every decomposer reads a weight into the same form: finite, scaled by a power of two (which changes no digit), row-major.
//! Strides and scale therefore change no bit of the result, and weights near the ends of `f32` need no special case.
//! Each finds the spectrum and the vectors of the *smaller* side, which is what factors need; the larger side is
//! projected from the weight where somebody asks. All of it runs on the calling thread: layers run side by side, and the
//! order of sums depends on the shape alone. Numbers inside are `f64`; only what chooses a direction is `f32`.

mod bidiagonal;
mod cholesky;
pub mod cost;
mod damped;
mod decomposed;
pub mod dense;
mod eigen;
mod exact;
mod faer;
mod gram;
mod lapack;
mod noise;
mod orthonormal;
mod partial;
mod products;
mod randomized;
mod real;
mod routes;
mod scale;
mod signs;
mod simd;
mod smaller;
mod symmetric;
mod threads;
mod tile;
mod tridiagonal;
mod weight;
pub mod whitening;

/// What results depend on besides input and settings: the version of the algorithms, and the features of the processor
/// that choose among their kernels. Two programs of which it says the same give the same bytes.
///
/// ```
/// assert_eq!(calabi_svd::arithmetic(), calabi_svd::arithmetic());
/// ```
#[must_use]
pub fn arithmetic() -> String {
    const VERSION: u32 = 11;
    #[cfg(target_arch = "x86_64")]
    let features = [
        std::is_x86_feature_detected!("avx"),
        std::is_x86_feature_detected!("avx2"),
        std::is_x86_feature_detected!("fma"),
        std::is_x86_feature_detected!("avx512f"),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features = std::env::consts::ARCH;
    format!("{VERSION} {} {features:?} {:?}", env!("CARGO_PKG_VERSION"), pulp::Arch::new())
}

pub use self::faer::{Accuracy, Faer};
pub use self::lapack::Lapack;
pub use self::randomized::Randomized;
pub use self::threads::inside;
