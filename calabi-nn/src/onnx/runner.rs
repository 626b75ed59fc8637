//! An ONNX graph that runs, batch by batch.

use calabi_api::{Factors, InputSpec, Layer, Output, RunError, Runner, Samples, Watch};
use rten::Value;

use super::engine::{Engine, Loaded, Purpose};
use super::sources::Watched;
use super::watch::{BOUND, Shown, Sizes};
use crate::batches::{Batch, Batches};
use crate::inputs::{Input, matched};
use crate::outputs::Joined;

/// The input that tells tokens from padding.
const MASK: &str = "attention_mask";

/// An ONNX graph that runs.
pub(crate) struct OnnxRunner {
    engine: Engine,
    inputs: Vec<InputSpec>,
}

impl OnnxRunner {
    pub(crate) fn new(mut engine: Engine) -> Result<Self, RunError> {
        let inputs = engine.get(Purpose::Outputs)?.inputs.iter().map(Input::spec).collect();
        Ok(Self { engine, inputs })
    }
}

impl Runner for OnnxRunner {
    fn inputs(&self) -> Vec<InputSpec> {
        self.inputs.clone()
    }

    fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError> {
        let loaded = self.engine.get(Purpose::Outputs)?;
        let tensors = matched(&loaded.inputs, samples)?;
        let mut outputs = joined(loaded);
        for batch in Batches::new(&loaded.inputs, &tensors)? {
            push(&mut outputs, &loaded.run(&tensors, &batch)?, &batch)?;
        }
        outputs.into_iter().map(Joined::finish).collect()
    }

    /// Batch by batch: the first holds one sample, the others as many as give outputs of at most 256 MiB.
    fn stream(
        &mut self,
        samples: &Samples,
        each: &mut dyn FnMut(usize, Vec<Output>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let loaded = self.engine.get(Purpose::Outputs)?;
        let tensors = matched(&loaded.inputs, samples)?;
        let mut batches = Batches::new(&loaded.inputs, &tensors)?;
        let mut most = 1;
        while let Some(batch) = batches.take_most(most) {
            let values = loaded.run(&tensors, &batch)?;
            let mut outputs = joined(loaded);
            push(&mut outputs, &values, &batch)?;
            drop(values);
            let outputs: Vec<_> = outputs.into_iter().map(Joined::finish).collect::<Result<_, _>>()?;
            let entries: usize = outputs.iter().map(|output| output.values.len()).sum();
            most = (BOUND / (4 * entries / batch.samples.len().max(1)).max(1)).max(1);
            each(batch.samples.start, outputs)?;
        }
        Ok(())
    }

    fn sources(&self, layers: &[&Layer]) -> Result<Vec<String>, RunError> {
        layers.iter().map(|layer| Ok(self.engine.source(layer)?.name)).collect()
    }

    /// The first batch holds one sample and takes a few passes, until it is known how large the watched values are.
    /// After that, batches are so small that all of them fit in 256 MiB, and several passes are made only where not even
    /// those of one sample (or of the model's fixed number of samples) do.
    fn observe(&mut self, samples: &Samples, layers: &[&Layer], watch: &mut Watch<'_>) -> Result<(), RunError> {
        let sources = layers.iter().map(|layer| self.engine.source(layer)).collect::<Result<_, _>>()?;
        let values = Watched::distinct(layers, sources)?;
        let loaded = self.engine.get(Purpose::Watching)?;
        let tensors = matched(&loaded.inputs, samples)?;
        let mask = loaded.inputs.iter().zip(&tensors).find(|(input, _)| input.name == MASK).map(|(_, mask)| *mask);
        let mut batches = Batches::new(&loaded.inputs, &tensors)?;
        let mut sizes = Sizes::default();
        while let Some(batch) = batches.take_most(sizes.samples(&values)) {
            let mut rest = values.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.fitting(rest, batch.size));
                let names: Vec<&str> = now.iter().map(|watched| watched.value.as_str()).collect();
                for (watched, value) in now.iter().zip(loaded.values(&tensors, &batch, &names)?) {
                    sizes.learn(&watched.value, &value, batch.size);
                    let value = Shown::new(&watched.value, value, &batch, mask)?;
                    watched.sources.iter().try_for_each(|source| value.to(watch, source))?;
                }
                rest = later;
            }
        }
        Ok(())
    }

    /// The dense product of the factors takes the weight's place, so that the layer costs what it did. The model is
    /// loaded anew before it runs next, once whatever the number of layers substituted since.
    fn substitute(&mut self, layer: &Layer, factors: Option<&Factors>) -> Result<(), RunError> {
        self.engine.substitute(layer, factors)
    }
}

/// The model's outputs, without samples.
fn joined(loaded: &Loaded) -> Vec<Joined> {
    loaded.outputs.iter().map(|name| Joined::new(name.clone())).collect()
}

fn push(outputs: &mut [Joined], values: &[Value], batch: &Batch) -> Result<(), RunError> {
    outputs.iter_mut().zip(values).try_for_each(|(output, value)| output.push(value, batch))
}
