//! Figures that compare the outputs of two models, sample by sample along the first axis.

use ndarray::{ArrayD, ArrayView1, ArrayViewD, Axis};

/// `‖y − y'‖ / ‖y‖` over all samples.
pub(crate) fn relative_error(original: &ArrayD<f32>, compressed: &ArrayD<f32>) -> f64 {
    let (mut lost, mut energy) = (0.0, 0.0);
    for (&y, &z) in original.iter().zip(compressed) {
        lost += (f64::from(y) - f64::from(z)).powi(2);
        energy += f64::from(y).powi(2);
    }
    if energy > 0.0 { (lost / energy).sqrt() } else { lost.sqrt() }
}

/// The cosine between a sample's outputs, in the mean over samples; equal outputs that are zero count as 1.
pub(crate) fn mean_cosine(original: &ArrayD<f32>, compressed: &ArrayD<f32>) -> f64 {
    let samples = original.len_of(Axis(0));
    let sum: f64 = original.outer_iter().zip(compressed.outer_iter()).map(|(y, z)| cosine(&y, &z)).sum();
    sum / samples.max(1) as f64
}

fn cosine(y: &ArrayViewD<'_, f32>, z: &ArrayViewD<'_, f32>) -> f64 {
    let (mut dot, mut yy, mut zz) = (0.0, 0.0, 0.0);
    for (&y, &z) in y.iter().zip(z) {
        let (y, z) = (f64::from(y), f64::from(z));
        dot += y * z;
        yy += y * y;
        zz += z * z;
    }
    if yy == 0.0 && zz == 0.0 {
        1.0
    } else if yy == 0.0 || zz == 0.0 {
        0.0
    } else {
        dot / (yy.sqrt() * zz.sqrt())
    }
}

/// The place of the largest value of each row along the last axis, the first of equal ones; none for outputs without
/// classes.
pub(crate) fn classes(output: &ArrayD<f32>) -> Option<Vec<usize>> {
    let last = Axis(output.ndim().checked_sub(1)?);
    (output.ndim() >= 2 && output.len_of(last) >= 2).then(|| output.lanes(last).into_iter().map(largest).collect())
}

fn largest(row: ArrayView1<'_, f32>) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}

/// The share of places at which two lists agree.
pub(crate) fn agreement<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    same as f64 / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn figures_of_known_outputs() {
        let y = array![[3.0_f32, 4.0], [1.0, 0.0]].into_dyn();
        let z = array![[3.0_f32, 4.0], [0.0, 1.0]].into_dyn();
        assert!((relative_error(&y, &z) - (2.0_f64 / 26.0).sqrt()).abs() < 1e-12);
        assert!((mean_cosine(&y, &z) - 0.5).abs() < 1e-12);
        assert_eq!(classes(&y), Some(vec![1, 0]));
        assert!((agreement(&classes(&y).unwrap(), &classes(&z).unwrap()) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn outputs_that_are_zero_or_have_no_classes() {
        let zero = ArrayD::<f32>::zeros(vec![2, 3]);
        assert_eq!((relative_error(&zero, &zero), mean_cosine(&zero, &zero)), (0.0, 1.0));
        let one = zero.mapv(|_| 1.0);
        assert_eq!((relative_error(&zero, &one), mean_cosine(&zero, &one)), (6.0_f64.sqrt(), 0.0));
        assert_eq!(classes(&ArrayD::zeros(vec![4])), None);
        assert_eq!(classes(&ArrayD::zeros(vec![4, 1])), None);
    }
}
