//! The plan: what becomes of every layer, and why. Ranks that need spectra are open until they are there.

use calabi_api::{Choice, Cost, Kept, Layer, LeftAlone, Rank, Totals};

/// What becomes of every matrix of a model.
///
/// ```
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
/// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
/// # pipeline.layers.min_features = 64_usize.try_into()?;
/// let plan = calabi::plan(&pipeline)?; // of a fixed rank
/// assert!(!plan.is_open() && plan.left_alone.is_empty());
/// assert!(plan.flops().after < plan.flops().before);
/// assert!(plan.totals.cost.parameters > plan.layers.iter().map(|layer| layer.cost().parameters).sum::<u64>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi::api::{Kept, Rank};
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
/// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
/// # pipeline.layers.min_features = 64_usize.try_into()?;
/// let plan = calabi::plan(&pipeline)?; // rank 16 for layers of 64 features or more
/// let (hidden, output) = (&plan.layers[0], &plan.layers[2]);
/// assert_eq!((hidden.is_selected(), hidden.rank().map(Rank::get)), (true, Some(16)));
/// assert_eq!(hidden.cost().parameters, 16 * (512 + 64));
/// assert_eq!((output.is_selected(), output.rank(), output.kept()), (false, None, Some(Kept::Dense)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi::{Decision, Plan};
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
/// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
/// # pipeline.layers.min_features = 64_usize.try_into()?;
/// let plan: Plan = calabi::plan(&pipeline)?; // rank 16 for layers of 64 features or more
/// assert!(matches!(plan.layers[0].decision, Decision::Chosen { .. }));
/// let Decision::Skipped { why } = &plan.layers[2].decision else { panic!("it has ten outputs") };
/// assert_eq!(why, "10 features, fewer than min_features = 64");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi::{Pattern, Pipeline, Rule, rank::Fixed};
/// # use calabi::api::Rank;
///
/// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
/// let one = Fixed { rank: Rank::ONE };
/// let pipeline = Pipeline::new(input, "small.safetensors", one).with_override(vec![Pattern::new("hidden2")?], one);
/// let rules: Vec<_> = calabi::plan(&pipeline)?.layers.iter().map(|layer| layer.rule).collect();
/// assert_eq!(rules, [Rule::Main, Rule::Override(0), Rule::Main]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// Whether it may be factorized: it takes part, and is not kept dense.
    pub(crate) fn may_be_factorized(&self) -> bool {
        self.is_selected() && self.kept() != Some(Kept::Dense)
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
    ///
    /// ```
    /// use calabi::{Pipeline, api::settings::Fraction, rank::Energy};
    ///
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// let most = Energy { threshold: Fraction::new(0.9).ok_or("not a share")? };
    /// assert!(calabi::plan(&Pipeline::new(input, "small.safetensors", most))?.is_open(), "it waits for spectra");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
