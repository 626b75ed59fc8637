//! The partial route: leading eigenpairs of a Gram matrix from a block Krylov subspace, in `f32`, with a proof that decides.
//!
//! All eigenvalues cost a reduction of the whole matrix, half of it at the speed of memory. Where few are wanted, products
//! with blocks of vectors find them for less; whether they are good enough is proven (`proof.rs`), not hoped.

mod krylov;
mod proof;

use self::krylov::Krylov;
use self::proof::Claim;
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

/// Blocks after which it is first seen what the subspace captures.
const SEEN_FROM: usize = 8;

/// The most blocks; from `LATE` on all of them are made before it is given up.
const MOST: usize = 20;
const LATE: usize = 15;

/// The most proofs that are tried.
const PROOFS: usize = 3;

/// By how much less strained a claim must be to be worth another proof, after one that failed.
const HARDER: f64 = 2.2;

/// What blocks of one width do.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The strain of a claim up to which it is worth its proof.
    worth: f64,
    /// What becomes of the strain from one block to the next, as long as that is not known.
    fall: f64,
    /// What becomes of that from one block to the next: Krylov subspaces converge faster and faster.
    faster: f64,
}

const WIDE: Pace = Pace { worth: 1.9, fall: 0.35, faster: 0.85 };

/// Of the narrowest, which tell less of what lies outside of them.
const NARROW: Pace = Pace { worth: 0.5, fall: 0.6, faster: 0.95 };

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

/// The vectors of a block.
pub(crate) fn width(kept: usize) -> usize {
    let share = kept.div_ceil(SHARE);
    if share <= NARROWEST { NARROWEST } else { share.next_multiple_of(MULTIPLE) }
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
    let width = width(kept);
    let mut krylov = Krylov::begin(matrix.as_ref(), width, MOST);
    let mut progress = Progress { pace: if width > NARROWEST { WIDE } else { NARROW }, last: None };
    let (mut blocks, mut proofs) = (SEEN_FROM, 0);
    while blocks <= MOST && proofs < PROOFS {
        krylov.extend(matrix.as_ref(), blocks);
        let (ritz, coordinates) = krylov.captured(kept)?;
        let loss = (energy - ritz.values.iter().rev().sum::<f64>()).max(0.0);
        let claim = Claim::new(&ritz, matrix.size, loss * TOLERANCE / (1.0 + TOLERANCE));
        let further = progress.further(blocks, claim.strain(ritz.next))?;
        if further > 0 {
            blocks += further;
            continue;
        }
        if !enough(&ritz.values) {
            return None;
        }
        let vectors = krylov.vectors(&coordinates)?;
        if claim.holds(matrix, &ritz, &vectors) {
            let dimensions = blocks * width;
            let remark = format!("{dimensions} of {} dimensions: loss at most 0.4 % above the optimum", matrix.size);
            return Some(Leading { values: ritz.values, vectors, remark });
        }
        progress.refuted();
        blocks += 1;
        proofs += 1;
    }
    None
}

/// How the strain of a claim falls as a subspace grows.
#[derive(Debug)]
struct Progress {
    pace: Pace,
    /// Blocks, and the strain there.
    last: Option<(usize, f64)>,
}

impl Progress {
    /// The blocks that are needed until the claim is worth its proof: none, if it is now. No number where it will not be so in
    /// time.
    fn further(&mut self, blocks: usize, strain: f64) -> Option<usize> {
        let before = self.last.replace((blocks, strain));
        if strain <= self.pace.worth {
            return Some(0);
        }
        let fall = |(fewer, known): (usize, f64)| (strain / known).powf(((blocks - fewer) as f64).recip());
        let (mut strain, mut fall) = (strain, before.map_or(self.pace.fall, fall));
        for further in 1..=MOST.saturating_sub(blocks) {
            fall *= self.pace.faster;
            strain *= fall;
            if strain <= self.pace.worth {
                return Some(further);
            }
        }
        (LATE..MOST).contains(&blocks).then(|| MOST - blocks)
    }

    /// A proof failed: more lies outside than was seen of it, as is usual where spectra are flat.
    fn refuted(&mut self) {
        self.pace.worth /= HARDER;
    }
}

#[cfg(test)]
mod tests;
