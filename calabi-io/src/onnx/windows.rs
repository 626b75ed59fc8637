//! What a convolution reads of its input, by the attributes of its node.

use calabi_api::{Padding, Window};

use super::structure::{Node, Structure};

/// The window of a convolution whose weight has these dimensions, `outputs × inputs × kernel`; none where its attributes
/// do not fit them.
pub(crate) fn window(structure: &Structure, node: &Node, dims: &[u64]) -> Option<Window> {
    let sizes =
        |numbers: &[i64]| numbers.iter().map(|&number| usize::try_from(number).ok()).collect::<Option<Vec<_>>>();
    let kernel: Vec<usize> = dims.get(2..)?.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let axes = kernel.len();
    let steps = |name| match structure.integers(node, name) {
        None => Some(vec![1; axes]),
        Some(list) => sizes(list).filter(|list| list.len() == axes && !list.contains(&0)),
    };
    let padding = match structure.attribute_text(node, "auto_pad") {
        Some("SAME_UPPER") => Padding::SameUpper,
        Some("SAME_LOWER") => Padding::SameLower,
        None | Some("NOTSET" | "VALID") => {
            let given = structure.integers(node, "pads").map_or_else(|| Some(vec![0; 2 * axes]), sizes)?;
            let (before, behind) = given.split_at_checked(axes).filter(|(_, behind)| behind.len() == axes)?;
            Padding::Given { before: before.to_vec(), behind: behind.to_vec() }
        }
        Some(_) => return None,
    };
    Some(Window { kernel, strides: steps("strides")?, dilations: steps("dilations")?, padding })
}
