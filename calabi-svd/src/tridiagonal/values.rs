//! All eigenvalues of a symmetric tridiagonal matrix, without vectors: `O(n²)`.

use super::Tridiagonal;

/// Pairs of sweeps for each eigenvalue after which convergence is given up; one and a half are usual.
const PAIRS: usize = 60;

/// Rows between the two sweeps of a pair.
const APART: usize = 2;

/// Blocks of fewer rows are swept once at a time.
const SMALLEST: usize = 8;

impl Tridiagonal {
    /// All eigenvalues, largest first, with errors of some 1e-16 of the largest magnitude; none where a sweep does not
    /// converge.
    ///
    /// Root-free QL (Pal, Walker and Kahan; Parlett, The Symmetric Eigenvalue Problem, section 8.14), two sweeps at a time:
    /// each waits for its own divisions.
    pub(crate) fn values(&self) -> Option<Vec<f64>> {
        let scale = self.norm();
        if scale == 0.0 {
            return Some(vec![0.0; self.size()]);
        }
        let mut block = Block {
            d: self.diagonal.iter().map(|v| v / scale).collect(),
            squares: self.below.iter().map(|v| (v / scale).powi(2)).chain([0.0]).collect(),
        };
        let mut pairs = PAIRS * self.size();
        let mut first = 0;
        while first < self.size() {
            let last = block.end(first);
            if last == first {
                first += 1;
                continue;
            }
            pairs = pairs.checked_sub(1)?;
            block.sweep(first, last);
        }
        let mut d = block.d;
        d.sort_by(|a, b| b.total_cmp(a));
        d.iter().all(|v| v.is_finite()).then(|| d.iter().map(|v| v * scale).collect())
    }
}

/// A tridiagonal matrix of norm one at most, on its way to a diagonal one.
struct Block {
    d: Vec<f64>,
    /// Squares of the entries below the diagonal, and a zero.
    squares: Vec<f64>,
}

impl Block {
    /// The last row of the block that begins at `first`: what couples it to the next is rounding, and set to zero.
    fn end(&mut self, first: usize) -> usize {
        const SMALL: f64 = f64::EPSILON * f64::EPSILON / 4.0;
        const STEP: usize = 16;
        let negligible = |square: f64, a: f64, b: f64| square <= f64::MIN_POSITIVE.max(SMALL * (a * b).abs());
        let (d, last) = (&self.d, self.d.len() - 1);
        let mut end = last;
        // Sixteen at a time, without a way out in between: such a loop can use vectors.
        for from in (first..last).step_by(STEP) {
            let to = last.min(from + STEP);
            let rows = self.squares[from..to].iter().zip(&d[from..to]).zip(&d[from + 1..=to]);
            if rows.fold(false, |any, ((&square, &a), &b)| any | negligible(square, a, b)) {
                end = (from..to).find(|&m| negligible(self.squares[m], d[m], d[m + 1])).unwrap_or(last);
                break;
            }
        }
        self.squares[end] = 0.0;
        end
    }

    /// Two QL sweeps from `last` to `first`, the second some rows behind the first; shifted by the eigenvalues of the first
    /// two rows.
    fn sweep(&mut self, first: usize, last: usize) {
        let (near, far) = shifts(self.d[first], self.d[first + 1], self.squares[first].sqrt());
        if last - first < SMALLEST {
            let mut only = Sweep::new(near, self.d[last]);
            (first..last).rev().for_each(|i| only.step(self, i));
            only.finish(self, first);
            return;
        }
        let mut ahead = Sweep::new(far, self.d[last]);
        (last - APART..last).rev().for_each(|i| ahead.step(self, i));
        let mut behind = Sweep::new(near, self.d[last]);
        for i in (first..last - APART).rev() {
            ahead.step(self, i);
            behind.step(self, i + APART);
        }
        ahead.finish(self, first);
        (first..first + APART).rev().for_each(|i| behind.step(self, i));
        behind.finish(self, first);
    }
}

/// A sweep on its way.
struct Sweep {
    shift: f64,
    cosine: f64,
    sine: f64,
    gamma: f64,
    /// `γ²` over the cosine.
    p: f64,
}

impl Sweep {
    fn new(shift: f64, last: f64) -> Self {
        let gamma = last - shift;
        Self { shift, cosine: 1.0, sine: 0.0, gamma, p: gamma * gamma }
    }

    /// Rotates rows `i` and `i + 1`, squared.
    #[inline]
    fn step(&mut self, block: &mut Block, i: usize) {
        let (square, entry) = (block.squares[i], block.d[i] - self.shift);
        let r = self.p + square;
        block.squares[i + 1] = self.sine * r;
        // Divisions that do not wait for each other.
        let (inverse, numerator) = (r.recip(), self.p * entry - square * self.gamma);
        let over_p = numerator / self.p;
        let before = (self.gamma, self.cosine);
        if r < f64::MIN_POSITIVE {
            // Nothing couples these rows any more, and the shift is an eigenvalue of those behind: no rotation.
            (self.cosine, self.sine, self.gamma, self.p) = (1.0, 0.0, entry, entry * entry);
        } else {
            self.gamma = numerator * inverse;
            (self.cosine, self.sine) = (self.p * inverse, square * inverse);
            self.p = if self.p < f64::MIN_POSITIVE { before.1 * square } else { self.gamma * over_p };
        }
        block.d[i + 1] = before.0 + (block.d[i] - self.gamma);
    }

    fn finish(self, block: &mut Block, first: usize) {
        block.squares[first] = self.sine * self.p;
        block.d[first] = self.shift + self.gamma;
    }
}

/// The eigenvalues of `[a b; b c]`, first the one that is nearer to `a` (Wilkinson's shift).
fn shifts(a: f64, c: f64, b: f64) -> (f64, f64) {
    let half = (c - a) / (2.0 * b);
    let away = b / (half + half.hypot(1.0).copysign(half));
    (a - away, c + away)
}
