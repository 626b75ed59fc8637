//! What is left of a symmetric matrix, in the order in which a product with a vector reads it.
//!
//! Columns of a matrix that stands in rows and columns are short streams, each of which begins anew; here all of it is one.

use std::ops::Range;

use super::reduce::Lower;
use crate::real::Real;
use crate::threads;

/// Rows that stand together, those of one column after those of the other: as many numbers as the widest vectors have.
pub(crate) const ROWS: usize = 16;
/// Columns that stand together.
const COLUMNS: usize = 4;
/// Numbers that stand together.
pub(crate) const BLOCK: usize = ROWS * COLUMNS;

/// Columns of the matrix for each part of a product with it, and the most parts.
const PART: usize = 512;
const MOST_PARTS: usize = 8;

/// A symmetric matrix: blocks below its diagonal or on it, column after column, zeros on the diagonal and above; and the diagonal.
#[derive(Debug)]
pub(super) struct Packed<T> {
    blocks: Vec<T>,
    diagonal: Vec<T>,
}

impl<T: Real> Packed<T> {
    /// The part of a matrix from row and column `first` on.
    pub(super) fn of(matrix: &Lower<T>, first: usize) -> Self {
        let size = matrix.size - first;
        let diagonal: Vec<T> = (first..matrix.size).map(|j| matrix.entries[j * (matrix.size + 1)]).collect();
        let mut blocks = vec![T::zero_impl(); blocks_before(size, size) * BLOCK];
        let bounds = bounds(0, size);
        let (mut parts, mut rest) = (Vec::new(), blocks.as_mut_slice());
        for pair in bounds.windows(2) {
            let count = blocks_before(size, pair[1]) - blocks_before(size, pair[0]);
            let (part, behind) = rest.split_at_mut(count * BLOCK);
            parts.push((pair[0]..pair[1], part));
            rest = behind;
        }
        threads::each(parts, &|(columns, blocks)| fill(matrix, first, columns, blocks));
        Self { blocks, diagonal }
    }

    fn size(&self) -> usize {
        self.diagonal.len()
    }

    /// The length of vectors that it is multiplied with: those of its own rows, and zeros behind them.
    pub(super) fn padded(&self) -> usize {
        self.size().next_multiple_of(ROWS)
    }

    /// What [`times`](Self::times) needs.
    pub(super) fn scratch(&self) -> usize {
        parts(self.size()).saturating_sub(1) * self.padded()
    }

    /// `y = S x` from row `from` on, for `x` that is zero before it; what stands before it in `y` is of no use. Both are
    /// [padded](Self::padded).
    pub(super) fn times(&self, from: usize, x: &[T], y: &mut [T], scratch: &mut [T]) {
        y.fill(T::zero_impl());
        let bounds = bounds(from / COLUMNS * COLUMNS, self.size());
        let mut ranges = bounds.windows(2).map(|pair| pair[0]..pair[1]);
        let first = ranges.next().unwrap_or_default();
        let others: Vec<_> = ranges.zip(scratch.chunks_mut(self.padded())).collect();
        let other = |(columns, sums): (Range<usize>, &mut [T])| {
            sums[columns.start / ROWS * ROWS..].fill(T::zero_impl());
            self.times_columns(columns, x, sums);
        };
        if others.is_empty() {
            self.times_columns(first, x, y);
        } else {
            threads::join(|| self.times_columns(first, x, y), || threads::each(others, &other));
        }
        for (&start, sums) in bounds[1..].iter().zip(scratch.chunks(self.padded())).take(bounds.len() - 2) {
            y[start..].iter_mut().zip(&sums[start..]).for_each(|(y, &sum)| *y += sum);
        }
        let own = y[from..].iter_mut().zip(&x[from..]).zip(&self.diagonal[from..]);
        own.for_each(|((y, &x), &d)| *y += d * x);
    }

    /// What these columns, and the rows with their numbers, add to `S x`, but for the diagonal.
    fn times_columns(&self, columns: Range<usize>, x: &[T], y: &mut [T]) {
        let mut blocks = &self.blocks[blocks_before(self.size(), columns.start) * BLOCK..];
        for c in columns.step_by(COLUMNS) {
            let first = c / ROWS * ROWS;
            let (own, behind) = blocks.split_at((self.padded() - first) * COLUMNS);
            let products = T::times_blocks(own, std::array::from_fn(|k| x[c + k]), &x[first..], &mut y[first..]);
            y[c..].iter_mut().zip(products).for_each(|(y, product)| *y += product);
            blocks = behind;
        }
    }
}

