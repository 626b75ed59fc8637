//! What of a block is tuned: the factors of its substituted layers, what is added to their biases, its norms.

use calabi_api::{Factors, RunError};
use candle_core::{Device, Result, Tensor, Var};
use ndarray::{Array1, Array2, ArrayD, IxDyn};

use crate::hf::balance::balance;
use crate::hf::block::Block;
use crate::hf::failed;
use crate::hf::linear::{Linear, Weight};
use crate::hf::norm::Norm;

/// The values that are tuned, in the order of the block's layers and then of its norms.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    layers: Vec<(String, [Values; 3])>,
    norms: Vec<(String, Vec<Values>)>,
}

/// A tensor that is tuned.
#[derive(Debug, Clone)]
struct Values {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Parameters {
    /// Those of a block as it is; the factors of every layer balanced.
    pub(super) fn of(block: &Block) -> std::result::Result<Self, RunError> {
        let mut block = block.clone();
        let layers = block.linears_mut().into_iter().filter_map(|layer| of_layer(layer).transpose());
        let layers: Vec<_> = layers.collect::<Result<_>>().map_err(failed)?;
        let norms = block.norms_mut().into_iter().map(|norm| of_norm(norm)).collect::<Result<_>>().map_err(failed)?;
        Ok(Self { layers, norms })
    }

    /// Whether no layer of the block is substituted.
    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The values, always in one order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let layers = self.layers.iter_mut().flat_map(|(_, values)| values.iter_mut());
        let norms = self.norms.iter_mut().flat_map(|(_, values)| values.iter_mut());
        layers.chain(norms).map(|values| &mut values.values)
    }

    /// The block with these values as variables, and the variables in the order of the values.
    pub(super) fn placed(&self, block: &Block) -> std::result::Result<(Block, Vec<Var>), RunError> {
        let mut block = block.clone();
        let mut vars = Vec::new();
        for layer in block.linears_mut() {
            if let Some((_, values)) = self.layers.iter().find(|(name, _)| *name == layer.name) {
                place_layer(layer, values, &mut vars).map_err(failed)?;
            }
        }
        for (norm, (_, values)) in block.norms_mut().into_iter().zip(&self.norms) {
            place_norm(norm, values, &mut vars).map_err(failed)?;
        }
        Ok((block, vars))
    }

    /// The factors by layer, and the norms' tensors by their names in the file.
    #[allow(clippy::type_complexity)]
    pub(super) fn into_results(
        self,
    ) -> std::result::Result<(Vec<(String, Factors)>, Vec<(String, ArrayD<f32>)>), RunError> {
        let odd = |error: ndarray::ShapeError| RunError::Failed(error.to_string());
        let matrix = |values: Values| {
            let shape = (values.shape.first().copied().unwrap_or(0), values.shape.get(1).copied().unwrap_or(0));
            Array2::from_shape_vec(shape, values.values).map_err(odd)
        };
        let layers = self.layers.into_iter().map(|(name, [left, right, bias])| {
            let bias = Some(Array1::from_vec(bias.values));
            Ok((name, Factors { left: matrix(left)?, right: matrix(right)?, bias }))
        });
        let norms = self.norms.into_iter().flat_map(|(name, values)| {
            values.into_iter().zip(["weight", "bias"]).map(move |(values, part)| {
                let values = ArrayD::from_shape_vec(IxDyn(&values.shape), values.values).map_err(odd)?;
                Ok((format!("{name}.{part}"), values))
            })
        });
        Ok((
            layers.collect::<std::result::Result<_, RunError>>()?,
            norms.collect::<std::result::Result<_, RunError>>()?,
        ))
    }
}

impl Values {
    fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self { shape: tensor.dims().to_vec(), values: tensor.flatten_all()?.to_vec1()? })
    }

    fn var(&self, vars: &mut Vec<Var>) -> Result<Tensor> {
        let var = Var::from_slice(&self.values, self.shape.as_slice(), &Device::Cpu)?;
        let tensor = var.as_tensor().clone();
        vars.push(var);
        Ok(tensor)
    }
}

/// The left and right factor of a substituted layer, and what was added to its bias.
fn of_layer(layer: &Linear) -> Result<Option<(String, [Values; 3])>> {
    let Weight::LowRank { left, right, substituted: true } = &layer.weight else { return Ok(None) };
    let (mut left, mut right) = (Values::of(left)?, Values::of(right)?);
    balance(&mut left.values, &mut right.values, left.shape.get(1).copied().unwrap_or(0));
    let bias = match (&layer.bias, &layer.own_bias) {
        (Some(bias), Some(own)) => Values::of(&(bias - own)?)?,
        (Some(bias), None) => Values::of(bias)?,
        (None, _) => Values { shape: vec![layer.outputs()?], values: vec![0.0; layer.outputs()?] },
    };
    Ok(Some((layer.name.clone(), [left, right, bias])))
}

fn place_layer(layer: &mut Linear, [left, right, bias]: &[Values; 3], vars: &mut Vec<Var>) -> Result<()> {
    layer.weight = Weight::LowRank { left: left.var(vars)?, right: right.var(vars)?, substituted: true };
    let added = bias.var(vars)?;
    layer.bias = Some(match &layer.own_bias {
        Some(own) => (own + added)?,
        None => added,
    });
    Ok(())
}

/// The weight as the file has it, and the bias where there is one.
fn of_norm(norm: &Norm) -> Result<(String, Vec<Values>)> {
    let weight = if norm.plan.offset == 0.0 { norm.weight.clone() } else { (&norm.weight - norm.plan.offset)? };
    let parts = [Some(&weight), norm.bias.as_ref()];
    Ok((norm.name.clone(), parts.into_iter().flatten().map(Values::of).collect::<Result<_>>()?))
}

fn place_norm(norm: &mut Norm, values: &[Values], vars: &mut Vec<Var>) -> Result<()> {
    if let Some(weight) = values.first() {
        let weight = weight.var(vars)?;
        norm.weight = if norm.plan.offset == 0.0 { weight } else { (weight + norm.plan.offset)? };
    }
    if let Some(bias) = values.get(1) {
        norm.bias = Some(bias.var(vars)?);
    }
    Ok(())
}
