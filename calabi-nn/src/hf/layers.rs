//! Where in the model each linear layer stands, and what its input is called.

use std::collections::HashMap;

use calabi_api::{Layer, RunError};

use super::architecture::Architecture;
use super::names::{End, Qkv};
use super::pass::Site;
use super::store::Store;
use super::{block, head};
use crate::text;

/// The linear layers of a model.
#[derive(Debug)]
pub(super) struct Layers {
    places: HashMap<String, Place>,
    sources: HashMap<(Option<usize>, Site), String>,
}

/// Where a layer stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// None behind the last block.
    pub(super) block: Option<usize>,
    /// Its input.
    pub(super) site: Site,
    /// A dense weight is stored inputs by outputs.
    pub(super) inputs_first: bool,
}

impl Layers {
    /// Finds all layers; one that the architecture wants and the file lacks is an error.
    pub(super) fn find(store: &Store, model: &Architecture, prefix: &str) -> Result<Self, RunError> {
        let mut layers = Self { places: HashMap::new(), sources: HashMap::new() };
        for number in 0..model.blocks.len() {
            let block = block::name(model, prefix, number);
            for (part, site) in parts(model) {
                let place = Place { block: Some(number), site, inputs_first: model.names.inputs_first };
                let name = format!("{block}.{part}");
                store.shape(&name, place.inputs_first)?;
                layers.places.insert(name, place);
            }
            let [attention, mlp] = model.names.sources;
            let source = |site| match site {
                Site::Attention => format!("{block}.{attention}"),
                Site::AttentionOut => format!("{block}.{}.in", model.names.attention_out),
                Site::Mlp => format!("{block}.{mlp}"),
                Site::Down | Site::End => format!("{block}.{}.in", model.names.down),
            };
            for site in [Site::Attention, Site::AttentionOut, Site::Mlp, Site::Down] {
                layers.sources.insert((Some(number), site), source(site));
            }
        }
        layers.find_end(store, model, prefix)?;
        Ok(layers)
    }

    fn find_end(&mut self, store: &Store, model: &Architecture, prefix: &str) -> Result<(), RunError> {
        let name = match model.names.end {
            End::Language { head, .. } if !head::is_tied(store, model) => {
                store.shape(head, false)?;
                Some(head.to_owned())
            }
            End::Language { .. } => None,
            End::Encoder { pooler } => Some(format!("{prefix}{pooler}")).filter(|name| store.has_linear(name)),
        };
        if let Some(name) = name {
            self.sources.insert((None, Site::End), format!("{name}.in"));
            self.places.insert(name, Place { block: None, site: Site::End, inputs_first: false });
        }
        Ok(())
    }

    /// Where a layer stands.
    pub(super) fn place(&self, layer: &Layer) -> Result<Place, RunError> {
        self.places.get(&layer.name).copied().ok_or_else(|| {
            RunError::Failed(format!("the model has no layer {} that runs: exclude it", text::shown(&layer.name)))
        })
    }

    /// The name of what flows into a place.
    pub(super) fn source(&self, place: Place) -> &str {
        self.sources.get(&(place.block, place.site)).map_or("", String::as_str)
    }

    /// The inputs of these layers, which stand in this block (or behind the last), in the order of the pass.
    pub(super) fn wanted(&self, block: Option<usize>, layers: &[&Layer]) -> Result<Vec<(Site, String)>, RunError> {
        let mut wanted = Vec::new();
        for layer in layers {
            let place = self.place(layer)?;
            if place.block != block {
                let where_ = block.map_or_else(|| "the head".to_owned(), |block| format!("block {block}"));
                return Err(RunError::Failed(format!("layer {} is not in {where_}", text::shown(&layer.name))));
            }
            wanted.push((place.site, self.source(place).to_owned()));
        }
        wanted.sort();
        wanted.dedup();
        Ok(wanted)
    }
}

/// The linear layers of a block, and what flows into each.
fn parts(model: &Architecture) -> Vec<(&'static str, Site)> {
    let names = model.names;
    let mut parts: Vec<_> = match names.qkv {
        Qkv::Separate(maps) => maps.into_iter().map(|map| (map, Site::Attention)).collect(),
        Qkv::Fused(map) => vec![(map, Site::Attention)],
    };
    parts.push((names.attention_out, Site::AttentionOut));
    parts.extend(names.gate.map(|gate| (gate, Site::Mlp)));
    parts.extend([(names.up, Site::Mlp), (names.down, Site::Down)]);
    parts
}
