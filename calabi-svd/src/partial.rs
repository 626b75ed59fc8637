//! The partial route: leading eigenpairs of a Gram matrix from a block Krylov subspace, in `f32`, with a proof that decides.
//!
//! All eigenvalues cost a reduction of the whole matrix, half of it at the speed of memory. Where few are wanted, products
//! with blocks of vectors find them for less; whether they are good enough is proven (`proof.rs`), not hoped.

mod krylov;
mod proof;

use self::krylov::Krylov;
use crate::tridiagonal::Lower;

/// Below this size all eigenvalues cost next to nothing.
const SMALLEST: usize = 512;

/// Above this share of all eigenvalues they cost no more than some.
const LARGEST_SHARE: usize = 8;

/// Vectors of a block, as a share of those that are wanted: of narrow blocks many are multiplied, and few in all.
const SHARE: usize = 5;

/// The width of a block is a multiple of it: as many rows as kernels of products take at a time (AVX2, `f32`).
const MULTIPLE: usize = 24;

/// The width of the narrowest blocks.
const NARROWEST: usize = 8;

/// Blocks after which it is seen what the subspace captures, one after the other until two gains are known.
const SEEN_FROM: usize = 7;

/// The most blocks.
const MOST: usize = 20;

/// What may still be missing, as a share of what is allowed, where a proof is worth trying.
const WORTH_A_PROOF: f64 = 0.15;

/// What becomes of the ratio of two gains from one block to the next: Krylov subspaces converge faster and faster.
const FASTER: f64 = 0.85;

/// By how much a loss may lie above the optimum, as a share of it: 0.2 % of an error.
const TOLERANCE: f64 = 4e-3;

/// The leading eigenpairs of a Gram matrix.
#[derive(Debug)]
pub(crate) struct Leading {
    /// Eigenvalues, largest first: what each vector captures.
    pub(crate) values: Vec<f64>,
    pub(crate) vectors: faer::Mat<f32>,
    pub(crate) remark: String,
}

/// Whether the leading `kept` of `n` eigenpairs cost less than all eigenvalues.
pub(crate) fn pays(n: usize, kept: usize) -> bool {
    n >= SMALLEST && kept <= n / LARGEST_SHARE
}

/// The leading `kept` eigenpairs of a positive semidefinite matrix whose trace is `energy`: what they leave of it is at most
/// [`TOLERANCE`] above the least that can be left. None where that is not proven, or `enough` says that `f32` does not tell
/// the eigenvalues. The upper triangle becomes what the lower one is.
pub(crate) fn leading(
    matrix: &mut Lower<f32>,
    kept: usize,
    energy: f64,
    enough: impl Fn(&[f64]) -> bool,
) -> Option<Leading> {
    matrix.mirror();
    let width = kept.div_ceil(SHARE);
    let width = if width <= NARROWEST { NARROWEST } else { width.next_multiple_of(MULTIPLE) };
    let mut krylov = Krylov::begin(matrix.as_ref(), width, MOST);
    let mut progress = Progress::default();
    let mut blocks = SEEN_FROM;
    while blocks <= MOST {
        krylov.extend(matrix.as_ref(), blocks);
        let eigen = krylov.captured()?;
        let captured: f64 = eigen.values()[..kept].iter().rev().sum();
        let loss = (energy - captured).max(0.0);
        let allowed = loss * TOLERANCE / (1.0 + TOLERANCE);
        progress.note(blocks, captured);
        let further = progress.further(WORTH_A_PROOF * allowed)?;
        if further > 0 {
            blocks += further;
            continue;
        }
        let ritz = krylov.ritz(&eigen, kept)?;
        if !enough(&ritz.values) {
            return None;
        }
        if proof::is_bounded(matrix, &ritz, allowed) {
            let dimensions = blocks * width;
            let remark = format!("{dimensions} of {} dimensions: loss at most 0.4 % above the optimum", matrix.size);
            return Some(Leading { values: ritz.values, vectors: ritz.vectors, remark });
        }
        blocks += 1;
    }
    None
}

/// What a growing subspace captures, and when it will have captured enough: gains are taken for a geometric series.
#[derive(Debug, Default)]
struct Progress {
    /// Blocks, and what they captured.
    last: Option<(usize, f64)>,
    /// What the last block brought.
    gain: Option<f64>,
    /// What a block brings, as a share of what the one before it brought.
    ratio: Option<f64>,
}

impl Progress {
    fn note(&mut self, blocks: usize, captured: f64) {
        let Some((before, known)) = self.last.replace((blocks, captured)) else { return };
        let gain = (captured - known).max(0.0);
        let steps = i32::try_from(blocks - before).unwrap_or(i32::MAX);
        if let Some(ratio) = self.ratio.filter(|&ratio| steps > 1 && ratio < 1.0) {
            // The gain of several blocks: what the last of them brought.
            let of_last = ratio.powi(steps - 1) * (1.0 - ratio) / (1.0 - ratio.powi(steps));
            (self.gain, self.ratio) = (Some(gain * of_last), Some(ratio * FASTER.powi(steps)));
            return;
        }
        self.ratio = self.gain.map(|former| if former > 0.0 { gain / former } else { 1.0 }).or(self.ratio);
        self.gain = Some(gain);
    }

    /// The blocks that are needed until no more than `small` is missing: none, if it is not more now. No number where it
    /// will not be so in time.
    fn further(&self, small: f64) -> Option<usize> {
        let (Some((blocks, _)), Some(gain), Some(ratio)) = (self.last, self.gain, self.ratio) else { return Some(1) };
        if ratio >= 1.0 {
            return (gain <= small).then_some(0);
        }
        let (mut missing, mut ratio) = (gain * ratio / (1.0 - ratio), ratio);
        for further in 0..=MOST.saturating_sub(blocks) {
            if missing <= small {
                return Some(further);
            }
            ratio *= FASTER;
            missing *= ratio;
        }
        None
    }
}

#[cfg(test)]
mod tests;
