//! Singular values in descending order, with the energy of the whole weight.

use thiserror::Error;

use crate::{Rank, Shape};

/// The singular values `σ₁ ≥ σ₂ ≥ ... ≥ 0` of a weight, all of them or the leading ones, and its energy `‖W‖² = Σσ²`.
///
/// The energy is that of the *whole* weight, so that a share of it stays true when the spectrum is truncated.
///
/// ```
/// use calabi_api::{Rank, Shape, Spectrum};
///
/// let spectrum = Spectrum::complete(vec![3.0, 2.0, 1.0])?;
/// assert!(spectrum.fits(Shape::new(3, 8).unwrap()));
/// assert_eq!((spectrum.energy(), spectrum.loss(1)), (14.0, 5.0));
/// assert_eq!(spectrum.relative_error(1), (5.0_f64 / 14.0).sqrt());
/// assert_eq!(spectrum.rank_for_loss(1.0), Rank::new(2));
///
/// // What a decomposer gives that stops after the first value: what it leaves is known, not how it is spread.
/// let leading = Spectrum::leading(vec![3.0], 14.0)?;
/// assert_eq!(leading, spectrum.truncated(Rank::ONE));
/// assert_eq!((leading.values(), leading.known(), leading.is_complete()), (&[3.0][..], 1, false));
/// assert_eq!((leading.loss(1), leading.rank_for_loss(1.0)), (5.0, None));
/// # Ok::<(), calabi_api::SpectrumError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    values: Vec<f64>,
    /// `tails[r]` is what is lost at rank `r`: the sum of `σ²` beyond the first `r`, smallest first.
    tails: Vec<f64>,
    energy: f64,
    complete: bool,
}

/// Why a list of numbers is no spectrum.
///
/// ```
/// use calabi_api::{Spectrum, SpectrumError};
///
/// assert_eq!(Spectrum::complete(vec![1.0, 2.0]), Err(SpectrumError::NotSorted { index: 1 }));
/// let error = Spectrum::complete(vec![1.0, f64::NAN]).unwrap_err();
/// assert_eq!(error.to_string(), "singular value 1 is NaN: not a finite number of at least zero");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum SpectrumError {
    /// There are no values.
    #[error("a spectrum needs at least one singular value")]
    Empty,
    /// A value or the energy is negative, infinite or not a number.
    #[error("singular value {index} is {value}: not a finite number of at least zero")]
    NotANumber {
        /// Its place, counted from zero.
        index: usize,
        /// The value.
        value: f64,
    },
    /// The values do not descend.
    #[error("singular value {index} is larger than the one before it")]
    NotSorted {
        /// The place of the larger one, counted from zero.
        index: usize,
    },
}

impl Spectrum {
    /// A spectrum of all `min(m, n)` singular values.
    ///
    /// # Errors
    /// Where the values are not finite, not descending or none at all.
    pub fn complete(values: Vec<f64>) -> Result<Self, SpectrumError> {
        Self::checked(values, 0.0, true)
    }

    /// A spectrum of the leading singular values of a weight whose energy `‖W‖²` is `energy`.
    ///
    /// Rounding may put the sum of the squares above `energy`: the rest is then zero.
    ///
    /// # Errors
    /// Where the values or the energy are not finite, the values not descending or none at all.
    pub fn leading(values: Vec<f64>, energy: f64) -> Result<Self, SpectrumError> {
        if !(energy.is_finite() && energy >= 0.0) {
            return Err(SpectrumError::NotANumber { index: values.len(), value: energy });
        }
        let sum: f64 = values.iter().rev().map(|v| v * v).sum();
        Self::checked(values, (energy - sum).max(0.0), false)
    }

    /// The same singular values, with losses of their own: `losses[r]` is what the rank `r` loses, for `r` from 0 to as
    /// many as the values are known; `energy` is what errors are relative to. For bases that were found in one metric
    /// and are judged in another.
    ///
    /// ```
    /// # use calabi_api::Spectrum;
    /// // By the inputs that the layer sees, the second direction matters more than its singular value says.
    /// let spectrum = Spectrum::complete(vec![2.0, 1.0])?.with_losses(vec![16.0, 9.0, 0.0], 16.0)?;
    /// assert_eq!(spectrum.values(), [2.0, 1.0]);
    /// assert_eq!((spectrum.loss(1), spectrum.relative_error(1)), (9.0, 0.75));
    /// # Ok::<(), calabi_api::SpectrumError>(())
    /// ```
    ///
    /// # Errors
    /// Where a loss is negative or not finite, or their number is another.
    pub fn with_losses(self, losses: Vec<f64>, energy: f64) -> Result<Self, SpectrumError> {
        if losses.len() != self.values.len() + 1 {
            return Err(SpectrumError::Empty);
        }
        for (index, &value) in losses.iter().chain([&energy]).enumerate() {
            if !(value.is_finite() && value >= 0.0) {
                return Err(SpectrumError::NotANumber { index, value });
            }
        }
        Ok(Self { tails: losses, energy, ..self })
    }

