//! What a convolution reads of a value at each of its places: a row of channels by places of the kernel.

use calabi_api::{RunError, Window, WindowAxis};
use ndarray::{Array2, ArrayView2};

/// Rows of a value are made and shown so many bytes at a time.
const SHOWN: usize = 16 << 20;

/// The window along each axis of a value of these sizes; none where it does not fit them.
pub(crate) fn axes(window: &Window, sizes: &[usize]) -> Option<Vec<WindowAxis>> {
    let axes = sizes.iter().enumerate().map(|(axis, &size)| window.axis(axis, size)).collect::<Option<Vec<_>>>()?;
    axes.iter().try_fold(1_usize, |outputs, axis| outputs.checked_mul(axis.outputs))?;
    (axes.len() == window.kernel.len()).then_some(axes)
}

/// Shows what a window sees of so many samples of a value, `samples × channels × axes`, in blocks of rows.
pub(crate) fn show(
    window: &Window,
    axes: &[WindowAxis],
    [samples, channels]: [usize; 2],
    values: &[f32],
    mut each: impl FnMut(ArrayView2<'_, f32>) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let kernel: usize = window.kernel.iter().product();
    let plane: usize = axes.iter().map(|axis| axis.size).product();
    let outputs: usize = axes.iter().map(|axis| axis.outputs).product();
    let features = channels * kernel;
    let rows = (SHOWN / (4 * features).max(1)).max(1);
    for sample in values.chunks_exact((channels * plane).max(1)).take(samples) {
        for first in (0..outputs).step_by(rows) {
            let mut block = Array2::zeros((rows.min(outputs - first), features));
            for (index, mut row) in block.outer_iter_mut().enumerate() {
                let places = places(window, axes, first + index);
                for (channel, mut seen) in sample.chunks_exact(plane.max(1)).zip(row.exact_chunks_mut(kernel)) {
                    for (seen, place) in seen.iter_mut().zip(&places) {
                        *seen = place.and_then(|place| channel.get(place)).copied().unwrap_or(0.0);
                    }
                }
            }
            each(block.view())?;
        }
    }
    Ok(())
}

/// Where in a channel's plane the places of the kernel are for an output; none where a zero stands.
fn places(window: &Window, axes: &[WindowAxis], output: usize) -> Vec<Option<usize>> {
    let mut rest = output;
    let mut at = vec![0; axes.len()];
    for (at, axis) in at.iter_mut().zip(axes).rev() {
        *at = rest % axis.outputs.max(1);
        rest /= axis.outputs.max(1);
    }
    let mut places = vec![Some(0)];
    for ((axis, &at), &kernel) in axes.iter().zip(&at).zip(&window.kernel) {
        let inner = |place: &Option<usize>| {
            let place = *place;
            (0..kernel).map(move |step| Some(place? * axis.size + axis.input(at, step)?)).collect::<Vec<_>>()
        };
        places = places.iter().flat_map(inner).collect();
    }
    places
}
