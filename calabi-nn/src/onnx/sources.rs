//! The values that are watched, and what layers read of each.

use calabi_api::{Layer, RunError, Window};

use crate::text::shown;

/// What a layer reads of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// What statistics call it: the value's name, with the window of a convolution behind it.
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) features: usize,
    pub(crate) window: Option<Window>,
}

impl Source {
    /// What a layer reads of the value of this name.
    pub(crate) fn of(layer: &Layer, value: &str) -> Self {
        let window = layer.wiring.window.clone();
        let name = window.as_ref().map_or_else(|| value.to_owned(), |window| format!("{value} ({window})"));
        Self { name, value: value.to_owned(), features: layer.shape.cols(), window }
    }
}

/// A value, and all that is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) value: String,
    pub(crate) sources: Vec<Source>,
}

impl Watched {
    /// Each value once, in the order of these layers and their sources, and of each what differs.
    pub(crate) fn distinct(layers: &[&Layer], sources: Vec<Source>) -> Result<Vec<Self>, RunError> {
        let mut all: Vec<Self> = Vec::new();
        for (layer, source) in layers.iter().zip(sources) {
            let Some(watched) = all.iter_mut().find(|watched| watched.value == source.value) else {
                all.push(Self { value: source.value.clone(), sources: vec![source] });
                continue;
            };
            match watched.sources.iter().find(|known| known.name == source.name) {
                Some(known) if known.features != source.features => {
                    let (name, features) = (shown(&layer.name), source.features);
                    let problem = format!("layer {name} reads {features} features of a value of {}", known.features);
                    return Err(RunError::Failed(problem));
                }
                Some(_) => {}
                None => watched.sources.push(source),
            }
        }
        Ok(all)
    }

    /// How many features it is taken to have, before it is seen.
    pub(crate) fn features(&self) -> usize {
        self.sources.first().map_or(1, |source| source.features)
    }
}
