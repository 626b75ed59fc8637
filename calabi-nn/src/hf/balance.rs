//! Factors of one product in balance: a step of the optimizer then moves both alike.

/// Scales each column of the left factor (m × rank) and its row of the right one (rank × n) to one norm; their product
/// stays.
pub(super) fn balance(left: &mut [f32], right: &mut [f32], rank: usize) {
    let Some(width) = right.len().checked_div(rank).filter(|width| *width > 0) else { return };
    let mut norms = vec![0.0_f64; rank];
    for row in left.chunks(rank) {
        norms.iter_mut().zip(row).for_each(|(norm, &x)| *norm += f64::from(x) * f64::from(x));
    }
    for (norm, row) in norms.iter_mut().zip(right.chunks_mut(width)) {
        let other = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        // Both norms become the root of their product: right · (l / r)^½, left · (r / l)^½.
        let scale = (*norm / other).powf(0.25);
        *norm = if scale.is_normal() { 1.0 / scale } else { 1.0 };
        #[allow(clippy::cast_possible_truncation)]
        for x in row {
            *x = (f64::from(*x) / *norm) as f32;
        }
    }
    for row in left.chunks_mut(rank) {
        #[allow(clippy::cast_possible_truncation)]
        row.iter_mut().zip(&norms).for_each(|(x, scale)| *x = (f64::from(*x) * scale) as f32);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn balanced_factors_have_equal_norms_and_the_same_product() {
        let left = Array2::from_shape_fn((5, 3), |(i, j)| ((i * 3 + j) as f32).sin() * [1.0, 50.0, 0.0][j]);
        let right = Array2::from_shape_fn((3, 4), |(i, j)| ((i * 4 + j) as f32).cos() * [7.0, 0.01, 1.0][i]);
        let (mut l, mut r) = (left.clone(), right.clone());
        balance(l.as_slice_mut().unwrap(), r.as_slice_mut().unwrap(), 3);
        assert!((left.dot(&right) - l.dot(&r)).iter().all(|x| x.abs() < 1e-5));
        for i in 0..2 {
            let (a, b) = (l.column(i).dot(&l.column(i)), r.row(i).dot(&r.row(i)));
            assert!((a / b - 1.0).abs() < 1e-5, "{a} {b}");
        }
        assert!(l.iter().chain(&r).all(|x| x.is_finite()));
    }
}
