//! An upper bound on what a weight can do outside of a subspace.

use faer::Mat;

use crate::eigen::Eigen;
use crate::noise::Noise;
use crate::products;
use crate::tridiagonal::Lower;
use crate::weight::Weight;

/// The chance that one bound is too low.
const FAILURE: f64 = 1e-8;

/// The Lanczos process on `M⊥ = (I − QQᵀ) A Aᵀ (I − QQᵀ)`, from a random start.
///
/// After `j` steps its largest Ritz value is at least `(1 − ε) λ₁(M⊥)`, but for a chance of `1.648 √n exp(−√ε (2j − 1))`
/// over the start (Kuczyński and Woźniakowski, 1992, theorem 4.2): so `λ₁(M⊥)` is bounded from above.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    weight: &'a Weight<'a>,
    q: &'a Mat<f64>,
    /// The Lanczos vectors so far, and the next one.
    vectors: Mat<f64>,
    diagonal: Vec<f64>,
    below: Vec<f64>,
}

impl<'a> Outside<'a> {
    pub(super) fn new(weight: &'a Weight<'a>, q: &'a Mat<f64>, noise: &mut Noise, most: usize) -> Self {
        let small = q.nrows();
        let mut outside =
            Self { weight, q, vectors: Mat::zeros(small, most + 1), diagonal: Vec::new(), below: Vec::new() };
        outside.add(noise.matrix(small, 1));
        outside
    }

    /// Goes on until `steps` steps are done, or `M⊥` is exhausted.
    pub(super) fn advance(&mut self, steps: usize) {
        while self.diagonal.len() < steps && self.below.last().is_none_or(|&b| b > 0.0) {
            let j = self.diagonal.len();
            let last: Vec<f64> = self.vectors.col(j).iter().copied().collect();
            let image = self.weight.gram_times(&last);
            let along = image.iter().zip(&last).map(|(a, b)| a * b).sum();
            self.diagonal.push(along);
            let norm = self.add(Mat::from_fn(image.len(), 1, |i, _| image[i]));
            self.below.push(norm);
        }
    }

    /// The bound on `λ₁(M⊥)`; none where the small eigenproblem does not converge, or a step more is needed.
    pub(super) fn bound(&self) -> Option<f64> {
        let steps = self.diagonal.len();
        let t = Mat::from_fn(steps, steps, |i, j| match i.abs_diff(j) {
            0 => self.diagonal[i],
            1 => self.below[i.min(j)],
            _ => 0.0,
        });
        let found = Eigen::of(Lower::of(t.as_ref()))?.values()[0].max(0.0);
        if self.below.last() == Some(&0.0) {
            return Some(found);
        }
        let chance = (1.648 * (self.q.nrows() as f64).sqrt() / FAILURE).ln();
        let missing = (chance / (2 * steps - 1) as f64).powi(2);
        (missing < 1.0).then(|| found / (1.0 - missing))
    }

    /// Appends what is new in `x`, at length one: twice without `Q` and the vectors so far. Returns its length before.
    fn add(&mut self, mut x: Mat<f64>) -> f64 {
        let known = self.diagonal.len();
        let length = |x: &Mat<f64>| x.col(0).iter().map(|v| v * v).sum::<f64>().sqrt();
        let before = length(&x);
        for _ in 0..2 {
            for basis in [self.q.as_ref(), self.vectors.subcols(0, known)] {
                products::take_out(x.as_mut(), basis);
            }
        }
        let norm = length(&x);
        if norm <= 1e-14 * before {
            return 0.0;
        }
        let column = self.vectors.col_mut(known);
        column.iter_mut().zip(x.col(0).iter()).for_each(|(to, from)| *to = from / norm);
        norm
    }
}
