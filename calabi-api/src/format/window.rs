//! The places of its input that a convolution reads for each of its outputs.

use std::fmt;

/// How a convolution reads its input, `samples × channels × axes`: what it sees at one place, channel by channel and within
/// each place by place of the kernel, is a vector `x` of `channels · kernel` numbers, and gives `y = W x`.
///
/// ```
/// use calabi_api::{Padding, Window};
///
/// // A kernel of 3 × 3 that keeps the size of an image, and one that halves it.
/// let pads = |before, behind| Padding::Given { before: vec![before; 2], behind: vec![behind; 2] };
/// let same = Window { kernel: vec![3, 3], strides: vec![1, 1], dilations: vec![1, 1], padding: pads(1, 1) };
/// let half = Window { strides: vec![2, 2], padding: Padding::SameLower, ..same.clone() };
/// assert_eq!(same.axis(0, 28).map(|axis| axis.outputs), Some(28));
/// assert_eq!(half.axis(1, 28).map(|axis| (axis.outputs, axis.before)), Some((14, 1)));
/// // The first place of the kernel lies outside of the image at the first output, and on the second row at the second.
/// let axis = half.axis(0, 28).ok_or("larger than the image")?;
/// assert_eq!((axis.input(0, 0), axis.input(1, 0)), (None, Some(1)));
/// assert_eq!(half.to_string(), "3x3, strides 2x2, padding same lower");
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The places of the kernel along each axis.
    pub kernel: Vec<usize>,
    /// From one output to the next, along each axis.
    pub strides: Vec<usize>,
    /// From one place of the kernel to the next, along each axis.
    pub dilations: Vec<usize>,
    /// The zeros around the input.
    pub padding: Padding,
}

/// The zeros around the input of a convolution.
///
/// ```
/// use calabi_api::Padding;
///
/// let none = Padding::Given { before: vec![0, 0], behind: vec![0, 0] };
/// assert_ne!(none, Padding::SameUpper);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// So many along each axis.
    Given {
        /// Before the first place.
        before: Vec<usize>,
        /// Behind the last place.
        behind: Vec<usize>,
    },
    /// As many as make outputs of the input's size over the stride; an odd one lies behind.
    SameUpper,
    /// As many as make outputs of the input's size over the stride; an odd one lies before.
    SameLower,
}

/// A window along one axis of an input.
///
/// ```
/// use calabi_api::WindowAxis;
///
/// let axis = WindowAxis { size: 5, outputs: 3, stride: 2, dilation: 1, before: 1 };
/// assert_eq!((axis.input(0, 0), axis.input(0, 1), axis.input(2, 2)), (None, Some(0), None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowAxis {
    /// The places of the input.
    pub size: usize,
    /// The places of the output.
    pub outputs: usize,
    /// From one output to the next.
    pub stride: usize,
    /// From one place of the kernel to the next.
    pub dilation: usize,
    /// The zeros before the input.
    pub before: usize,
}

impl Window {
    /// The window along an axis of an input of this size; none where there is no such axis or the kernel is larger than
    /// the input with its zeros.
    #[must_use]
    pub fn axis(&self, axis: usize, size: usize) -> Option<WindowAxis> {
        let (&kernel, &stride, &dilation) =
            (self.kernel.get(axis)?, self.strides.get(axis)?, self.dilations.get(axis)?);
        let span = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let (before, outputs) = match &self.padding {
            Padding::Given { before, behind } => {
                let before = *before.get(axis)?;
                let padded = size.checked_add(before)?.checked_add(*behind.get(axis)?)?;
                (before, padded.checked_sub(span)?.checked_div(stride)? + 1)
            }
            same => {
                let outputs = size.checked_add(stride)?.checked_sub(1)?.checked_div(stride)?;
                let read = outputs.checked_sub(1)?.checked_mul(stride)?.checked_add(span)?;
                let zeros = read.saturating_sub(size);
                (if *same == Padding::SameUpper { zeros / 2 } else { zeros.div_ceil(2) }, outputs)
            }
        };
        Some(WindowAxis { size, outputs, stride, dilation, before })
    }
}

impl WindowAxis {
    /// Where the input stands that an output reads at a place of the kernel; none where a zero stands there.
    #[must_use]
    pub fn input(&self, output: usize, place: usize) -> Option<usize> {
        let at = output.checked_mul(self.stride)?.checked_add(place.checked_mul(self.dilation)?)?;
        at.checked_sub(self.before).filter(|&at| at < self.size)
    }
}

/// As names of inputs show it: what is usual is left out.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |list: &[usize]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        write!(f, "{}", joined(&self.kernel))?;
        for (name, list) in [("strides", &self.strides), ("dilations", &self.dilations)] {
            if list.iter().any(|&number| number != 1) {
                write!(f, ", {name} {}", joined(list))?;
            }
        }
        match &self.padding {
            Padding::Given { before, behind } if before.iter().chain(behind).all(|&zeros| zeros == 0) => Ok(()),
            Padding::Given { before, behind } if before == behind => write!(f, ", padding {}", joined(before)),
            Padding::Given { before, behind } => write!(f, ", padding {} and {}", joined(before), joined(behind)),
            Padding::SameUpper => f.write_str(", padding same upper"),
            Padding::SameLower => f.write_str(", padding same lower"),
        }
    }
}
