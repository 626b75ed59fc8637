//! What must not change a bit: strides, powers of two.

use calabi_api::{Decomposer, Rank};
use calabi_svd::{Accuracy, Faer, Randomized};
use calabi_testing::matrices::{gaussian, rounded};
use ndarray::{Array2, ShapeBuilder};
use proptest::prelude::*;

fn decomposers() -> [Box<dyn Decomposer>; 3] {
    let small = Randomized { oversampling: 2, ..Randomized::default() };
    [Box::new(Faer::default()), Box::new(Faer { accuracy: Accuracy::Full }), Box::new(small)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn strides_and_powers_of_two_change_no_bit(rows in 1..50_usize, cols in 1..50_usize, exponent in -90..90_i32) {
        let a = rounded(&gaussian(rows, cols, (rows * 64 + cols) as u64));
        let limit = Rank::new(rows.min(cols).div_ceil(4)).unwrap();
        let mut columns = Array2::zeros(a.raw_dim().f());
        columns.assign(&a);
        let scaled = a.mapv(|v| v * 2_f32.powi(exponent));
        for decomposer in decomposers() {
            let once = decomposer.svd(a.view(), limit).unwrap();
            let turned = decomposer.svd(columns.view(), limit).unwrap();
            let scaled = decomposer.svd(scaled.view(), limit).unwrap();
            prop_assert_eq!(once.spectrum(), turned.spectrum());
            let back: Vec<f64> = scaled.spectrum().values().iter().map(|v| v * 2_f64.powi(-exponent)).collect();
            prop_assert_eq!(once.spectrum().values(), &back);
            prop_assert_eq!(once.vectors(limit).unwrap(), turned.vectors(limit).unwrap());
            prop_assert_eq!(once.vectors(limit).unwrap(), scaled.vectors(limit).unwrap());
        }
    }
}
