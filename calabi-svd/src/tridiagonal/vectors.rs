//! Eigenvectors of the leading eigenvalues, each by itself, with a proof that they are orthogonal.
//!
//! A vector comes from the twisted factorization of `T − λ` (Dhillon and Parlett, 2004): `O(n)` a vector. Its residual
//! over the distance to other eigenvalues bounds its angle to what it should be; eigenvalues too close for that make a
//! cluster, whose vectors are made orthogonal one after the other. Where even that fails, divide and conquer takes over.

use std::ops::Range;

use faer::Mat;

use super::Tridiagonal;
use crate::simd::vectorized;
use crate::threads;

/// Eigenvalues closer than this share of the norm make a cluster: vectors of others are orthogonal to 1e-7.
const CLOSE: f64 = 1e-8;

/// Residuals beyond this share of the norm are no eigenvectors.
const RESIDUAL: f64 = 2e-15;

/// Residuals of vectors of a cluster, which are made orthogonal, as a share of the norm: what is taken out of one belongs
/// to another eigenvalue, and what is left is scaled up.
const MIXED: f64 = 1e-13;

/// What must be left of a vector after those before it in its cluster are taken out.
const NEW: f64 = 1e-3;

/// Larger clusters are left to divide and conquer, which costs less.
const LARGEST: usize = 32;

/// Eigenvalues whose vectors are found side by side: divisions of one wait for each other, those of several do not.
const LANES: usize = 4;

/// Rayleigh corrections of an eigenvalue.
const CORRECTIONS: usize = 3;

impl Tridiagonal {
    /// Eigenvectors of the `r` largest of its eigenvalues `values` (largest first), `n × r`, orthogonal to 1e-7; none where
    /// neither way converges. A vector does not depend on `r`.
    pub(crate) fn vectors_one_by_one(&self, values: &[f64], r: usize) -> Option<Mat<f64>> {
        let norm = self.norm();
        // Clusters are whole, so that what becomes of one does not depend on where `r` cuts it.
        let mut vectors = Mat::zeros(self.size(), self.size().min(r + LARGEST));
        let wanted = bunches(clusters(values, CLOSE * norm).take_while(|cluster| cluster.start < r));
        let found = threads::map(wanted, &|bunch: Bunch| match bunch {
            Bunch::Apart(range) => (range.start, self.apart(&values[range], norm)),
            Bunch::Cluster(range) => {
                let whole = range.len() <= LARGEST;
                let found = whole.then(|| self.cluster(values, range.clone(), norm)).flatten();
                (range.start, found.map_or_else(|| vec![None], |found| found.into_iter().map(Some).collect()))
            }
        });
        let in_order = found.into_iter().flat_map(|(first, found)| (first..).zip(found));
        for (place, vector) in in_order {
            let Some(vector) = vector else {
                self.divide(place, &mut vectors)?;
                break;
            };
            vectors.col_mut(place).iter_mut().zip(vector).for_each(|(to, v)| *to = v);
        }
        vectors.truncate(self.size(), r);
        Some(vectors)
    }

    /// Vectors of up to [`LANES`] eigenvalues that are far from all others.
    fn apart(&self, values: &[f64], norm: f64) -> Vec<Option<Vec<f64>>> {
        let last = values.last().copied().unwrap_or_default();
        let lanes = std::array::from_fn(|lane| values.get(lane).copied().unwrap_or(last));
        self.side_by_side::<LANES>(lanes, norm).into_iter().take(values.len()).collect()
    }

    /// Vectors of neighbouring eigenvalues, orthogonal to each other.
    fn cluster(&self, values: &[f64], range: Range<usize>, norm: f64) -> Option<Vec<Vec<f64>>> {
        let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(range.len());
        for i in range.clone() {
            let [vector] = self.side_by_side([values[i]], norm);
            let mut vector = vector?;
            for _ in 0..2 {
                for before in &vectors {
                    let along: f64 = before.iter().zip(&vector).map(|(a, b)| a * b).sum();
                    vector.iter_mut().zip(before).for_each(|(v, b)| *v -= along * b);
                }
                let left = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
                if left < NEW {
                    return None;
                }
                scale(&mut vector, left.recip());
            }
            if range.len() > 1 && self.residual(values[i], &vector) > MIXED * norm {
                return None;
            }
            vectors.push(vector);
        }
        Some(vectors)
    }

    /// `‖T v − λ v‖`.
    fn residual(&self, value: f64, vector: &[f64]) -> f64 {
        let across = |i: usize, j: usize| self.below[i] * vector[j];
        let image = |i: usize| {
            let above = if i > 0 { across(i - 1, i - 1) } else { 0.0 };
            let below = if i + 1 < vector.len() { across(i, i + 1) } else { 0.0 };
            (self.diagonal[i] - value) * vector[i] + above + below
        };
        (0..vector.len()).map(|i| image(i).powi(2)).sum::<f64>().sqrt()
    }

