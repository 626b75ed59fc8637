//! The same matrix gives the same result: again, on several threads at once, with other strides.

use calabi_api::{Decomposer, Vectors};
use ndarray::{Array2, ArrayView2, Axis, ShapeBuilder, Slice};

use super::checks::{rank, svd};
use crate::matrices::{rounded, slow, with_spectrum};

pub(super) fn check(decomposer: &dyn Decomposer, accuracy: f64) {
    for (shape, limit) in [((140, 96), 96), ((64, 90), 12), ((72, 72), 36)] {
        let context = format!("{}x{} at limit {limit}", shape.0, shape.1);
        let a = rounded(&with_spectrum(shape.0, shape.1, &slow(shape.0.min(shape.1)), 11));
        let once = result(decomposer, a.view(), limit, &context);
        assert!(once == result(decomposer, a.view(), limit, &context), "{context}: differs when it is repeated");
        side_by_side(decomposer, &a, limit, &once, &context);
        strides(decomposer, &a, limit, &once, accuracy, &context);
    }
}

type Everything = (Vec<f64>, Vectors);

fn result(decomposer: &dyn Decomposer, a: ArrayView2<'_, f32>, limit: usize, context: &str) -> Everything {
    let decomposition = svd(decomposer, a, limit, context);
    let vectors = decomposition.vectors(rank(limit)).unwrap_or_else(|error| panic!("{context}: {error}"));
    (decomposition.spectrum().values().to_vec(), vectors)
}

fn side_by_side(decomposer: &dyn Decomposer, a: &Array2<f32>, limit: usize, once: &Everything, context: &str) {
    std::thread::scope(|scope| {
        let start = || result(decomposer, a.view(), limit, context);
        for thread in [scope.spawn(start), scope.spawn(start), scope.spawn(start)] {
            let again = thread.join().unwrap_or_else(|_| panic!("{context}: failed beside other threads"));
            assert!(again == *once, "{context}: differs beside other threads");
        }
    });
}

fn strides(
    decomposer: &dyn Decomposer,
    a: &Array2<f32>,
    limit: usize,
    once: &Everything,
    accuracy: f64,
    context: &str,
) {
    let mut columns = Array2::zeros(a.raw_dim().f());
    columns.assign(a);
    let mut sparse = Array2::from_elem((2 * a.nrows(), 3 * a.ncols()), f32::NAN);
    let (every_second, every_third_back) = (Slice::new(0, None, 2), Slice::new(0, None, -3));
    sparse.slice_axis_mut(Axis(0), every_second).slice_axis_mut(Axis(1), every_third_back).assign(a);
    let rows = sparse.slice_axis(Axis(0), every_second);
    for (name, view) in [("column-major", columns.view()), ("strided", rows.slice_axis(Axis(1), every_third_back))] {
        let other = result(decomposer, view, limit, context);
        let near = once.0.iter().zip(&other.0).all(|(x, y)| (x - y).abs() <= accuracy * once.0[0]);
        assert!(near, "{context}: other singular values when the matrix is {name}");
    }
}
