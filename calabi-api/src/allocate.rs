//! The contract of rank allocators: one budget, shared by all layers.

use std::fmt::Debug;

use crate::settings::Fraction;
use crate::{Choice, Cost, LayerCost, LayerSpectrum, Needs, Rank, RankSelector, SelectError, Shape};

/// Sees every layer before any rank is chosen. Every [`RankSelector`] is one.
///
/// # Contract
/// - One choice per layer, in their order; ranks come from [`LayerOptions::ranks`], or the layer stays dense.
/// - The same layers give the same choices.
///
/// ```
/// # use calabi_api::{Cost, DType, Kept, LayerCost, LayerSpectrum, Needs, Rank, Shape, Spectrum};
/// use calabi_api::settings::Fraction;
/// use calabi_api::{Allocation, Choice, LayerOptions, RankAllocator, SelectError};
///
/// /// Leaves every layer this share of its own parameters.
/// #[derive(Debug)]
/// struct Even(Fraction);
///
/// impl RankAllocator for Even {
///     fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
///         let choice = |layer: &LayerOptions<'_>| {
///             let allowed = self.0.get() * layer.cost.dense.parameters as f64;
///             match layer.ranks.iter().rfind(|&&r| layer.cost.at(r).parameters as f64 <= allowed) {
///                 Some(&rank) => Choice::at_most(rank, "the layer's share"),
///                 None => Choice::dense("no rank is small enough"),
///             }
///         };
///         Ok(model.layers.iter().map(choice).collect())
///     }
///
///     fn with_keep(&self, keep: Fraction) -> Option<Box<dyn RankAllocator>> {
///         Some(Box::new(Self(keep)))
///     }
/// }
///
/// # let (shape, spectrum) = (Shape::new(8, 8).ok_or("empty")?, Spectrum::complete(vec![1.0; 8])?);
/// # let cost = LayerCost::new(shape, DType::F32, DType::F32);
/// # let ranks = (1..4).filter_map(Rank::new).collect();
/// # let layer = LayerOptions { spectrum: LayerSpectrum::new("fc", shape, &spectrum), cost, ranks };
/// # let model = Allocation { layers: vec![layer], rest: Cost::default(), decided: Default::default() };
/// # let (half, quarter) = (Fraction::new(0.5).ok_or("no share")?, Fraction::new(0.25).ok_or("no share")?);
/// // One layer of 8 x 8: each rank costs 16 of its 64 parameters.
/// assert_eq!(Even(half).allocate(&model)?[0].kept, Kept::Rank(Rank::new(2).ok_or("zero")?));
/// let smaller = Even(half).with_keep(quarter).ok_or("it has a share")?;
/// assert_eq!(smaller.allocate(&model)?[0].kept, Kept::Rank(Rank::ONE));
/// assert_eq!((smaller.needs(), smaller.limit(shape)), (Needs::NONE, shape.full_rank()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait RankAllocator: Debug + Send + Sync {
    /// One choice per layer, in the order of [`Allocation::layers`].
    ///
    /// # Errors
    /// Where the budget cannot be met; the message says what could be.
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError>;

    /// What it wants to see besides spectra: measured or loaded only if asked for.
    fn needs(&self) -> Needs {
        Needs::NONE
    }

    /// A rank that a layer of this shape never exceeds, so that a partial decomposer may stop early. The same for every
    /// share of [`with_keep`](Self::with_keep).
    fn limit(&self, shape: Shape) -> Rank {
        shape.full_rank()
    }

    /// The same allocator with another share that may remain; none where it has no such share. A search for the smallest
    /// share needs it.
    fn with_keep(&self, keep: Fraction) -> Option<Box<dyn RankAllocator>> {
        let _ = keep;
        None
    }
}

impl<S: RankSelector + ?Sized> RankAllocator for S {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        model.layers.iter().map(|layer| self.select(&layer.spectrum)).collect()
    }

    fn limit(&self, shape: Shape) -> Rank {
        RankSelector::limit(self, shape)
    }

    fn needs(&self) -> Needs {
        RankSelector::needs(self)
    }
}

/// The layers among which a budget is shared.
///
/// ```
/// use calabi_api::{Allocation, Cost, DType, LayerCost, LayerOptions, LayerSpectrum, Shape, Spectrum};
///
/// let (shape, spectrum) = (Shape::new(8, 8).ok_or("empty")?, Spectrum::complete(vec![1.0; 8])?);
/// let cost = LayerCost::new(shape, DType::F32, DType::F32);
/// let layer = |name| LayerOptions { spectrum: LayerSpectrum::new(name, shape, &spectrum), cost, ranks: Vec::new() };
/// let rest = Cost::of(1000, DType::F32);
/// let model = Allocation { layers: vec![layer("fc1"), layer("fc2")], rest, decided: Default::default() };
/// assert_eq!(model.dense(), Cost::of(2 * 64, DType::F32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Allocation<'a> {
    /// The layers, in the order of the model.
    pub layers: Vec<LayerOptions<'a>>,
    /// What the rest of the model costs: all that no allocator decides about, overridden layers as they will be written.
    pub rest: Cost,
    /// What the part of the rest that is selected, but decided elsewhere (an override), cost before and costs after.
    pub decided: (Cost, Cost),
}

/// One layer's options: dense, or one of these ranks.
///
/// ```
/// use calabi_api::{DType, LayerCost, LayerOptions, LayerSpectrum, Rank, Shape, Spectrum};
///
/// let (shape, spectrum) = (Shape::new(64, 32).ok_or("empty")?, Spectrum::complete(vec![1.0; 32])?);
/// let cost = LayerCost::new(shape, DType::F16, DType::F16);
/// // Multiples of 8, as long as they pay.
/// let ranks = (8..).step_by(8).map_while(|r| Rank::new(r).filter(|&r| cost.pays(r))).collect();
/// let options = LayerOptions { spectrum: LayerSpectrum::new("fc1", shape, &spectrum), cost, ranks };
/// assert_eq!(options.ranks.last().map(|r| r.get()), Some(16));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LayerOptions<'a> {
    /// Name, shape and singular values.
    pub spectrum: LayerSpectrum<'a>,
    /// The cost of dense and of every rank.
    pub cost: LayerCost,
    /// The ranks that may be chosen, ascending: multiples of the rank multiple that pay.
    pub ranks: Vec<Rank>,
}

impl Allocation<'_> {
    /// What the layers cost when all of them stay dense.
    #[must_use]
    pub fn dense(&self) -> Cost {
        self.layers.iter().map(|layer| layer.cost.dense).sum()
    }
}
