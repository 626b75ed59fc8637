//! Blocks tuned to give back what they gave before their layers were cut.

use calabi_api::settings::Positive;
use calabi_api::{BlockRunner, Factors, Layer, RefineSettings, Refined, Runner, Samples, StateSpace, States, Tensor};
use ndarray::{Array2, ArrayD, IxDyn};

use super::checkpoint::{FAMILIES, Tiny, load, write};

const SETTINGS: RefineSettings =
    RefineSettings { epochs: 6, learning_rate: Positive::constant(3e-3), batch: 2, held_out: 4, seed: 7 };
const SAMPLES: usize = 14;

/// Samples of several paddings.
fn samples(tiny: &Tiny) -> Samples {
    let vocabulary = i64::try_from(tiny.config()["vocab_size"].as_u64().unwrap()).unwrap();
    let length = tiny.mask.shape()[1];
    let whole = |f: &dyn Fn(i64, i64) -> i64| {
        let value = |at: IxDyn| f(i64::try_from(at[0]).unwrap(), i64::try_from(at[1]).unwrap());
        Tensor::I64(ArrayD::from_shape_fn(IxDyn(&[SAMPLES, length]), value))
    };
    let last = i64::try_from(length).unwrap() - 3;
    let ids = whole(&|i, j| (i * 31 + j * 17 + i * j * j + 3) % vocabulary);
    let mask = whole(&|i, j| i64::from(i % 3 != 1 || j < last));
    Samples { inputs: vec![("input_ids".to_owned(), ids), ("attention_mask".to_owned(), mask)] }
}

/// The best factors of this rank, by subspace iteration.
fn cut(weight: &Array2<f32>, rank: usize) -> Factors {
    let mut basis = Array2::from_shape_fn((rank, weight.ncols()), |(i, j)| ((i * 37 + j * 101) as f32).sin());
    for _ in 0..30 {
        basis = basis.dot(&weight.t()).dot(weight);
        for i in 0..rank {
            for j in 0..i {
                let along = basis.row(i).dot(&basis.row(j));
                let other = basis.row(j).to_owned();
                basis.row_mut(i).scaled_add(-along, &other);
            }
            let norm = basis.row(i).dot(&basis.row(i)).sqrt();
            basis.row_mut(i).mapv_inplace(|x| x / norm);
        }
    }
    Factors { left: weight.dot(&basis.t()), right: basis, bias: None }
}

/// A model whose second block is cut, and the states around that block.
struct Cut {
    tiny: Tiny,
    runner: Box<dyn Runner>,
    inputs: States,
    targets: States,
    layers: Vec<Layer>,
}

const BLOCK: usize = 1;

impl Cut {
    fn of(family: &str) -> Self {
        let tiny = Tiny::of(family);
        let mut runner = tiny.load();
        let blocks = runner.blocks().unwrap();
        let mut inputs = blocks.embed(&samples(&tiny), &StateSpace::default()).unwrap();
        blocks.forward(0, &mut inputs, &[], &mut |_, _| Ok(())).unwrap();
        let targets = behind(blocks, &inputs);
        let layers: Vec<_> = tiny.layers().into_iter().filter(|layer| blocks.block_of(layer) == Some(BLOCK)).collect();
        for layer in &layers {
            let factors = cut(&tiny.linear(&layer.name).0, layer.shape.full_rank().get() / 2);
            runner.substitute(layer, Some(&factors)).unwrap();
        }
        Self { tiny, runner, inputs, targets, layers }
    }

    fn refine(&mut self, settings: &RefineSettings) -> Refined {
        self.runner.blocks().unwrap().refine(BLOCK, &self.inputs, &self.targets, settings).unwrap()
    }

    fn behind(&mut self) -> States {
        behind(self.runner.blocks().unwrap(), &self.inputs)
    }
}

fn behind(blocks: &mut dyn BlockRunner, inputs: &States) -> States {
    let mut states = inputs.duplicate().unwrap();
    blocks.forward(BLOCK, &mut states, &[], &mut |_, _| Ok(())).unwrap();
    states
}

fn same(a: &States, b: &States) -> bool {
    (0..SAMPLES).all(|sample| a.get(sample).unwrap() == b.get(sample).unwrap())
}

fn bits(refined: &Refined) -> Vec<u32> {
    let factors =
        refined.factors.iter().flat_map(|(_, f)| f.left.iter().chain(&f.right).chain(f.bias.iter().flatten()));
    factors.chain(refined.amended.iter().flat_map(|(_, values)| values)).map(|value| value.to_bits()).collect()
}

