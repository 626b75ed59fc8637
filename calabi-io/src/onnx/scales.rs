//! Integers that stand for numbers: `(q − zero) · scale`, with a scale for all, for each index of some axes, or for blocks.

use calabi_api::FormatError;

use super::Model;
use super::constants::Constant;
use super::structure::TensorId;
use super::values;

/// How the integers of a tensor become numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scales {
    /// The dimensions of the integers.
    dims: Vec<u64>,
    scale: TensorId,
    zero: Option<TensorId>,
    /// For each dimension, how many scales there are, and how many indices have one together.
    shared: Vec<(u64, u64)>,
}

impl Scales {
    /// As `DequantizeLinear` has it: a scalar, a vector along an axis, or a tensor of blocks along it.
    pub(crate) fn linear(
        model: &Model,
        dims: &[u64],
        scale: &Constant,
        zero: Option<&Constant>,
        axis: i64,
        block: i64,
    ) -> Result<Self, String> {
        let refuse = || "its scales do not fit its dimensions".to_owned();
        let of = &model.structure.tensor(scale.tensor).dims;
        let axis = if axis < 0 { axis + i64::try_from(dims.len()).map_err(|_| refuse())? } else { axis };
        let axis = usize::try_from(axis).map_err(|_| refuse())?;
        let shared: Vec<(u64, u64)> = if model.structure.tensor(scale.tensor).elements == 1 {
            dims.iter().map(|&dim| (1, dim)).collect()
        } else if of.len() == 1 && dims.get(axis) == of.first() {
            dims.iter().enumerate().map(|(at, &dim)| if at == axis { (dim, 1) } else { (1, dim) }).collect()
        } else if of.len() == dims.len() && block > 0 {
            let blocks = |at: usize| if at == axis { block.unsigned_abs() } else { 1 };
            of.iter().enumerate().map(|(at, &count)| (count, blocks(at))).collect()
        } else {
            return Err(refuse());
        };
        Self::new(model, dims, scale, zero, shared)
    }

    /// As a product with a constant has it, which broadcasts.
    pub(crate) fn product(model: &Model, dims: &[u64], scale: &Constant) -> Result<Self, String> {
        let of = &model.structure.tensor(scale.tensor).dims;
        let front = dims.len().checked_sub(of.len()).ok_or("its scales have more dimensions than it has")?;
        let ones = std::iter::repeat_n(1, front).chain(of.iter().copied());
        let shared = dims.iter().zip(ones).map(|(&dim, of)| if of == 1 { (1, dim) } else { (of, 1) }).collect();
        Self::new(model, dims, scale, None, shared)
    }

    fn new(
        model: &Model,
        dims: &[u64],
        scale: &Constant,
        zero: Option<&Constant>,
        shared: Vec<(u64, u64)>,
    ) -> Result<Self, String> {
        let fits = dims.iter().zip(&shared).all(|(&dim, &(count, each))| each > 0 && dim.div_ceil(each) == count);
        if !fits || !scale.via.is_empty() || zero.is_some_and(|zero| !zero.via.is_empty()) {
            return Err("its scales do not fit its dimensions, or are computed".to_owned());
        }
        let elements = |id| model.structure.tensor(id).elements;
        if zero.is_some_and(|zero| elements(zero.tensor) != elements(scale.tensor)) {
            return Err("it has other zero points than scales".to_owned());
        }
        Ok(Self { dims: dims.to_vec(), scale: scale.tensor, zero: zero.map(|zero| zero.tensor), shared })
    }

    /// Makes numbers of integers, in the order of the tensor.
    pub(crate) fn apply(&self, model: &Model, numbers: &mut [f32]) -> Result<(), FormatError> {
        let scales = values::numbers(model, model.structure.tensor(self.scale))?;
        let zeros = self.zero.map(|zero| values::numbers(model, model.structure.tensor(zero))).transpose()?;
        let mut index = vec![0_u64; self.dims.len()];
        for number in numbers {
            let place =
                index.iter().zip(&self.shared).fold(0, |place, (&at, &(count, each))| place * count + at / each);
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            let zero = zeros.as_ref().map_or(0.0, |zeros| zeros.get(place).copied().unwrap_or(f32::NAN));
            *number = (*number - zero) * scales.get(place).copied().unwrap_or(f32::NAN);
            for (at, &dim) in index.iter_mut().zip(&self.dims).rev() {
                *at += 1;
                if *at < dim {
                    break;
                }
                *at = 0;
            }
        }
        Ok(())
    }
}
