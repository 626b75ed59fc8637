//! Weights of all kinds, as their shapes and spectra.

use std::fmt;

use calabi_api::{Shape, Spectrum};
use proptest::collection::vec;
use proptest::prelude::*;

/// A weight as a selector sees it: its shape and all of its singular values.
#[derive(Clone, PartialEq)]
pub struct Case {
    /// `m × n`.
    pub shape: Shape,
    /// All `min(m, n)` singular values.
    pub spectrum: Spectrum,
}

impl Case {
    /// The case of a weight with these singular values, in any order, filled up with zeros or cut to `min(m, n)`.
    ///
    /// # Panics
    /// Where a value is negative or not finite.
    #[must_use]
    pub fn new(shape: Shape, mut values: Vec<f64>) -> Self {
        values.sort_by(|a, b| b.total_cmp(a));
        values.resize(shape.full_rank().get(), 0.0);
        Self { shape, spectrum: Spectrum::complete(values).unwrap_or_else(|error| panic!("{error}")) }
    }

    /// The spectrum of the weight multiplied by `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Spectrum {
        Self::new(self.shape, self.spectrum.values().iter().map(|value| value * factor).collect()).spectrum
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weight with the singular values {:?}", self.shape, self.spectrum.values())
    }
}

/// Weights of all kinds, for property tests of one's own.
pub fn cases() -> impl Strategy<Value = Case> {
    shapes().prop_flat_map(|shape| spectra(shape.full_rank().get()).prop_map(move |values| Case::new(shape, values)))
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
