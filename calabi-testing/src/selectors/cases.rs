//! Weights of all kinds, as a rule sees them.

use std::fmt;

use calabi_api::{Rank, Sensitivity, Shape, Spectrum, Statistics};
use ndarray::{Array1, Array2};
use proptest::collection::vec;
use proptest::prelude::*;

/// A weight as a rule sees it: its shape, its singular values and what cutting it does to the model. The weight behind
/// it is diagonal, and its inputs are uncorrelated, of mean 0 and variance 1.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// `m × n`.
    pub shape: Shape,
    /// The singular values that are known.
    pub spectrum: Spectrum,
    /// What cutting this layer alone does to the model; none where it was not measured.
    pub sensitivity: Option<Sensitivity>,
    /// All `min(m, n)` singular values, known or not.
    values: Vec<f64>,
}

impl Case {
    /// The case of a weight with these singular values, in any order, filled up with zeros or cut to `min(m, n)`. What
    /// cutting it does to the model is its loss relative to its energy.
    ///
    /// # Panics
    /// Where a value is negative or not finite.
    #[must_use]
    pub fn new(shape: Shape, mut values: Vec<f64>) -> Self {
        values.sort_by(|a, b| b.total_cmp(a));
        values.resize(shape.full_rank().get(), 0.0);
        let spectrum = Spectrum::complete(values.clone()).unwrap_or_else(|error| panic!("{error}"));
        let sensitivity = Some(Sensitivity { loss: spectrum.energy(), divergence: 1.0 });
        Self { shape, spectrum, sensitivity, values }
    }

    /// The same weight, in a model that diverges by `divergence` where a quarter of the weight's energy is lost.
    #[must_use]
    pub fn diverging(self, divergence: f64) -> Self {
        let sensitivity = Some(Sensitivity { loss: self.spectrum.energy() / 4.0, divergence });
        Self { sensitivity, ..self }
    }

    /// The weight multiplied by `factor`, in a model to which it does the same.
    ///
    /// # Panics
    /// Where a singular value is then negative or not finite.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let known = Rank::clamped(self.spectrum.known(), self.shape);
        let all = Self::new(self.shape, self.values.iter().map(|value| value * factor).collect());
        let scaled = |of: Sensitivity| Sensitivity { loss: of.loss * factor * factor, ..of };
        Self { sensitivity: self.sensitivity.map(scaled), ..all }.truncated(known)
    }

    /// The same weight, of which only the leading singular values are known.
    #[must_use]
    pub fn truncated(&self, limit: Rank) -> Self {
        Self { spectrum: self.spectrum.clone().truncated(limit), ..self.clone() }
    }

    /// The weight, `m × n`.
    #[must_use]
    pub fn weight(&self) -> Array2<f32> {
        let mut weight = Array2::zeros((self.shape.rows(), self.shape.cols()));
        #[allow(clippy::cast_possible_truncation)] // weights are f32 in memory
        for (entry, &value) in weight.diag_mut().iter_mut().zip(&self.values) {
            *entry = value as f32;
        }
        weight
    }

    /// The statistics of its inputs, in which its loss is that of its singular values.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let inputs = self.shape.cols();
        Statistics { gram: Array2::eye(inputs), mean: Array1::zeros(inputs), tokens: 4096 }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weight with the singular values {:?}", self.shape, self.spectrum.values())?;
        self.sensitivity.map_or(Ok(()), |of| write!(f, ", a loss of {} diverging by {}", of.loss, of.divergence))
    }
}

/// Weights of all kinds, for property tests of one's own.
pub fn cases() -> impl Strategy<Value = Case> {
    let divergence = prop_oneof![8 => (-8.0..4.0_f64).prop_map(f64::exp2), 1 => Just(0.0), 1 => Just(-1e-9)];
    (shapes(), divergence).prop_flat_map(|(shape, divergence)| {
        spectra(shape.full_rank().get()).prop_map(move |values| Case::new(shape, values).diverging(divergence))
    })
}

/// Square, tall, wide, and of one row or column.
fn shapes() -> impl Strategy<Value = Shape> {
    let (short, side) = (1..=8_usize, 1..=160_usize);
    let sides = prop_oneof![
        4 => (side.clone(), side.clone()),
        2 => side.clone().prop_map(|n| (n, n)),
        1 => (short, side.clone()),
        1 => side.clone().prop_map(|n| (1, n)),
        1 => side.prop_map(|m| (m, 1)),
    ];
    sides.prop_filter_map("an empty matrix", |(rows, cols)| Shape::new(rows, cols))
}

fn spectra(full: usize) -> BoxedStrategy<Vec<f64>> {
    let values = prop_oneof![
        1 => Just(vec![0.0; full]),
        1 => Just(vec![1.0; full]),
        1 => (0.1..10.0).prop_map(|value| vec![value]),
        3 => vec(0.0..1.0, full),
        3 => (0.1..1.0_f64).prop_map(move |ratio| series(full, |i| f64::powf(ratio, i))),
        3 => (0.05..3.0_f64).prop_map(move |power| series(full, |i| f64::powf(i + 1.0, -power))),
        3 => vec(prop_oneof![Just(0.25), Just(0.5), Just(1.0), Just(3.0)], full),
        2 => (1..=full).prop_flat_map(|rank| vec(0.5..2.0, rank)),
        2 => (1..=full, 1e-9..1e-1).prop_flat_map(move |(rank, noise)| low_rank_plus_noise(full, rank, noise)),
    ];
    (values, -20..=20_i32).prop_map(|(values, scale)| scaled(values, f64::from(scale).exp2())).boxed()
}

fn low_rank_plus_noise(full: usize, rank: usize, noise: f64) -> impl Strategy<Value = Vec<f64>> {
    (vec(0.5..2.0, rank), vec(0.0..noise, full - rank)).prop_map(|(signal, noise)| [signal, noise].concat())
}

fn series(full: usize, value: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..full).map(|i| value(i as f64)).collect()
}

fn scaled(values: Vec<f64>, factor: f64) -> Vec<f64> {
    values.into_iter().map(|value| value * factor).collect()
}
