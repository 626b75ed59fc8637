//! How a value that comes from one tensor shows it: as it is, with rows and columns exchanged, in another type.

use super::Model;
use super::constants::Scope;
use super::element::ElementType;
use super::scales::Scales;
use super::structure::{Node, Tensor};
use super::values;

/// A value that holds a tensor's elements, and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) dims: Vec<u64>,
    pub(crate) element: ElementType,
    /// Rows and columns of the tensor, where the value's order is that of its transpose.
    flipped: Option<(u64, u64)>,
    /// How numbers are made of integers, where they are more than these.
    pub(crate) scales: Option<Scales>,
}

/// A tensor as a matrix, rows first, and whether a value shows it transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    pub(crate) flipped: bool,
}

impl View {
    pub(crate) fn of(tensor: &Tensor) -> Self {
        Self { dims: tensor.dims.to_vec(), element: tensor.element, flipped: None, scales: None }
    }

    /// The view behind a node whose first input is this one.
    pub(crate) fn behind(&self, model: &Model, scope: &Scope<'_>, node: &Node) -> Result<Self, String> {
        let operator = model.structure.text(node.operator);
        let known = model.structure.is_standard(node.domain) && !model.structure.calls_function(node);
        match operator {
            "Identity" if known => Ok(self.clone()),
            "Cast" if known => self.cast(model.structure.integer(node, "to")),
            "Transpose" if known => self.transposed(model.structure.integers(node, "perm")),
            "DequantizeLinear" if known => self.dequantised(model, scope, node),
            "Mul" if known => self.scaled(model, scope, node),
            "Reshape" if known => self.reshaped(&target(model, scope, node)?),
            _ => Err(format!("the weight comes through {operator}: not handled; fold it into the weight")),
        }
    }

    fn cast(&self, to: Option<i64>) -> Result<Self, String> {
        let element = to.map(ElementType).filter(|element| element.dtype().is_some());
        match element {
            Some(element) if self.element.dtype().is_some() || self.element.is_quantised() => {
                Ok(Self { element, ..self.clone() })
            }
            _ => Err("the weight comes through a Cast to integers: not handled".to_owned()),
        }
    }

    fn dequantised(&self, model: &Model, scope: &Scope<'_>, node: &Node) -> Result<Self, String> {
        let input = |slot: usize| node.inputs.get(slot).and_then(|&input| scope.get(input));
        let scale = input(1).ok_or("its scales are not constant")?;
        let element = model.structure.tensor(scale.tensor).element;
        let plain = self.scales.is_none() && self.flipped.is_none() && self.element.is_quantised();
        if !plain || element.dtype().is_none() {
            return Err(format!("quantised as {} by {element}: not handled", self.element));
        }
        let [axis, block] = [("axis", 1), ("block_size", 0)]
            .map(|(name, default)| model.structure.integer(node, name).unwrap_or(default));
        let scales = Some(Scales::linear(model, &self.dims, scale, input(2), axis, block)?);
        Ok(Self { element, scales, ..self.clone() })
    }

    /// Integers that were cast, times their scales.
    fn scaled(&self, model: &Model, scope: &Scope<'_>, node: &Node) -> Result<Self, String> {
        let scale = node.inputs.get(1).and_then(|&scale| scope.get(scale)).ok_or("its scales are not constant")?;
        let tensor = model.structure.tensor(scale.tensor);
        if self.scales.is_some() || self.flipped.is_some() || tensor.element != self.element {
            return Err("the weight comes through Mul: not handled; fold it into the weight".to_owned());
        }
        Ok(Self { scales: Some(Scales::product(model, &self.dims, scale)?), ..self.clone() })
    }

    fn transposed(&self, perm: Option<&[i64]>) -> Result<Self, String> {
        let rank = self.dims.len();
        let order: Vec<usize> = match perm {
            None => (0..rank).rev().collect(),
            Some(perm) => perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect(),
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return Err("the weight comes through a Transpose whose perm is none".to_owned());
        }
        let dims: Vec<u64> = order.iter().map(|&axis| self.dims[axis]).collect();
        // Axes of one element do not change the order of elements.
        let moved: Vec<usize> = order.into_iter().filter(|&axis| self.dims[axis] != 1).collect();
        let Some(cut) = moved.windows(2).position(|pair| pair[0] > pair[1]).map(|at| at + 1) else {
            return Ok(Self { dims, ..self.clone() });
        };
        let (back, front) = moved.split_at(cut);
        let rotated: Vec<usize> = front.iter().chain(back).copied().collect();
        if !rotated.is_sorted() {
            return Err("the weight comes through a Transpose that exchanges more than rows and columns".to_owned());
        }
        let size = |axes: &[usize]| elements(axes.iter().map(|&axis| &self.dims[axis]));
        let (rows, cols) = (size(front)?, size(back)?);
        let flipped = match self.flipped {
            None => Some((rows, cols)),
            Some(former) if former == (cols, rows) => None,
            Some(_) => return Err("the weight comes through Transposes of several shapes: not handled".to_owned()),
        };
        Ok(Self { dims, flipped, ..self.clone() })
    }

