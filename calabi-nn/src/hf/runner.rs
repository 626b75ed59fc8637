//! A checkpoint that runs: one part of it in memory at a time.

use std::ops::Range;
use std::path::Path;

use calabi_api::{
    BlockRunner, Factors, InputSpec, Layer, Output, RunError, Runner, Samples, StateSpace, States, Watch,
};

use super::architecture::Architecture;
use super::block::Block;
use super::config::Keys;
use super::head::Head;
use super::layers::Layers;
use super::store::Store;
use super::{blocks, tokens};

/// A checkpoint that runs.
pub(super) struct HfRunner {
    pub(super) model: Architecture,
    pub(super) store: Store,
    pub(super) layers: Layers,
    pub(super) prefix: &'static str,
    loaded: Loaded,
}

/// The part of the model that is in memory.
enum Loaded {
    Nothing,
    Block(usize, Box<Block>),
    Head(Box<Head>),
}

impl HfRunner {
    /// Reads what the folder says of itself: no weights.
    pub(super) fn open(path: &Path) -> Result<Self, RunError> {
        let model = Architecture::read(&Keys::read(path)?)?;
        let store = Store::open(path)?;
        let names = model.names;
        let prefix = store.prefix(names.prefixes, names.embedding).ok_or_else(|| {
            let problem = format!("it has no tensor {}.weight, nor under a prefix that is known", names.embedding);
            RunError::Load { path: path.to_owned(), problem }
        })?;
        let table = store.matrix_dims(&format!("{prefix}{}.weight", names.embedding))?;
        if table.1 != model.hidden || table.0 < model.vocabulary {
            let (rows, cols) = table;
            let problem = format!(
                "its embedding table is {rows}x{cols}; config.json wants {}x{}",
                model.vocabulary, model.hidden
            );
            return Err(RunError::Load { path: path.to_owned(), problem });
        }
        let layers = Layers::find(&store, &model, prefix)?;
        Ok(Self { model, store, layers, prefix, loaded: Loaded::Nothing })
    }

    /// A block's weights. What was in memory before goes first.
    pub(super) fn block(&mut self, number: usize) -> Result<(&Block, &Architecture), RunError> {
        if !matches!(&self.loaded, Loaded::Block(loaded, _) if *loaded == number) {
            self.loaded = Loaded::Nothing;
            let block = Block::load(&self.store, &self.model, self.prefix, number)?;
            self.loaded = Loaded::Block(number, Box::new(block));
        }
        match &self.loaded {
            Loaded::Block(_, block) => Ok((block, &self.model)),
            _ => Err(RunError::Failed(format!("block {number} is not in memory"))),
        }
    }

    /// The head's weights. What was in memory before goes first.
    pub(super) fn head(&mut self) -> Result<(&Head, &Architecture), RunError> {
        if !matches!(self.loaded, Loaded::Head(_)) {
            self.loaded = Loaded::Nothing;
            self.loaded = Loaded::Head(Box::new(Head::load(&self.store, &self.model, self.prefix)?));
        }
        match &self.loaded {
            Loaded::Head(head) => Ok((head, &self.model)),
            _ => Err(RunError::Failed("the head is not in memory".to_owned())),
        }
    }

    /// Forgets the part in memory: it is read again, as the store has it then.
    pub(super) fn forget(&mut self) {
        self.loaded = Loaded::Nothing;
    }

    /// The layers among these that stand in a block, or behind the last.
    fn within<'a>(&self, block: Option<usize>, layers: &[&'a Layer]) -> Result<Vec<&'a Layer>, RunError> {
        let placed = layers.iter().map(|layer| Ok((self.layers.place(layer)?.block, *layer)));
        let placed: Vec<_> = placed.collect::<Result<_, RunError>>()?;
        Ok(placed.into_iter().filter(|(place, _)| *place == block).map(|(_, layer)| layer).collect())
    }

    /// The states behind the last block.
    fn through(&mut self, samples: &Samples) -> Result<States, RunError> {
        let mut states = self.embed(samples, &StateSpace::default())?;
        for block in 0..self.model.blocks.len() {
            self.forward(block, &mut states, &[], &mut |_, _| Ok(()))?;
        }
        Ok(states)
    }
}

impl Runner for HfRunner {
    fn inputs(&self) -> Vec<InputSpec> {
        tokens::inputs(&self.model)
    }

    fn outputs(&mut self, samples: &Samples) -> Result<Vec<Output>, RunError> {
        let states = self.through(samples)?;
        BlockRunner::outputs(self, &states, 0..states.count())
    }

    fn stream(
        &mut self,
        samples: &Samples,
        each: &mut dyn FnMut(usize, Vec<Output>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let states = self.through(samples)?;
        for group in blocks::groups(&states, 0..states.count(), blocks::STREAMED)? {
            let Range { start, .. } = group;
            each(start, BlockRunner::outputs(self, &states, group)?)?;
        }
        Ok(())
    }

    fn sources(&self, layers: &[&Layer]) -> Result<Vec<String>, RunError> {
        layers.iter().map(|layer| Ok(self.layers.source(self.layers.place(layer)?).to_owned())).collect()
    }

    fn observe(&mut self, samples: &Samples, layers: &[&Layer], watch: &mut Watch<'_>) -> Result<(), RunError> {
        let behind = self.within(None, layers)?;
        let blocks: Vec<_> =
            (0..self.model.blocks.len()).map(|block| self.within(Some(block), layers)).collect::<Result<_, _>>()?;
        let last = if behind.is_empty() { blocks.iter().rposition(|layers| !layers.is_empty()) } else { None };
        if last.is_none() && behind.is_empty() {
            return Ok(());
        }
        let mut states = self.embed(samples, &StateSpace::default())?;
        for (block, layers) in blocks.iter().enumerate() {
            if last == Some(block) {
                return BlockRunner::observe(self, block, &states, 0..states.count(), layers, watch);
            }
            self.forward(block, &mut states, layers, watch)?;
        }
        self.watch_head(&states, &behind, watch)
    }

    fn substitute(&mut self, layer: &Layer, factors: Option<&Factors>) -> Result<(), RunError> {
        let place = self.layers.place(layer)?;
        let (m, n) = self.store.shape(&layer.name, place.inputs_first)?;
        self.store.substitute(&layer.name, (m, n), factors)?;
        self.forget();
        Ok(())
    }

    fn blocks(&mut self) -> Option<&mut dyn BlockRunner> {
        Some(self)
    }
}
