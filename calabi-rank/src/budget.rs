//! `budget`: all layers share one budget of parameters or bytes.

mod floor;
mod hull;
mod ladder;
mod source;
mod spend;
mod weights;

use calabi_api::settings::{Fraction, Share};
use calabi_api::{Allocation, Choice, Cost, Kept, Needs, Plugin, Rank, RankAllocator, SelectError, Shape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use floor::floors;
use ladder::Ladder;
use spend::{Held, spend};
use weights::weights;

pub use source::SensitivityFrom;

/// Ranks for all layers at once, so that a share of the parameters or bytes is left and the layers lose as little as
/// they can: the sum over the layers of the relative loss `Σ_{i>r} σᵢ² / ‖W‖²` is made small.
///
/// Greedy on marginal loss per byte (or parameter) over the lower convex hull of each layer's options, dense being one
/// of them (no loss, dense cost). Where a step of this walk meets the budget exactly, no choice of that size loses
/// less (Everett, "Generalized Lagrange multiplier method", Operations Research 11, 1963; Shoham and Gersho, "Efficient
/// bit allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 36, 1988). What the walk leaves is filled with
/// the best steps that still fit, until none does: the result is never above the budget, and less than one rank step
/// below it, unless nothing is lost any more.
///
/// With `sensitivity` what is made small is the divergence of the model's output instead: the sum over the layers of what
/// each of them is estimated to do to it. A layer was cut alone to a reference rank; from there its divergence is taken
/// to be proportional to its loss. (Allocation by one measured loss a layer: LEMS, ICML 2026.) A layer that the model
/// did not feel gives up its ranks before any other; among several of that kind the relative loss decides. A layer that
/// lost nothing at its reference rank counts as much as the most sensitive one where it does lose.
///
/// What is optimal for the layers is not always best for the model: on loss alone some layers would lose nearly all
/// their ranks. `floor` keeps the layers together, at a price: of SmolLM2-135M, without data and at `keep = 0.9`, the
/// perplexity is 220, 225, 243, 660 and over a million at floors of 0, 0.4, 0.6, 0.8 and 1 (dense 25.5; four windows of
/// 512 tokens of WikiText-2).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The share of the parameters or bytes that may remain.
    pub keep: Fraction,
    /// What is counted.
    #[serde(default)]
    pub unit: Unit,
    /// Whose parameters or bytes are counted.
    #[serde(default)]
    pub of: Of,
    /// The share of the uniform rank below which no layer falls. The uniform rank is the share of its dimensions that
    /// every layer would keep if all kept the same share and met the budget. 0 leaves the layers free, 1 gives every
    /// layer the uniform rank.
    #[serde(default = "floor")]
    pub floor: Share,
    /// What a layer's loss counts. `off`: its share of the layer's energy. `measured`: what cutting the layer alone does to
    /// the model's output, on the calibration samples. `file:PATH`: the same, from a file that an earlier run wrote; the
    /// path is relative to the pipeline file.
    #[serde(default)]
    pub sensitivity: SensitivityFrom,
}

fn floor() -> Share {
    Share::constant(0.4)
}

impl Budget {
    /// The budget that keeps this share of the parameters of the selected layers.
    #[must_use]
    pub fn new(keep: Fraction) -> Self {
        let (unit, of, sensitivity) = (Unit::default(), Of::default(), SensitivityFrom::default());
        Self { keep, unit, of, floor: floor(), sensitivity }
    }
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Unit {
    /// Numbers, whatever their type.
    #[default]
    Parameters,
    /// Bytes in the file.
    Bytes,
}

impl Unit {
    /// The part of a cost that is counted.
    #[must_use]
    pub fn of(self, cost: Cost) -> u64 {
        match self {
            Self::Parameters => cost.parameters,
            Self::Bytes => cost.bytes,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Parameters => "parameters",
            Self::Bytes => "bytes",
        }
    }
}

/// Whose parameters or bytes a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Of {
    /// Those of the selected layers, overridden ones included.
    #[default]
    Selected,
    /// Those of the whole model.
    Model,
}

