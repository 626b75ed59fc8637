//! What is watched is what flows into the layers.

use std::collections::BTreeMap;

use calabi_api::{Layer, RunError, Runner, StateSpace};
use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::checkpoint::{FAMILIES, Tiny};

/// Inputs by source, all samples' rows under each other.
#[derive(Default, PartialEq, Debug)]
struct Seen {
    inputs: BTreeMap<String, Vec<Array2<f32>>>,
    order: Vec<String>,
}

impl Seen {
    /// A watcher that keeps all it sees.
    fn watcher(&mut self) -> impl FnMut(&str, ArrayView2<'_, f32>) -> Result<(), RunError> {
        |source, rows| {
            self.inputs.entry(source.to_owned()).or_default().push(rows.to_owned());
            self.order.push(source.to_owned());
            Ok(())
        }
    }

    fn of(&self, runner: &dyn Runner, layer: &Layer) -> Array2<f32> {
        let source = &runner.sources(&[layer]).unwrap()[0];
        let parts: Vec<_> = self.inputs[source].iter().map(|rows| rows.view()).collect();
        concatenate(Axis(0), &parts).unwrap()
    }
}

fn observed(tiny: &Tiny, runner: &mut dyn Runner, layers: &[Layer]) -> Seen {
    let (mut seen, layers) = (Seen::default(), layers.iter().collect::<Vec<_>>());
    runner.observe(&tiny.samples, &layers, &mut seen.watcher()).unwrap();
    seen
}

#[test]
fn each_distinct_input_comes_once_a_sample_without_padding() {
    for (family, distinct) in FAMILIES.iter().zip([9, 9, 8, 9, 12, 9, 8]) {
        let tiny = Tiny::of(family);
        let (mut runner, layers) = (tiny.load(), tiny.layers());
        let seen = observed(&tiny, runner.as_mut(), &layers);
        assert_eq!(seen.inputs.len(), distinct, "{family}: {:?}", seen.inputs.keys());
        for (source, inputs) in &seen.inputs {
            let rows: Vec<_> = inputs.iter().map(Array2::nrows).collect();
            let expected = if source.contains("pooler") { [1, 1, 1] } else { [12, 7, 12] };
            assert_eq!(rows, expected, "{family} {source}");
        }
        for layer in &layers {
            assert_eq!(seen.of(runner.as_ref(), layer).ncols(), layer.shape.cols(), "{family} {}", layer.name);
        }
    }
}

/// In a block with norms before, what is added to the states is what these two layers give.
#[test]
fn the_watched_inputs_times_the_weights_are_what_a_block_adds() {
    for (family, out, down) in [
        ("llama", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"),
        ("qwen3", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"),
        ("gpt2", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_proj"),
    ] {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let layers: Vec<_> = tiny.layers().into_iter().filter(|l| l.name == out || l.name == down).collect();
        let seen = observed(&tiny, runner.as_mut(), &layers);
        let given = |name: &str| {
            let layer = layers.iter().find(|layer| layer.name == name).unwrap();
            let (weight, bias) = tiny.linear(name);
            seen.of(runner.as_ref(), layer).dot(&weight.t()) + bias
        };
        let added = given(out) + given(down);
        let blocks = runner.blocks().unwrap();
        let mut states = blocks.embed(&tiny.samples, &StateSpace::default()).unwrap();
        blocks.forward(0, &mut states, &[], &mut |_, _| Ok(())).unwrap();
        let before = states.duplicate().unwrap();
        blocks.forward(1, &mut states, &[], &mut |_, _| Ok(())).unwrap();
        let mut row = 0;
        for sample in 0..3 {
            let (before, after) = (before.get(sample).unwrap(), states.get(sample).unwrap());
            for token in 0..if sample == 1 { 7 } else { 12 } {
                let difference = &after.row(token) - &before.row(token) - added.row(row);
                assert!(difference.iter().all(|d| d.abs() < 1e-4), "{family} {sample} {token}: {difference}");
                row += 1;
            }
        }
    }
}

#[test]
fn what_flows_into_head_and_pooler_gives_the_outputs() {
    for (family, name, output) in [("llama", "lm_head", 0), ("mistral", "lm_head", 0), ("bert", "pooler.dense", 1)] {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let layers: Vec<_> = tiny.layers().into_iter().filter(|layer| layer.name == name).collect();
        assert_eq!(runner.blocks().unwrap().block_of(&layers[0]), None);
        let seen = observed(&tiny, runner.as_mut(), &layers);
        assert_eq!(seen.inputs.len(), 1);
        let (weight, bias) = tiny.linear(name);
        let mut given = seen.of(runner.as_ref(), &layers[0]).dot(&weight.t()) + bias;
        if output == 1 {
            given.mapv_inplace(f32::tanh);
        }
        let expected = &runner.outputs(&tiny.samples).unwrap()[output].values;
        let first = expected.index_axis(Axis(0), 0).into_shape_with_order((given.nrows().min(12), given.ncols()));
        if output == 0 {
            let difference = &given.slice_axis(Axis(0), (..12).into()) - &first.unwrap();
            assert!(difference.iter().all(|d| d.abs() < 1e-5), "{family}");
        } else {
            assert!((&given.into_dyn() - expected).iter().all(|d| d.abs() < 1e-5), "{family}");
        }
    }
}

#[test]
fn a_block_shows_what_the_whole_shows() {
    for family in FAMILIES {
        let tiny = Tiny::of(family);
        let (mut runner, layers) = (tiny.load(), tiny.layers());
        let whole = observed(&tiny, runner.as_mut(), &layers);
        let blocks = runner.blocks().unwrap();
        let mut states = blocks.embed(&tiny.samples, &StateSpace::default()).unwrap();
        let (mut by_forward, mut by_observe) = (Seen::default(), Seen::default());
        for block in 0..blocks.count() {
            let within: Vec<_> = layers.iter().filter(|layer| blocks.block_of(layer) == Some(block)).collect();
            assert!(within.len() >= 4, "{family}");
            blocks.observe(block, &states, 0..3, &within, &mut by_observe.watcher()).unwrap();
            blocks.forward(block, &mut states, &within, &mut by_forward.watcher()).unwrap();
        }
        assert_eq!(by_observe, by_forward, "{family}");
        assert!(by_forward.inputs.iter().all(|(source, inputs)| whole.inputs[source] == *inputs), "{family}");
    }
}

#[test]
fn layers_that_share_an_input_share_its_name() {
    let tiny = Tiny::of("qwen2");
    let (runner, layers) = (tiny.load(), tiny.layers());
    let source = |end: &str| {
        let layer = layers.iter().find(|layer| layer.name.ends_with(end)).unwrap();
        runner.sources(&[layer]).unwrap().remove(0)
    };
    assert_eq!(source("0.self_attn.q_proj"), source("0.self_attn.v_proj"));
    assert_eq!(source("0.mlp.gate_proj"), source("0.mlp.up_proj"));
    assert_ne!(source("0.self_attn.q_proj"), source("1.self_attn.q_proj"));
    let mut stranger = layers[0].clone();
    stranger.name = "model.layers.9.mlp.up_proj".to_owned();
    assert!(runner.sources(&[&stranger]).unwrap_err().to_string().contains("model.layers.9.mlp.up_proj"));
}
