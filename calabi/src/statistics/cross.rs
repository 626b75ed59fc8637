//! Moments of an input before and after its prefix was compressed, token beside token.

use calabi_api::Statistics;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis};

use super::moments::{Block, Moments, MomentsError};

/// What [`CrossMoments`] saw: `x` of the original prefix, `x'` of the compressed one, on the same tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CrossStatistics {
    /// Of `x`.
    pub(crate) original: Statistics,
    /// Of `x'`.
    pub(crate) compressed: Statistics,
    /// `E[x x'ᵀ]`, uncentred.
    pub(crate) cross: Array2<f64>,
}

/// The joint moments of pairs of inputs of `n` features; as [`Moments`], with three matrices for one.
#[derive(Debug)]
pub(crate) struct CrossMoments {
    original: Moments,
    compressed: Moments,
    rows: [Block; 2],
    /// `Σ (x−s)(x'−s')ᵀ`.
    products: Array2<f64>,
    scratch: Array2<f32>,
}

impl CrossMoments {
    /// Nothing seen yet of inputs of `n` features.
    pub(crate) fn new(n: usize) -> Self {
        Self {
            original: Moments::new(n),
            compressed: Moments::new(n),
            rows: [Block::new(n), Block::new(n)],
            products: Array2::zeros((n, n)),
            scratch: Array2::zeros((n, n)),
        }
    }

    /// Takes rows of the same tokens on both sides.
    ///
    /// # Errors
    /// Where there are more of one than of the other, their width is another, or a value is not finite.
    pub(crate) fn add(
        &mut self,
        original: ArrayView2<'_, f32>,
        compressed: ArrayView2<'_, f32>,
    ) -> Result<(), MomentsError> {
        if original.nrows() != compressed.nrows() {
            return Err(MomentsError::Unpaired { original: original.nrows(), compressed: compressed.nrows() });
        }
        let [x, y] = &mut self.rows;
        x.check(original)?;
        y.check(compressed)?;
        self.original.add(original)?;
        self.compressed.add(compressed)?;
        let mut rest = (original, compressed);
        while rest.0.nrows() > 0 {
            let now = self.rows[0].free().min(rest.0.nrows());
            let (x, y) = (rest.0.split_at(Axis(0), now), rest.1.split_at(Axis(0), now));
            self.rows[0].push(x.0);
            self.rows[1].push(y.0);
            if self.rows[0].free() == 0 {
                self.flush();
            }
            rest = (x.1, y.1);
        }
        Ok(())
    }

    /// What was seen.
    ///
    /// # Errors
    /// As [`Moments::finish`].
    pub(crate) fn finish(mut self) -> Result<CrossStatistics, MomentsError> {
        self.flush();
        let [x, y] = self.rows;
        let (original, compressed) = (self.original.finish()?, self.compressed.finish()?);
        let cross = x.unshifted(self.products, &y);
        if !cross.iter().all(|v| v.is_finite()) {
            return Err(MomentsError::Overflow);
        }
        Ok(CrossStatistics { original, compressed, cross })
    }

    fn flush(&mut self) {
        let [x, y] = &mut self.rows;
        if let (Some(x), Some(y)) = (x.take(), y.take()) {
            general_mat_mul(1.0, &x, &y.t(), 0.0, &mut self.scratch);
            self.products.zip_mut_with(&self.scratch, |sum, &v| *sum += f64::from(v));
        }
    }
}
