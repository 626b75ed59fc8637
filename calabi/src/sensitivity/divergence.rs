//! How far the outputs of a model move when a layer of it is cut.

use calabi_api::{Output, RunError};
use ndarray::Axis;

/// In the mean over tokens the divergence of the logits, for outputs that are called so; else the relative square error,
/// in the mean over outputs.
pub(super) fn divergence(original: &[Output], cut: &[Output]) -> Result<f64, RunError> {
    let sums: f64 = original
        .iter()
        .zip(cut)
        .map(|(y, z)| {
            if y.name == "logits" {
                let last = Axis(y.values.ndim() - 1);
                let rows: Vec<f64> = y
                    .values
                    .lanes(last)
                    .into_iter()
                    .zip(z.values.lanes(last))
                    .map(|(y, z)| {
                        let (y, z): (Vec<f32>, Vec<f32>) = (y.to_vec(), z.to_vec());
                        let lse = |v: &[f32]| {
                            let m = v.iter().fold(f32::MIN, |a, &b| a.max(b));
                            m + v.iter().map(|x| (x - m).exp()).sum::<f32>().ln()
                        };
                        let (ly, lz) = (lse(&y), lse(&z));
                        y.iter().zip(&z).map(|(a, b)| f64::from((a - ly).exp()) * f64::from((a - ly) - (b - lz))).sum()
                    })
                    .collect();
                rows.iter().sum::<f64>() / rows.len() as f64
            } else {
                crate::compare::relative_error(&y.values, &z.values).powi(2)
            }
        })
        .sum();
    Ok(sums / original.len().max(1) as f64)
}
