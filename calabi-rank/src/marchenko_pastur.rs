//! The Marchenko-Pastur law: how the squared singular values of pure noise are spread.

use std::f64::consts::{FRAC_PI_2, PI};

/// The law of the eigenvalues of `X Xᵀ / n` for an `m × n` matrix `X` of independent entries of variance 1, with
/// `β = m / n`, where `0 < β ≤ 1`, and both large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarchenkoPastur {
    beta: f64,
}

impl MarchenkoPastur {
    /// The law for an aspect ratio `β` of at most 1.
    pub(crate) fn new(beta: f64) -> Self {
        Self { beta }
    }

    /// The ends of its support, `(1 ∓ √β)²`.
    fn support(self) -> (f64, f64) {
        let root = self.beta.sqrt();
        ((1.0 - root).powi(2), (1.0 + root).powi(2))
    }

    /// The share of eigenvalues up to `x`: the integral of `√((b − t)(t − a)) / (2πβ t)` from `a`, in closed form.
    fn cumulative(self, x: f64) -> f64 {
        let (beta, (a, b)) = (self.beta, self.support());
        let root = ((b - x) * (x - a)).max(0.0).sqrt();
        // An arc sine by `atan2`, which is also accurate where the sine is near 1.
        let arc = |sine: f64, cosine: f64| sine.atan2(cosine) + FRAC_PI_2;
        let middle = (1.0 + beta) * arc(2.0 * x - a - b, 2.0 * root);
        let inverse = (1.0 - beta) * arc((a + b) * x - 2.0 * a * b, 2.0 * (1.0 - beta) * root);
        (root + middle - inverse) / (2.0 * PI * beta)
    }

    /// The median, by bisection to the last bit.
    pub(crate) fn median(self) -> f64 {
        let (mut below, mut above) = self.support();
        loop {
            let middle = f64::midpoint(below, above);
            if middle <= below || middle >= above {
                return middle;
            }
            if self.cumulative(middle) < 0.5 { below = middle } else { above = middle }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integral of the density from `a` to `x` by the midpoint rule on `t = a + (b − a) sin²θ`, which is smooth.
    fn integral(law: MarchenkoPastur, x: f64) -> f64 {
        const STEPS: i32 = 200_000;
        let (a, b) = law.support();
        let end = ((x - a) / (b - a)).sqrt().asin();
        let width = end / f64::from(STEPS);
        let density = |step| {
            let (sin, cos) = ((f64::from(step) + 0.5) * width).sin_cos();
            (b - a).powi(2) * (sin * cos).powi(2) / (PI * law.beta * (a + (b - a) * sin * sin))
        };
        (0..STEPS).map(density).sum::<f64>() * width
    }

    #[test]
    fn the_closed_form_is_the_integral_of_the_density() {
        for beta in [1e-3, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0] {
            let law = MarchenkoPastur::new(beta);
            let (a, b) = law.support();
            for part in [0.01, 0.2, 0.5, 0.8, 1.0] {
                let x = a + part * (b - a);
                let (closed, numeric) = (law.cumulative(x), integral(law, x));
                assert!((closed - numeric).abs() < 1e-8, "β {beta}, x {x}: {closed} and {numeric}");
            }
        }
    }

    #[test]
    fn half_of_the_mass_lies_below_the_median() {
        for beta in [1e-5, 1e-3, 0.1, 0.7, 1.0] {
            let law = MarchenkoPastur::new(beta);
            assert!((law.cumulative(law.median()) - 0.5).abs() < 1e-9, "β {beta}");
        }
    }
}