    /// The eigenvectors of the eigenvalues nearest to `values`, of length one, each as if it were alone; none where its residual is
    /// too large.
    fn side_by_side<const L: usize>(&self, mut values: [f64; L], norm: f64) -> [Option<Vec<f64>>; L] {
        let mut found = [const { None }; L];
        for _ in 0..CORRECTIONS {
            let twisted = Twisted::of(self, values, norm);
            for (lane, (found, value)) in
                found.iter_mut().zip(&mut values).enumerate().filter(|(_, (f, _))| f.is_none())
            {
                let (mut vector, gamma) = twisted.vector(lane);
                let square: f64 = vector.iter().map(|v| v * v).sum();
                let length = square.sqrt();
                if gamma.abs() <= RESIDUAL * norm * length {
                    scale(&mut vector, length.recip());
                    *found = length.is_finite().then_some(vector);
                } else {
                    *value += gamma / square;
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }
}

fn scale(vector: &mut [f64], by: f64) {
    for v in vector {
        *v *= by;
    }
}

/// Ranges of eigenvalues that are no further apart than `close`, one to the next.
fn clusters(values: &[f64], close: f64) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    values.chunk_by(move |a, b| a - b <= close).map(move |chunk| {
        let range = start..start + chunk.len();
        start = range.end;
        range
    })
}

/// Eigenvalues whose vectors are found together.
enum Bunch {
    /// Far from all others.
    Apart(Range<usize>),
    /// Close to each other.
    Cluster(Range<usize>),
}

/// Clusters of one are taken together.
fn bunches(clusters: impl Iterator<Item = Range<usize>>) -> Vec<Bunch> {
    let mut bunches = Vec::new();
    for cluster in clusters {
        match bunches.last_mut() {
            _ if cluster.len() > 1 => bunches.push(Bunch::Cluster(cluster)),
            Some(Bunch::Apart(range)) if range.len() < LANES => range.end = cluster.end,
            _ => bunches.push(Bunch::Apart(cluster)),
        }
    }
    bunches
}

/// `T − λ = L D Lᵀ` from above and `U D Uᵀ` from below, for some `λ` side by side.
struct Twisted<const L: usize> {
    /// Entries of `L` below its diagonal.
    lower: Vec<[f64; L]>,
    /// Entries of `U` above its diagonal.
    upper: Vec<[f64; L]>,
    /// What is left of the diagonal where both meet.
    gamma: Vec<[f64; L]>,
}

impl<const L: usize> Twisted<L> {
    fn of(t: &Tridiagonal, values: [f64; L], norm: f64) -> Self {
        vectorized!(Self::factored(t, values, norm))
    }

    #[allow(clippy::inline_always)] // for the instructions of its caller
    #[inline(always)]
    fn factored(t: &Tridiagonal, values: [f64; L], norm: f64) -> Self {
        let n = t.size();
        let tiny = norm * f64::EPSILON * f64::EPSILON;
        // Loops, as `map` of an array is not always compiled for the instructions of its caller.
        let over = |entry: f64, mut pivots: [f64; L]| {
            for d in &mut pivots {
                *d = entry / if d.abs() < tiny { -tiny } else { *d };
            }
            pivots
        };
        let shifted = |i: usize| {
            let mut shifted = values;
            for value in &mut shifted {
                *value = t.diagonal[i] - *value;
            }
            shifted
        };
        let less = |i: usize, by: f64, x: [f64; L]| {
            let mut left = shifted(i);
            left.iter_mut().zip(x).for_each(|(left, x)| *left -= by * x);
            left
        };
        let (mut lower, mut upper) = (vec![[0.0; L]; n - 1], vec![[0.0; L]; n - 1]);
        let (mut down, mut up) = (shifted(0), shifted(n - 1));
        // Both ways at once: each waits for its divisions.
        let (mut from_above, mut from_below) = (vec![down; n], vec![up; n]);
        for k in 0..n - 1 {
            let j = n - 2 - k;
            let (a, b) = (t.below[k], t.below[j]);
            lower[k] = over(a, down);
            upper[j] = over(b, up);
            down = less(k + 1, a, lower[k]);
            up = less(j, b, upper[j]);
            from_above[k + 1] = down;
            from_below[j] = up;
        }
        let mut gamma = from_above;
        for (i, (gamma, below)) in gamma.iter_mut().zip(&from_below).enumerate() {
            let own = shifted(i);
            gamma.iter_mut().zip(below).zip(own).for_each(|((gamma, below), own)| *gamma = *gamma + below - own);
        }
        Self { lower, upper, gamma }
    }

    /// The vector of which `(T − λ) z = γ e_k`, with `z_k = 1`, and `γ`: the smallest there is.
    fn vector(&self, lane: usize) -> (Vec<f64>, f64) {
        let smaller = |a: &(usize, f64), b: &(usize, f64)| a.1.abs().total_cmp(&b.1.abs());
        let gammas = self.gamma.iter().map(|gamma| gamma[lane]);
        let (twist, gamma) = gammas.enumerate().min_by(smaller).unwrap_or((0, 0.0));
        let mut z = vec![0.0; self.gamma.len()];
        z[twist] = 1.0;
        for i in (0..twist).rev() {
            z[i] = -self.lower[i][lane] * z[i + 1];
        }
        for i in twist..self.upper.len() {
            z[i + 1] = -self.upper[i][lane] * z[i];
        }
        (z, gamma)
    }
}
