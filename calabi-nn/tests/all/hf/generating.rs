//! Token after token gives what all at once gives.

use calabi_api::{Runner, Samples, Tensor};
use calabi_nn::Generator;
use ndarray::{Array1, Array2, ArrayView1, Axis, Ix3};

use super::checkpoint::{FAMILIES, Tiny};

const TOKENS: u32 = 24;

fn tokens(tiny: &Tiny) -> Vec<u32> {
    let vocabulary = u32::try_from(tiny.config()["vocab_size"].as_u64().unwrap()).unwrap();
    (0..TOKENS).map(|i| (i * i * 7 + 3) % vocabulary).collect()
}

/// The logits behind each of these tokens, computed at once.
fn at_once(runner: &mut dyn Runner, tokens: &[u32]) -> Array2<f32> {
    let ids = Array2::from_shape_fn((1, tokens.len()), |(_, i)| i64::from(tokens[i])).into_dyn();
    let samples = Samples { inputs: vec![("input_ids".to_owned(), Tensor::I64(ids))] };
    let logits = runner.outputs(&samples).unwrap().remove(0).values;
    logits.into_dimensionality::<Ix3>().unwrap().remove_axis(Axis(0))
}

fn assert_close(family: &str, a: &Array1<f32>, b: ArrayView1<'_, f32>) {
    let apart = (a - &b).iter().fold(0.0_f32, |most, d| most.max(d.abs()));
    assert!(apart < 1e-5, "{family}: {apart}");
}

#[test]
fn a_token_at_a_time_gives_the_logits_of_all_at_once() {
    for family in FAMILIES.into_iter().filter(|family| *family != "bert") {
        let tiny = Tiny::of(family);
        let tokens = tokens(&tiny);
        let whole = at_once(tiny.load().as_mut(), &tokens);
        let mut model = Generator::open(&tiny.folder).unwrap();
        for _ in 0..2 {
            let mut read = 0;
            for piece in [1, 7, 1, 1, 10, 4] {
                let logits = model.read(&tokens[read..read + piece]).unwrap();
                read += piece;
                assert_close(family, &logits, whole.row(read - 1));
            }
            model.forget();
        }
    }
}

#[test]
fn what_is_written_greedily_is_the_likeliest() {
    let tiny = Tiny::of("llama");
    let mut model = Generator::open(&tiny.folder).unwrap();
    let prompt = &tokens(&tiny)[..5];
    let written = model.greedy(prompt, 12).unwrap();
    let all: Vec<_> = prompt.iter().chain(&written).copied().collect();
    let logits = at_once(tiny.load().as_mut(), &all);
    for (i, &token) in written.iter().enumerate() {
        let row = logits.row(prompt.len() + i - 1);
        assert!(row.iter().all(|&logit| logit <= row[token as usize] + 1e-5), "token {i}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_and_costs_nothing() {
    let tiny = Tiny::of("gpt2");
    let mut model = Generator::open(&tiny.folder).unwrap();
    let tokens = tokens(&tiny);
    let whole = at_once(tiny.load().as_mut(), &tokens);
    model.read(&tokens[..10]).unwrap();
    assert!(model.read(&[u32::MAX]).unwrap_err().to_string().contains("is not among"));
    assert!(model.read(&[]).unwrap_err().to_string().contains("no tokens"));
    let many = vec![1; 100_000];
    assert!(model.read(&many).unwrap_err().to_string().contains("100010 tokens are more than"));
    assert_close("gpt2", &model.read(&tokens[10..12]).unwrap(), whole.row(11));
    let encoder = Generator::open(&Tiny::of("bert").folder);
    assert!(encoder.is_err_and(|error| error.to_string().contains("predicts no tokens")));
}