#[test]
fn tuning_lowers_the_loss_on_samples_tuned_and_kept_out() {
    for family in FAMILIES {
        let mut cut = Cut::of(family);
        let refined = cut.refine(&SETTINGS);
        let (loss, held_out) = (refined.loss, refined.held_out);
        assert!(loss.1 < 0.9 * loss.0 && held_out.1 < 0.97 * held_out.0, "{family}: {loss:?} {held_out:?}");
        let mut tuned: Vec<_> = refined.factors.iter().map(|(name, _)| name.as_str()).collect();
        tuned.sort_unstable();
        assert_eq!(tuned, cut.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>());
        assert!(refined.factors.iter().all(|(_, factors)| factors.bias.is_some()));
        let tensors = cut.tiny.tensors();
        assert!(refined.amended.iter().all(|(name, values)| tensors[name].0 == values.shape()), "{family}");
        assert!(refined.amended.len() >= 2);
    }
}

#[test]
fn what_was_tuned_is_in_place_and_all_there_is_to_it() {
    for family in FAMILIES {
        let mut cut = Cut::of(family);
        let before = cut.behind();
        let refined = cut.refine(&SETTINGS);
        let after = cut.behind();
        assert!(!same(&before, &after), "{family}");
        let mut tensors = cut.tiny.tensors();
        for (name, values) in &refined.amended {
            tensors.insert(name.clone(), (values.shape().to_vec(), values.iter().copied().collect()));
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &cut.tiny.config(), &tensors);
        let mut fresh = load(folder.path());
        for (name, factors) in &refined.factors {
            let layer = cut.layers.iter().find(|layer| layer.name == *name).unwrap();
            fresh.substitute(layer, Some(factors)).unwrap();
        }
        assert!(same(&behind(fresh.blocks().unwrap(), &cut.inputs), &after), "{family}");
    }
}

#[test]
fn what_gains_nothing_leaves_the_block_as_it_was_bit_for_bit() {
    let mut cut = Cut::of("llama");
    let before = cut.behind();
    let harmful = RefineSettings { learning_rate: Positive::constant(5.0), epochs: 1, ..SETTINGS };
    for settings in [harmful, RefineSettings { epochs: 0, ..SETTINGS }] {
        let refined = cut.refine(&settings);
        assert!(refined.factors.is_empty() && refined.amended.is_empty());
        assert_eq!((refined.loss.0, refined.held_out.0), (refined.loss.1, refined.held_out.1));
        assert!(same(&before, &cut.behind()));
    }
}

#[test]
fn a_block_whose_layers_are_all_dense_is_left_alone() {
    let mut cut = Cut::of("bert");
    for layer in &cut.layers {
        cut.runner.substitute(layer, None).unwrap();
    }
    let refined = cut.refine(&SETTINGS);
    assert!(refined.factors.is_empty() && refined.amended.is_empty());
    assert!(refined.loss.0 < 1e-10);
}

#[test]
fn a_seed_gives_the_same_bits_on_any_number_of_threads() {
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bits(&Cut::of("qwen3").refine(&RefineSettings { seed, epochs: 2, ..SETTINGS })))
    };
    let one = run(1, 7);
    assert_eq!(one, run(2, 7));
    assert_ne!(one, run(1, 8));
}

#[test]
fn padding_has_no_say() {
    let mut cut = Cut::of("gpt2");
    let settings = RefineSettings { epochs: 2, ..SETTINGS };
    let mut other = Cut::of("gpt2");
    for sample in 0..SAMPLES {
        let Some(tokens) = other.targets.tokens(sample).map(<[bool]>::to_vec) else { continue };
        let mut values = other.targets.get(sample).unwrap().into_owned();
        for (mut row, _) in values.rows_mut().into_iter().zip(tokens).filter(|(_, token)| !token) {
            row.fill(1e6);
        }
        other.targets.set(sample, values).unwrap();
    }
    let (plain, changed) = (cut.refine(&settings), other.refine(&settings));
    assert_eq!(bits(&plain), bits(&changed));
    assert_eq!((plain.loss, plain.held_out), (changed.loss, changed.held_out));
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let mut cut = Cut::of("llama");
    let mut refused = |inputs: &States, targets: &States, settings: &RefineSettings| {
        cut.runner.blocks().unwrap().refine(BLOCK, inputs, targets, settings).unwrap_err().to_string()
    };
    let Cut { inputs, targets, .. } = Cut::of("llama");
    let all = RefineSettings { held_out: SAMPLES, ..SETTINGS };
    assert!(refused(&inputs, &targets, &all).contains("keep out fewer"));
    assert!(!refused(&inputs, &targets.some(0..SAMPLES - 1).unwrap(), &SETTINGS).is_empty());
    let mut endless = inputs.duplicate().unwrap();
    let values = endless.get(2).unwrap().mapv(|_| f32::MAX);
    endless.set(2, values).unwrap();
    assert!(refused(&endless, &targets, &SETTINGS).contains("block 1"));
}
