//! Choices become decisions: rounded to the rank multiple, left dense past break-even, shared out by an allocator.

use calabi_api::{
    Allocation, Choice, Cost, Kept, Layer, LayerOptions, LayerSource, LayerSpectrum, Name, Rank, RankAllocator,
    RankRule, RankSelector, Rounding, SelectError, Sensitivity, Spectrum,
};

use crate::decompose::read_again;
use crate::metrics::Metrics;
use crate::{Decision, Error, LayerSettings, Pipeline, Plan, Rule};

/// Rounds a choice and applies the break-even rule.
pub(crate) fn settle(choice: Choice, layer: &Layer, settings: &LayerSettings) -> Result<Choice, SelectError> {
    let Kept::Rank(asked) = choice.kept else { return Ok(choice) };
    let full = layer.shape.full_rank();
    if asked > full {
        return Err(SelectError::new(format!(
            "rank {asked} was chosen, and {full} is the most that {} can have",
            layer.shape
        )));
    }
    let rank = rounded(asked, full, choice.rounding, settings.multiple.get());
    if settings.break_even && !layer.cost.pays(rank) {
        let because =
            format!("rank {rank} is not below break-even at {}: {}", layer.shape.break_even(), choice.because);
        return Ok(Choice::dense(because));
    }
    Ok(Choice { kept: Kept::Rank(rank), ..choice })
}

/// The multiple next to a rank: never below the multiple itself, and `min(m, n)` is never rounded.
fn rounded(rank: Rank, full: Rank, rounding: Rounding, multiple: usize) -> Rank {
    let wanted = match rounding {
        _ if rank == full => return rank,
        Rounding::Literal => return rank,
        Rounding::Up => rank.get().next_multiple_of(multiple),
        Rounding::Down => (rank.get() / multiple * multiple).max(multiple),
    };
    Rank::new(wanted).map_or(rank, |wanted| wanted.min(full))
}

/// The ranks among which an allocator may choose, where so many singular values are known.
pub(crate) fn options(layer: &Layer, settings: &LayerSettings, known: usize) -> Vec<Rank> {
    let full = layer.shape.full_rank().get();
    let multiples = (1..=full / settings.multiple).map(|i| i * settings.multiple.get());
    let all = multiples.chain((full % settings.multiple != 0).then_some(full));
    all.filter_map(Rank::new)
        .filter(|&rank| rank.get() <= known && (!settings.break_even || layer.cost.pays(rank)))
        .collect()
}

/// What is known of the layers of a plan before their ranks are chosen.
#[derive(Clone, Copy)]
pub(crate) struct Known<'k> {
    /// Of each layer; none where it takes no part.
    pub(crate) spectra: &'k [Option<&'k Spectrum>],
    /// Of each layer; none where nobody asked.
    pub(crate) sensitivities: &'k [Option<Sensitivity>],
    pub(crate) metrics: &'k Metrics<'k>,
    pub(crate) source: &'k dyn LayerSource,
}

/// Lets the allocator of `[rank]` decide about the layers that are still open.
pub(crate) fn allocate(pipeline: &Pipeline, plan: &mut Plan, known: &Known<'_>) -> Result<(), Error> {
    match &pipeline.rank.value {
        RankRule::Allocator(allocator) => allocate_by(pipeline, plan, known, &**allocator),
        RankRule::Selector(_) => Ok(()),
    }
}

/// Lets this allocator decide about the layers that are still open.
pub(crate) fn allocate_by(
    pipeline: &Pipeline,
    plan: &mut Plan,
    known: &Known<'_>,
    allocator: &dyn RankAllocator,
) -> Result<(), Error> {
    let open = plan.open();
    if open.is_empty() {
        return Ok(());
    }
    let choices = share(pipeline, plan, known, allocator).map_err(|source| Error::Select {
        layer: None,
        source,
        span: pipeline.rank.span.clone(),
    })?;
    for (index, choice) in open.into_iter().zip(choices) {
        plan.layers[index].decision = choice.into();
    }
    Ok(())
}

/// The allocator's choices for the open layers of a plan.
fn share(
    pipeline: &Pipeline,
    plan: &Plan,
    known: &Known<'_>,
    allocator: &dyn RankAllocator,
) -> Result<Vec<Choice>, SelectError> {
    let open: Vec<(usize, &Layer, &Spectrum)> = plan
        .layers
        .iter()
        .zip(known.spectra)
        .enumerate()
        .filter(|(_, (planned, _))| planned.decision == Decision::Open)
        .filter_map(|(index, (planned, spectrum))| Some((index, &planned.layer, (*spectrum)?)))
        .collect();
    let weights: Vec<_> = open.iter().map(|(_, layer, _)| read_again(known.source, layer)).collect();
    let statistics: Vec<_> = open.iter().map(|(_, layer, _)| known.metrics.reader(layer)).collect();
    let layers = open
        .iter()
        .zip(weights.iter().zip(&statistics))
        .map(|(&(index, layer, spectrum), (weight, statistics))| LayerOptions {
            spectrum: LayerSpectrum::new(&layer.name, layer.shape, spectrum)
                .with_weight(weight)
                .with_statistics(statistics)
                .with_sensitivity(known.sensitivities.get(index).copied().flatten()),
            cost: layer.cost,
            ranks: options(layer, &pipeline.layers, spectrum.known()),
        })
        .collect::<Vec<_>>();
    let (rest, decided) = elsewhere(plan, &layers);
    ask(allocator, layers, rest, decided)
}

