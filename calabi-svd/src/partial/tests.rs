use calabi_testing::matrices::{gaussian, rounded, with_spectrum};
use ndarray::Array2;

use super::*;
use crate::eigen::Eigen;
use crate::products::add_gram;

fn gram(a: &Array2<f32>) -> Lower<f32> {
    let mut gram = Lower::zeros(a.nrows());
    let a = a.as_standard_layout();
    let entries = a.as_slice().unwrap();
    add_gram(gram.as_mut(), faer::MatRef::from_row_major_slice(entries, a.nrows(), a.ncols()));
    gram
}

fn trace(gram: &Lower<f32>) -> f64 {
    (0..gram.size).map(|j| f64::from(gram.entries[j * (gram.size + 1)])).sum()
}

fn below(gram: &Lower<f32>) -> Vec<f32> {
    (0..gram.size).flat_map(|j| gram.entries[j * gram.size + j..(j + 1) * gram.size].to_vec()).collect()
}

/// Spectra as weights have them: what is found is as good as is said, and all of it is what it is said to be.
#[test]
fn leading_pairs_lose_what_is_promised() {
    for (n, fade, kept) in [(520, 0.5, 52), (600, 0.0, 20), (640, 1.0, 64), (520, 0.25, 65)] {
        let scales = ndarray::Array1::from_shape_fn(n, |j| (1.0 + j as f64).powf(-fade));
        let mut gram = gram(&rounded(&(gaussian(n, n, 7) * &scales)));
        let (energy, before) = (trace(&gram), below(&gram));
        let truth = Eigen::of(Lower { entries: gram.entries.clone(), size: n }).unwrap();
        let optimum: f64 = truth.values()[kept..].iter().sum();
        let Some(found) = leading(&mut gram, kept, energy, |_| true) else {
            assert!(before == below(&gram), "what is not proven leaves the matrix as it was");
            continue;
        };
        let loss = energy - found.values.iter().sum::<f64>();
        assert!((loss / optimum - 1.0).abs() < 4e-3, "{n} {fade}: {}", loss / optimum - 1.0);
        for (value, truth) in found.values.iter().zip(truth.values()) {
            assert!((value / truth - 1.0).abs() < 0.05, "{n} {fade}: {value} for {truth}");
        }
        assert_eq!(found.vectors.shape(), (n, kept));
    }
}

/// Where products separate wanted from unwanted directions the proof succeeds: the route is not taken in vain.
#[test]
fn fading_spectra_are_proven() {
    for n in [520, 700] {
        let scales = ndarray::Array1::from_shape_fn(n, |j| (1.0 + j as f64).powf(-0.5));
        let mut gram = gram(&rounded(&(gaussian(n, n, 1) * &scales)));
        let energy = trace(&gram);
        assert!(leading(&mut gram, n / 10, energy, |_| true).is_some());
    }
}

/// A subspace that misses a leading direction is never proven to be good.
#[test]
fn what_misses_a_direction_is_refuted() {
    let (n, kept) = (128, 12);
    let spectrum: Vec<f64> = (0..n).map(|i| if i < kept { 2.0 - 0.05 * i as f64 } else { 0.5 }).collect();
    let gram = gram(&rounded(&with_spectrum(n, n, &spectrum, 3)));
    let energy = trace(&gram);
    let eigen = Eigen::of(Lower { entries: gram.entries.clone(), size: n }).unwrap();
    let vectors = eigen.leading(kept + 1).unwrap();
    for (missed, proven) in [(None, true), (Some(0), false), (Some(kept - 1), false)] {
        let columns: Vec<usize> = (0..=kept).filter(|&j| Some(j) != missed).take(kept).collect();
        let ritz = krylov::Ritz {
            values: columns.iter().map(|&j| eigen.values()[j]).collect(),
            vectors: faer::Mat::from_fn(n, kept, |i, j| vectors[(i, columns[j])]),
            residuals: vec![1e-6; kept],
        };
        let loss = energy - ritz.values.iter().sum::<f64>();
        assert_eq!(proof::is_bounded(&gram, &ritz, TOLERANCE * loss), proven, "without {missed:?}");
        if missed == Some(kept - 1) {
            // Half of what is allowed raises the last value to the one that was missed.
            let deficit = eigen.values()[kept - 1] - eigen.values()[kept];
            assert!(!proof::is_bounded(&gram, &ritz, 1.9 * deficit) && proof::is_bounded(&gram, &ritz, 2.1 * deficit));
        }
    }
}
