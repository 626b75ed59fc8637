//! Figures that compare the outputs of two models a few samples at a time: sums in `f64`, always in the same order.

mod row;
mod tally;

use calabi_api::{Output, RunError};
use rayon::prelude::*;

use crate::tokens::Tokens;
use crate::{Change, OutputReport};

pub(crate) use row::surprise;
use row::{Row, compare_rows};
use tally::Tally;

/// What the values of an output mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// Its rows have a largest value: the class.
    pub(crate) classes: bool,
    /// Its rows are logits: probabilities follow by softmax.
    pub(crate) logits: bool,
    /// There is a row for every token, so that padding is known.
    pub(crate) per_token: bool,
}

impl Meaning {
    /// What an output means: logits are called so (`logits`, `start_logits`), or have a value for every token id that
    /// there is, in a row for every token, and are not called hidden.
    pub(crate) fn of(output: &Output, tokens: Option<&Tokens>) -> Self {
        let shape = output.values.shape();
        let width = shape.last().copied().unwrap_or(0);
        let classes = shape.len() >= 2 && width >= 2;
        let name = output.name.to_ascii_lowercase();
        let per_token = tokens.is_some_and(|tokens| tokens.per_token(output));
        let holds_every_id = tokens.is_some_and(|tokens| i64::try_from(width).is_ok_and(|w| w > tokens.largest()));
        let looks_so = per_token && holds_every_id && !name.contains("hidden");
        Self { classes, logits: classes && (name.ends_with("logits") || looks_so), per_token }
    }

    /// Whether it predicts the next token.
    pub(crate) fn predicts_tokens(self) -> bool {
        self.logits && self.per_token
    }
}

/// The figures of all outputs, as samples come in.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    tallies: Vec<Tally>,
    tokens: Option<&'a Tokens>,
    labels: Option<Labels<'a>>,
}

/// The right classes of the rows of the first output, and how many of them the two models met.
#[derive(Debug)]
struct Labels<'a> {
    rest: std::slice::Iter<'a, i64>,
    seen: u64,
    right: Change<u64>,
}

impl<'a> Comparison<'a> {
    /// No samples yet, of outputs with these names and meanings; labels are the right classes of the first output's rows.
    pub(crate) fn new(outputs: &[(String, Meaning)], tokens: Option<&'a Tokens>, labels: Option<&'a [i64]>) -> Self {
        let tallies = outputs.iter().map(|(name, meaning)| Tally::new(name.clone(), *meaning)).collect();
        let right = Change { before: 0, after: 0 };
        Self { tallies, tokens, labels: labels.map(|labels| Labels { rest: labels.iter(), seen: 0, right }) }
    }

    /// Adds some samples, the first of which has this number.
    ///
    /// # Errors
    /// Where the outputs differ in number or shape.
    pub(crate) fn add(&mut self, first: usize, original: &[Output], compressed: &[Output]) -> Result<(), RunError> {
        if original.len() != self.tallies.len() || compressed.len() != self.tallies.len() {
            let problem = format!("it has {} outputs, the original {}", compressed.len(), original.len());
            return Err(RunError::Failed(problem));
        }
        let mut labels = self.labels.as_mut();
        for (tally, (y, z)) in self.tallies.iter_mut().zip(original.iter().zip(compressed)) {
            same_shape(y, z)?;
            add_output(tally, self.tokens, labels.take(), first, (y, z));
        }
        Ok(())
    }

    /// The share of labels that the original and the compressed model meet; none without labels.
    pub(crate) fn accuracy(&self) -> Option<Change<f64>> {
        let Labels { seen, right, .. } = self.labels.as_ref()?;
        let share = |right: u64| right as f64 / (*seen).max(1) as f64;
        Some(Change { before: share(right.before), after: share(right.after) })
    }

    /// The figures of each output.
    pub(crate) fn outputs(&self) -> Vec<OutputReport> {
        self.tallies.iter().map(Tally::report).collect()
    }

    /// The perplexity of both models, and over how many tokens; none where no output predicts tokens.
    pub(crate) fn perplexity(&self) -> Option<(Change<f64>, u64)> {
        self.tallies.iter().find_map(Tally::perplexity)
    }
}

/// Adds some samples of one output: rows side by side, summed up in their order.
fn add_output(
    tally: &mut Tally,
    tokens: Option<&Tokens>,
    mut labels: Option<&mut Labels<'_>>,
    first: usize,
    (original, compressed): (&Output, &Output),
) {
    /// The figures of so many rows are held at once.
    const ROWS: usize = 1 << 14;
    let width = if let [_, .., width] = *original.values.shape() { width.max(1) } else { 1 };
    let (y, z) = (original.values.as_standard_layout(), compressed.values.as_standard_layout());
    let (Some(y), Some(z)) = (y.as_slice(), z.as_slice()) else { return };
    let per_sample = (y.len() / width / original.values.shape().first().copied().unwrap_or(1).max(1)).max(1);
    let tokens = tokens.filter(|_| tally.meaning().per_token);
    let meaning = tally.meaning();
    for (part, (y, z)) in y.chunks(ROWS * width).zip(z.chunks(ROWS * width)).enumerate() {
        let place = |row: usize| (first + (part * ROWS + row) / per_sample, (part * ROWS + row) % per_sample);
        let compare = |(row, (y, z))| {
            let (sample, position) = place(row);
            let next = tokens.filter(|_| meaning.logits).and_then(|tokens| tokens.next(sample, position));
            compare_rows(y, z, meaning.logits, next)
        };
        let rows: Vec<Row> = y.par_chunks(width).zip(z.par_chunks(width)).enumerate().map(compare).collect();
        for (row, figures) in rows.iter().enumerate() {
            let (sample, position) = place(row);
            if let Some(labels) = &mut labels {
                labels.count(figures.class);
            }
            if tokens.is_none_or(|tokens| tokens.is_real(sample, position)) {
                tally.add(figures);
            }
            if position + 1 == per_sample {
                tally.end_sample();
            }
        }
    }
}

impl Labels<'_> {
    fn count(&mut self, (original, compressed): (usize, usize)) {
        let Some(&label) = self.rest.next() else { return };
        let is_right = |class: usize| u64::from(i64::try_from(class) == Ok(label));
        self.seen += 1;
        self.right.before += is_right(original);
        self.right.after += is_right(compressed);
    }
}

fn same_shape(y: &Output, z: &Output) -> Result<(), RunError> {
    let (original, compressed) = (y.values.shape(), z.values.shape());
    if original == compressed && !original.is_empty() {
        return Ok(());
    }
    Err(RunError::Failed(format!("output {} has shape {compressed:?}, the original's {original:?}", z.name)))
}

#[cfg(test)]
mod tests;
