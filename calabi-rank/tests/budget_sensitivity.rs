//! A budget that knows what a layer does to the model.

use calabi_api::settings::{Fraction, Share};
use calabi_api::{
    Allocation, Choice, Kept, LayerSpectrum, Needs, Rank, RankAllocator, SelectError, Sensitivity, SensitivitySource,
    Shape,
};
use calabi_rank::{Budget, Of, Unit};
use calabi_testing::allocators::{Model, Target, conforms, keeps_budget, models, optimal_on_the_hull};
use calabi_testing::selectors::Case;
use proptest::prelude::*;

fn off(keep: f64, floor: f64) -> Budget {
    let floor = Share::new(floor).expect("a share");
    Budget { floor, ..Budget::new(Fraction::new(keep).expect("a share")) }
}

fn measured(keep: f64, floor: f64) -> Budget {
    Budget { sensitivity: SensitivitySource::Measured.into(), ..off(keep, floor) }
}

/// A layer of 64 × 64 whose singular values are `ratio^i`.
fn steep(ratio: f64) -> Case {
    Case::new(Shape::new(64, 64).expect("not empty"), (0..64).map(|i| ratio.powi(i)).collect())
}

fn with(case: &Case, loss: f64, divergence: f64) -> Case {
    let mut case = case.clone();
    case.sensitivity = Some(Sensitivity { loss, divergence });
    case
}

/// The ranks; dense counts as the full rank.
fn ranks(model: &Model, budget: &Budget) -> Vec<usize> {
    let choices = model.ask(budget).unwrap_or_else(|error| panic!("{error}"));
    let size = |(choice, layer): (&Choice, &Case)| match choice.kept {
        Kept::Rank(rank) => rank.get(),
        Kept::Dense => layer.shape.full_rank().get(),
    };
    choices.iter().zip(&model.layers).map(size).collect()
}

fn kept(model: &Model, budget: &Budget) -> Option<Vec<Kept>> {
    model.ask(budget).ok().map(|choices| choices.iter().map(|choice| choice.kept).collect())
}

#[test]
fn it_asks_for_what_it_is_told_to_read() {
    assert_eq!(off(0.5, 0.0).needs(), Needs::NONE);
    assert_eq!(measured(0.5, 0.0).needs(), Needs { statistics: false, sensitivity: SensitivitySource::Measured });
    let file = SensitivitySource::File("here.toml".into());
    let budget = Budget { sensitivity: file.clone().into(), ..off(0.5, 0.0) };
    assert_eq!(budget.needs().sensitivity, file);
}

#[test]
fn the_contract_of_allocators_is_kept() {
    conforms(&measured(0.3, 0.0));
    conforms(&Budget { unit: Unit::Bytes, of: Of::Model, ..measured(0.6, 0.4) });
    conforms(&measured(1.0, 0.4));
}

#[test]
fn the_target_is_never_exceeded_and_met_to_a_step() {
    for (keep, floor) in [(0.1, 0.0), (0.6, 0.4), (1.0, 0.0)] {
        let selected = Target { unit: |cost| cost.parameters, besides: |model| model.decided, keep };
        keeps_budget(&measured(keep, floor), selected);
    }
}

#[test]
fn on_the_hull_no_choice_diverges_less() {
    optimal_on_the_hull(|keep| measured(keep.get(), 0.0));
}

#[test]
#[should_panic(expected = "can be had")]
fn a_budget_that_asks_for_sensitivities_and_ignores_them_is_caught() {
    #[derive(Debug)]
    struct Deaf(Budget);
    impl RankAllocator for Deaf {
        fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
            self.0.allocate(model)
        }

        fn needs(&self) -> Needs {
            measured(0.5, 0.0).needs()
        }
    }
    optimal_on_the_hull(|keep| Deaf(off(keep.get(), 0.0)));
}

#[test]
fn the_layer_that_matters_ten_times_more_gets_more() {
    let twins = Model::new(vec![steep(0.95).diverging(0.01), steep(0.95).diverging(0.1)], 1);
    for keep in [0.2, 0.4, 0.6] {
        let chosen = ranks(&twins, &measured(keep, 0.0));
        assert!(chosen[1] > chosen[0] + 5, "{keep}: {chosen:?}");
        let blind = ranks(&twins, &off(keep, 0.0));
        assert!(blind[0].abs_diff(blind[1]) <= 1, "{keep}: {blind:?}");
    }
    // Where both lose exponentially, a factor of ten is a distance of ln 10 / -2 ln 0.95 = 22.4 ranks.
    let chosen = ranks(&twins, &measured(0.6, 0.0));
    assert!(chosen[1] == 64 || (22..=23).contains(&(chosen[1] - chosen[0])), "{chosen:?}");
    let chosen = ranks(&twins, &measured(0.4, 0.0));
    assert_eq!(chosen, [1, 24]);
}

#[test]
fn a_layer_that_the_model_does_not_feel_comes_last_but_is_not_left_out() {
    for nothing in [0.0, -1e-7] {
        let model = Model::new(vec![steep(0.99).diverging(nothing), steep(0.8).diverging(1e-3)], 8);
        // At the smallest ranks both take a quarter of 8192 parameters; a step of 8 ranks takes an eighth.
        assert_eq!(ranks(&model, &measured(0.3, 0.0)), [8, 8]);
        assert_eq!(ranks(&model, &measured(0.5, 0.0)), [8, 24]);
        assert_eq!(ranks(&model, &measured(0.8, 0.0)), [16, 64]);
        assert_eq!(ranks(&model, &measured(1.0, 0.0)), [64, 64]);
    }
}

