//! What stands before the first block: tables that are looked up by row, read row by row.

use std::collections::BTreeSet;
use std::ops::Range;

use calabi_api::{RunError, StateSpace, States};
use ndarray::Array2;

use super::architecture::{Architecture, NormKind, NormPlan};
use super::failed;
use super::norm::Norm;
use super::store::{Store, tensor_of};
use super::tokens::Tokens;

/// The small tables and the norm of a model's embedding.
pub(super) struct Embedding<'a> {
    store: &'a Store,
    table: String,
    width: usize,
    scale: f32,
    positions: Option<Vec<f32>>,
    segments: Option<Vec<f32>>,
    norm: Option<Norm>,
}

impl<'a> Embedding<'a> {
    /// Reads all but the table of words for tokens at these positions.
    pub(super) fn load(
        store: &'a Store,
        model: &Architecture,
        prefix: &str,
        positions: Range<usize>,
    ) -> Result<Self, RunError> {
        let names = model.names;
        let named = |name: &str| format!("{prefix}{name}.weight");
        let positions = names.positions.map(|name| store.rows(&named(name), &positions.collect::<Vec<_>>()));
        let segments = names.segments.map(|name| {
            let rows = store.matrix_dims(&named(name))?.0;
            store.rows(&named(name), &(0..rows).collect::<Vec<_>>())
        });
        let plan = NormPlan { kind: NormKind::Layer, ..model.norm };
        let norm = names.embedding_norm.map(|name| store.norm(&format!("{prefix}{name}"), plan, model.hidden));
        #[allow(clippy::cast_possible_truncation)] // the models scale in f32
        let scale = model.embedding_scale as f32;
        Ok(Self {
            store,
            table: named(names.embedding),
            width: model.hidden,
            scale,
            positions: positions.transpose()?,
            segments: segments.transpose()?,
            norm: norm.transpose()?,
        })
    }

    /// The states that enter the first block.
    pub(super) fn states(&self, tokens: &Tokens, space: &StateSpace) -> Result<States, RunError> {
        let mut states = States::new(space.clone());
        for sample in 0..tokens.samples {
            states.push(self.sample(tokens, sample)?, tokens.mask(sample))?;
        }
        Ok(states)
    }

    /// The rows of one sample that enter the first block.
    pub(super) fn sample(&self, tokens: &Tokens, sample: usize) -> Result<Array2<f32>, RunError> {
        let values = self.words(tokens.ids(sample))?;
        let values = self.placed(values, tokens.segments(sample))?;
        self.normed(values, tokens.length)
    }

    /// The rows of these words, scaled.
    fn words(&self, ids: &[usize]) -> Result<Vec<f32>, RunError> {
        let distinct: Vec<_> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let rows = self.store.rows(&self.table, &distinct)?;
        let mut values = Vec::with_capacity(ids.len() * self.width);
        for id in ids {
            let place = distinct.binary_search(id).unwrap_or_default() * self.width;
            values.extend(rows.iter().skip(place).take(self.width).map(|value| value * self.scale));
        }
        Ok(values)
    }

    /// With what segments and positions add.
    fn placed(&self, mut values: Vec<f32>, segments: Option<&[usize]>) -> Result<Vec<f32>, RunError> {
        for (token, row) in values.chunks_mut(self.width).enumerate() {
            if let Some(table) = &self.segments {
                let segment = segments.and_then(|all| all.get(token)).copied().unwrap_or_default();
                let start = segment.saturating_mul(self.width);
                let added = table.get(start..start.saturating_add(self.width)).ok_or_else(|| {
                    let known = table.len() / self.width;
                    RunError::Failed(format!("input token_type_ids: {segment} is not among its {known} values"))
                })?;
                row.iter_mut().zip(added).for_each(|(x, y)| *x += y);
            }
            if let Some(table) = &self.positions {
                row.iter_mut().zip(table.iter().skip(token * self.width)).for_each(|(x, y)| *x += y);
            }
        }
        Ok(values)
    }

    fn normed(&self, values: Vec<f32>, tokens: usize) -> Result<Array2<f32>, RunError> {
        let values = match &self.norm {
            None => values,
            Some(norm) => {
                let rows = norm.forward(&tensor_of(values, (tokens, self.width))?);
                rows.and_then(|rows| rows.flatten_all()?.to_vec1()).map_err(failed)?
            }
        };
        Array2::from_shape_vec((tokens, self.width), values).map_err(|e| RunError::Failed(e.to_string()))
    }
}