impl RankAllocator for Budget {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        let weights = weights(model, self.sensitivity.source())?;
        let layers = model.layers.iter().zip(weights);
        let ladders: Vec<_> = layers.map(|(layer, weight)| Ladder::of(layer, self.unit, weight)).collect();
        let available = self.available(model, &ladders)?;
        let floors = floors(&ladders, available, self.floor);
        let held = spend(&ladders, &floors, available);
        Ok(ladders.iter().zip(&floors).zip(held).map(|((ladder, &floor), held)| choice(ladder, floor, held)).collect())
    }

    fn needs(&self) -> Needs {
        Needs { sensitivity: self.sensitivity.source().clone(), ..Needs::NONE }
    }

    fn limit(&self, shape: Shape) -> Rank {
        Rank::clamped(shape.break_even() - 1, shape)
    }

    fn with_keep(&self, keep: Fraction) -> Option<Box<dyn RankAllocator>> {
        Some(Box::new(Self { keep, ..self.clone() }))
    }
}

impl Budget {
    /// What the layers may cost together.
    fn available(&self, model: &Allocation<'_>, ladders: &[Ladder]) -> Result<u64, SelectError> {
        let Totals { before, elsewhere } = self.totals(model);
        let target = share_of(self.keep.get(), before);
        let least: u64 = ladders.iter().map(Ladder::least).sum();
        if elsewhere + least <= target {
            return Ok(target - elsewhere);
        }
        Err(self.out_of_reach(before, elsewhere, least))
    }

    fn totals(&self, model: &Allocation<'_>) -> Totals {
        let (decided_before, decided_after) = (self.unit.of(model.decided.0), self.unit.of(model.decided.1));
        let (dense, rest) = (self.unit.of(model.dense()), self.unit.of(model.rest));
        match self.of {
            Of::Selected => Totals { before: dense + decided_before, elsewhere: decided_after },
            Of::Model => {
                Totals { before: dense + rest.saturating_sub(decided_after) + decided_before, elsewhere: rest }
            }
        }
    }

    fn out_of_reach(&self, before: u64, elsewhere: u64, least: u64) -> SelectError {
        let (keep, unit) = (self.keep.get(), self.unit.name());
        let (whole, others) = match self.of {
            Of::Selected => ("the selected layers", "overrides"),
            Of::Model => ("the model", "what is not selected or overridden"),
        };
        let (layers, others_share) = (least as f64 / before as f64, elsewhere as f64 / before as f64);
        let needed = format!("{others} alone take {others_share:.3}, the layers at their smallest ranks {layers:.3}");
        let way_out = match smallest_keep(elsewhere + least, before) {
            Some(smallest) => format!("the smallest keep that can be met is {smallest:.3}"),
            None => "no keep can be met".to_owned(),
        };
        SelectError::new(format!("{keep} of the {unit} of {whole} cannot be met: {needed}; {way_out}"))
    }
}

/// Parameters or bytes before the layers are factorized, and those that the layers have no say in afterwards.
struct Totals {
    before: u64,
    elsewhere: u64,
}

/// The largest whole number that is at most this share.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a number of bytes
fn share_of(share: f64, whole: u64) -> u64 {
    (share * whole as f64).floor() as u64
}

/// The smallest share in thousandths that allows for `needed`, where one does.
fn smallest_keep(needed: u64, whole: u64) -> Option<f64> {
    (1..=1000).map(|thousandths| f64::from(thousandths) / 1e3).find(|&keep| share_of(keep, whole) >= needed)
}

/// The choice for a layer that stands on a rung of its ladder, with the rule that led there.
fn choice(ladder: &Ladder, floor: usize, held: Held) -> Choice {
    match ladder.kept(held.rung) {
        Kept::Dense if ladder.is_dense_only() => Choice::dense("budget: no rank is smaller than dense"),
        Kept::Dense => Choice::dense("budget: dense is worth its size"),
        Kept::Rank(rank) => Choice::exactly(rank, because(ladder, floor, held)),
    }
}

fn because(ladder: &Ladder, floor: usize, held: Held) -> &'static str {
    if ladder.is_zero() {
        "the weight is zero"
    } else if held.filled {
        "budget: filled"
    } else if held.rung > floor {
        "budget"
    } else if floor > 0 {
        "budget: floor"
    } else {
        "budget: smallest rank"
    }
}

calabi_api::submit! {
    Plugin::allocator::<Budget>("budget", "share one budget of parameters or bytes among all layers")
}
