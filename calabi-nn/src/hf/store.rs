//! The weights of a model as it is now: the file's, and what was put in their place.

use std::collections::HashMap;
use std::path::Path;

use calabi_api::{Factors, RunError};
use candle_core::{Device, Tensor};

use super::architecture::{NormKind, NormPlan};
use super::checkpoint::Checkpoint;
use super::failed;
use super::linear::{Linear, Weight};
use super::norm::Norm;
use crate::text;

/// Reads parts of the model, one at a time.
#[derive(Debug)]
pub(super) struct Store {
    checkpoint: Checkpoint,
    substituted: HashMap<String, Substitute>,
    amended: HashMap<String, Tensor>,
}

/// What stands for a layer's weight.
#[derive(Debug, Clone)]
struct Substitute {
    left: Tensor,
    right: Tensor,
    /// Added to the layer's bias.
    bias: Option<Tensor>,
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Self, RunError> {
        Ok(Self { checkpoint: Checkpoint::open(folder)?, substituted: HashMap::new(), amended: HashMap::new() })
    }

    /// The prefix under which a tensor is found; none where it is under none of them.
    pub(super) fn prefix(&self, prefixes: &[&'static str], name: &str) -> Option<&'static str> {
        prefixes.iter().find(|prefix| self.has(&format!("{prefix}{name}.weight"))).copied()
    }

    /// Whether the file holds a tensor.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.checkpoint.dims(tensor).is_some()
    }

    /// Whether the file holds a linear layer, dense or factorized.
    pub(super) fn has_linear(&self, name: &str) -> bool {
        self.has(&format!("{name}.weight")) || self.is_factorized(name)
    }

    fn is_factorized(&self, name: &str) -> bool {
        self.has(&format!("{name}.left.weight")) && self.has(&format!("{name}.right.weight"))
    }

    /// The dimensions of a tensor that has to be a matrix.
    pub(super) fn matrix_dims(&self, tensor: &str) -> Result<(usize, usize), RunError> {
        match self.checkpoint.dims(tensor) {
            Some(&[rows, cols]) => Ok((rows, cols)),
            Some(_) => Err(self.checkpoint.refuse(tensor, "it is no matrix")),
            None => Err(self.checkpoint.refuse(tensor, "it is missing")),
        }
    }

    /// Some rows of a matrix.
    pub(super) fn rows(&self, tensor: &str, rows: &[usize]) -> Result<Vec<f32>, RunError> {
        self.checkpoint.rows(tensor, rows)
    }

    /// A whole matrix.
    pub(super) fn matrix(&self, tensor: &str) -> Result<Tensor, RunError> {
        let dims = self.matrix_dims(tensor)?;
        tensor_of(self.checkpoint.values(tensor)?, dims)
    }

    /// A vector of `length`; none where there is no such tensor.
    fn vector(&self, tensor: &str, length: usize) -> Result<Option<Tensor>, RunError> {
        match self.checkpoint.dims(tensor) {
            None => Ok(None),
            Some(&[found]) if found == length => tensor_of(self.checkpoint.values(tensor)?, length).map(Some),
            Some(dims) => {
                Err(self.checkpoint.refuse(tensor, &format!("it is {}, wanted are [{length}]", text::shape(dims))))
            }
        }
    }

    /// A linear layer of `m × n`; `inputs_first` tells how a dense weight is stored. `None` as `m` takes any.
    pub(super) fn linear(
        &self,
        name: &str,
        (m, n): (Option<usize>, usize),
        inputs_first: bool,
    ) -> Result<Linear, RunError> {
        let (rows, cols) = self.linear_dims(name, inputs_first)?;
        if cols != n || m.is_some_and(|m| m != rows) {
            let wanted = m.map_or_else(|| "any number".to_owned(), |m| m.to_string());
            let problem = format!("it maps {cols} features to {rows}; config.json wants {n} to {wanted}");
            return Err(self.checkpoint.refuse(&format!("{name}.weight"), &problem));
        }
        let own_bias = self.own_bias(name, rows)?;
        let substitute = self.substituted.get(name);
        let weight = match substitute {
            Some(Substitute { left, right, .. }) => {
                Weight::LowRank { left: left.clone(), right: right.clone(), substituted: true }
            }
            None => self.weight(name, inputs_first)?,
        };
        let bias = match (&own_bias, substitute.and_then(|s| s.bias.as_ref())) {
            (Some(own), Some(added)) => Some((own + added).map_err(failed)?),
            (own, added) => added.or(own.as_ref()).cloned(),
        };
        Ok(Linear { name: name.to_owned(), weight, bias, own_bias })
    }

    /// The shape of a linear layer, `m × n`, dense or factorized.
    fn linear_dims(&self, name: &str, inputs_first: bool) -> Result<(usize, usize), RunError> {
        if self.is_factorized(name) {
            let (m, rank) = self.matrix_dims(&format!("{name}.left.weight"))?;
            let (other, n) = self.matrix_dims(&format!("{name}.right.weight"))?;
            if rank == other {
                return Ok((m, n));
            }
            let problem = format!("its rank is {other}, that of {name}.left is {rank}");
            return Err(self.checkpoint.refuse(&format!("{name}.right.weight"), &problem));
        }
        let (rows, cols) = self.matrix_dims(&format!("{name}.weight"))?;
        Ok(if inputs_first { (cols, rows) } else { (rows, cols) })
    }

    fn own_bias(&self, name: &str, m: usize) -> Result<Option<Tensor>, RunError> {
        let names = [format!("{name}.left.bias"), format!("{name}.bias")];
        let first = usize::from(!self.is_factorized(name));
        for name in names.iter().skip(first) {
            if let Some(bias) = self.vector(name, m)? {
                return Ok(Some(bias));
            }
        }
        Ok(None)
    }

    /// What the file holds.
    fn weight(&self, name: &str, inputs_first: bool) -> Result<Weight, RunError> {
        if self.is_factorized(name) {
            let left = self.matrix(&format!("{name}.left.weight"))?;
            let right = self.matrix(&format!("{name}.right.weight"))?;
            return Ok(Weight::LowRank { left, right, substituted: false });
        }
        let stored = self.matrix(&format!("{name}.weight"))?;
        Ok(Weight::Dense(if inputs_first { stored.t().map_err(failed)? } else { stored }))
    }

    /// A norm of `width` features.
    pub(super) fn norm(&self, name: &str, plan: NormPlan, width: usize) -> Result<Norm, RunError> {
        let weight = self.tensor_now(&format!("{name}.weight"), width)?;
        let weight = weight.ok_or_else(|| self.checkpoint.refuse(&format!("{name}.weight"), "it is missing"))?;
        let weight = if plan.offset == 0.0 { weight } else { (weight + plan.offset).map_err(failed)? };
        let bias = match plan.kind {
            NormKind::Rms => None,
            NormKind::Layer => self.tensor_now(&format!("{name}.bias"), width)?,
        };
        Ok(Norm { name: name.to_owned(), plan, weight, bias })
    }

    /// A vector as it was amended, else as it is in the file.
    fn tensor_now(&self, tensor: &str, width: usize) -> Result<Option<Tensor>, RunError> {
        match self.amended.get(tensor) {
            Some(amended) => Ok(Some(amended.clone())),
            None => self.vector(tensor, width),
        }
    }

    /// Puts factors in the place of a layer of this shape, or its weight back.
    pub(super) fn substitute(
        &mut self,
        name: &str,
        (m, n): (usize, usize),
        factors: Option<&Factors>,
    ) -> Result<(), RunError> {
        let Some(factors) = factors else {
            self.substituted.remove(name);
            return Ok(());
        };
        let ((rows, rank), (other, cols)) = (factors.left.dim(), factors.right.dim());
        let bias = factors.bias.as_ref().map_or(m, ndarray::Array1::len);
        if rank != other || rank == 0 || (m, n) != (rows, cols) || bias != m {
            let problem =
                format!("factors of {rows}x{rank} and {other}x{cols} with a bias of {bias} do not fit {m}x{n}");
            return Err(RunError::Failed(format!("layer {}: {problem}", text::shown(name))));
        }
        let rows = |matrix: &ndarray::Array2<f32>| tensor_of(matrix.iter().copied().collect(), matrix.dim());
        let bias = factors.bias.as_ref().map(|bias| tensor_of(bias.to_vec(), m)).transpose()?;
        let substitute = Substitute { left: rows(&factors.left)?, right: rows(&factors.right)?, bias };
        self.substituted.insert(name.to_owned(), substitute);
        Ok(())
    }

    /// The shape of a linear layer of the file.
    pub(super) fn shape(&self, name: &str, inputs_first: bool) -> Result<(usize, usize), RunError> {
        self.linear_dims(name, inputs_first)
    }

    /// Puts other values in the place of a norm's tensor.
    pub(super) fn amend(&mut self, tensor: &str, values: Tensor) {
        self.amended.insert(tensor.to_owned(), values);
    }
}

/// A tensor of these values.
pub(super) fn tensor_of(
    values: Vec<f32>,
    shape: impl candle_core::shape::ShapeWithOneHole,
) -> Result<Tensor, RunError> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(failed)
}
