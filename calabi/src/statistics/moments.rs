//! Sums over tokens of one distinct input: exact counts and means, products in blocks of `f32`, sums in `f64`.

use calabi_api::Statistics;
use calabi_svd::dense::lower_gram;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use thiserror::Error;

/// Tokens of which products are summed in `f32`, whatever the pieces in which they arrive.
pub(crate) const BLOCK: usize = 256;

/// Why rows were not taken. Nothing of them was.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub(crate) enum MomentsError {
    /// The model itself overflowed.
    #[error("feature {feature} of token {token} is {value}, not a finite number: check the model and its samples")]
    NonFinite {
        /// Counted from zero, over all tokens.
        token: u64,
        /// Counted from zero.
        feature: usize,
        /// The value.
        value: f32,
    },
    /// Rows of another input.
    #[error("rows of {found} features came where there are {wanted}")]
    Width {
        /// Features of the rows.
        found: usize,
        /// Features of the input.
        wanted: usize,
    },
    /// A token of one side has no counterpart.
    #[error("{original} tokens of the original model came with {compressed} of the compressed one")]
    Unpaired {
        /// Rows before compression.
        original: usize,
        /// Rows after it.
        compressed: usize,
    },
    /// Nothing was seen.
    #[error("no token was seen: are all samples padding?")]
    NoTokens,
    /// A sum overflowed.
    #[error("the values are too large: their squares are beyond the range of f32")]
    Overflow,
}

/// The moments of one distinct input of `n` features.
///
/// Rows are shifted by the mean of the first block: without that, a feature of mean 1000 and deviation 1 would lose the
/// digits of its variance. Memory: `12 n²` bytes and two blocks. Results do not depend on the pieces in which rows
/// come.
#[derive(Debug)]
pub(crate) struct Moments {
    rows: Block,
    /// `Σ (x−s)(x−s)ᵀ`, lower triangle.
    products: Array2<f64>,
    scratch: Array2<f32>,
}

impl Moments {
    /// Nothing seen yet of an input of `n` features.
    pub(crate) fn new(n: usize) -> Self {
        Self { rows: Block::new(n), products: Array2::zeros((n, n)), scratch: Array2::zeros((n, n)) }
    }

