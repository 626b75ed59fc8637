//! Models of some layers, with their options.

use calabi_api::{Allocation, Cost, DType, LayerCost, LayerOptions, LayerSpectrum, Rank, RankAllocator, Spectrum};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::selectors::{Case, cases};

/// A model as an allocator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its layers.
    pub layers: Vec<Case>,
    /// The rank multiple: options are multiples of it that pay, or the smallest rank of a layer smaller than that.
    pub multiple: usize,
    /// The cost of what is neither a layer nor overridden.
    pub other: Cost,
    /// The cost of overridden layers, before and after.
    pub decided: (Cost, Cost),
}

impl Model {
    /// A model of layers stored as `f32`, of which all is selected and nothing overridden.
    #[must_use]
    pub fn new(layers: Vec<Case>, multiple: usize) -> Self {
        Self { layers, multiple, other: Cost::default(), decided: (Cost::default(), Cost::default()) }
    }

    /// The model as it is handed to an allocator.
    #[must_use]
    pub fn allocation(&self) -> Allocation<'_> {
        let layers = self.layers.iter().map(|case| options(case, self.multiple)).collect();
        Allocation { layers, rest: self.other + self.decided.1, decided: self.decided }
    }

    /// The same model with its weights multiplied by powers of two.
    #[must_use]
    pub fn scaled(&self) -> Self {
        let factors = [4.0, 0.125, 1024.0].into_iter().cycle();
        self.with_spectra(factors, Case::scaled)
    }

    /// The same model with its spectra cut at the limits of an allocator.
    #[must_use]
    pub fn cut(&self, allocator: &dyn RankAllocator) -> Self {
        let limits = self.layers.iter().map(|case| allocator.limit(case.shape));
        self.with_spectra(limits, |case, limit| case.spectrum.clone().truncated(limit))
    }

    fn with_spectra<T>(&self, with: impl Iterator<Item = T>, spectrum: impl Fn(&Case, T) -> Spectrum) -> Self {
        let layers = self.layers.iter().zip(with);
        let layers = layers.map(|(case, with)| Case { shape: case.shape, spectrum: spectrum(case, with) }).collect();
        Self { layers, ..self.clone() }
    }
}

/// The options of a layer stored as `f32`.
fn options(case: &Case, multiple: usize) -> LayerOptions<'_> {
    let cost = LayerCost::new(case.shape, DType::F32, DType::F32);
    let full = case.shape.full_rank().get();
    let multiples = (multiple.min(full)..=full).step_by(multiple).filter_map(Rank::new);
    let ranks = multiples.filter(|&rank| cost.pays(rank)).collect();
    LayerOptions { spectrum: LayerSpectrum::new("a layer", case.shape, &case.spectrum), cost, ranks }
}

/// Models of one to six layers of all kinds, for property tests of one's own.
pub fn models() -> impl Strategy<Value = Model> {
    let cost = || (0..20_000_u64).prop_map(|parameters| Cost::of(parameters, DType::F32));
    let multiple = prop_oneof![Just(1_usize), Just(4), Just(8)];
    (vec(cases(), 1..=6), multiple, cost(), cost(), cost()).prop_map(|(layers, multiple, other, a, b)| {
        let decided = if a.bytes < b.bytes { (b, a) } else { (a, b) };
        Model { layers, multiple, other, decided }
    })
}

/// Models so small that all of their choices can be tried.
pub(super) fn small_models() -> impl Strategy<Value = Model> {
    let small = cases().prop_filter("too many options", |case| case.shape.break_even() <= 9);
    vec(small, 1..=3).prop_map(|layers| Model::new(layers, 1))
}
