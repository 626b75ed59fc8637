//! Times the factorization of many weights, each in the metric of its inputs: `benches/peers/svd_llm_loop.py` runs it beside the
//! loop of SVD-LLM.
//!
//! ```text
//! time_loop MATRICES FACTORS KEEP
//! ```
//! `MATRICES` is a safetensors file of weights in `F32` and Gram matrices in `F64`, whose metadata `layers` says in JSON which one is
//! whose. `KEEP` is the share of `min(m, n)` that is the rank. Each line on standard input starts one round, from matrices to
//! factors in memory, which prints the CPU seconds of this process; the factors of the last one are written to `FACTORS`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use calabi::api::ndarray::{Array1, Array2};
use calabi::api::settings::{Fraction, Share};
use calabi::api::{Factors, Statistics};
use calabi::{InputMetric, Matrix, rank};
use rustix::time::{ClockId, clock_gettime};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [matrices, factors, keep] = arguments.as_slice() else {
        return Err("usage: time_loop MATRICES FACTORS KEEP".into());
    };
    let model = Model::read(Path::new(matrices))?;
    let keep = rank::Fraction { keep: Fraction::new(keep.parse()?).ok_or("KEEP is no share")? };
    let mut made = Vec::new();
    for line in std::io::stdin().lock().lines() {
        line?;
        let began = cpu_seconds();
        made = model.factorized(keep)?;
        println!("{}", cpu_seconds() - began);
    }
    write(&made, Path::new(factors))
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// What flows into some weights, and these by name.
type Input = (InputMetric, Vec<(String, Array2<f32>)>);

/// The inputs of a model.
struct Model {
    inputs: BTreeMap<String, Input>,
}

impl Model {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        let sources = header.metadata().as_ref().and_then(|texts| texts.get("layers")).ok_or("no layers are named")?;
        let sources: BTreeMap<String, String> = serde_json::from_str(sources)?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let mut inputs = BTreeMap::new();
        for (name, source) in sources {
            let weight = matrix(&tensors.tensor(&name)?, Dtype::F32, f32::from_le_bytes)?;
            let (_, weights) = match inputs.entry(source) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let gram = matrix(&tensors.tensor(new.key())?, Dtype::F64, f64::from_le_bytes)?;
                    let statistics = Statistics { mean: Array1::zeros(gram.nrows()), gram, tokens: 1 };
                    new.insert((InputMetric::of(statistics), Vec::new()))
                }
            };
            weights.push((name, weight));
        }
        Ok(Self { inputs })
    }

    /// The factors of all weights, one after the other.
    fn factorized(&self, keep: rank::Fraction) -> Result<Vec<(String, Factors)>, Box<dyn Error>> {
        let mut made = Vec::new();
        for (metric, weights) in self.inputs.values() {
            // Anew: what was made of it in the round before is forgotten where a setting is given.
            let metric = Arc::new(metric.clone().with_shrinkage(Share::new(0.0)));
            for (name, weight) in weights {
                let matrix = Matrix::new(weight.view())?.with_metric(Arc::clone(&metric))?;
                made.push((name.clone(), matrix.factorize(&keep)?.factors.ok_or("a layer stayed dense")?));
            }
        }
        Ok(made)
    }
}

fn matrix<T, const BYTES: usize>(
    tensor: &TensorView<'_>,
    dtype: Dtype,
    number: fn([u8; BYTES]) -> T,
) -> Result<Array2<T>, Box<dyn Error>> {
    let &[rows, cols] = tensor.shape() else { return Err("a tensor is no matrix".into()) };
    if tensor.dtype() != dtype {
        return Err(format!("a matrix is {}, not {dtype}", tensor.dtype()).into());
    }
    let entries = tensor.data().as_chunks().0.iter().map(|&bytes| number(bytes)).collect();
    Ok(Array2::from_shape_vec((rows, cols), entries)?)
}

/// Writes the factors as `NAME.left.weight` and `NAME.right.weight`.
fn write(made: &[(String, Factors)], path: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = |x: &Array2<f32>| x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let sides =
        made.iter().flat_map(|(name, factors)| [(name, "left", &factors.left), (name, "right", &factors.right)]);
    let tensors: Vec<_> = sides.map(|(name, side, x)| (format!("{name}.{side}.weight"), x.dim(), bytes(x))).collect();
    let views = tensors
        .iter()
        .map(|(name, (rows, cols), bytes)| Ok((name, TensorView::new(Dtype::F32, vec![*rows, *cols], bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}
