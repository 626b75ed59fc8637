//! By which route the vectors of a weight in a metric are found: the choice by cost, in one place.

use calabi_api::Shape;

use super::form::Form;

/// A way to the same `U`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Singular vectors of `W D^½`, for a `D` whose root is at hand.
    Singular,
    /// Eigenvectors of `W D Wᵀ`, `m × m`: for weights that are not taller than wide.
    Outputs,
    /// Eigenvectors of `Lᵀ WᵀW L`, `n × n`, for `D = L Lᵀ`, carried over to the outputs.
    Inputs,
}

/// The cheapest route for a weight of this shape: the smaller side, where the eigendecomposition costs most. A root
/// that is at hand spares the other eigendecomposition.
///
/// For a weight that is barely taller than wide the outputs' side would be cheaper by a third, but vectors of its
/// smallest eigenvalues leave the span of the weight, and full rank would not be exact.
pub(crate) fn route(shape: Shape, find: &Form) -> Route {
    match find {
        Form::Identity(_) | Form::Diagonal(_) => Route::Singular,
        Form::Full(_) if shape.rows() <= shape.cols() => Route::Outputs,
        Form::Full(_) => Route::Inputs,
    }
}
