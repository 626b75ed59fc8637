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

/// The width of a block is a multiple of it, as vector instructions take them.
const MULTIPLE: usize = 8;

/// Blocks after which it is seen what the subspace captures.
const SEEN_AT: [usize; 6] = [6, 8, 10, 12, 14, 16];

/// What may still be missing, as a share of what is allowed, where a proof is worth trying.
const WORTH_A_PROOF: f64 = 0.09;

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
    let width = kept.div_ceil(SHARE).next_multiple_of(MULTIPLE);
    let mut krylov = Krylov::begin(matrix.as_ref(), width, SEEN_AT[SEEN_AT.len() - 1]);
    let mut progress = Progress::default();
    for (seen, &blocks) in SEEN_AT.iter().enumerate() {
        krylov.extend(matrix.as_ref(), blocks);
        let eigen = krylov.captured()?;
        let captured: f64 = eigen.values()[..kept].iter().rev().sum();
        let loss = (energy - captured).max(0.0);
        let allowed = loss * TOLERANCE / (1.0 + TOLERANCE);
        progress.note(captured);
        let further = i32::try_from(SEEN_AT.len() - 1 - seen).unwrap_or_default();
        if progress.missing(further) > WORTH_A_PROOF * allowed {
            return None;
        }
        if progress.missing(0) > WORTH_A_PROOF * allowed {
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
    }
    None
}

/// What a growing subspace captured so far.
#[derive(Debug, Default)]
struct Progress {
    captured: Option<f64>,
    /// The last two times by how much more.
    gains: (Option<f64>, Option<f64>),
}

impl Progress {
    fn note(&mut self, captured: f64) {
        let gain = self.captured.map(|before| (captured - before).max(0.0));
        (self.captured, self.gains) = (Some(captured), (self.gains.1, gain));
    }

    /// What will be missing after so many times more, if gains go on as a geometric series; as good as none while
    /// nothing is known, but for now.
    fn missing(&self, further: i32) -> f64 {
        match self.gains {
            (Some(before), Some(last)) if before > last => {
                let ratio = last / before;
                last * ratio.powi(further + 1) / (1.0 - ratio)
            }
            (Some(_), Some(last)) => last,
            _ if further == 0 => f64::INFINITY,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests;
