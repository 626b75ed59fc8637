//! The steps of a factorization by themselves. `cargo bench -p calabi-svd --bench kernels`.

use std::time::Duration;

use calabi_api::{Decomposer, Rank};
use calabi_svd::Faer;
use calabi_svd::dense::{divided, lower_gram, orthonormal, project};
use calabi_svd::whitening::Triangle;
use calabi_testing::matrices::{gaussian, rounded};
use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::{Array2, Axis};

const SIZES: [usize; 3] = [256, 768, 1536];

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernels");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    for n in SIZES {
        let precise = gaussian(n, n, 1);
        let a = rounded(&precise);
        let metric = precise.dot(&precise.t()) + Array2::<f64>::eye(n);
        let root = Triangle::of(metric.view()).expect("a positive definite matrix");
        let rank = Rank::new(n / 4).expect("a rank");
        let mut gram = Array2::zeros((n, n));
        group.bench_function(format!("Gram matrix/{n}"), |b| b.iter(|| lower_gram(a.view(), &mut gram)));
        group.bench_function(format!("spectrum/{n}"), |b| b.iter(|| Faer::default().svd(a.view(), rank)));
        let decomposition = Faer::default().svd(a.view(), rank).expect("a finite matrix");
        let basis = decomposition.basis(rank).expect("a rank within the limit");
        group.bench_function(format!("vectors/{n}"), |b| b.iter(|| decomposition.basis(rank)));
        group.bench_function(format!("projection/{n}"), |b| b.iter(|| project(a.view(), basis.clone())));
        group.bench_function(format!("root of a metric/{n}"), |b| b.iter(|| Triangle::of(metric.view())));
        group.bench_function(format!("images in a metric/{n}"), |b| b.iter(|| root.images(a.view())));
        group.bench_function(format!("orthonormal/{n}"), |b| {
            b.iter(|| orthonormal(precise.slice_axis(Axis(1), (..n / 4).into())));
        });
        group.bench_function(format!("division/{n}"), |b| b.iter(|| divided(precise.view(), metric.view())));
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
