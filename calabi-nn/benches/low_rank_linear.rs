//! The layer on its factors beside candle's dense one, by rank and batch. `cargo bench -p calabi-nn`; for ratios of the
//! two in one interleaved run: `cargo run --release -p calabi-nn --example layer_speed`.

use std::time::Duration;

use calabi_nn::LowRankLinear;
use calabi_nn::candle_core::{Device, Module, Result, Tensor};
use calabi_nn::candle_nn::Linear;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZE: usize = 2048;
const SHARES: [f64; 3] = [0.1, 0.25, 0.4];

fn noise(shape: (usize, usize)) -> Result<Tensor> {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)
}

fn by_rank_and_batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear");
    group.sample_size(30).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for batch in [1, 128] {
        let x = noise((batch, SIZE)).expect("memory for an input");
        let dense = Linear::new(noise((SIZE, SIZE)).expect("memory for a weight"), None);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("dense", batch), |bencher| bencher.iter(|| dense.forward(&x)));
        for share in SHARES {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a size
            let rank = (share * SIZE as f64) as usize;
            let factors = noise((SIZE, rank)).and_then(|left| Ok((left, noise((rank, SIZE))?)));
            let (left, right) = factors.expect("memory for factors");
            // By columns, as layers that are loaded or compressed hold it.
            let right = right.t().and_then(|right| right.contiguous()?.t()).expect("memory for a factor");
            let layer = LowRankLinear::new(left, right, None).expect("factors that fit");
            let id = BenchmarkId::new(format!("rank {rank}"), batch);
            group.bench_function(id, |bencher| bencher.iter(|| layer.forward(&x)));
        }
    }
    group.finish();
}

criterion_group!(benches, by_rank_and_batch);
criterion_main!(benches);
