//! The exponential function and its kin, written so that the compiler makes vector instructions of them.

use std::f32::consts::LOG2_E;

/// `eˣ`, to a relative error below 2e-7; `x` is held between -87.3 and 88.3, so that no result is denormal or infinite.
/// NaN stays NaN.
#[inline(always)]
#[allow(clippy::inline_always, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number, kept in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let shifted = x * LOG2_E + ROUNDER;
    let whole = shifted - ROUNDER;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut sum = 1.987_569_1e-4;
    sum = sum * rest + 1.398_199_9e-3;
    sum = sum * rest + 8.333_452e-3;
    sum = sum * rest + 4.166_579_6e-2;
    sum = sum * rest + 1.666_666_5e-1;
    sum = sum * rest + 0.5;
    let fraction = sum * rest * rest + rest + 1.0;
    let power = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32).wrapping_add(127) << 23;
    fraction * f32::from_bits(power as u32)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The distribution function of the normal distribution, `(1 + erf(x / √2)) / 2`, by the Chebyshev fit of erfc in
/// Numerical Recipes (section 6.2; relative error below 1.2e-7, to which `f32` adds its own).
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn normal(x: f32) -> f32 {
    const FIT: [f32; 10] = [
        -1.265_512_2,
        1.000_023_7,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_204,
        1.488_515_9,
        -0.822_152_23,
        0.170_872_77,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut sum = FIT[9];
    for i in (0..9).rev() {
        sum = sum * t + FIT[i];
    }
    let tail = 0.5 * t * exp(sum - z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// The density of the normal distribution.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn normal_density(x: f32) -> f32 {
    0.398_942_3 * exp(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_rounding() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "{x}");
        }
    }

    #[test]
    fn exp_is_finite_and_keeps_nan() {
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1e30) >= 0.0);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_agrees_with_the_error_function_in_f64() {
        for i in -800..800 {
            let x = i as f32 * 1e-2;
            let exact = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) / std::f64::consts::SQRT_2));
            assert!((f64::from(normal(x)) - exact).abs() < 3e-7, "{x}");
        }
    }
}
