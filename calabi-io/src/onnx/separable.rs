//! A convolution over two axes as one along each: to as many channels as the rank along the last, then along the first.
//!
//! Jaderberg, Vedaldi, Zisserman: Speeding up convolutional neural networks with low rank expansions (2014), scheme 2.

use super::schema::Attribute;
use super::structure::{Node, Structure};

/// The two axes of a kernel, and what its node says of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Separable {
    /// Outputs, inputs, rows and columns of the kernel.
    pub(crate) dims: [u64; 4],
    strides: Option<[i64; 2]>,
    dilations: Option<[i64; 2]>,
    /// Before both axes, then behind.
    pads: Option<[i64; 4]>,
    auto_pad: Option<String>,
}

/// Which of the two convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Along {
    Columns,
    Rows,
}

impl Separable {
    /// The axes of a kernel that costs less separated than split by channels, both at full rank.
    pub(crate) fn cheaper(structure: &Structure, node: &Node, dims: &[u64]) -> Option<Self> {
        let &[outputs, inputs, rows, cols] = dims else { return None };
        let full = |m: u64, n: u64| m.min(n).checked_mul(m.checked_add(n)?);
        let channels = full(outputs, inputs.checked_mul(rows)?.checked_mul(cols)?)?;
        let axes = full(outputs.checked_mul(rows)?, inputs.checked_mul(cols)?)?;
        let list = |name| structure.integers(node, name);
        let known = |name, length: usize| list(name).is_none_or(|list| list.len() == length);
        let fits = known("strides", 2) && known("dilations", 2) && known("pads", 4) && known("kernel_shape", 2);
        (rows > 1 && cols > 1 && axes < channels && fits).then(|| Self {
            dims: [outputs, inputs, rows, cols],
            strides: list("strides").and_then(|list| list.try_into().ok()),
            dilations: list("dilations").and_then(|list| list.try_into().ok()),
            pads: list("pads").and_then(|list| list.try_into().ok()),
            auto_pad: structure.attribute_text(node, "auto_pad").map(str::to_owned),
        })
    }

    /// All that the convolution along an axis says.
    pub(crate) fn attributes(&self, along: Along) -> Vec<Attribute> {
        let one = |[first, last]: [i64; 2], other: i64| match along {
            Along::Columns => vec![other, last],
            Along::Rows => vec![first, other],
        };
        let [_, _, rows, cols] = self.dims.map(u64::cast_signed);
        let [top, left, bottom, right] = self.pads.unwrap_or_default();
        let pads = match along {
            Along::Columns => vec![0, left, 0, right],
            Along::Rows => vec![top, 0, bottom, 0],
        };
        let mut attributes = vec![
            Attribute::of_integers("dilations", one(self.dilations.unwrap_or([1, 1]), 1)),
            Attribute::of_integer("group", 1),
            Attribute::of_integers("kernel_shape", one([rows, cols], 1)),
            Attribute::of_integers("strides", one(self.strides.unwrap_or([1, 1]), 1)),
        ];
        attributes.push(match &self.auto_pad {
            Some(auto_pad) if auto_pad != "NOTSET" => Attribute::of_text("auto_pad", auto_pad),
            _ => Attribute::of_integers("pads", pads),
        });
        attributes
    }

    /// Numbers of the kernel, as they are stored, in the order of the matrix: outputs and rows, then inputs and columns.
    pub(crate) fn as_matrix(&self, values: &[f32]) -> Vec<f32> {
        let [outputs, inputs, rows, cols] = self.dims;
        let mut matrix = Vec::with_capacity(values.len());
        for (m, i) in (0..outputs).flat_map(|m| (0..rows).map(move |i| (m, i))) {
            for c in 0..inputs {
                let start = usize::try_from(((m * inputs + c) * rows + i) * cols).unwrap_or(usize::MAX);
                matrix.extend(values.iter().skip(start).take(usize::try_from(cols).unwrap_or(0)));
            }
        }
        matrix
    }

    /// The rows and columns of that matrix.
    pub(crate) fn matrix(&self) -> (u64, u64) {
        let [outputs, inputs, rows, cols] = self.dims;
        (outputs.saturating_mul(rows), inputs.saturating_mul(cols))
    }
}