    /// Takes rows of tokens (tokens × features).
    ///
    /// # Errors
    /// Where their width is another, or a value is not finite.
    pub(crate) fn add(&mut self, rows: ArrayView2<'_, f32>) -> Result<(), MomentsError> {
        self.rows.check(rows)?;
        let mut rest = rows;
        while rest.nrows() > 0 {
            let (now, later) = rest.split_at(Axis(0), self.rows.free().min(rest.nrows()));
            self.rows.push(now);
            if self.rows.free() == 0 {
                self.flush()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// What was seen.
    ///
    /// # Errors
    /// Where no token was, or a product overflowed.
    pub(crate) fn finish(mut self) -> Result<Statistics, MomentsError> {
        self.flush()?;
        if self.rows.tokens == 0 {
            return Err(MomentsError::NoTokens);
        }
        let Self { rows, products, .. } = self;
        let mut gram = rows.unshifted(products, &rows);
        mirror(&mut gram);
        let mean = rows.mean();
        if !gram.iter().chain(&mean).all(|v| v.is_finite()) {
            return Err(MomentsError::Overflow);
        }
        Ok(Statistics { gram, mean, tokens: rows.tokens })
    }

    fn flush(&mut self) -> Result<(), MomentsError> {
        if let Some(shifted) = self.rows.take() {
            lower_gram(shifted.view(), &mut self.scratch).map_err(|_| MomentsError::Overflow)?;
            for (i, (mut sums, block)) in self.products.rows_mut().into_iter().zip(self.scratch.rows()).enumerate() {
                sums.iter_mut().zip(block).take(i + 1).for_each(|(sum, &v)| *sum += f64::from(v));
            }
        }
        Ok(())
    }
}

/// Rows that wait until a block is full, and the sums that need no products.
#[derive(Debug)]
pub(super) struct Block {
    /// Features × tokens: products want features in rows.
    waiting: Array2<f32>,
    filled: usize,
    /// `s`, the mean of the first block.
    shift: Option<Array1<f32>>,
    /// `Σ (x−s)`.
    sum: Array1<f64>,
    pub(super) tokens: u64,
}

impl Block {
    pub(super) fn new(n: usize) -> Self {
        let waiting = Array2::zeros((n, BLOCK));
        Self { waiting, filled: 0, shift: None, sum: Array1::zeros(n), tokens: 0 }
    }

    /// How many rows the block still takes.
    pub(super) fn free(&self) -> usize {
        BLOCK - self.filled
    }

    /// Checks rows before any of them is taken.
    pub(super) fn check(&self, rows: ArrayView2<'_, f32>) -> Result<(), MomentsError> {
        if rows.ncols() != self.sum.len() {
            return Err(MomentsError::Width { found: rows.ncols(), wanted: self.sum.len() });
        }
        match rows.indexed_iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some(((row, feature), &value)) => {
                let token = self.tokens + (self.filled + row) as u64;
                Err(MomentsError::NonFinite { token, feature, value })
            }
        }
    }

    /// Takes no more rows than are free.
    pub(super) fn push(&mut self, rows: ArrayView2<'_, f32>) {
        let end = self.filled + rows.nrows();
        self.waiting.slice_axis_mut(Axis(1), (self.filled..end).into()).assign(&rows.t());
        self.filled = end;
    }

    /// The rows that wait, shifted, as features × tokens; their sum is added to the others. None where none wait.
    pub(super) fn take(&mut self) -> Option<Array2<f32>> {
        if self.filled == 0 {
            return None;
        }
        let rows = self.waiting.slice_axis(Axis(1), (..self.filled).into());
        let shift = self.shift.get_or_insert_with(|| mean_of(rows));
        let shifted = &rows - &shift.view().insert_axis(Axis(1));
        for ((sum, row), &s) in self.sum.iter_mut().zip(rows.rows()).zip(shift.iter()) {
            *sum += row.iter().map(|&v| f64::from(v) - f64::from(s)).sum::<f64>();
        }
        self.tokens += self.filled as u64;
        self.filled = 0;
        Some(shifted)
    }

    /// `E[x]`.
    pub(super) fn mean(&self) -> Array1<f64> {
        self.origin() + &self.sum / self.tokens as f64
    }

    /// `E[x yᵀ]` from `Σ (x−s)(y−t)ᵀ`, for the rows `y` that came beside these.
    pub(super) fn unshifted(&self, products: Array2<f64>, beside: &Self) -> Array2<f64> {
        let tokens = self.tokens as f64;
        let (s, t) = (self.origin(), beside.origin());
        let (y, from_s) = (beside.mean(), &self.sum / tokens);
        let mut moments = products;
        // E[xyᵀ] = E[(x−s)(y−t)ᵀ] + E[x−s] tᵀ + s E[y]ᵀ
        for ((mut row, from_s), s) in moments.rows_mut().into_iter().zip(from_s).zip(s) {
            row.iter_mut().zip(&t).zip(&y).for_each(|((v, t), y)| *v = *v / tokens + from_s * t + s * y);
        }
        moments
    }

    fn origin(&self) -> Array1<f64> {
        self.shift.as_ref().map_or_else(|| Array1::zeros(self.sum.len()), |shift| shift.mapv(f64::from))
    }
}

/// Means of the rows, to the nearest `f32`.
#[allow(clippy::cast_possible_truncation)] // any shift near the mean will do
fn mean_of(rows: ArrayView2<'_, f32>) -> Array1<f32> {
    let mean = |row: ArrayView1<'_, f32>| row.iter().map(|&v| f64::from(v)).sum::<f64>() / rows.ncols() as f64;
    rows.rows().into_iter().map(|row| mean(row) as f32).collect()
}

/// Copies the lower triangle to the upper one.
fn mirror(a: &mut Array2<f64>) {
    for i in 0..a.nrows() {
        for j in 0..i {
            a[(j, i)] = a[(i, j)];
        }
    }
}
