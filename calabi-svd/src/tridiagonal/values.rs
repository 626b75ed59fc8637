//! All eigenvalues of a symmetric tridiagonal matrix, without vectors: `O(n²)`.

use super::Tridiagonal;

/// Sweeps for each eigenvalue after which convergence is given up; two are usual.
const SWEEPS: usize = 60;

impl Tridiagonal {
    /// All eigenvalues, largest first, with errors of some 1e-16 of the largest magnitude; none where a sweep does not
    /// converge.
    ///
    /// Root-free QL (Pal, Walker and Kahan; Parlett, The Symmetric Eigenvalue Problem, section 8.14).
    pub(crate) fn values(&self) -> Option<Vec<f64>> {
        let scale = self.norm();
        if scale == 0.0 {
            return Some(vec![0.0; self.size()]);
        }
        let mut d: Vec<f64> = self.diagonal.iter().map(|v| v / scale).collect();
        let mut squares: Vec<f64> = self.below.iter().map(|v| (v / scale).powi(2)).collect();
        squares.push(0.0);
        let mut sweeps = SWEEPS * d.len();
        let mut first = 0;
        while first < d.len() {
            let last = block_end(&d, &mut squares, first);
            if last == first {
                first += 1;
                continue;
            }
            sweeps = sweeps.checked_sub(1)?;
            sweep(&mut d, &mut squares, first, last);
        }
        d.sort_by(|a, b| b.total_cmp(a));
        d.iter().all(|v| v.is_finite()).then(|| d.iter().map(|v| v * scale).collect())
    }
}

/// The last row of the block that begins at `first`: what couples it to the next is rounding, and set to zero.
fn block_end(d: &[f64], squares: &mut [f64], first: usize) -> usize {
    const SMALL: f64 = f64::EPSILON * f64::EPSILON / 4.0;
    let negligible = |m: &usize| squares[*m] <= SMALL * (d[*m] * d[*m + 1]).abs() || squares[*m] <= f64::MIN_POSITIVE;
    let end = (first..d.len() - 1).find(negligible).unwrap_or(d.len() - 1);
    squares[end] = 0.0;
    end
}

/// One QL sweep from `last` to `first`, shifted by an eigenvalue of the first two rows.
fn sweep(d: &mut [f64], squares: &mut [f64], first: usize, last: usize) {
    let shift = shift(d[first], d[first + 1], squares[first].sqrt());
    let (mut c, mut s) = (1.0, 0.0);
    let mut gamma = d[last] - shift;
    let mut p = gamma * gamma;
    for i in (first..last).rev() {
        let square = squares[i];
        let r = p + square;
        if i + 1 != last {
            squares[i + 1] = s * r;
        }
        // Two divisions that do not wait for each other.
        let (inverse, ratio) = (r.recip(), r / p);
        let before = c;
        c = p * inverse;
        s = square * inverse;
        let old = gamma;
        let entry = d[i];
        gamma = c * (entry - shift) - s * old;
        d[i + 1] = old + (entry - gamma);
        p = if p < f64::MIN_POSITIVE { before * square } else { gamma * gamma * ratio };
    }
    squares[first] = s * p;
    d[first] = shift + gamma;
}

/// The eigenvalue of `[a b; b c]` that is nearer to `a` (Wilkinson's shift).
fn shift(a: f64, c: f64, b: f64) -> f64 {
    let half = (c - a) / (2.0 * b);
    a - b / (half + half.hypot(1.0).copysign(half))
}
