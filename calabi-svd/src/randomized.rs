//! `randomized`: leading singular values by power steps on a random subspace, with a bound that decides when to stop.

mod excess;
mod outside;
mod subspace;

use std::num::NonZeroUsize;

use calabi_api::schemars::JsonSchema;
use calabi_api::settings::Positive;
use calabi_api::{DecomposeError, Decomposer, Decomposition, Plugin, Rank};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use self::outside::Outside;
use self::subspace::{Ritz, Subspace};
use crate::decomposed::Decomposed;
use crate::exact;
use crate::faer::Accuracy;
use crate::noise::Noise;
use crate::smaller::{Smaller, Solved};
use crate::symmetric::Symmetric;
use crate::weight::Weight;

/// Above this share of `min(m, n)` there is nothing to gain.
const LARGEST_SHARE: f64 = 1.0 / 3.0;

/// A loss that is rounding, as a share of the energy.
const NEGLIGIBLE: f64 = 1e-12;

/// Lanczos steps after which the bound on what lies outside is judged.
const LANCZOS: [usize; 4] = [12, 20, 32, 48];

/// Leading singular values and vectors by block power steps on a random subspace (Halko, Martinsson and Tropp, 2011).
///
/// # What is guaranteed
/// For every rank `r` up to the limit, `loss(r) ≤ (1 + tolerance) · optimum(r) + 1e-12 ‖W‖²`. After the first power steps a
/// bound is computed from the residual of the Ritz vectors and from how much the weight can do outside of the subspace;
/// it holds whatever the spectrum, but for a chance of 1e-7 over the seed (the outside is bounded by a Lanczos process from
/// a random start). While the bound misses the tolerance, more steps follow; where they end, or where they cannot
/// help because the spectrum has no gap at the limit, the exact route is taken. The [remark](Decomposition::remark)
/// tells which.
///
/// The spectrum is that of the vectors found: what it states as loss is what is measured.
///
/// # When
/// Where the limit is a tenth of `min(m, n)` or less, `min(m, n)` is some 2000 or more, and the spectrum falls: at 2048² and a
/// limit of 64 it takes a seventh to a half of the exact route's time, at 768² it saves nothing. No more steps are made than
/// cost what the exact route costs; with a limit above a third of `min(m, n)`, or where the first steps would cost
/// more, the exact route is taken at once. `eigh` always takes it: a partial decomposition cannot tell whether a matrix
/// is indefinite.
///
/// # Memory
/// A copy of the weight, and some `80 (m + n)(limit + oversampling)` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "calabi_api::schemars")]
pub struct Randomized {
    /// Dimensions of the subspace beyond the limit: more of them widen the gap that the bound needs.
    pub oversampling: usize,
    /// Power steps before the bound is first computed, and between one time and the next.
    pub power_steps: NonZeroUsize,
    /// Power steps after which the exact route is taken, where it is not cheaper before.
    pub max_steps: NonZeroUsize,
    /// How far the loss may lie above the optimum, as a share of the optimum.
    pub tolerance: Positive,
    /// The seed of the random start.
    pub seed: u64,
}

impl Default for Randomized {
    fn default() -> Self {
        const STEPS: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        const MOST: NonZeroUsize = NonZeroUsize::new(16).unwrap();
        let tolerance = Positive::constant(0.01);
        Self { oversampling: 24, power_steps: STEPS, max_steps: MOST, tolerance, seed: 0 }
    }
}

impl Decomposer for Randomized {
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
        let weight = Weight::read(a)?;
        let limit = limit.min(weight.full_rank());
        let exactly = |weight: Weight<'a>, remark| -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
            Ok(Box::new(exact::svd(weight, limit, Accuracy::Loss)?.remarked(remark)))
        };
        let most = self.affordable(&weight, limit);
        if most < self.power_steps.get().min(self.max_steps.get()) {
            let remark = format!("limit {limit} of {}: exact route taken, it is cheaper", weight.full_rank());
            return exactly(weight, remark);
        }
        match self.iterate(&weight, limit.get(), most) {
            Ok(found) => Ok(Box::new(found.decomposed(weight, limit)?)),
            Err(reason) => exactly(weight, format!("{reason}: exact route taken")),
        }
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        let decomposed = exact::eigh(&Symmetric::read(s)?, limit)?;
        Ok(Box::new(decomposed.remarked("a symmetric matrix: exact route taken".to_owned())))
    }
}

