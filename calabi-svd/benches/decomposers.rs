//! Decomposers by shape and rank: spectrum and basis of one weight. `cargo bench -p calabi-svd [--features lapack]`.

use std::time::Duration;

use calabi_api::{Decomposer, Rank};
use calabi_svd::{Faer, Randomized};
use calabi_testing::matrices::{gaussian, rounded};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ndarray::Array2;

const SHAPES: [(usize, usize); 5] = [(384, 384), (768, 768), (576, 1536), (768, 3072), (2048, 2048)];

/// Independent entries whose columns fade: the spectrum falls slowly, as those of trained weights do.
fn weight((rows, cols): (usize, usize)) -> Array2<f32> {
    let mut a = gaussian(rows, cols, 1);
    for (j, mut column) in a.columns_mut().into_iter().enumerate() {
        column *= (1.0 + j as f64).powf(-0.5);
    }
    rounded(&a)
}

fn decomposers() -> Vec<(&'static str, Box<dyn Decomposer>)> {
    vec![
        ("faer", Box::new(Faer::default())),
        ("randomized", Box::new(Randomized::default())),
        #[cfg(feature = "lapack")]
        ("lapack", Box::new(calabi_svd::Lapack::default())),
    ]
}

fn by_shape_and_rank(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decompose");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(3));
    for shape in SHAPES {
        let a = weight(shape);
        let full = shape.0.min(shape.1);
        for rank in [full / 10, full / 4].into_iter().filter_map(Rank::new) {
            for (kind, decomposer) in decomposers() {
                let id = BenchmarkId::new(kind, format!("{}x{}/{rank}", shape.0, shape.1));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let decomposition = decomposer.svd(a.view(), rank).expect("a finite matrix");
                        decomposition.basis(rank).expect("a rank within the limit")
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, by_shape_and_rank);
criterion_main!(benches);