    fn checked(values: Vec<f64>, rest: f64, complete: bool) -> Result<Self, SpectrumError> {
        if values.is_empty() {
            return Err(SpectrumError::Empty);
        }
        for (index, &value) in values.iter().enumerate() {
            if !(value.is_finite() && value >= 0.0) {
                return Err(SpectrumError::NotANumber { index, value });
            }
            if index > 0 && value > values[index - 1] {
                return Err(SpectrumError::NotSorted { index });
            }
        }
        let mut tails = vec![rest; values.len() + 1];
        for (index, value) in values.iter().enumerate().rev() {
            tails[index] = tails[index + 1] + value * value;
        }
        let energy = tails[0];
        Ok(Self { values, tails, energy, complete })
    }

    /// The singular values, largest first.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// How many singular values are known: at least one.
    #[must_use]
    pub fn known(&self) -> usize {
        self.values.len()
    }

    /// What every rank from 0 to [`known`](Self::known) loses.
    #[must_use]
    pub fn losses(&self) -> &[f64] {
        &self.tails
    }

    /// Whether all `min(m, n)` singular values are known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The energy of the whole weight, `‖W‖²`.
    #[must_use]
    pub fn energy(&self) -> f64 {
        self.energy
    }

    /// What the best approximation of rank `r` loses, `Σ_{i>r} σᵢ²`. Beyond the known values: what they leave.
    #[must_use]
    pub fn loss(&self, r: usize) -> f64 {
        self.tails[r.min(self.values.len())]
    }

    /// The relative error of the best approximation of rank `r` in the Frobenius norm, from 0 to 1.
    #[must_use]
    pub fn relative_error(&self, r: usize) -> f64 {
        if self.energy() > 0.0 { (self.loss(r) / self.energy()).sqrt() } else { 0.0 }
    }

    /// The smallest rank whose loss is at most `loss`; none where the known values do not reach it.
    #[must_use]
    pub fn rank_for_loss(&self, loss: f64) -> Option<Rank> {
        let below = self.tails.iter().rposition(|&tail| tail > loss).map_or(0, |last| last + 1);
        (below <= self.values.len()).then(|| Rank::new(below).unwrap_or(Rank::ONE))
    }

    /// The same spectrum, cut after the first `limit` values; the energy stays.
    #[must_use]
    pub fn truncated(mut self, limit: Rank) -> Self {
        if limit.get() < self.values.len() {
            self.values.truncate(limit.get());
            self.tails.truncate(limit.get() + 1);
            self.complete = false;
        }
        self
    }

    /// Whether a weight of this shape can have this spectrum.
    #[must_use]
    pub fn fits(&self, shape: Shape) -> bool {
        let full = shape.full_rank().get();
        if self.complete { self.values.len() == full } else { self.values.len() <= full }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // small whole numbers are exact
mod tests {
    use super::*;

    #[test]
    fn losses_are_sums_of_what_is_cut() {
        let spectrum = Spectrum::complete(vec![3.0, 2.0, 1.0]).unwrap();
        assert_eq!([0, 1, 2, 3, 9].map(|r| spectrum.loss(r)), [14.0, 5.0, 1.0, 0.0, 0.0]);
        assert_eq!(spectrum.rank_for_loss(5.0), Rank::new(1));
        assert_eq!(spectrum.rank_for_loss(4.9), Rank::new(2));
        assert_eq!(spectrum.rank_for_loss(20.0), Some(Rank::ONE));
    }

    #[test]
    fn a_truncated_spectrum_keeps_the_energy_of_the_whole() {
        let cut = Spectrum::complete(vec![3.0, 2.0, 1.0]).unwrap().truncated(Rank::ONE);
        assert_eq!(cut, Spectrum::leading(vec![3.0], 14.0).unwrap());
        assert_eq!((cut.energy(), cut.loss(1), cut.loss(3)), (14.0, 5.0, 5.0));
        assert_eq!(cut.rank_for_loss(4.0), None);
        assert!(!cut.is_complete());
    }

    #[test]
    fn what_is_no_spectrum_is_refused() {
        assert_eq!(Spectrum::complete(vec![]), Err(SpectrumError::Empty));
        assert_eq!(Spectrum::complete(vec![1.0, 2.0]), Err(SpectrumError::NotSorted { index: 1 }));
        assert!(Spectrum::complete(vec![f64::NAN]).is_err());
        assert!(Spectrum::complete(vec![1.0, -1.0]).is_err());
        assert!(Spectrum::leading(vec![1.0], f64::INFINITY).is_err());
    }
}
