//! Eigenvalues of a symmetric matrix first, eigenvectors of the leading ones when they are asked for.

use faer::diag::{DiagMut, DiagRef};
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::tridiag::{tridiag_in_place, tridiag_in_place_scratch};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::{Conj, Mat, Par, Spec};

/// Eigenvectors are transformed back in panels of so many, whatever the rank asked for: a vector's bits never depend on it.
const PANEL: usize = 64;

/// `S = Q T Qᵀ` with `T` tridiagonal, and the eigenpairs of `T`. Takes `2 n²` numbers, `n² + n·kept` for few kept ones.
#[derive(Debug)]
pub(crate) struct Eigen {
    /// Householder vectors of `Q`, below the diagonal.
    reflectors: Mat<f64>,
    coefficients: Mat<f64>,
    /// All eigenvalues, largest first.
    values: Vec<f64>,
    /// Eigenvectors of `T`, in columns; those of the largest eigenvalues come last.
    inner: Mat<f64>,
}

impl Eigen {
    /// Takes apart the symmetric matrix in the lower triangle of `s`; vectors will be asked of the `kept` largest
    /// eigenvalues at most. None where divide and conquer does not converge.
    pub(crate) fn of(mut s: Mat<f64>, kept: usize) -> Option<Self> {
        let n = s.nrows();
        let coefficients = tridiagonalize(&mut s);
        let (values, mut inner) = solve(&s)?;
        if 2 * kept < n {
            inner = inner.subcols(n - kept, kept).to_owned();
        }
        Some(Self { reflectors: s, coefficients, values, inner })
    }

    /// All eigenvalues, largest first.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Eigenvectors of the `r` largest eigenvalues, `n × r`.
    pub(crate) fn leading(&self, r: usize) -> Mat<f64> {
        let n = self.reflectors.nrows();
        let kept = self.inner.ncols();
        let mut vectors = Mat::zeros(n, r);
        for first in (0..r).step_by(PANEL) {
            let width = PANEL.min(kept - first);
            let mut panel = Mat::from_fn(n, width, |i, j| self.inner[(i, kept - 1 - first - j)]);
            self.transform_back(&mut panel);
            let wanted = width.min(r - first);
            vectors.subcols_mut(first, wanted).copy_from(panel.subcols(0, wanted));
        }
        vectors
    }

    /// `panel = Q panel`.
    fn transform_back(&self, panel: &mut Mat<f64>) {
        let n = panel.nrows();
        if n == 1 {
            return;
        }
        let mut memory = MemBuffer::new(apply_scratch::<f64>(n - 1, self.coefficients.nrows(), panel.ncols()));
        apply(
            self.reflectors.submatrix(1, 0, n - 1, n - 1),
            self.coefficients.as_ref(),
            Conj::No,
            panel.subrows_mut(1, n - 1),
            Par::Seq,
            MemStack::new(&mut memory),
        );
    }
}

/// Leaves `T` on the diagonal and below it, the Householder vectors further down; returns their coefficients.
fn tridiagonalize(s: &mut Mat<f64>) -> Mat<f64> {
    let n = s.nrows();
    let mut coefficients = Mat::zeros(recommended_block_size::<f64>(n, n), n - 1);
    let mut memory = MemBuffer::new(tridiag_in_place_scratch::<f64>(n, Par::Seq, Spec::default()));
    tridiag_in_place(s.as_mut(), coefficients.as_mut(), Par::Seq, MemStack::new(&mut memory), Spec::default());
    coefficients
}

/// Eigenvalues, largest first, and eigenvectors, largest last, of the tridiagonal part of `t`.
fn solve(t: &Mat<f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = t.nrows();
    let diagonal: Vec<f64> = (0..n).map(|i| t[(i, i)]).collect();
    let below: Vec<f64> = (0..n).map(|i| if i + 1 < n { t[(i + 1, i)] } else { 0.0 }).collect();
    let mut values = vec![0.0; n];
    let mut vectors = Mat::zeros(n, n);
    let mut memory = MemBuffer::new(solve_scratch(n));
    tridiagonal_self_adjoint_evd(
        DiagRef::from_slice(&diagonal),
        DiagRef::from_slice(&below),
        DiagMut::from_slice_mut(&mut values),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut memory),
        Spec::default(),
    )
    .ok()?;
    values.reverse();
    values.iter().all(|v| v.is_finite()).then_some((values, vectors))
}

/// faer states no scratch for the tridiagonal step alone; the one of the whole decomposition holds it.
fn solve_scratch(n: usize) -> StackReq {
    self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, Par::Seq, Spec::default())
}
