//! Times the tuning of blocks of a Llama checkpoint, and tells how far it lowers the loss.
//!
//! `refine_speed FOLDER IDS SAMPLES KEEP EPOCHS BATCH RATE BLOCK...`: IDS holds little-endian `i64` tokens, SAMPLES
//! sequences of one length, the last eighth of them kept out; every layer of a BLOCK is cut to KEEP of its parameters.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use calabi_api::ndarray::Array2;
use calabi_api::settings::Positive;
use calabi_api::{
    DType, Factors, Layer, LayerCost, RefineSettings, Role, Runtime, Samples, Shape, StateSpace, Tensor, Wiring,
};
use calabi_nn::HfRuntime;
use safetensors::SafeTensors;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, ids, samples, keep, epochs, batch, rate, blocks @ ..] = arguments.as_slice() else {
        return Err("usage: refine_speed FOLDER IDS SAMPLES KEEP EPOCHS BATCH RATE BLOCK...".into());
    };
    let (folder, count): (_, usize) = (Path::new(folder), samples.parse()?);
    let samples = Samples { inputs: vec![("input_ids".to_owned(), tokens(Path::new(ids), count)?)] };
    let settings = RefineSettings {
        epochs: epochs.parse()?,
        learning_rate: Positive::new(rate.parse()?).ok_or("the rate is not positive")?,
        batch: batch.parse()?,
        held_out: count / 8,
        seed: 0,
    };
    let mut runner = HfRuntime {}.load(folder)?;
    let bytes = std::fs::read(folder.join("model.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let blocks: Vec<usize> = blocks.iter().map(|block| block.parse()).collect::<Result<_, _>>()?;
    let mut states = runner.blocks().ok_or("no blocks")?.embed(&samples, &StateSpace::default())?;
    for block in 0..=blocks.iter().copied().max().unwrap_or(0) {
        let inputs = states.duplicate()?;
        runner.blocks().ok_or("no blocks")?.forward(block, &mut states, &[], &mut |_, _| Ok(()))?;
        if !blocks.contains(&block) {
            continue;
        }
        for (layer, weight) in layers(&file, block)? {
            runner.substitute(&layer, Some(&cut(&weight, keep.parse()?)))?;
        }
        let start = Instant::now();
        let refined = runner.blocks().ok_or("no blocks")?.refine(block, &inputs, &states, &settings)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("block {block}: {seconds:.1} s, loss {:?}, kept out {:?}", refined.loss, refined.held_out);
        for (layer, _) in layers(&file, block)? {
            runner.substitute(&layer, None)?;
        }
    }
    Ok(())
}

fn tokens(path: &Path, samples: usize) -> Result<Tensor, Failure> {
    let bytes = std::fs::read(path)?;
    let ids: Vec<_> = bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    Ok(Tensor::I64(Array2::from_shape_vec((samples, ids.len() / samples.max(1)), ids)?.into_dyn()))
}

fn layers(file: &SafeTensors<'_>, block: usize) -> Result<Vec<(Layer, Array2<f32>)>, Failure> {
    let parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
    let parts = parts.into_iter().chain(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]);
    let read = parts.map(|part| {
        let name = format!("model.layers.{block}.{part}");
        let tensor = file.tensor(&format!("{name}.weight"))?;
        let [m, n] = tensor.shape() else { return Err("a weight is no matrix".into()) };
        let shape = Shape::new(*m, *n).ok_or("an empty weight")?;
        let cost = LayerCost::new(shape, DType::F32, DType::F32);
        let values = DType::F32.decode(tensor.data()).collect();
        let layer = Layer {
            name,
            shape,
            dtype: DType::F32,
            role: Role::Linear,
            cost,
            wiring: Wiring::default(),
            bias: false,
            key: 0,
        };
        Ok((layer, Array2::from_shape_vec((*m, *n), values)?))
    });
    read.collect()
}

/// Nearly the best factors of as many parameters, by two rounds of subspace iteration.
fn cut(weight: &Array2<f32>, keep: f64) -> Factors {
    let (m, n) = weight.dim();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = ((keep * (m * n) as f64 / (m + n) as f64) as usize).max(1);
    let mut basis = Array2::from_shape_fn((rank, n), |(i, j)| ((i * 7919 + j * 104_729 + i * j) as f32).sin());
    for _ in 0..2 {
        basis = basis.dot(&weight.t()).dot(weight);
        for i in 0..rank {
            let (before, mut after) = basis.view_mut().split_at(calabi_api::ndarray::Axis(0), i);
            let mut row = after.row_mut(0);
            let along = before.dot(&row);
            row -= &before.t().dot(&along);
            let norm = row.dot(&row).sqrt();
            row.mapv_inplace(|x| x / norm);
        }
    }
    Factors { left: weight.dot(&basis.t()), right: basis, bias: None }
}
