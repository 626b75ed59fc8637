//! What a decomposer must refuse, and with which words.

use calabi_api::{DecomposeError, Decomposer, Rank};
use ndarray::Array2;

use crate::matrices::{gaussian, rounded, with_eigenvalues};

pub(super) fn check(decomposer: &dyn Decomposer) {
    empty(decomposer);
    not_finite(decomposer);
    not_symmetric(decomposer);
    indefinite(decomposer);
}

fn empty(decomposer: &dyn Decomposer) {
    for (rows, cols) in [(0, 0), (0, 3), (3, 0)] {
        let wanted = Some(DecomposeError::Empty { rows, cols });
        let error = decomposer.svd(Array2::zeros((rows, cols)).view(), Rank::ONE).err();
        assert_eq!(error, wanted, "svd of an empty {rows}x{cols} matrix");
    }
    let error = decomposer.eigh(Array2::zeros((0, 0)).view(), Rank::ONE).err();
    assert_eq!(error, Some(DecomposeError::Empty { rows: 0, cols: 0 }), "eigh of an empty matrix");
}

fn not_finite(decomposer: &dyn Decomposer) {
    for (bad, (row, col)) in
        [(f32::NAN, (3, 7)), (f32::INFINITY, (0, 0)), (f32::NEG_INFINITY, (19, 11)), (f32::NAN, (5, 0))]
    {
        let mut a = rounded(&gaussian(20, 12, 5));
        a[(row, col)] = bad;
        refused_at((row, col), decomposer.svd(a.view(), Rank::ONE).err(), &format!("svd of a matrix with {bad}"));
        a.swap_axes(0, 1);
        refused_at((col, row), decomposer.svd(a.view(), Rank::ONE).err(), &format!("svd of a wide matrix with {bad}"));
    }
    let mut s = with_eigenvalues(9, &[2.0, 1.0], 1);
    s[(4, 6)] = f64::INFINITY;
    s[(6, 4)] = f64::INFINITY;
    refused_at((4, 6), decomposer.eigh(s.view(), Rank::ONE).err(), "eigh of a matrix with inf");
}

fn refused_at(place: (usize, usize), error: Option<DecomposeError>, context: &str) {
    match error {
        Some(DecomposeError::NonFinite { row, col, .. }) if (row, col) == place => {}
        other => panic!("{context} at {place:?} must be refused with its place, got {other:?}"),
    }
}

fn not_symmetric(decomposer: &dyn Decomposer) {
    let mut s = with_eigenvalues(8, &[3.0, 2.0, 1.0], 2);
    s[(6, 1)] += 0.01;
    for (name, s) in [("an asymmetric matrix", s), ("a matrix that is not square", gaussian(4, 6, 1))] {
        let (rows, cols) = s.dim();
        let error = decomposer.eigh(s.view(), Rank::ONE).err();
        assert_eq!(error, Some(DecomposeError::NotSymmetric { rows, cols }), "eigh of {name}");
    }
}

fn indefinite(decomposer: &dyn Decomposer) {
    let s = with_eigenvalues(10, &[4.0, 1.0, -0.5], 3);
    match decomposer.eigh(s.view(), Rank::ONE).err() {
        Some(DecomposeError::Indefinite { smallest, largest })
            if (smallest + 0.5).abs() < 1e-6 && (largest - 4.0).abs() < 1e-6 => {}
        other => panic!("eigh of a matrix with eigenvalues -0.5 and 4 must be refused as indefinite, got {other:?}"),
    }
}
