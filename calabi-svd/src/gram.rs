//! The Gram route: eigenpairs of the Gram matrix of the smaller side, formed in `f64`, or in `f32` where that is enough.

use crate::cholesky;
use crate::damped::{Damped, DampedGram, Damping, SymmetricRows};
use crate::eigen::Eigen;
use crate::exact::{SINGLE, has_energy};
use crate::partial;
use crate::products;
use crate::real::Real;
use crate::smaller::{Smaller, Solved};
use crate::tridiagonal::Lower;
use crate::weight::Weight;

/// Below this size `f64` costs next to nothing.
pub(crate) const SMALLEST: usize = 192;

/// The share of the largest eigenvalue that the last one kept, and the mean of those behind it, must have for `f32`:
/// the square of 1/150 and of 1/200 in singular values. Rounding is some 1e-7 of the largest, of either sign: sums of many
/// err by less than each.
const LAST_KEPT: f64 = 1.0 / 22_500.0;
const MEAN_CUT: f64 = 2.5e-5;

/// Singular values of the scaled weight as roots of the eigenvalues of `A Aᵀ` (`Aᵀ A` where `m > n`).
///
/// Products of two `f32` are exact in `f64`; sums and eigenvalues err by some 1e-16 of `σ₁²`, hence singular values
/// by 1e-8 of `σ₁` at most (where they are zero) and by far less where they are large.
pub(crate) fn solve(weight: &Weight<'_>) -> Option<Solved> {
    let mut gram = Lower::zeros(weight.full_rank().get());
    weight.for_each_block(|_, block| products::add_gram(gram.as_mut(), block));
    let eigen = Eigen::of(gram)?;
    Some(Solved { values: roots(eigen.values()), smaller: Smaller::Reduced(eigen) })
}

/// What is found in `f32`.
pub(crate) enum Single {
    /// All singular values.
    All(Solved),
    /// Those that may be kept, and what there is to say of them.
    Leading(Solved, String),
}

/// As [`solve`], all of it in `f32`; only the leading `kept` values where that costs less. None where rounding could pass
/// for a loss: the leading `kept` eigenvalues fall too far below the first, or what is left behind them does. A first one that
/// outweighs all others is damped before.
pub(crate) fn solve_in_single(weight: &Weight<'_>, kept: usize) -> Option<Single> {
    if weight.full_rank().get() < SMALLEST {
        return None;
    }
    let damped = Damped::of(weight)
        .and_then(|Damped { weight, damping }| undamped(solve_evenly(&weight, kept)?, weight.energy(), &damping));
    damped.or_else(|| solve_evenly(weight, kept))
}

/// As [`solve_in_single`], of what should be a Gram matrix; values are roots of eigenvalues of the scaled one.
pub(crate) fn solve_symmetric_in_single(rows: &SymmetricRows<'_>, kept: usize) -> Option<Single> {
    // All eigenvalues tell by their sum whether some are negative; leading ones do not.
    if partial::pays(rows.size, kept) && !is_semidefinite(rows) {
        return None;
    }
    let damped = rows
        .damped()
        .and_then(|DampedGram { gram, energy, damping }| undamped(solve_gram(gram, kept, energy)?, energy, &damping));
    damped.or_else(|| solve_gram(rows.lower(), kept, rows.scale.down(rows.energy)))
}

/// What was found of a damped weight or Gram matrix of this energy, as that of the whole one.
fn undamped(mut single: Single, energy: f64, damping: &Damping) -> Option<Single> {
    if let Single::All(solved) = &single
        && !has_energy(solved, energy, SINGLE)
    {
        return None;
    }
    let (Single::All(solved) | Single::Leading(solved, _)) = &mut single;
    damping.undone(&mut solved.values)?;
    Some(single)
}

fn solve_evenly(weight: &Weight<'_>, kept: usize) -> Option<Single> {
    solve_gram(in_single(weight), kept, weight.energy())
}

fn solve_gram(mut gram: Lower<f32>, kept: usize, energy: f64) -> Option<Single> {
    let n = gram.size;
    if energy < kept as f64 * LAST_KEPT * gram.largest_diagonal() {
        return None;
    }
    let is_told = |values: &[f64]| tells(values, kept, n, energy);
    if partial::pays(n, kept)
        && let Some(found) = partial::leading(&mut gram, kept, energy, is_told)
    {
        let smaller = Smaller::ReadyInSingle(found.vectors);
        return Some(Single::Leading(Solved { values: roots(&found.values), smaller }, found.remark));
    }
    let eigen = Eigen::of(gram)?;
    let told = is_told(eigen.values());
    told.then(|| Single::All(Solved { values: roots(eigen.values()), smaller: Smaller::Single(eigen) }))
}

/// Whether no eigenvalue is negative, but for rounding.
fn is_semidefinite(rows: &SymmetricRows<'_>) -> bool {
    let mut gram = rows.lower();
    let trace = rows.scale.down(rows.energy);
    gram.add_to_diagonal(Real::of(f64::from(f32::EPSILON) * (rows.size as f64).sqrt() * trace));
    cholesky::factor(gram.as_mut()).is_ok()
}

/// The Gram matrix of the smaller side, in `f32`.
pub(crate) fn in_single(weight: &Weight<'_>) -> Lower<f32> {
    let mut gram = Lower::zeros(weight.full_rank().get());
    weight.for_each_block_of_rows(|block| products::add_gram(gram.as_mut(), block));
    gram
}

/// Whether `f32` tells what is lost behind the leading `kept` of `n` eigenvalues, of which these are known and `energy` is
/// the sum.
fn tells(values: &[f64], kept: usize, n: usize, energy: f64) -> bool {
    let (leading, cut) = values.split_at(kept.min(values.len()));
    let floor = |share: f64| share * leading.first().copied().unwrap_or_default();
    let lost = if values.len() == n { cut.iter().rev().sum() } else { energy - leading.iter().rev().sum::<f64>() };
    leading.last().is_some_and(|&last| last > floor(LAST_KEPT)) && lost >= (n - kept) as f64 * floor(MEAN_CUT)
}

fn roots(eigenvalues: &[f64]) -> Vec<f64> {
    eigenvalues.iter().map(|v| v.max(0.0).sqrt()).collect()
}
