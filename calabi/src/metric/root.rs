//! Metrics that find directions, with their roots: `D = L Lᵀ`, by eigenpairs or triangular.

use std::sync::OnceLock;

use calabi_api::{DecomposeError, Decomposer, Shape};
use calabi_svd::whitening::{Halved, Triangle};
use ndarray::Array2;

use super::form::Form;

/// A form, and its root once some route needed it.
#[derive(Debug)]
pub(crate) struct Rooted {
    form: Form,
    root: OnceLock<Array2<f64>>,
    triangle: OnceLock<Option<Triangle>>,
    halved: OnceLock<Option<Halved>>,
}

impl Rooted {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, root: OnceLock::new(), triangle: OnceLock::new(), halved: OnceLock::new() }
    }

    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// A triangular `L`, in `f32`; none where the form is no full matrix, or not definite.
    pub(crate) fn triangle(&self) -> Option<&Triangle> {
        let Form::Full(d) = &self.form else { return None };
        self.triangle.get_or_init(|| Triangle::of(d.view())).as_ref()
    }

    #[cfg(test)]
    pub(super) fn has_triangle(&self) -> bool {
        self.triangle.get().is_some()
    }

    /// `T` of `D = T + Tᵀ`, in `f32`; none where the form is no full matrix, or out of range.
    pub(crate) fn halved(&self) -> Option<&Halved> {
        let Form::Full(d) = &self.form else { return None };
        self.halved.get_or_init(|| Halved::of(d.view())).as_ref()
    }

    /// `L`, `n × n`: computed once, for all layers that share the input.
    pub(crate) fn root(&self, decomposer: &dyn Decomposer) -> Result<&Array2<f64>, DecomposeError> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = root(&self.form, decomposer)?;
        Ok(self.root.get_or_init(|| root))
    }
}

/// `L = Q Λ^½`, from the eigenpairs of `D`; eigenvalues that rounding made negative count as zero.
fn root(form: &Form, decomposer: &dyn Decomposer) -> Result<Array2<f64>, DecomposeError> {
    let d = form.full();
    let full = Shape::of(d.view()).ok_or(DecomposeError::Empty { rows: d.nrows(), cols: d.ncols() })?.full_rank();
    let decomposition = decomposer.eigh(d.view(), full)?;
    let (_, mut vectors) = decomposition.precise_basis(full)?;
    for (mut column, &root) in vectors.columns_mut().into_iter().zip(decomposition.spectrum().values()) {
        column.mapv_inplace(|v| v * root);
    }
    Ok(vectors)
}
