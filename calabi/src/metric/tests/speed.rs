//! How long a layer takes, in seconds of processor: run with `speed -- --ignored --nocapture`.

use std::fs;

use super::*;
use crate::statistics::Moments;

/// Seconds that this thread has been on a processor.
fn seconds() -> f64 {
    let spent = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    spent.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
#[ignore = "a measurement, not a check"]
fn seconds_for_the_shapes_of_smollm2() {
    for (m, n) in [(576, 576), (1536, 576), (576, 1536), (192, 576)] {
        let case = case(m, n, 2048, Defect::None, 1.0, 1);
        let started = seconds();
        let mut moments = Moments::new(n);
        moments.add(case.inputs.view()).unwrap();
        let statistics = moments.finish().unwrap();
        println!("{m}x{n}: moments of 2048 tokens {:.3} s", seconds() - started);
        for bias in BIASES {
            let metric = Metric::gram(statistics.clone(), bias, Shrinkage::FromTokens);
            for what in ["first layer of its input", "next layer"] {
                let started = seconds();
                let found = whole(&case.weight, &metric);
                println!("{m}x{n} {bias:?}, {what}: {:.3} s", seconds() - started);
                assert!(found.spectrum().loss(10) > 0.0);
            }
        }
        let started = seconds();
        let plain = whole(&case.weight, &Metric::identity(n));
        println!("{m}x{n} plain: {:.3} s", seconds() - started);
        let started = seconds();
        let factors = factors_from_basis(case.weight.view(), plain.basis(rank(100)).unwrap());
        let metric = Metric::gram(statistics.clone(), Bias::None, Shrinkage::FromTokens);
        let loss = measured_loss(case.weight.view(), &factors, (&metric, &Room::new()), None);
        println!("{m}x{n} factors of rank 100, measured: {:.3} s ({loss:.3})", seconds() - started);
    }
}