/// Blocks of a matrix of this size before those of column `c`, a multiple of [`COLUMNS`] or the size itself.
fn blocks_before(size: usize, c: usize) -> usize {
    const BESIDE: usize = ROWS / COLUMNS;
    let (high, groups) = (size.div_ceil(ROWS), c.div_ceil(COLUMNS));
    let whole = groups / BESIDE;
    // Each ROWS columns are one block lower than those before.
    BESIDE * (whole * high - whole * whole.saturating_sub(1) / 2) + groups % BESIDE * (high - whole)
}

fn parts(size: usize) -> usize {
    (size / PART).clamp(1, MOST_PARTS)
}

/// Where parts of about as many entries of the lower triangle from column `from` on, a multiple of [`COLUMNS`], begin and end: multiples
/// of it too, but for the last.
fn bounds(from: usize, size: usize) -> Vec<usize> {
    let (columns, parts) = (size - from, parts(size - from));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of the size
    let share = |part: usize| (columns as f64 * (1.0 - (1.0 - part as f64 / parts as f64).sqrt())) as usize;
    (0..parts).map(|part| from + share(part) / COLUMNS * COLUMNS).chain([size]).collect()
}

/// Copies what is below the diagonal of these columns, counted from `first`.
fn fill<T: Real>(matrix: &Lower<T>, first: usize, columns: Range<usize>, mut blocks: &mut [T]) {
    let size = matrix.size - first;
    for c in columns.step_by(COLUMNS) {
        let top = c / ROWS * ROWS;
        let (own, behind) = blocks.split_at_mut((size.next_multiple_of(ROWS) - top) * COLUMNS);
        for j in c..size.min(c + COLUMNS) {
            let column = matrix.column(first + j, first + top);
            let (above, place) = (j + 1 - top, (j - c) * ROWS);
            for (row, (block, rows)) in own.chunks_exact_mut(BLOCK).zip(column.chunks(ROWS)).enumerate() {
                let skipped = above.saturating_sub(row * ROWS).min(rows.len());
                block[place + skipped..place + rows.len()].copy_from_slice(&rows[skipped..]);
            }
        }
        blocks = behind;
    }
}

#[cfg(test)]
mod tests {
    use calabi_testing::matrices::gaussian;

    use super::*;

    fn check<T: Real>(n: usize, first: usize, precision: f64) {
        let a = gaussian(n, n, n as u64);
        let symmetric = |i: usize, j: usize| a[(i.max(j), i.min(j))];
        // Column after column; what stands above the diagonal does not count.
        let lower = Lower { entries: a.t().iter().map(|&v| T::of(v)).collect(), size: n };
        let packed = Packed::of(&lower, first);
        let size = n - first;
        for from in [0, 1, size / 3, size - 1] {
            let mut x = vec![T::zero_impl(); packed.padded()];
            x[from..size].iter_mut().zip(gaussian(1, size - from, 3).iter()).for_each(|(to, &v)| *to = T::of(v));
            let unknown = |count: usize| vec![T::of(f64::NAN); count];
            let (mut y, mut scratch) = (unknown(packed.padded()), unknown(packed.scratch()));
            packed.times(from, &x, &mut y, &mut scratch);
            for (i, y) in y.iter().enumerate().take(size).skip(from) {
                let wanted: f64 = (from..size).map(|j| symmetric(first + i, first + j) * x[j].wide()).sum();
                let off = (y.wide() - wanted).abs();
                assert!(off < precision * (n as f64), "{n} from {first} and {from}: {} {wanted}", y.wide());
            }
        }
    }

    #[test]
    fn products_are_those_of_the_symmetric_matrix() {
        for (n, first) in [(1, 0), (3, 0), (4, 1), (17, 0), (64, 5), (131, 32), (1100, 7), (1700, 32)] {
            check::<f64>(n, first, 1e-13);
            check::<f32>(n, first, 1e-6);
        }
    }
}
