//! Every selector keeps the contract, and its settings order its ranks.

use calabi_api::settings::{Fraction as Share, NonNegative};
use calabi_api::{LayerSpectrum, Rank, RankSelector, Shape, Spectrum};
use calabi_rank::{
    Combined, EffectiveRank, Energy, Fixed, Fraction, HardThreshold, MaxError, Otherwise, RelativeError, SpectralGap,
    Window,
};
use calabi_testing::selectors::{conforms, monotone};

const SHARES: [f64; 7] = [1e-6, 0.07, 0.3, 0.5, 0.9, 0.999, 1.0];

fn share(value: f64) -> Share {
    Share::new(value).expect("a share")
}

fn energy(threshold: f64) -> Energy {
    Energy { threshold: share(threshold) }
}

fn max_error(epsilon: f64) -> MaxError {
    MaxError { epsilon: RelativeError::new(epsilon).expect("between 0 and 1") }
}

fn fraction(keep: f64) -> Fraction {
    Fraction { keep: share(keep) }
}

fn fixed(rank: usize) -> Fixed {
    Fixed { rank: Rank::new(rank).expect("not zero") }
}

fn combined(energy: f64) -> Combined {
    Combined::new(share(energy))
}

#[test]
fn energy_conforms() {
    for threshold in SHARES {
        conforms(&energy(threshold));
    }
    monotone(&SHARES.map(energy));
}

#[test]
fn max_error_conforms() {
    let errors = [0.9999, 0.5, 0.1, 1e-3, 1e-9];
    for epsilon in errors {
        conforms(&max_error(epsilon));
    }
    monotone(&errors.map(max_error));
}

#[test]
fn fraction_conforms() {
    for keep in SHARES {
        conforms(&fraction(keep));
    }
    monotone(&SHARES.map(fraction));
}

#[test]
fn fixed_conforms() {
    let ranks = [1, 2, 16, 100, 4096];
    for rank in ranks {
        conforms(&fixed(rank));
    }
    monotone(&ranks.map(fixed));
}

#[test]
fn combined_conforms() {
    for energy in [0.3, 0.95, 1.0] {
        conforms(&combined(energy));
    }
    monotone(&SHARES.map(combined));
}

#[test]
fn spectral_gap_conforms() {
    let deviations = NonNegative::new(2.0).expect("not negative");
    for otherwise in [Otherwise::Dense, Otherwise::Largest, Otherwise::Energy(share(0.9))] {
        conforms(&SpectralGap { otherwise, ..SpectralGap::default() });
        conforms(&SpectralGap { otherwise, deviations, ..SpectralGap::default() });
    }
    for (from, to) in [(0.0, 1.0), (0.2, 0.3), (0.9, 1.0)] {
        let window = Window::new(from, to).expect("a window");
        conforms(&SpectralGap { window, otherwise: Otherwise::Largest, ..SpectralGap::default() });
    }
}

#[test]
fn hard_threshold_conforms() {
    conforms(&HardThreshold {});
}

#[test]
fn effective_rank_conforms() {
    conforms(&EffectiveRank {});
}

#[test]
fn zero_weights_get_rank_one_from_all() {
    let selectors: [Box<dyn RankSelector>; 8] = [
        Box::new(energy(1.0)),
        Box::new(max_error(0.1)),
        Box::new(fraction(1.0)),
        Box::new(fixed(9)),
        Box::new(combined(0.9)),
        Box::new(SpectralGap::default()),
        Box::new(HardThreshold {}),
        Box::new(EffectiveRank {}),
    ];
    let zero = Spectrum::complete(vec![0.0; 12]).expect("a spectrum");
    for selector in selectors {
        let layer = LayerSpectrum::new("layer", Shape::new(12, 40).expect("not empty"), &zero);
        let choice = selector.select(&layer).expect("a choice");
        assert_eq!((choice.kept, &*choice.because), (calabi_api::Kept::Rank(Rank::ONE), "the weight is zero"));
    }
}
