//! The budget is kept, filled, and spent as well as it can be.

use std::time::{Duration, Instant};

use calabi_api::settings::{Fraction, Share};
use calabi_api::{Allocation, Choice, Cost, DType, Kept, Rank, RankAllocator, Shape};
use calabi_rank::{Budget, Of, Unit};
use calabi_testing::allocators::{Model, Target, conforms, keeps_budget, optimal_on_the_hull};
use calabi_testing::selectors::Case;

fn budget(keep: f64, floor: f64) -> Budget {
    let floor = Share::new(floor).expect("a share");
    Budget { floor, ..Budget::new(Fraction::new(keep).expect("a share")) }
}

/// A layer whose singular values are `ratio^i`.
fn steep(rows: usize, cols: usize, ratio: f64) -> Case {
    let values = (0..rows.min(cols)).map(|i| ratio.powf(i as f64)).collect();
    Case::new(Shape::new(rows, cols).expect("not empty"), values)
}

fn kept(choices: &[Choice]) -> Vec<Option<usize>> {
    let rank = |choice: &Choice| match choice.kept {
        Kept::Rank(rank) => Some(rank.get()),
        Kept::Dense => None,
    };
    choices.iter().map(rank).collect()
}

fn because(choices: &[Choice]) -> Vec<&str> {
    choices.iter().map(|choice| &*choice.because).collect()
}

fn cost(model: &Allocation<'_>, choices: &[Choice]) -> Cost {
    model.layers.iter().zip(choices).map(|(layer, choice)| layer.cost.of(choice.kept)).sum()
}

#[test]
fn the_contract_of_allocators_is_kept() {
    for (keep, floor) in [(0.3, 0.0), (0.5, 0.4), (0.8, 1.0), (1.0, 0.4)] {
        for (unit, of) in [(Unit::Parameters, Of::Selected), (Unit::Bytes, Of::Model)] {
            conforms(&Budget { unit, of, ..budget(keep, floor) });
        }
    }
}

#[test]
fn the_target_is_never_exceeded_and_met_to_a_step() {
    for (keep, floor) in [(0.1, 0.0), (0.4, 0.4), (0.6, 1.0), (0.9, 0.4), (1.0, 0.0)] {
        let selected = Target { unit: |cost| cost.parameters, besides: |model| model.decided, keep };
        keeps_budget(&budget(keep, floor), selected);
        let whole = |model: &Allocation<'_>| (model.rest.without(model.decided.1) + model.decided.0, model.rest);
        let model = Target { unit: |cost| cost.bytes, besides: whole, keep };
        keeps_budget(&Budget { unit: Unit::Bytes, of: Of::Model, ..budget(keep, floor) }, model);
    }
}

#[test]
fn on_the_hull_no_choice_loses_less() {
    optimal_on_the_hull(|keep| budget(keep.get(), 0.0));
}

#[test]
fn the_layer_that_needs_its_rank_gets_it() {
    let model = Model::new(vec![steep(64, 64, 0.5), steep(64, 64, 0.99)], 8);
    let choices = budget(0.75, 0.0).allocate(&model.allocation()).expect("choices");
    assert_eq!(kept(&choices), [Some(16), None]);
    assert_eq!(because(&choices), ["budget", "budget: dense is worth its size"]);
}

#[test]
fn the_floor_is_a_share_of_the_uniform_rank() {
    // Both keep half of their parameters at rank 16 of 64: the uniform rank.
    let model = Model::new(vec![steep(64, 64, 0.5), steep(64, 64, 0.99)], 1);
    let ranks = |floor| {
        let choices = budget(0.5, floor).allocate(&model.allocation()).expect("choices");
        (kept(&choices), because(&choices)[0].to_owned())
    };
    assert_eq!(ranks(1.0), (vec![Some(16), Some(16)], "budget: floor".to_owned()));
    assert_eq!(ranks(0.75), (vec![Some(12), Some(20)], "budget: floor".to_owned()));
    let (free, _) = ranks(0.0);
    assert!(free[0] < Some(12) && free[1] > Some(20), "{free:?}");
}