/// Asks an allocator, and holds it to its contract.
pub(crate) fn ask(
    allocator: &dyn RankAllocator,
    layers: Vec<LayerOptions<'_>>,
    rest: Cost,
    decided: (Cost, Cost),
) -> Result<Vec<Choice>, SelectError> {
    let model = Allocation { layers, rest, decided };
    let choices = allocator.allocate(&model)?;
    if choices.len() != model.layers.len() {
        return Err(SelectError::new(format!("{} choices were made for {} layers", choices.len(), model.layers.len())));
    }
    for (choice, layer) in choices.iter().zip(&model.layers) {
        if let Kept::Rank(rank) = choice.kept
            && !layer.ranks.contains(&rank)
        {
            let name = Name::new(layer.spectrum.name());
            return Err(SelectError::new(format!("rank {rank} was chosen for {name}, which is not among its options")));
        }
    }
    Ok(choices)
}

/// What a plan costs besides these layers, and what the layers that are decided already cost before and after.
fn elsewhere(plan: &Plan, layers: &[LayerOptions<'_>]) -> (Cost, (Cost, Cost)) {
    let dense: Cost = layers.iter().map(|layer| layer.cost.dense).sum();
    let decided = || plan.layers.iter().filter(|l| l.is_selected() && l.decision != Decision::Open);
    let before: Cost = decided().map(|l| l.layer.cost.dense).sum();
    let after: Cost = decided().map(crate::PlannedLayer::cost).sum();
    (plan.totals.cost.without(dense).without(before) + after, (before, after))
}

/// Asks the selector that a layer's rule names; none where an allocator decides.
pub(crate) fn select(
    pipeline: &Pipeline,
    rule: Rule,
    layer: &Layer,
    spectrum: &LayerSpectrum<'_>,
) -> Result<Option<Choice>, Error> {
    ask_selector(pipeline, rule, layer, |selector| selector.select(spectrum).map(Some))
}

/// The choice of a selector that needs no spectrum.
pub(crate) fn choose_by_shape(pipeline: &Pipeline, rule: Rule, layer: &Layer) -> Result<Option<Choice>, Error> {
    ask_selector(pipeline, rule, layer, |selector| Ok(selector.without_spectrum(layer.shape)))
}

fn ask_selector(
    pipeline: &Pipeline,
    rule: Rule,
    layer: &Layer,
    ask: impl FnOnce(&dyn RankSelector) -> Result<Option<Choice>, SelectError>,
) -> Result<Option<Choice>, Error> {
    let (selector, span) = match (rule, &pipeline.rank.value) {
        (Rule::Override(number), _) => match pipeline.overrides.get(number) {
            Some(chosen) => (&chosen.rank.value, &chosen.rank.span),
            None => return Ok(None),
        },
        (Rule::Main, RankRule::Selector(selector)) => (selector, &pipeline.rank.span),
        (Rule::Main, RankRule::Allocator(_)) => return Ok(None),
    };
    let settled =
        ask(&**selector).and_then(|choice| choice.map(|choice| settle(choice, layer, &pipeline.layers)).transpose());
    settled.map_err(|source| Error::Select {
        layer: Some(Name::new(&layer.name).to_string()),
        source,
        span: span.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use calabi_api::{DType, LayerCost, Role, Shape};

    fn layer(rows: usize, cols: usize) -> Layer {
        let shape = Shape::new(rows, cols).unwrap();
        let cost = LayerCost::new(shape, DType::F32, DType::F32);
        Layer {
            name: "layer".into(),
            shape,
            dtype: DType::F32,
            role: Role::Linear,
            cost,
            wiring: calabi_api::Wiring::default(),
            bias: false,
            key: 0,
        }
    }

    fn settled(rank: fn(Rank, &'static str) -> Choice, value: usize, break_even: bool) -> Kept {
        let settings = LayerSettings { break_even, ..LayerSettings::default() };
        settle(rank(Rank::new(value).unwrap(), "test"), &layer(100, 60), &settings).unwrap().kept
    }

    fn kept(rank: usize) -> Kept {
        Kept::Rank(Rank::new(rank).unwrap())
    }

    #[test]
    fn errors_round_up_sizes_round_down_and_the_full_rank_stays() {
        assert_eq!(settled(Choice::at_least, 17, false), kept(24));
        assert_eq!(settled(Choice::at_most, 23, false), kept(16));
        assert_eq!(settled(Choice::at_most, 3, false), kept(8));
        assert_eq!(settled(Choice::exactly, 3, false), kept(3));
        assert_eq!(settled(Choice::at_most, 60, false), kept(60));
        assert_eq!(settled(Choice::at_least, 57, false), kept(60));
    }

    #[test]
    fn past_break_even_a_layer_stays_dense() {
        // 100 * 60 / 160 = 37.5
        assert_eq!(settled(Choice::exactly, 37, true), kept(37));
        assert_eq!(settled(Choice::exactly, 38, true), Kept::Dense);
        assert_eq!(settled(Choice::exactly, 38, false), kept(38));
        assert_eq!(settled(Choice::at_least, 33, true), Kept::Dense);
    }

    #[test]
    fn options_are_multiples_that_pay() {
        let ranks = |settings: &LayerSettings| {
            options(&layer(100, 60), settings, 60).iter().map(|r| r.get()).collect::<Vec<_>>()
        };
        assert_eq!(ranks(&LayerSettings::default()), [8, 16, 24, 32]);
        let all = LayerSettings { break_even: false, ..LayerSettings::default() };
        assert_eq!(ranks(&all), [8, 16, 24, 32, 40, 48, 56, 60]);
        assert!(options(&layer(4, 4), &LayerSettings::default(), 4).is_empty());
    }

    #[test]
    fn a_rank_beyond_the_shape_breaks_the_contract() {
        let choice = Choice::exactly(Rank::new(61).unwrap(), "test");
        assert!(settle(choice, &layer(100, 60), &LayerSettings::default()).is_err());
    }
}
