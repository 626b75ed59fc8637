//! One sign for each singular vector, so that results can be compared.

use faer::{ColMut, ColRef, Mat, MatRef};
use ndarray::Array2;

use crate::real::Real;

/// Turns the columns so that the entry of largest magnitude, as `f32`, is positive; the first of equal ones.
pub(crate) fn normalize(vectors: &mut Mat<f64>) {
    for column in vectors.col_iter_mut() {
        if leading_entry(column.as_ref()) < 0.0 {
            negate(column);
        }
    }
}

/// Turns the columns of `vectors` into the half-space of those of `directions`.
pub(crate) fn follow<T: Real>(vectors: &mut Mat<T>, directions: MatRef<'_, T>) {
    for (column, direction) in vectors.col_iter_mut().zip(directions.col_iter()) {
        let along: f64 = column.as_ref().iter().zip(direction.iter()).map(|(a, b)| a.wide() * b.wide()).sum();
        if along < 0.0 {
            negate(column);
        }
    }
}

fn leading_entry(column: ColRef<'_, f64>) -> f32 {
    column.iter().map(|&v| rounded(v)).fold(0.0, |largest, v| if v.abs() > largest.abs() { v } else { largest })
}

fn negate<T: Real>(column: ColMut<'_, T>) {
    column.iter_mut().for_each(|v| *v = T::of(-v.wide()));
}

/// The vectors as they leave the crate, each in one piece.
pub(crate) fn columns_to_f32(vectors: MatRef<'_, f64>) -> Array2<f32> {
    to_f32(vectors.transpose()).reversed_axes()
}

/// The vectors as they leave the crate.
pub(crate) fn to_f32(vectors: MatRef<'_, f64>) -> Array2<f32> {
    Array2::from_shape_fn(vectors.shape(), |place| rounded(vectors[place]))
}

#[allow(clippy::cast_possible_truncation)] // singular vectors leave the crate as f32
fn rounded(value: f64) -> f32 {
    value as f32
}
