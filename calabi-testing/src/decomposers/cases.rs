//! Small matrices whose singular values are known.

use ndarray::Array2;

use crate::matrices::{clustered, graded, rounded, slow, with_spectrum};

/// A matrix and its singular values.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) matrix: Array2<f32>,
    /// All `min(m, n)` of them, largest first.
    pub(super) values: Vec<f64>,
}

impl Case {
    fn new(kind: &str, (rows, cols): (usize, usize), mut values: Vec<f64>) -> Self {
        let seed = (rows * 1009 + cols) as u64;
        let matrix = rounded(&with_spectrum(rows, cols, &values, seed));
        values.resize(rows.min(cols), 0.0);
        Self { name: format!("{kind} {rows}x{cols}"), matrix, values }
    }

    /// How far rounding the entries to `f32` can have moved the singular values: by the norm of what it changed.
    pub(super) fn rounding(&self) -> f64 {
        self.energy().sqrt() * 2_f64.powi(-24)
    }

    /// `‖A‖²`.
    pub(super) fn energy(&self) -> f64 {
        self.loss(0)
    }

    /// What the best approximation of rank `r` loses.
    pub(super) fn loss(&self, r: usize) -> f64 {
        self.values.iter().skip(r).rev().map(|v| v * v).sum()
    }
}

/// Tall, wide and square; vectors and a single entry; every kind of spectrum.
pub(super) fn all() -> Vec<Case> {
    let mut cases = vec![Case::new("slow", (150, 130), slow(130)), Case::new("graded", (130, 150), graded(130, 1e3))];
    for shape @ (rows, cols) in [(96, 60), (60, 96), (64, 64), (300, 20), (20, 300)] {
        let full = rows.min(cols);
        cases.push(Case::new("slow", shape, slow(full)));
        cases.push(Case::new("graded", shape, graded(full, 1e7)));
        cases.push(Case::new("clustered", shape, clustered(full)));
        cases.push(Case::new("equal", shape, vec![3.0; full]));
        cases.push(Case::new("rank-deficient", shape, slow(full / 5)));
        cases.push(Case::new("zero", shape, vec![]));
    }
    for shape in [(1, 1), (1, 7), (7, 1), (2, 2), (3, 2), (2, 3)] {
        cases.push(Case::new("slow", shape, slow(shape.0.min(shape.1))));
        cases.push(Case::new("zero", shape, vec![]));
    }
    cases
}
