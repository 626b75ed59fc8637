//! Nothing beats the factors: a reference that shares no code with them, and any other factors.

use calabi_testing::matrices::orthonormal;

use super::*;

/// Squared singular values, largest first, by one-sided Jacobi rotations.
fn jacobi(mut a: Array2<f64>) -> Vec<f64> {
    for _ in 0..60 {
        for p in 0..a.ncols() {
            for q in 0..p {
                let (x, y) = (a.column(p).to_owned(), a.column(q).to_owned());
                let (xx, yy, xy) = (x.dot(&x), y.dot(&y), x.dot(&y));
                if xy.abs() > 1e-16 * (xx * yy).sqrt() {
                    let (sin, cos) = (0.5 * (2.0 * xy).atan2(xx - yy)).sin_cos();
                    a.column_mut(p).assign(&(&x * cos + &y * sin));
                    a.column_mut(q).assign(&(&y * cos - &x * sin));
                }
            }
        }
    }
    let mut squares: Vec<f64> = a.columns().into_iter().map(|c| c.dot(&c)).collect();
    squares.sort_by(|a, b| b.total_cmp(a));
    squares
}

/// `L` of `D = L Lᵀ`, lower triangular.
fn cholesky(d: &Array2<f64>) -> Array2<f64> {
    let mut l = Array2::<f64>::zeros(d.dim());
    for i in 0..d.nrows() {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| l[(i, k)] * l[(j, k)]).sum();
            l[(i, j)] = if i == j { (d[(i, i)] - known).sqrt() } else { (d[(i, j)] - known) / l[(j, j)] };
        }
    }
    l
}

fn well_conditioned() -> impl Strategy<Value = Case> {
    (1_usize..10, 1_usize..10, prop::sample::select(vec![0.0, 1.0, 5.0]), any::<u64>())
        .prop_map(|(m, n, mean, seed)| case(m, n, 6 * n + 20, Defect::None, mean, seed))
}

fn gram(case: &Case, bias: Bias) -> Metric {
    let unshrunk = Shrinkage::Fixed(calabi_api::settings::Share::new(0.0).unwrap());
    Metric::gram(case.statistics(), bias, unshrunk)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whitening by Cholesky: the tail of the spectrum of `W L` is the least loss of every rank.
    #[test]
    fn as_whitening_finds_it(case in well_conditioned()) {
        let Statistics { gram: moments, mean, .. } = case.statistics();
        let centred = Array2::from_shape_fn(moments.dim(), |(i, j)| moments[(i, j)] - mean[i] * mean[j]);
        for (bias, d) in [(Bias::None, moments), (Bias::Joint, centred)] {
            let squares = jacobi(case.weight.mapv(f64::from).dot(&cholesky(&d)));
            let found = whole(&case.weight, &gram(&case, bias));
            for r in 0..=case.full_rank() {
                let least: f64 = squares.iter().skip(r).sum();
                let loss = found.spectrum().loss(r);
                let off = (loss - least).abs() / found.spectrum().energy();
                prop_assert!(off <= 1e-11, "{bias:?} {r}: {loss:e} {least:e}");
            }
        }
    }

    /// On the calibration data, a bias that makes up for the mean never hurts, and choosing directions with it never
    /// does.
    #[test]
    fn joint_is_at_most_residual_is_at_most_none(case in cases()) {
        let weight = case.weight.mapv(f64::from);
        let found = BIASES.map(|bias| (bias, whole(&case.weight, &gram(&case, bias))));
        let energy = found[0].1.spectrum().energy();
        for r in 0..=case.full_rank() {
            let [none, residual, joint] =
                found.each_ref().map(|(bias, f)| on_data(&case, &replaced(weight.view(), f, r), *bias));
            prop_assert!(residual <= none + 1e-12 * energy, "rank {r}: residual {residual:e}, none {none:e}");
            prop_assert!(joint <= residual + 1e-12 * energy, "rank {r}: joint {joint:e}, residual {residual:e}");
        }
    }

    /// Whatever the factors and their bias, they lose no less.
    #[test]
    fn no_other_factors_lose_less(case in well_conditioned(), r in 1_usize..9, seed: u64) {
        let r = r.min(case.full_rank());
        let weight = case.weight.mapv(f64::from);
        for bias in [Bias::None, Bias::Joint] {
            let found = whole(&case.weight, &gram(&case, bias));
            let best = replaced(weight.view(), &found, r);
            let loss = on_data(&case, &best, bias);
            let any = orthonormal(case.weight.nrows(), r, seed);
            let near = found.precise_basis(rank(r)).unwrap().to_owned() + 1e-3 * &any;
            let right = near.t().dot(&weight) + 1e-3 * gaussian(r, weight.ncols(), seed);
            for other in [any.dot(&any.t().dot(&weight)), near.dot(&right)] {
                let lost = on_data(&case, &other, bias);
                prop_assert!(loss <= lost + 1e-12 * found.spectrum().energy(), "{bias:?}: {loss:e} {lost:e}");
            }
        }
    }
}
