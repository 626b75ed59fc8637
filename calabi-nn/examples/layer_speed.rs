//! Times `LowRankLinear` beside candle's dense `Linear` in one interleaved run, and sets the ratio beside that of their
//! operations.
//!
//! `layer_speed [ROUNDS [TYPE]]`: in each of ROUNDS (101) rounds every layer runs once, in an order that moves on by one,
//! so that whatever else the machine does falls on all of them. TYPE is f32 (or f16, f64). Of all rounds the median is shown, and
//! the fastest: on a busy machine a long run is interrupted more often than a short one, which the median cannot mend.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use calabi_api::Factors;
use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{DType, Device, Module, Tensor};
use calabi_nn::candle_nn::Linear;
use calabi_nn::ndarray::Array2;

const SIZE: usize = 2048;
const BATCHES: [usize; 2] = [1, 128];
const SHARES: [f64; 3] = [0.1, 0.25, 0.4];
/// A run lasts at least so long: short ones are repeated.
const SHORTEST: f64 = 2e-3;

struct Timed {
    name: String,
    /// Operations, as a share of the dense layer's.
    operations: f64,
    layer: Box<dyn Module>,
    repeats: usize,
    seconds: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(101), |rounds| rounds.parse())?;
    let dtype: DType = arguments.next().map_or(Ok(DType::F32), |name| name.parse())?;
    println!(
        "{SIZE} x {SIZE} {}, {rounds} rounds; ratios are to dense, excess is over that of operations",
        dtype.as_str()
    );
    println!("batch  layer      operations  median ms  ratio excess  fastest ms  ratio excess");
    for batch in BATCHES {
        let x = noise((batch, SIZE), dtype)?;
        let mut layers = layers(dtype)?;
        for timed in &mut layers {
            timed.run(&x)?; // warms up
            timed.repeats = repeats(timed.run(&x)?);
        }
        for round in 0..rounds {
            for place in 0..layers.len() {
                let which = (round + place) % layers.len();
                let seconds = layers[which].run(&x)?;
                layers[which].seconds.push(seconds);
            }
        }
        print(batch, &mut layers);
    }
    Ok(())
}

fn noise(shape: (usize, usize), dtype: DType) -> candle_core::Result<Tensor> {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)?.to_dtype(dtype)
}

fn factors(rank: usize) -> candle_core::Result<Factors> {
    let matrix = |rows, cols| {
        let values = noise((rows, cols), DType::F32)?.flatten_all()?.to_vec1()?;
        Array2::from_shape_vec((rows, cols), values).map_err(candle_core::Error::wrap)
    };
    Ok(Factors { left: matrix(SIZE, rank)?, right: matrix(rank, SIZE)?, bias: None })
}

fn layers(dtype: DType) -> candle_core::Result<Vec<Timed>> {
    let timed = |name: String, operations: f64, layer: Box<dyn Module>| Timed {
        name,
        operations,
        layer,
        repeats: 1,
        seconds: Vec::new(),
    };
    let dense = Linear::new(noise((SIZE, SIZE), dtype)?, None);
    let mut layers = vec![timed("dense".to_owned(), 1.0, Box::new(dense))];
    for share in SHARES {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a size
        let rank = (share * SIZE as f64) as usize;
        let layer = LowRankLinear::from_factors(&factors(rank)?, None, dtype, &Device::Cpu)?;
        layers.push(timed(format!("rank {rank}"), 2.0 * rank as f64 / SIZE as f64, Box::new(layer)));
    }
    Ok(layers)
}

impl Timed {
    fn run(&self, x: &Tensor) -> candle_core::Result<f64> {
        let start = Instant::now();
        for _ in 0..self.repeats {
            black_box(self.layer.forward(x)?);
        }
        Ok(start.elapsed().as_secs_f64() / self.repeats as f64)
    }

    /// The median of sorted times.
    fn median(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The first of sorted times.
    fn fastest(&self) -> f64 {
        self.seconds.first().copied().unwrap_or(f64::NAN)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small number of repeats
fn repeats(seconds: f64) -> usize {
    (SHORTEST / seconds).ceil().clamp(1.0, 1000.0) as usize
}

fn print(batch: usize, layers: &mut [Timed]) {
    for timed in layers.iter_mut() {
        timed.seconds.sort_by(f64::total_cmp);
    }
    let Some(dense) = layers.first() else { return };
    let column = |timed: &Timed, at: fn(&Timed) -> f64| {
        let ratio = at(timed) / at(dense);
        format!("{:>10.3} {ratio:>6.3} {:>+5.0}%", at(timed) * 1e3, (ratio / timed.operations - 1.0) * 100.0)
    };
    for timed in &*layers {
        let (median, fastest) = (column(timed, Timed::median), column(timed, Timed::fastest));
        println!("{batch:>5}  {:<10} {:>10.3} {median}  {fastest}", timed.name, timed.operations);
    }
}
