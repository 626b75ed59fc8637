//! By which route the vectors of a weight in a metric are found: the choice by cost, in one place.

use calabi_api::Shape;

use super::form::Form;

/// A way to the same `U`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Singular vectors of `W D^½`, for a `D` whose root is at hand.
    Singular,
    /// Eigenvectors of `W D Wᵀ`, `m × m`.
    Outputs,
    /// Eigenvectors of `Lᵀ WᵀW L`, `n × n`, for `D = L Lᵀ`, carried over to the outputs.
    Inputs,
}

/// What an eigendecomposition of size one costs, in multiplications at the speed of a matrix product. Measured: one of
/// 576 takes as long as 12 to 15 products of `576³`.
const EIGEN: f64 = 13.0;
/// What orthonormal columns cost beside a product of their size with itself.
const REFLECTIONS: f64 = 3.0;

/// The cheapest route for a weight of this shape. The root of `D` counts half: layers share it.
pub(crate) fn route(shape: Shape, find: &Form) -> Route {
    if !matches!(find, Form::Full(_)) {
        return Route::Singular;
    }
    let (m, n) = (shape.rows() as f64, shape.cols() as f64);
    let outputs = m * n * n + m * m * n + EIGEN * m.powi(3);
    let inputs = 0.5 * EIGEN * n.powi(3) + (3.0 + REFLECTIONS) * m * n * n + EIGEN * n.powi(3);
    if m <= n || outputs <= inputs { Route::Outputs } else { Route::Inputs }
}