#[test]
fn a_loss_of_nothing_tells_nothing() {
    // Of rank 20, measured at rank 32, where nothing but rounding is lost.
    let low = Case::new(Shape::new(64, 64).expect("not empty"), vec![1.0; 20]);
    for loss in [0.0, 1e-15] {
        let low = with(&low, loss, 1e-9);
        let model = Model::new(vec![low, steep(0.97).diverging(0.1)], 1);
        assert_eq!(ranks(&model, &measured(0.6, 0.0))[0], 20);
    }
}

fn failure(model: &Allocation<'_>, budget: &Budget) -> String {
    budget.allocate(model).expect_err("no measurement").to_string()
}

#[test]
fn a_layer_that_was_not_measured_is_named() {
    let layers = vec![steep(0.9), steep(0.9), Case::new(Shape::new(1, 50).expect("not empty"), vec![1.0])];
    let model = Model::new(layers, 8);
    let budget = measured(0.5, 0.0);
    let named = |sensitivity: [Option<Sensitivity>; 3]| {
        let mut allocation = model.allocation_for(&budget.needs());
        let names = ["block.q", "block.k", "dense only"];
        for ((layer, case), (name, sensitivity)) in
            allocation.layers.iter_mut().zip(&model.layers).zip(names.into_iter().zip(sensitivity))
        {
            layer.spectrum = LayerSpectrum::new(name, case.shape, &case.spectrum).with_sensitivity(sensitivity);
        }
        allocation
    };
    let known = Some(Sensitivity { loss: 0.5, divergence: 0.1 });
    assert!(budget.allocate(&named([known, known, None])).is_ok());

    let missing = named([known, None, known]);
    let message = failure(&missing, &budget);
    assert!(message.contains("the sensitivity of layer block.k was not measured: add [calibration]"), "{message}");
    let file = Budget { sensitivity: SensitivitySource::File("old.toml".into()).into(), ..off(0.5, 0.0) };
    let message = failure(&missing, &file);
    assert!(message.contains("old.toml does not know the sensitivity of layer block.k: measure again"), "{message}");

    for (loss, divergence) in [(f64::NAN, 0.1), (-1.0, 0.1), (0.5, f64::NAN), (0.5, f64::INFINITY), (1e-300, 1e200)] {
        let message = failure(&named([Some(Sensitivity { loss, divergence }), known, known]), &budget);
        assert!(message.starts_with(&format!("layer block.q at a loss of {loss}")), "{message}");
        assert!(message.ends_with("set `sensitivity = \"off\"`"), "{message}");
        let message = failure(&named([Some(Sensitivity { loss, divergence }), known, known]), &file);
        assert!(message.ends_with("correct old.toml, or measure again"), "{message}");
    }
}

/// The same model, with every sensitivity replaced.
fn with_sensitivities(model: &Model, of: impl Fn(&Case, Sensitivity) -> Sensitivity) -> Model {
    let layers = model.layers.iter().map(|case| {
        let mut case = case.clone();
        case.sensitivity = case.sensitivity.map(|sensitivity| of(&case, sensitivity));
        case
    });
    Model { layers: layers.collect(), ..model.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn only_ratios_of_divergences_count(model in models(), power in -30..30_i32, keep in 0.1..1.0_f64) {
        let louder = with_sensitivities(&model, |_, of| {
            Sensitivity { divergence: of.divergence * 2.0_f64.powi(power), ..of }
        });
        prop_assert_eq!(kept(&model, &measured(keep, 0.4)), kept(&louder, &measured(keep, 0.4)));
    }

    #[test]
    fn the_reference_rank_does_not_count_where_divergence_follows_loss(model in models(), keep in 0.1..1.0_f64) {
        let elsewhere = with_sensitivities(&model, |_, of| {
            Sensitivity { loss: of.loss / 8.0, divergence: of.divergence / 8.0 }
        });
        prop_assert_eq!(kept(&model, &measured(keep, 0.4)), kept(&elsewhere, &measured(keep, 0.4)));
    }

    #[test]
    fn a_model_that_feels_relative_loss_alone_gets_what_it_gets_without_sensitivities(
        model in models(), keep in 0.1..1.0_f64,
    ) {
        let alike = with_sensitivities(&model, |case, _| {
            Sensitivity { loss: case.spectrum.energy(), divergence: 1.0 }
        });
        let none = with_sensitivities(&model, |_, of| Sensitivity { divergence: 0.0, ..of });
        let blind = kept(&model, &off(keep, 0.4));
        prop_assert_eq!(&kept(&alike, &measured(keep, 0.4)), &blind);
        prop_assert_eq!(&kept(&none, &measured(keep, 0.4)), &blind);
    }
}

#[test]
fn an_unknown_rank_is_no_option() {
    let cut = steep(0.99).diverging(0.1).truncated(Rank::new(10).expect("not zero"));
    assert_eq!(ranks(&Model::new(vec![cut], 1), &measured(0.5, 0.0)), [10]);
}
