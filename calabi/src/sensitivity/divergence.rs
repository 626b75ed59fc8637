//! How far the outputs of a model move when a layer of it is cut.

use calabi_api::{Output, RunError};
use rayon::prelude::*;

use crate::compare::Meaning;
use crate::tokens::Tokens;

/// The outputs of the model as it is, prepared to be compared with many.
pub(super) struct Reference<'a> {
    outputs: Vec<Output>,
    meanings: Vec<Meaning>,
    tokens: Option<&'a Tokens>,
    /// The number of the first sample.
    first: usize,
}

impl<'a> Reference<'a> {
    /// The outputs of some samples, the first of which has this number.
    pub(super) fn new(outputs: Vec<Output>, tokens: Option<&'a Tokens>, first: usize) -> Self {
        let meanings = outputs.iter().map(|output| Meaning::of(output, tokens)).collect();
        Self { outputs, meanings, tokens, first }
    }

    /// Where an output holds logits, how far they diverge in the mean over tokens (Kullback-Leibler, nats); else the
    /// relative square error of all outputs, in their mean. Padding does not count.
    pub(super) fn divergence(&self, cut: &[Output]) -> Result<f64, RunError> {
        let alike = |(y, z): (&Output, &Output)| y.values.shape() == z.values.shape() && y.values.ndim() > 0;
        if self.outputs.len() != cut.len() || !self.outputs.iter().zip(cut).all(alike) {
            return Err(RunError::Failed("its outputs have other shapes when a layer is cut".to_owned()));
        }
        let logits = self.meanings.iter().any(|meaning| meaning.logits);
        let compared = self.outputs.iter().zip(cut).zip(&self.meanings).filter(|(_, meaning)| meaning.logits == logits);
        let figures: Vec<f64> = compared.map(|((y, z), meaning)| self.one(y, z, *meaning)).collect();
        Ok(figures.iter().sum::<f64>() / figures.len().max(1) as f64)
    }

    fn one(&self, y: &Output, z: &Output, meaning: Meaning) -> f64 {
        let width = y.values.shape().last().copied().unwrap_or(1).max(1);
        let (y, z) = (y.values.as_standard_layout(), z.values.as_standard_layout());
        let (Some(original), Some(cut)) = (y.as_slice(), z.as_slice()) else { return f64::NAN };
        let rows_of_sample = (original.len() / width / y.shape()[0].max(1)).max(1);
        let counts = |row: usize| {
            let tokens = self.tokens.filter(|_| meaning.per_token);
            tokens.is_none_or(|tokens| tokens.is_real(self.first + row / rows_of_sample, row % rows_of_sample))
        };
        let row = |(row, (y, z)): (usize, (&[f32], &[f32]))| match (counts(row), meaning.logits) {
            (false, _) => (0.0, 0.0),
            (true, true) => (divergence(y, z), 1.0),
            (true, false) => square_error(y, z),
        };
        let rows: Vec<(f64, f64)> =
            original.par_chunks(width).zip(cut.par_chunks(width)).enumerate().map(row).collect();
        let (lost, whole) = rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
        if whole > 0.0 { lost / whole } else { lost }
    }
}

/// `‖y − z‖²` and `‖y‖²`.
fn square_error(y: &[f32], z: &[f32]) -> (f64, f64) {
    y.iter().zip(z).fold((0.0, 0.0), |(lost, whole), (&y, &z)| {
        let (y, z) = (f64::from(y), f64::from(z));
        (lost + (y - z).powi(2), whole + y.powi(2))
    })
}

/// The divergence of `softmax(z)` from `softmax(y)`: `Σ p (y − z) − ln Σ eʸ + ln Σ eᶻ`.
fn divergence(y: &[f32], z: &[f32]) -> f64 {
    /// Terms that are summed in `f32`.
    const TERMS: usize = 64;
    let top = |row: &[f32]| row.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    let (top_y, top_z) = (top(y), top(z));
    let (mut sum_y, mut sum_z, mut moved) = (0.0, 0.0, 0.0);
    for (y, z) in y.chunks(TERMS).zip(z.chunks(TERMS)) {
        let (mut part_y, mut part_z, mut part_moved) = (0.0_f32, 0.0_f32, 0.0_f32);
        for (&y, &z) in y.iter().zip(z) {
            let weight = (y - top_y).exp();
            part_y += weight;
            part_z += (z - top_z).exp();
            part_moved += weight * (y - z);
        }
        sum_y += f64::from(part_y);
        sum_z += f64::from(part_z);
        moved += f64::from(part_moved);
    }
    let log_sum = |top: f32, sum: f64| f64::from(top) + sum.ln();
    moved / sum_y - log_sum(top_y, sum_y) + log_sum(top_z, sum_z)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, array};

    use super::*;

    fn output(name: &str, values: ArrayD<f32>) -> Vec<Output> {
        vec![Output { name: name.to_owned(), values }]
    }

    #[test]
    fn the_divergence_of_known_logits() {
        let y = array![[[0.0_f32, 0.0], [100.0, 0.0]]].into_dyn();
        let z = array![[[3.0_f32.ln(), 0.0], [100.0, 0.0]]].into_dyn();
        // KL((1/2, 1/2) ‖ (3/4, 1/4)) = ln(2/√3); nothing for the second token.
        let found = Reference::new(output("logits", y), None, 0).divergence(&output("logits", z)).unwrap();
        assert!((found - (2.0 / 3.0_f64.sqrt()).ln() / 2.0).abs() < 1e-6, "{found}");
    }

    #[test]
    fn other_outputs_are_compared_by_their_square_error() {
        let (y, z) = (array![[3.0_f32, 4.0]].into_dyn(), array![[3.0_f32, 3.0]].into_dyn());
        let reference = Reference::new(output("embedding", y), None, 0);
        assert!((reference.divergence(&output("embedding", z)).unwrap() - 1.0 / 25.0).abs() < 1e-12);
        assert!(reference.divergence(&output("embedding", array![[1.0_f32]].into_dyn())).is_err());
    }
}
