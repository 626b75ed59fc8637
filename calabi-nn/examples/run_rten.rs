//! Runs an ONNX graph in rten, for scripts that compare runtimes: `run_rten MODEL.onnx < INPUTS.json > OUTPUTS.json`.
//!
//! Inputs are a list of `{"name", "dims", "floats"}` or `{"name", "dims", "integers"}`; outputs come as lists of numbers.

use std::error::Error;
use std::io::{stdin, stdout};

use rten::{Model, Value, ValueOrView};
use serde::Deserialize;

#[derive(Deserialize)]
struct Input {
    name: String,
    dims: Vec<usize>,
    floats: Option<Vec<f32>>,
    integers: Option<Vec<i32>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("MODEL.onnx is missing")?;
    let model = Model::load_file(path)?;
    let given: Vec<Input> = serde_json::from_reader(stdin())?;
    let mut inputs = Vec::new();
    for Input { name, dims, floats, integers } in given {
        let value = match (floats, integers) {
            (Some(floats), None) => Value::from_shape(dims, floats)?,
            (None, Some(integers)) => Value::from_shape(dims, integers)?,
            _ => return Err(format!("{name}: either floats or integers").into()),
        };
        inputs.push((model.node_id(&name)?, ValueOrView::from(value)));
    }
    let outputs: Vec<Vec<f32>> = model
        .run(inputs, model.output_ids(), None)?
        .into_iter()
        .map(|output| match output {
            Value::FloatTensor(values) => Ok(values.into_data()),
            #[allow(clippy::cast_precision_loss)] // small numbers: tokens and shapes
            Value::Int32Tensor(values) => Ok(values.into_data().into_iter().map(|value| value as f32).collect()),
            other => Err(format!("an output is a {}", other.dtype())),
        })
        .collect::<Result<_, _>>()?;
    serde_json::to_writer(stdout(), &outputs)?;
    Ok(())
}
