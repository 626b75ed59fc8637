//! From a dense layer of candle to its factors.

use calabi_api::{Choice, LayerSpectrum, Rank, RankSelector, SelectError, settings};
use calabi_nn::candle_core::{DType, Device, Module, Tensor};
use calabi_nn::candle_nn::Linear;
use calabi_nn::{CompressError, LowRankLinear};
use calabi_rank::{Fixed, Fraction};
use calabi_svd::Faer;
use proptest::prelude::*;

use super::{apart, noise};

fn fixed(rank: usize) -> Fixed {
    Fixed { rank: Rank::new(rank).unwrap() }
}

fn dense(m: usize, n: usize, dtype: DType) -> Linear {
    let made = |shape: &[usize], seed| noise(shape, seed).to_dtype(dtype).unwrap();
    Linear::new(made(&[m, n], 1), Some(made(&[m], 2)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_error_is_what_the_spectrum_predicts(m in 1usize..40, n in 1usize..40, share in 0.01..1.0f64, which in 0usize..4) {
        let (dtype, rounding) =
            [(DType::F64, 1e-6), (DType::F32, 1e-6), (DType::F16, 2e-3), (DType::BF16, 2e-2)][which];
        let keep = settings::Fraction::new(share).unwrap();
        let dense = dense(m, n, dtype);
        let made = LowRankLinear::compress(&dense, &Faer::default(), &Fraction { keep }).unwrap();
        let report = &made.report;
        prop_assert_eq!((made.layer.shape(), made.layer.rank(), made.layer.dtype()), (report.shape, report.rank, dtype));
        prop_assert!((report.relative_error - report.predicted_error).abs() < rounding, "{}", report);
        prop_assert_eq!(report.pays(), report.rank.get() * (m + n) < m * n);
    }
}

#[test]
fn at_full_rank_nothing_is_lost_and_the_report_says_that_it_does_not_pay() {
    for (m, n) in [(30, 20), (20, 30)] {
        let dense = dense(m, n, DType::F32);
        let made = LowRankLinear::compress(&dense, &Faer::default(), &fixed(20)).unwrap();
        assert!(!made.report.pays() && made.report.break_even == 12);
        assert!(made.report.to_string().contains("rank 20, not below break-even at 12"), "{}", made.report);
        let x = noise(&[5, n], 3);
        assert!(apart(&made.layer.forward(&x).unwrap(), &dense.forward(&x).unwrap()) < 1e-5);
        let refused = LowRankLinear::compress_below_break_even(&dense, &Faer::default(), &fixed(12)).unwrap_err();
        assert!(matches!(refused, CompressError::PastBreakEven { break_even: 12, .. }), "{refused}");
        let made = LowRankLinear::compress_below_break_even(&dense, &Faer::default(), &fixed(11)).unwrap();
        assert!(made.report.pays());
    }
}

#[test]
fn the_inner_vector_is_no_longer_than_output_or_input() {
    for (m, n) in [(20, 30), (30, 20)] {
        let made = LowRankLinear::compress(&dense(m, n, DType::F32), &Faer::default(), &fixed(6)).unwrap().layer;
        let basis = if m < n { made.left().t().unwrap() } else { made.right().clone() };
        let gram = basis.matmul(&basis.t().unwrap()).unwrap();
        assert!(apart(&gram, &Tensor::eye(6, DType::F32, &Device::Cpu).unwrap()) < 1e-5);
    }
}

#[test]
fn a_weight_of_large_halves_stays_within_f16() {
    let weight = (noise(&[40, 60], 1) * 6e4).unwrap().to_dtype(DType::F16).unwrap();
    let made = LowRankLinear::compress(&Linear::new(weight, None), &Faer::default(), &fixed(40)).unwrap();
    assert!(made.report.relative_error < 1e-3, "{}", made.report);
}

/// Wants every layer dense.
#[derive(Debug)]
struct Never;

impl RankSelector for Never {
    fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
        Ok(Choice::dense("never"))
    }
}

#[test]
fn what_cannot_be_factorized_is_an_error() {
    let compress = |weight: Tensor, selector: &dyn RankSelector| {
        LowRankLinear::compress(&Linear::new(weight, None), &Faer::default(), selector).unwrap_err()
    };
    let nan = Tensor::full(f32::NAN, (3, 4), &Device::Cpu).unwrap();
    assert!(matches!(compress(nan, &fixed(1)), CompressError::Decompose(_)));
    let empty = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(compress(empty, &fixed(1)), CompressError::Decompose(_)));
    assert!(matches!(compress(noise(&[3], 1), &fixed(1)), CompressError::Tensor(_)));
    assert_eq!(compress(noise(&[3, 4], 1), &Never).to_string(), "the layer stays dense: never");
}
