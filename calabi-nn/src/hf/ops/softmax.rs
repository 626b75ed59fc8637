//! Who sees whom in attention, and the softmax of one row of scores.

use std::ops::Range;
use std::sync::Arc;

use super::exp::exp;
use super::sums::{largest, sum};

/// Which keys a query sees. The default is all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mask {
    /// A query sees no key behind itself.
    pub(crate) causal: bool,
    /// A query sees so many keys at most: itself and those right before it. Only where `causal`.
    pub(crate) window: Option<usize>,
    /// Batch × sequence: which keys are tokens rather than padding. None where all are.
    pub(crate) tokens: Option<Arc<[bool]>>,
}

impl Mask {
    /// The keys among which are all that these queries see, out of so many.
    pub(super) fn visible(&self, queries: Range<usize>, keys: usize) -> Range<usize> {
        if !self.causal {
            return 0..keys;
        }
        let start = self.window.map_or(0, |window| (queries.start + 1).saturating_sub(window));
        start..queries.end.min(keys)
    }

    /// Which keys of a sample are tokens.
    pub(super) fn tokens_of(&self, sample: usize, keys: usize) -> Option<&[bool]> {
        self.tokens.as_ref().and_then(|tokens| tokens.get(sample * keys..(sample + 1) * keys))
    }
}

/// The softmax of `scale · scores` in place, over the places in `visible` that are tokens; all others become 0. A row
/// that sees nothing is all 0.
pub(super) fn softmax_row(scores: &mut [f32], scale: f32, visible: Range<usize>, tokens: Option<&[bool]>) {
    let end = visible.end.min(scores.len());
    let start = visible.start.min(end);
    scores[..start].fill(0.0);
    scores[end..].fill(0.0);
    let scores = &mut scores[start..end];
    let tokens = tokens.map(|tokens| &tokens[start..end]);
    if let Some(tokens) = tokens {
        scores
            .iter_mut()
            .zip(tokens)
            .for_each(|(score, &token)| *score = if token { *score } else { f32::NEG_INFINITY });
    }
    let top = largest(scores);
    if top == f32::NEG_INFINITY {
        return scores.fill(0.0);
    }
    for score in &mut *scores {
        *score = exp(scale * (*score - top));
    }
    if let Some(tokens) = tokens {
        scores.iter_mut().zip(tokens).for_each(|(score, &token)| *score = if token { *score } else { 0.0 });
    }
    let share = 1.0 / sum(scores, |score| score);
    for score in scores {
        *score *= share;
    }
}
