//! The plan: what becomes of every layer, and why. Ranks that need spectra are open until they are there.

use calabi_api::{Choice, Cost, Kept, Layer, LeftAlone, Rank, Totals};

/// What becomes of every matrix of a model.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The layers, in the order of the model.
    pub layers: Vec<PlannedLayer>,
    /// The matrices that the format leaves alone, and why.
    pub left_alone: Vec<LeftAlone>,
    /// What the whole model weighs.
    pub totals: Totals,
}

/// A layer and what becomes of it.
#[derive(Debug, Clone)]
pub struct PlannedLayer {
    /// The layer.
    pub layer: Layer,
    /// What becomes of it.
    pub decision: Decision,
    /// Which rule of the pipeline decides about it.
    pub rule: Rule,
    /// Whether its factors bring a bias.
    pub bias: bool,
}

/// What becomes of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The rule has not seen the spectrum yet.
    Open,
    /// It is decided.
    Chosen {
        /// At which rank, or dense.
        kept: Kept,
        /// Which rule bound.
        because: String,
    },
    /// The layer does not take part.
    Skipped {
        /// Why.
        why: String,
    },
}

/// The rule that decides about a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `[rank]`.
    Main,
    /// The `[[override]]` of this number, from zero.
    Override(usize),
}

impl PlannedLayer {
    /// What is kept of it, where that is decided.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        match &self.decision {
            Decision::Open => None,
            Decision::Chosen { kept, .. } => Some(*kept),
            Decision::Skipped { .. } => Some(Kept::Dense),
        }
    }

    /// Its rank, where it is factorized.
    #[must_use]
    pub fn rank(&self) -> Option<Rank> {
        match self.kept() {
            Some(Kept::Rank(rank)) => Some(rank),
            _ => None,
        }
    }

    /// Whether it takes part.
    #[must_use]
    pub fn is_selected(&self) -> bool {
        !matches!(self.decision, Decision::Skipped { .. })
    }

    /// What it will cost; dense where that is open.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.layer.cost.of(self.kept().unwrap_or(Kept::Dense))
    }
}

impl Plan {
    /// The layers that are still open, by index.
    pub(crate) fn open(&self) -> Vec<usize> {
        let open = |&(_, layer): &(usize, &PlannedLayer)| layer.decision == Decision::Open;
        self.layers.iter().enumerate().filter(open).map(|(index, _)| index).collect()
    }

    /// Whether a layer is still open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.layers.iter().any(|layer| layer.decision == Decision::Open)
    }
}

impl From<Choice> for Decision {
    fn from(choice: Choice) -> Self {
        Self::Chosen { kept: choice.kept, because: choice.because.into_owned() }
    }
}