/// Ritz vectors that are as good as was asked.
struct Found {
    ritz: Ritz,
    steps: usize,
    /// By how much the loss may lie above the optimum, as a share of it.
    above: f64,
}

/// How a subspace compares with the best one.
enum Verdict {
    /// Good enough; the loss lies above the optimum by this share at most.
    Good(f64),
    /// More steps may do.
    Poor,
    /// No more steps will do.
    Flat,
}

impl Randomized {
    /// How many power steps cost no more than the exact route does, at most the largest number set.
    ///
    /// In multiplications, weighed as measured: `s² l` for the Gram matrix of an `s × l` weight (`s ≤ l`), `9 s³` for its
    /// eigenpairs, `4 s l` for each dimension of the subspace in each step.
    fn affordable(&self, weight: &Weight<'_>, limit: Rank) -> usize {
        let (small, large) = weight.wide().shape();
        let dimensions = limit.get() + self.oversampling;
        if limit.get() as f64 > LARGEST_SHARE * small as f64 || dimensions >= small {
            return 0;
        }
        let exact = small * (large + 9 * small) / (4 * large * dimensions);
        exact.min(self.max_steps.get())
    }

    /// Power steps until the bound meets the tolerance; an error says why that was given up.
    fn iterate(&self, weight: &Weight<'_>, limit: usize, most: usize) -> Result<Found, String> {
        let mut noise = Noise::new(self.seed);
        let mut subspace = Subspace::random(weight, limit + self.oversampling, &mut noise);
        let mut steps = 0;
        while steps < most {
            let more = self.power_steps.get().min(most - steps);
            for _ in 0..more {
                if steps < self.power_steps.get() {
                    subspace.rough_step();
                } else {
                    subspace.fine_step();
                }
                steps += 1;
            }
            let ritz = subspace.ritz().ok_or_else(|| "the projected eigenproblem did not converge".to_owned())?;
            match self.judge(weight, &ritz, limit, &mut noise) {
                Verdict::Good(above) => return Ok(Found { ritz, steps, above }),
                Verdict::Poor => {}
                Verdict::Flat => return Err(format!("no gap in the spectrum at rank {limit}")),
            }
        }
        Err(format!("{steps} power steps missed the tolerance of {}", self.tolerance.get()))
    }

    fn judge(&self, weight: &Weight<'_>, ritz: &Ritz, limit: usize, noise: &mut Noise) -> Verdict {
        let energy = weight.energy();
        let loss = (energy - ritz.values[..limit].iter().rev().sum::<f64>()).max(0.0);
        let tolerance = self.tolerance.get();
        let allowed = (loss * tolerance / (1.0 + tolerance)).max(NEGLIGIBLE * energy);
        let mut outside = Outside::new(weight, &ritz.vectors, noise, LANCZOS[LANCZOS.len() - 1]);
        let mut verdict = Verdict::Poor;
        for steps in LANCZOS {
            outside.advance(steps);
            let Some(bound) = outside.bound() else { continue };
            let excess = excess::excess(ritz, bound, limit, energy);
            if excess <= allowed {
                return Verdict::Good(if loss > excess { excess / (loss - excess) } else { 0.0 });
            }
            let flat = excess::without_residual(ritz, bound, limit) > 2.0 * allowed;
            verdict = if flat { Verdict::Flat } else { Verdict::Poor };
        }
        verdict
    }
}

impl Found {
    fn decomposed(self, weight: Weight<'_>, limit: Rank) -> Result<Decomposed<'_>, DecomposeError> {
        let kept = limit.get();
        let values = self.ritz.values[..kept].iter().map(|v| v.sqrt()).collect();
        let smaller = Smaller::Ready(self.ritz.vectors.subcols(0, kept).to_owned());
        let percent = 100.0 * self.above;
        let remark = format!("{} power steps: loss at most {percent:.2} % above the optimum", self.steps);
        exact::leading(Solved { values, smaller }, weight, limit, remark, "randomized")
    }
}

calabi_api::submit! {
    Plugin::decomposer::<Randomized>("randomized", "leading singular values by power steps, with a bound that decides when to stop")
}
