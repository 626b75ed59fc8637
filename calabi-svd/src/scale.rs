//! Scaling by powers of two, which changes no digit.

/// A power of two by which numbers are divided before a computation, and multiplied after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    exponent: i32,
}

impl Scale {
    /// Numbers stay as they are.
    pub(crate) const NONE: Self = Self { exponent: 0 };

    /// The scale that brings `largest`, finite and not negative, into [1, 2); zero stays.
    pub(crate) fn of(largest: f64) -> Self {
        if largest == 0.0 {
            return Self { exponent: 0 };
        }
        let biased = |x: f64| i32::try_from((x.to_bits() >> 52) & 0x7ff).unwrap_or(0);
        let exponent = match biased(largest) {
            0 => biased(largest * 2_f64.powi(64)) - 1023 - 64,
            normal => normal - 1023,
        };
        Self { exponent }
    }

    /// `x / 2^e`, in two steps: 2^-e itself may overflow.
    pub(crate) fn down(self, x: f64) -> f64 {
        let half = self.exponent / 2;
        x * 2_f64.powi(-half) * 2_f64.powi(half - self.exponent)
    }

    /// Whether numbers so large or small square and add up in `f32` without being scaled.
    pub(crate) fn is_modest(self) -> bool {
        (-32..=32).contains(&self.exponent)
    }

    /// `x · 2^e`.
    pub(crate) fn up(self, x: f64) -> f64 {
        let half = self.exponent / 2;
        x * 2_f64.powi(half) * 2_f64.powi(self.exponent - half)
    }

    /// `x · 4^(e/2)`: the root of a number that was divided by `2^e`, from the root of the quotient.
    pub(crate) fn up_root(self, root: f64) -> f64 {
        let even = Self { exponent: self.exponent.div_euclid(2) };
        let odd = if self.exponent.rem_euclid(2) == 1 { std::f64::consts::SQRT_2 } else { 1.0 };
        even.up(root * odd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_comes_into_one_to_two_and_back() {
        for x in [1.0, 1.5, 1e-40, 3e38, f64::MIN_POSITIVE / 8.0, 5e-324, f64::MAX, 0.7] {
            let scale = Scale::of(x);
            assert!((1.0..2.0).contains(&scale.down(x)), "{x:e}");
            assert_eq!(scale.up(scale.down(x)).to_bits(), x.to_bits(), "{x:e}");
            let root = scale.up_root(scale.down(x).sqrt());
            assert!((root / x.sqrt() - 1.0).abs() < 1e-15, "{x:e}");
        }
        assert_eq!(Scale::of(0.0).down(0.0).to_bits(), 0);
    }
}