    fn reshaped(&self, target: &[i64]) -> Result<Self, String> {
        let wrong = || "the weight comes through a Reshape to a shape that is none".to_owned();
        let mut dims = Vec::new();
        for (axis, &dim) in target.iter().enumerate() {
            dims.push(match dim {
                0 => *self.dims.get(axis).ok_or_else(wrong)?,
                -1 => 0,
                dim => u64::try_from(dim).map_err(|_| wrong())?,
            });
        }
        let all = elements(&self.dims)?;
        if let Some(open) = target.iter().position(|&dim| dim == -1) {
            dims[open] = 1;
            let known = Some(elements(&dims)?).filter(|&known| known > 0).ok_or_else(wrong)?;
            dims[open] = all / known;
        }
        if elements(&dims)? != all {
            return Err(wrong());
        }
        Ok(Self { dims, ..self.clone() })
    }

    /// The tensor as the matrix that a reader sees whose rows are the first `axes` dimensions.
    pub(crate) fn matrix(&self, axes: usize) -> Result<Matrix, String> {
        let (front, back) = self.dims.split_at(axes.min(self.dims.len()));
        let (rows, cols) = (elements(front)?, elements(back)?);
        match self.flipped {
            None => Ok(Matrix { rows, cols, flipped: false }),
            Some(tensor) if tensor == (cols, rows) => Ok(Matrix { rows: cols, cols: rows, flipped: true }),
            Some(_) => Err("the weight is transposed and read by other rows and columns: not handled".to_owned()),
        }
    }
}

/// How many elements so many dimensions have: those of an empty tensor may overflow.
fn elements<'d>(dims: impl IntoIterator<Item = &'d u64>) -> Result<u64, String> {
    let product = dims.into_iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    product.ok_or_else(|| "its dimensions overflow".to_owned())
}

/// The shape that a Reshape gives.
fn target(model: &Model, scope: &Scope<'_>, node: &Node) -> Result<Vec<i64>, String> {
    if let Some(shape) = model.structure.integers(node, "shape") {
        return Ok(shape.to_vec());
    }
    if model.structure.integer(node, "allowzero").unwrap_or(0) != 0 {
        return Err("the weight comes through a Reshape that allows zero: not handled".to_owned());
    }
    let shape = node.inputs.get(1).and_then(|&shape| scope.get(shape));
    let shape = shape.filter(|shape| shape.via.is_empty()).map(|shape| model.structure.tensor(shape.tensor));
    let numbers = shape.and_then(|shape| values::integers(model, shape).ok());
    numbers.ok_or_else(|| "the weight comes through a Reshape whose shape is not known".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(dims: &[u64]) -> View {
        View { dims: dims.to_vec(), element: ElementType(1), flipped: None, scales: None }
    }

    #[test]
    fn two_transposes_are_none() {
        let once = view(&[3, 4]).transposed(None).unwrap();
        assert_eq!(once.matrix(1), Ok(Matrix { rows: 3, cols: 4, flipped: true }));
        assert_eq!(once.transposed(Some(&[1, 0])).unwrap(), view(&[3, 4]));
    }

    #[test]
    fn axes_of_one_element_move_freely() {
        let moved = view(&[1, 3, 4]).transposed(Some(&[1, 0, 2])).unwrap();
        assert_eq!(moved, view(&[3, 1, 4]));
        let turned = view(&[1, 3, 4]).transposed(Some(&[0, 2, 1])).unwrap();
        assert_eq!(turned.matrix(2), Ok(Matrix { rows: 3, cols: 4, flipped: true }));
    }

    #[test]
    fn several_axes_are_rows_together() {
        let turned = view(&[2, 3, 5]).transposed(Some(&[2, 0, 1])).unwrap();
        assert_eq!(turned.matrix(1), Ok(Matrix { rows: 6, cols: 5, flipped: true }));
        assert!(turned.matrix(2).is_err());
        assert!(view(&[2, 3, 5]).transposed(Some(&[2, 1, 0])).is_err());
        assert!(view(&[2, 3]).transposed(Some(&[0, 0])).is_err());
    }

    #[test]
    fn a_shape_may_leave_one_dimension_open_and_take_others_over() {
        assert_eq!(view(&[4, 6]).reshaped(&[0, 2, -1]).unwrap(), view(&[4, 2, 3]));
        assert!(view(&[4, 6]).reshaped(&[5, -1]).is_err());
        assert!(view(&[4, 6]).reshaped(&[-2, -12]).is_err());
        let empty = view(&[0, u64::MAX / 3, 9]);
        assert!(empty.reshaped(&[0, -1]).is_err() && empty.matrix(1).is_err());
    }
}
