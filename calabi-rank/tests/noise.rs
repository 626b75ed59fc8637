//! `hard-threshold` takes noise away: what it keeps lies nearer to the clean weight than the noisy weight does.

use calabi_api::{Kept, LayerSpectrum, RankSelector, Shape, Spectrum};
use calabi_rank::HardThreshold;
use ndarray::{Array1, Array2, Axis};
use proptest::collection::vec;
use proptest::prelude::*;

/// Left singular vectors times singular values in columns, largest first, and right singular vectors in columns, of a
/// matrix that is not wide: one-sided Jacobi (Hestenes), slow and simple.
fn svd(mut a: Array2<f64>) -> (Array2<f64>, Array2<f64>) {
    let n = a.ncols();
    let mut v = Array2::eye(n);
    for _ in 0..9 {
        for p in 0..n {
            for q in p + 1..n {
                let (x, y) = (a.column(p).to_owned(), a.column(q).to_owned());
                let angle = 0.5 * (2.0 * x.dot(&y)).atan2(x.dot(&x) - y.dot(&y));
                rotate(&mut a, p, q, angle);
                rotate(&mut v, p, q, angle);
            }
        }
    }
    let lengths: Vec<f64> = a.axis_iter(Axis(1)).map(|column| column.dot(&column)).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    (a.select(Axis(1), &order), v.select(Axis(1), &order))
}

fn rotate(a: &mut Array2<f64>, p: usize, q: usize, angle: f64) {
    let (sin, cos) = angle.sin_cos();
    let (x, y) = (a.column(p).to_owned(), a.column(q).to_owned());
    a.column_mut(p).assign(&(&x * cos + &y * sin));
    a.column_mut(q).assign(&(&y * cos - &x * sin));
}

/// The weight cut at the rank that `hard-threshold` chooses, and that rank.
fn denoised(weight: &Array2<f64>) -> (Array2<f64>, usize) {
    let (us, v) = svd(weight.clone());
    let values = us.axis_iter(Axis(1)).map(|column| column.dot(&column).sqrt()).collect();
    let (shape, spectrum) = (Shape::of(weight.view()).expect("not empty"), Spectrum::complete(values).expect("sorted"));
    let choice = HardThreshold {}.select(&LayerSpectrum::new("layer", shape, &spectrum)).expect("a choice");
    let Kept::Rank(rank) = choice.kept else { panic!("dense") };
    let r = rank.get();
    let leading: Vec<usize> = (0..r).collect();
    (us.select(Axis(1), &leading).dot(&v.select(Axis(1), &leading).t()), r)
}

fn distance(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).mapv(|x| x * x).sum().sqrt()
}

/// Numbers of mean 0 and variance 1.
fn white(rows: usize, cols: usize) -> impl Strategy<Value = Array2<f64>> {
    let normal = vec(-1.0..1.0_f64, 6).prop_map(|uniform| uniform.iter().sum::<f64>() / 2.0_f64.sqrt());
    vec(normal, rows * cols).prop_map(move |entries| {
        Array2::from_shape_vec((rows, cols), entries).expect("as many entries as there are places")
    })
}

/// A matrix of some rank up to 4, and noise of some strength, from far below the signal up to its size.
fn noisy() -> impl Strategy<Value = (Array2<f64>, Array2<f64>, usize)> {
    (24..=48_usize, 16..=24_usize, 1..=4_usize, 0.01..0.3_f64).prop_flat_map(|(m, n, rank, strength)| {
        (white(m, rank), white(n, rank), white(m, n)).prop_map(move |(left, right, noise)| {
            let sizes = Array1::from_iter((0..rank).map(|i| 1.0 + i as f64));
            ((left * sizes).dot(&right.t()), noise * strength, rank)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_lies_nearer_to_the_clean_weight((clean, noise, _) in noisy()) {
        let weight = &clean + &noise;
        let (kept, rank) = denoised(&weight);
        prop_assert!(distance(&kept, &clean) < distance(&weight, &clean), "rank {rank}");
    }

    #[test]
    fn weak_noise_leaves_the_rank_of_the_clean_weight((clean, noise, rank) in noisy()) {
        let weak = noise * 1e-2;
        let weight = &clean + &weak;
        for weight in [weight.t().as_standard_layout().t().to_owned(), weight] {
            prop_assert_eq!(denoised(&weight).1, rank);
        }
    }
}

#[test]
fn the_decomposition_of_this_test_is_one() {
    let a = Array2::from_shape_fn((7, 5), |(i, j)| ((3 * i + 5 * j) % 11) as f64 - 4.0);
    let (us, v) = svd(a.clone());
    assert!(distance(&us.dot(&v.t()), &a) < 1e-12);
    assert!(distance(&v.t().dot(&v), &Array2::eye(5)) < 1e-12);
    let gram = us.t().dot(&us);
    assert!(distance(&gram, &Array2::from_diag(&gram.diag())) < 1e-10);
}