#[test]
fn everything_is_dense_where_everything_fits_and_zero_weights_take_the_least() {
    let zero = Case::new(Shape::new(32, 32).expect("not empty"), vec![]);
    let model = Model::new(vec![steep(64, 32, 0.9), zero, steep(1, 50, 0.5)], 8);
    let choices = budget(1.0, 0.4).allocate(&model.allocation()).expect("choices");
    assert_eq!(kept(&choices), [None, Some(8), None]);
    let words = ["budget: dense is worth its size", "the weight is zero", "budget: no rank is smaller than dense"];
    assert_eq!(because(&choices), words);
}

#[test]
fn overridden_layers_count() {
    let layer = || steep(64, 64, 0.95);
    let free = Model::new(vec![layer()], 1);
    let decided = (Cost::of(4096, DType::F32), Cost::of(1024, DType::F32));
    let beside = Model { decided, ..free.clone() };
    let rank = |model: &Model, keep| kept(&budget(keep, 0.0).allocate(&model.allocation()).expect("choices"))[0];
    // 0.375 · 8192 − 1024 = 2048 parameters are left: as many as half of the layer.
    assert_eq!(rank(&beside, 0.375), rank(&free, 0.5));
    assert_eq!(rank(&free, 0.5), Some(16));
}

#[test]
fn a_budget_out_of_reach_names_the_one_in_reach() {
    let other = Cost::of(2048, DType::F32);
    let model = Model { other, ..Model::new(vec![steep(64, 64, 0.9), steep(64, 64, 0.8)], 8) };
    let error = |budget: &Budget| budget.allocate(&model.allocation()).expect_err("out of reach").to_string();
    // Rank 8 of 64: a quarter of 8192 parameters; with the rest, 4096 of 10240.
    assert!(error(&budget(0.2, 0.4)).ends_with("the smallest keep that can be met is 0.250"));
    let whole = Budget { of: Of::Model, ..budget(0.2, 0.4) };
    assert!(error(&whole).contains("alone take 0.200, the layers at their smallest ranks 0.200"), "{}", error(&whole));
    assert!(error(&whole).ends_with("the smallest keep that can be met is 0.400"));
    assert!(Budget { of: Of::Model, ..budget(0.4, 0.4) }.allocate(&model.allocation()).is_ok());
}

#[test]
fn equal_layers_are_served_in_their_order() {
    let model = Model::new(vec![steep(40, 40, 0.9); 3], 8);
    // Room for rank 8 in all of them and one step of 640 more.
    let keep = (3.0 * 640.0 + 640.0) / 4800.0;
    let choices = budget(keep, 0.0).allocate(&model.allocation()).expect("choices");
    assert_eq!(kept(&choices), [Some(16), Some(8), Some(8)]);
}

#[test]
fn five_hundred_layers_take_a_moment() {
    let layers = (0..500).map(|i| steep(1024 + i, 1024, 0.99 + 1e-5 * i as f64)).collect();
    let model = Model::new(layers, 1);
    let allocation = model.allocation();
    let options: usize = allocation.layers.iter().map(|layer| layer.ranks.len()).sum();
    let start = Instant::now();
    let choices = budget(0.6, 0.4).allocate(&allocation).expect("choices");
    assert!(start.elapsed() < Duration::from_secs(5), "{options} options took {:?}", start.elapsed());
    assert!(cost(&allocation, &choices).parameters as f64 <= 0.6 * allocation.dense().parameters as f64);
}

#[test]
fn ranks_beyond_the_known_values_are_no_options() {
    let case = steep(64, 64, 0.99).truncated(Rank::new(10).expect("not zero"));
    let choices = budget(0.5, 0.0).allocate(&Model::new(vec![case], 1).allocation()).expect("choices");
    assert_eq!(kept(&choices), [Some(10)]);
}
