//! Models of some layers, with their options.

use calabi_api::{
    Allocation, Choice, Cost, DType, LayerCost, LayerOptions, LayerSpectrum, Needs, Rank, RankAllocator, SelectError,
    SensitivitySource,
};
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

    /// The model as it is handed to an allocator that asks for nothing but spectra.
    #[must_use]
    pub fn allocation(&self) -> Allocation<'_> {
        self.allocation_for(&Needs::NONE)
    }

    /// The model as it is handed to an allocator with these needs, but without a way to read weights or statistics.
    #[must_use]
    pub fn allocation_for(&self, needs: &Needs) -> Allocation<'_> {
        let measured = needs.sensitivity != SensitivitySource::Off;
        let layers = self.layers.iter().map(|case| options(case, self.multiple, measured)).collect();
        Allocation { layers, rest: self.other + self.decided.1, decided: self.decided }
    }

    /// The choices of an allocator that is shown spectra and weights, and what it [needs](RankAllocator::needs) besides.
    ///
    /// # Errors
    /// The allocator's.
    pub fn ask(&self, allocator: &dyn RankAllocator) -> Result<Vec<Choice>, SelectError> {
        let needs = allocator.needs();
        let weights: Vec<_> = self.layers.iter().map(|case| || Ok(case.weight())).collect();
        let statistics: Vec<_> = self.layers.iter().map(|case| || Ok(case.statistics())).collect();
        let mut model = self.allocation_for(&needs);
        for (layer, (weight, statistics)) in model.layers.iter_mut().zip(weights.iter().zip(&statistics)) {
            layer.spectrum = layer.spectrum.with_weight(weight);
            if needs.statistics {
                layer.spectrum = layer.spectrum.with_statistics(statistics);
            }
        }
        allocator.allocate(&model)
    }

    /// The same model with its weights multiplied by powers of two.
    #[must_use]
    pub fn scaled(&self) -> Self {
        let factors = [4.0, 0.125, 1024.0].into_iter().cycle();
        self.with_layers(self.layers.iter().zip(factors).map(|(case, factor)| case.scaled(factor)))
    }

    /// The same model with its spectra cut at the limits of an allocator.
    #[must_use]
    pub fn cut(&self, allocator: &dyn RankAllocator) -> Self {
        self.with_layers(self.layers.iter().map(|case| case.truncated(allocator.limit(case.shape))))
    }

    fn with_layers(&self, layers: impl Iterator<Item = Case>) -> Self {
        Self { layers: layers.collect(), ..self.clone() }
    }
}

/// The options of a layer stored as `f32`.
fn options(case: &Case, multiple: usize, measured: bool) -> LayerOptions<'_> {
    let cost = LayerCost::new(case.shape, DType::F32, DType::F32);
    let full = case.shape.full_rank().get();
    let multiples = (multiple.min(full)..=full).step_by(multiple).filter_map(Rank::new);
    let ranks = multiples.filter(|&rank| cost.pays(rank)).collect();
    let spectrum = LayerSpectrum::new("a layer", case.shape, &case.spectrum);
    LayerOptions { spectrum: spectrum.with_sensitivity(case.sensitivity.filter(|_| measured)), cost, ranks }
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
