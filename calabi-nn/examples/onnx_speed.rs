//! Runs an ONNX model for the scripts that compare it with onnxruntime.
//!
//! `onnx_speed MODEL DATA.npz` reads commands from standard input and answers each with a line:
//! - `time`: runs all samples, and says how many seconds that took;
//! - `save FILE`: runs all samples, and writes the outputs one after the other as raw f32;
//! - `watch LAYERS FOLDER`: LAYERS has a line `outputs inputs input output` for each layer, the last two names of
//!   values; writes the rows that flow into the layers as raw f32 to `FOLDER/0`, `FOLDER/1`, ..., one file for each
//!   distinct input, in the order of the lines.
//!
//! As many threads as `RAYON_NUM_THREADS` says.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use calabi_api::{DType, Layer, LayerCost, Role, Runner, Runtime as _, Samples, Shape, Wiring};
use calabi_nn::{OnnxRuntime, read_samples};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let [model, data] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "MODEL DATA.npz")?;
    let mut runner = OnnxRuntime::default().load(Path::new(&model))?;
    let samples = read_samples(Path::new(&data), None)?.samples;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["time"] => time(&mut *runner, &samples)?,
            ["save", file] => save(&mut *runner, &samples, file)?,
            ["watch", layers, folder] => watch(&mut *runner, &samples, layers, Path::new(folder))?,
            _ => return Err(format!("unknown command {line}").into()),
        }
    }
    Ok(())
}

fn time(runner: &mut dyn Runner, samples: &Samples) -> Done {
    let started = Instant::now();
    runner.outputs(samples)?;
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}

fn save(runner: &mut dyn Runner, samples: &Samples, file: &str) -> Done {
    let mut file = BufWriter::new(File::create(file)?);
    for output in runner.outputs(samples)? {
        output.values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
    }
    file.flush()?;
    println!("saved");
    Ok(())
}

fn watch(runner: &mut dyn Runner, samples: &Samples, layers: &str, folder: &Path) -> Done {
    let layers = std::fs::read_to_string(layers)?.lines().map(layer).collect::<Result<Vec<_>, _>>()?;
    let layers: Vec<_> = layers.iter().collect();
    let mut files = BTreeMap::new();
    for source in runner.sources(&layers)? {
        let next = files.len();
        if let Entry::Vacant(entry) = files.entry(source) {
            entry.insert(BufWriter::new(File::create(folder.join(next.to_string()))?));
        }
    }
    let started = Instant::now();
    runner.observe(samples, &layers, &mut |name, rows| {
        let failed = |problem: &dyn ToString| calabi_api::RunError::Failed(problem.to_string());
        let file = files.get_mut(name).ok_or_else(|| failed(&"a source that was not announced"))?;
        rows.iter().try_for_each(|value| file.write_all(&value.to_le_bytes())).map_err(|error| failed(&error))
    })?;
    files.values_mut().try_for_each(BufWriter::flush)?;
    println!("{} sources in {} s", files.len(), started.elapsed().as_secs_f64());
    Ok(())
}

fn layer(line: &str) -> Result<Layer, Box<dyn Error>> {
    let [m, n, input, output] = line.split(' ').collect::<Vec<_>>().try_into().map_err(|_| "a bad line of layers")?;
    let shape = Shape::new(m.parse()?, n.parse()?).ok_or("a layer without entries")?;
    let wiring = Wiring { input: Some(input.to_owned()), output: Some(output.to_owned()), ..Wiring::default() };
    let cost = LayerCost::new(shape, DType::F32, DType::F32);
    Ok(Layer {
        name: output.to_owned(),
        shape,
        dtype: DType::F32,
        role: Role::Linear,
        cost,
        wiring,
        bias: false,
        key: 0,
    })
}
