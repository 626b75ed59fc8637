//! What of a model is trained: the factors of its layers, the biases and the norms; by their names in the file.

use calabi_api::RunError;
use candle_core::{Device, Result, Tensor, Var};
use ndarray::{ArrayD, IxDyn};

use super::network::{Network, OfParts, Whole};
use crate::hf::balance::balance;
use crate::hf::failed;
use crate::hf::linear::{Linear, Weight};
use crate::hf::norm::Norm;
use crate::hf::store::Store;

/// The tensors that are trained: of each block, and of what stands behind the last.
#[derive(Debug, Clone)]
pub(super) struct Parameters(pub(super) OfParts<Trainable>);

/// A tensor that is trained.
#[derive(Debug, Clone)]
pub(super) struct Trainable {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// Sees a tensor of a part, by its name and as the file has it, and gives what takes its place.
type Visit<'a> = dyn FnMut(usize, String, &Tensor) -> Result<Tensor> + 'a;

const LEFT: &str = ".left.weight";

impl Parameters {
    /// Those of a model as it is, the factors of every layer balanced.
    pub(super) fn of(network: &Network) -> std::result::Result<Self, RunError> {
        let mut whole = network.whole.clone();
        let mut parts: OfParts<Trainable> = vec![Vec::new(); whole.blocks.len() + 1];
        visit(&mut whole, &network.runner.store, &mut |part, name, tensor| {
            let values = tensor.flatten_all()?.to_vec1()?;
            if let Some(part) = parts.get_mut(part) {
                part.push(Trainable { name, shape: tensor.dims().to_vec(), values });
            }
            Ok(tensor.clone())
        })
        .map_err(failed)?;
        for part in &mut parts {
            balance_all(part);
        }
        Ok(Self(parts))
    }

    /// Whether no layer of the model is factorized.
    pub(super) fn lack_factors(&self) -> bool {
        !self.0.iter().flatten().any(|values| values.name.ends_with(LEFT))
    }

    /// All of them, always in one order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Trainable> {
        self.0.iter().flatten()
    }

    /// The numbers of all, in that order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.0.iter_mut().flatten().map(|values| &mut values.values)
    }

    /// The model with these values as variables, and the variables in the order of the values.
    pub(super) fn placed(&self, network: &Network) -> std::result::Result<(Whole, OfParts<Var>), RunError> {
        let mut whole = network.whole.clone();
        let mut vars: OfParts<Var> = vec![Vec::new(); self.0.len()];
        visit(&mut whole, &network.runner.store, &mut |part, _, tensor| {
            let Some(vars) = vars.get_mut(part) else { return Ok(tensor.clone()) };
            let Some(given) = self.0.get(part).and_then(|part| part.get(vars.len())) else { return Ok(tensor.clone()) };
            let var = Var::from_slice(&given.values, given.shape.as_slice(), &Device::Cpu)?;
            let tensor = var.as_tensor().clone();
            vars.push(var);
            Ok(tensor)
        })
        .map_err(failed)?;
        Ok((whole, vars))
    }

    /// The tensors by their names in the file.
    pub(super) fn into_tensors(self) -> std::result::Result<Vec<(String, ArrayD<f32>)>, RunError> {
        let tensor = |Trainable { name, shape, values }| {
            let values = ArrayD::from_shape_vec(IxDyn(&shape), values);
            Ok((name, values.map_err(|error| RunError::Failed(error.to_string()))?))
        };
        self.0.into_iter().flatten().map(tensor).collect()
    }
}

/// Visits all tensors that are trained, always in one order.
fn visit(whole: &mut Whole, store: &Store, act: &mut Visit<'_>) -> Result<()> {
    let end = whole.blocks.len();
    for (part, block) in whole.blocks.iter_mut().enumerate() {
        for layer in block.linears_mut() {
            visit_factors(layer, part, act)?;
            visit_bias(layer, store, part, act)?;
        }
        for norm in block.norms_mut() {
            visit_norm(norm, part, act)?;
        }
    }
    visit_factors(&mut whole.map, end, act)?;
    visit_norm(&mut whole.norm, end, act)
}

fn visit_factors(layer: &mut Linear, part: usize, act: &mut Visit<'_>) -> Result<()> {
    if let Weight::LowRank { left, right, .. } = &mut layer.weight {
        *left = act(part, format!("{}{LEFT}", layer.name), left)?;
        *right = act(part, format!("{}.right.weight", layer.name), right)?;
    }
    Ok(())
}

fn visit_bias(layer: &mut Linear, store: &Store, part: usize, act: &mut Visit<'_>) -> Result<()> {
    if let Some(bias) = &mut layer.bias {
        let of_factors = format!("{}.left.bias", layer.name);
        let name = if store.has(&of_factors) { of_factors } else { format!("{}.bias", layer.name) };
        *bias = act(part, name, bias)?;
    }
    Ok(())
}

/// A norm's weight is shown as the file has it, without the plan's offset.
fn visit_norm(norm: &mut Norm, part: usize, act: &mut Visit<'_>) -> Result<()> {
    let offset = norm.plan.offset;
    let stored = if offset == 0.0 { norm.weight.clone() } else { (&norm.weight - offset)? };
    let made = act(part, format!("{}.weight", norm.name), &stored)?;
    norm.weight = if offset == 0.0 { made } else { (made + offset)? };
    if let Some(bias) = &mut norm.bias {
        *bias = act(part, format!("{}.bias", norm.name), bias)?;
    }
    Ok(())
}

/// Balances the left and right factor of every layer: they follow each other.
fn balance_all(part: &mut [Trainable]) {
    for place in 1..part.len() {
        if let Some([left, right]) = part.get_mut(place - 1..=place)
            && left.name.ends_with(LEFT)
        {
            balance(&mut left.values, &mut right.values, left.shape.get(1).copied().unwrap_or(0));
        }
    }
}
