use calabi_testing::matrices::{gaussian, rounded, with_spectrum};
use ndarray::Array2;

use super::*;
use crate::eigen::Eigen;
use crate::orthonormal::orthonormal;
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
        let chosen = faer::Mat::from_fn(n, kept, |i, j| vectors[(i, columns[j])]);
        let ritz = krylov::Ritz {
            values: columns.iter().map(|&j| eigen.values()[j]).collect(),
            next: 0.5,
            residuals: faer::Mat::from_fn(kept, kept, |i, j| if i == j { 1e-12 } else { 0.0 }),
            unit: 1.0,
        };
        let is_proven = |allowed: f64| Claim::new(&ritz, n, allowed).holds(&gram, &ritz, &chosen);
        let loss = energy - ritz.values.iter().sum::<f64>();
        assert_eq!(is_proven(TOLERANCE * loss), proven, "without {missed:?}");
        if missed == Some(kept - 1) {
            // Two fifths of what is allowed raise the last value to the one that was missed.
            let deficit = eigen.values()[kept - 1] - eigen.values()[kept];
            assert!(!is_proven(2.4 * deficit) && is_proven(2.6 * deficit));
        }
    }
}

/// Whatever the subspace: a claim whose strain is below one holds, and what holds is true.
#[test]
fn claims_below_a_strain_of_one_hold_and_what_holds_is_true() {
    let (n, kept) = (90, 8);
    let (mut held, mut strained) = (0, 0);
    for seed in 0..12 {
        let scales = ndarray::Array1::from_shape_fn(n, |j| 0.93_f64.powf(j as f64));
        let gram = gram(&rounded(&(gaussian(n, n, seed) * &scales)));
        let truth = Eigen::of(Lower { entries: gram.entries.clone(), size: n }).unwrap();
        let (best, energy) = (truth.values()[..kept].iter().sum::<f64>(), trace(&gram));
        let stray = gaussian(n, kept, seed + 100);
        for size in [1e-3, 3e-3, 1e-2, 3e-2, 0.1] {
            let lead = truth.leading(kept).unwrap();
            let (ritz, vectors) = exact_ritz(&gram, &lead, |i, j| size * stray[(i, j)]);
            let captured: f64 = ritz.values.iter().sum();
            for share in [0.003, 0.01, 0.03, 0.1, 0.3] {
                let allowed = share * (energy - captured);
                let claim = Claim::new(&ritz, n, allowed);
                let holds = claim.holds(&gram, &ritz, &vectors);
                assert!(!holds || best <= captured + allowed, "{seed} {size} {share}: it is not true");
                let strain = claim.strain(ritz.next);
                assert!(holds || strain > 0.95, "{seed} {size} {share}: {strain}");
                held += usize::from(holds);
                strained += usize::from(!holds);
            }
        }
    }
    assert!(held > 30 && strained > 30, "{held} claims held, {strained} did not");
}

/// Ritz pairs of the subspace of vectors with something added; the next value is the largest eigenvalue of what is left without
/// them.
fn exact_ritz(
    gram: &Lower<f32>,
    lead: &faer::Mat<f32>,
    stray: impl Fn(usize, usize) -> f64,
) -> (krylov::Ritz, faer::Mat<f32>) {
    let (n, k) = lead.shape();
    let m = faer::Mat::from_fn(n, n, |i, j| f64::from(gram.entries[i.min(j) * n + i.max(j)]));
    let q = orthonormal(faer::Mat::from_fn(n, k, |i, j| f64::from(lead[(i, j)]) + stray(i, j)));
    let inner = Eigen::of(Lower::of((q.transpose() * &m * &q).as_ref())).unwrap();
    let x = &q * inner.precise(k).unwrap();
    let residual = faer::Mat::from_fn(n, k, |i, j| (&m * x.col(j))[i] - inner.values()[j] * x[(i, j)]);
    let products = residual.transpose() * &residual;
    let keep = faer::Mat::<f64>::identity(n, n) - &x * x.transpose();
    let next = Eigen::of(Lower::of((&keep * &m * &keep).as_ref())).unwrap().values()[0];
    let single = |a: &faer::Mat<f64>| faer::Mat::from_fn(a.nrows(), a.ncols(), |i, j| crate::real::Real::of(a[(i, j)]));
    let (values, residuals) = (inner.values().to_vec(), single(&products));
    (krylov::Ritz { values, next, residuals, unit: 1.0 }, single(&x))
}

/// Where what may be missing is rounding no proof is tried; where nothing strays a claim is as good as its gap.
#[test]
fn claims_within_rounding_are_not_worth_a_proof() {
    let ritz = |off: f32| krylov::Ritz {
        values: vec![4.0, 2.0, 1.0],
        next: 0.5,
        residuals: faer::Mat::from_fn(3, 3, |i, j| if i == j { off } else { 0.0 }),
        unit: 4.0,
    };
    assert!(Claim::new(&ritz(1e-9), 600, 1e-5).strain(0.5).is_infinite());
    assert!(Claim::new(&ritz(0.0), 600, 1e-5).strain(0.5).is_infinite());
    assert!(Claim::new(&ritz(0.0), 600, 0.1).strain(0.5) < f64::MIN_POSITIVE);
    assert!(Claim::new(&ritz(1e-9), 600, 0.1).strain(2.0).is_infinite());
    // 3 · 1e-9 · 4², over the gap of 1.04 − 0.5 and 90 % of 0.06.
    assert!((Claim::new(&ritz(1e-9), 600, 0.1).strain(0.5) / (4.8e-8 / (0.54 * 0.054)) - 1.0).abs() < 1e-6);
}

/// It ends, whatever the strain does, with no more blocks than there may be.
#[test]
fn blocks_come_to_an_end() {
    for pace in [WIDE, NARROW] {
        for strains in
            [&[f64::INFINITY; 3][..], &[f64::NAN; 2], &[f64::INFINITY, f64::NAN], &[1e9, 2e9, 4e9], &[1e9, f64::NAN]]
        {
            let mut progress = Progress { pace, last: None };
            let mut blocks = SEEN_FROM;
            for &strain in strains {
                let Some(further) = progress.further(blocks, strain) else { break };
                assert!(further > 0 && blocks + further <= MOST, "{strains:?}");
                blocks += further;
            }
        }
        let mut progress = Progress { pace, last: None };
        assert_eq!(progress.further(SEEN_FROM, 0.1), Some(0));
        assert_eq!(progress.further(LATE, f64::INFINITY), Some(MOST - LATE), "what is left is made");
        assert_eq!(progress.further(MOST, 1e9), None);
    }
}

/// What failed once is not tried again as it was.
#[test]
fn a_failed_proof_makes_the_next_one_wait() {
    let mut progress = Progress { pace: WIDE, last: None };
    assert_eq!(progress.further(SEEN_FROM, 0.9 * WIDE.worth), Some(0));
    progress.refuted();
    assert!(progress.further(SEEN_FROM + 1, 0.8 * WIDE.worth).is_some_and(|further| further > 0));
    assert_eq!(progress.further(SEEN_FROM + 2, 0.4 * WIDE.worth), Some(0));
}

/// Where the spectrum is flat more lies outside of a subspace than is seen of it, and the first proof fails: the route comes to its end
/// nevertheless.
#[test]
fn flat_spectra_are_proven() {
    for (n, columns, kept) in [(768, 3072, 77), (600, 2400, 60)] {
        let mut gram = gram(&rounded(&gaussian(n, columns, 1)));
        let energy = trace(&gram);
        assert!(leading(&mut gram, kept, energy, |_| true).is_some(), "{n} {columns}");
    }
}
