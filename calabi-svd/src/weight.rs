//! A weight as all decomposers take it: checked, scaled by a power of two, row-major.

use std::borrow::Cow;

use calabi_api::{DecomposeError, Rank, Shape, Side};
use faer::{Mat, MatRef};
use ndarray::ArrayView2;

use crate::scale::Scale;
use crate::simd::vectorized;
use crate::tile::{TILE, Tile};

/// Columns of the [wide](Weight::wide) orientation that are converted to `f64` at a time.
const BLOCK: usize = 256;

/// Rows of a tall weight that are turned at a time, at least, and as a share of its columns: sums of many columns take longer to
/// add to.
const TURNED: usize = 384;
const TURNED_SHARE: usize = 4;

/// A finite matrix `A`, kept as it is, or as `A / 2^e` with the largest magnitude in [1, 2) where that is beyond 2^±32: huge
/// and tiny weights are alike.
///
/// The scaling is exact: a power of two changes no digit, but for entries 2^126 times smaller than the largest.
/// It is row-major whatever the strides of the input, so that strides do not change the result.
#[derive(Debug)]
pub(crate) struct Weight<'a> {
    scaled: Cow<'a, [f32]>,
    shape: Shape,
    scale: Scale,
    energy: f64,
}

impl<'a> Weight<'a> {
    /// Reads `a`; a copy of it is kept where it is not row-major, or its entries are far from one.
    pub(crate) fn read(a: ArrayView2<'a, f32>) -> Result<Self, DecomposeError> {
        let shape = Shape::of(a).ok_or(DecomposeError::Empty { rows: a.nrows(), cols: a.ncols() })?;
        let entries = a.to_slice().map_or_else(|| Cow::Owned(a.iter().copied().collect()), Cow::Borrowed);
        let (largest, energy) = measured(&entries);
        if !largest.is_finite() {
            check_finite(a)?;
        }
        let scale = Scale::of(f64::from(largest));
        if scale.is_modest() {
            return Ok(Self { scaled: entries, shape, scale: Scale::NONE, energy });
        }
        #[allow(clippy::cast_possible_truncation)] // exact: see the type's docs
        let scaled = entries.iter().map(|&v| scale.down(f64::from(v)) as f32).collect();
        Ok(Self { scaled, shape, scale, energy: scale.down(scale.down(energy)) })
    }

    /// The smaller side, the left one of a square weight.
    pub(crate) fn side(&self) -> Side {
        if self.shape.rows() <= self.shape.cols() { Side::Left } else { Side::Right }
    }

    /// `min(m, n)`.
    pub(crate) fn full_rank(&self) -> Rank {
        self.shape.full_rank()
    }

    /// By what the entries were divided.
    pub(crate) fn scale(&self) -> Scale {
        self.scale
    }

    /// `‖A‖²` of the scaled entries.
    pub(crate) fn energy(&self) -> f64 {
        self.energy
    }

    /// The scaled entries, `min(m, n) × max(m, n)`: `A`, or its transpose where `m > n`.
    pub(crate) fn wide(&self) -> MatRef<'_, f32> {
        let a = MatRef::from_row_major_slice(&self.scaled, self.shape.rows(), self.shape.cols());
        if self.side() == Side::Left { a } else { a.transpose() }
    }

    /// Hands out the wide orientation in `f64`, a block of columns at a time: where the block begins, and the block.
    ///
    /// Blocks depend on the shape alone, so the order of sums over them does too.
    pub(crate) fn for_each_block(&self, mut take: impl FnMut(usize, MatRef<'_, f64>)) {
        let wide = self.wide();
        let (small, large) = wide.shape();
        let mut buffer = vec![0.0; small * BLOCK.min(large)];
        for first in (0..large).step_by(BLOCK) {
            let width = BLOCK.min(large - first);
            let block = &mut buffer[..small * width];
            widen(wide.subcols(first, width), block);
            take(first, MatRef::from_row_major_slice(block, small, width));
        }
    }

    /// Hands out the wide orientation in `f32`, row after row, a block of columns at a time: square ones of a wide weight:
    /// small enough to be read several times from a cache, large enough to be added to the sums seldom.
    ///
    /// Rows of a tall weight are turned before: in a product, columns that lie as far apart as rows are long fall on the same few
    /// lines of the cache (a third of the time of a product of 2048 columns).
    pub(crate) fn for_each_block_of_rows(&self, mut take: impl FnMut(MatRef<'_, f32>)) {
        let wide = self.wide();
        let (small, large) = wide.shape();
        if self.side() == Side::Left {
            for first in (0..large).step_by(small) {
                take(wide.subcols(first, small.min(large - first)));
            }
            return;
        }
        let height = TURNED.max(small / TURNED_SHARE).min(large);
        let mut buffer = vec![0.0; small * height];
        for rows in self.scaled.chunks(height * small) {
            let block = &mut buffer[..rows.len()];
            turn(rows, small, block);
            take(MatRef::from_row_major_slice(block, small, rows.len() / small));
        }
    }

    /// `A Aᵀ x` of the wide orientation, in `f64` straight from the `f32` entries.
    pub(crate) fn gram_times(&self, x: &[f64]) -> Vec<f64> {
        let mut seen = vec![0.0; self.shape.cols()];
        if self.side() == Side::Left {
            self.rows().zip(x).for_each(|(row, &by)| add_multiple(&mut seen, by, row));
            return self.rows().map(|row| dot(row, &seen)).collect();
        }
        self.rows().for_each(|row| add_multiple(&mut seen, dot(row, x), row));
        seen
    }

    /// The rows of the scaled entries, as they are stored.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.scaled.chunks_exact(self.shape.cols())
    }

    /// The scaled entries without the product of a column with a row, `A − x yᵀ`, as a weight of its own; none where so
    /// little is left that it would have to be scaled.
    pub(crate) fn minus(&self, x: &[f64], y: &[f64]) -> Option<Weight<'static>> {
        let mut scaled = self.scaled.to_vec();
        vectorized! {
            for (row, &x) in scaled.chunks_exact_mut(self.shape.cols()).zip(x) {
                subtract_multiple(row, x, y);
            }
        }
        let (largest, energy) = measured(&scaled);
        let modest = Scale::of(f64::from(largest)).is_modest();
        modest.then_some(Weight { scaled: Cow::Owned(scaled), shape: self.shape, scale: Scale::NONE, energy })
    }

    /// `Aᵀ X` of the wide orientation, `max(m, n) × r`.
    pub(crate) fn transposed_times(&self, x: MatRef<'_, f64>) -> Mat<f64> {
        let mut product = Mat::zeros(self.wide().ncols(), x.ncols());
        self.for_each_block(|first, block| {
            crate::products::replace(product.subrows_mut(first, block.ncols()), block.transpose(), x);
        });
        product
    }
}

/// The largest magnitude, infinite or not a number where an entry is, and the sum of all squares.
pub(crate) fn measured(entries: &[f32]) -> (f32, f64) {
    vectorized!(measured_in_strands(entries))
}

#[inline(always)]
fn measured_in_strands(entries: &[f32]) -> (f32, f64) {
    const MAGNITUDE: u32 = u32::MAX >> 1;
    let (eights, rest) = entries.as_chunks::<8>();
    let (mut largest, mut strands) = ([0; 8], [0.0; 8]);
    for eight in eights {
        for ((&v, max), sum) in eight.iter().zip(&mut largest).zip(&mut strands) {
            *max = (v.to_bits() & MAGNITUDE).max(*max);
            *sum += f64::from(v) * f64::from(v);
        }
    }
    let largest = largest.into_iter().chain(rest.iter().map(|v| v.to_bits() & MAGNITUDE)).max().unwrap_or_default();
    (f32::from_bits(largest), strands.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>())
}

/// `to += by · row`.
#[allow(clippy::inline_always)] // for the instructions of its caller
#[inline(always)]
pub(crate) fn add_multiple(to: &mut [f64], by: f64, row: &[f32]) {
    to.iter_mut().zip(row).for_each(|(to, &v)| *to += by * f64::from(v));
}

/// `row -= by · y`.
#[allow(clippy::inline_always)] // for the instructions of its caller
#[allow(clippy::cast_possible_truncation)] // as a weight is stored
#[inline(always)]
fn subtract_multiple(row: &mut [f32], by: f64, y: &[f64]) {
    row.iter_mut().zip(y).for_each(|(v, &y)| *v = (f64::from(*v) - by * y) as f32);
}

/// The product of a row with `x`.
#[allow(clippy::inline_always)] // for the instructions of its caller
#[inline(always)]
pub(crate) fn dot<T: Copy + Into<f64>>(row: &[T], x: &[f64]) -> f64 {
    let [product] = dots(row, [x]);
    product
}

/// The products of a row with some vectors, each summed in eight strands: one strand waits for each addition. The row is
/// read once.
#[allow(clippy::inline_always)] // for the instructions of its caller
#[inline(always)]
pub(crate) fn dots<T: Copy + Into<f64>, const COUNT: usize>(row: &[T], xs: [&[f64]; COUNT]) -> [f64; COUNT] {
    let (eights, rest) = row.as_chunks::<8>();
    let xs = xs.map(<[f64]>::as_chunks::<8>);
    let mut strands = [[0.0; 8]; COUNT];
    for (place, row) in eights.iter().enumerate() {
        let row = row.map(T::into);
        for (strands, (x, _)) in strands.iter_mut().zip(&xs) {
            if let Some(x) = x.get(place) {
                strands.iter_mut().zip(&row).zip(x).for_each(|((sum, a), b)| *sum += a * b);
            }
        }
    }
    std::array::from_fn(|k| {
        let (_, tail) = xs[k];
        strands[k].iter().sum::<f64>() + rest.iter().zip(tail).map(|(&a, b)| a.into() * b).sum::<f64>()
    })
}

/// Copies to row-major `f64`, in tiles: reading a transposed matrix column by column misses every cache line.
fn widen(from: MatRef<'_, f32>, to: &mut [f64]) {
    let (rows, cols) = from.shape();
    for top in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - top);
        for col in (0..cols).step_by(TILE) {
            let width = TILE.min(cols - col);
            for i in top..top + height {
                let line = &mut to[i * cols + col..i * cols + col + width];
                line.iter_mut().enumerate().for_each(|(j, v)| *v = f64::from(from[(i, col + j)]));
            }
        }
    }
}

/// The transpose of a matrix with rows of this length, row after row as well, in tiles.
fn turn(from: &[f32], length: usize, to: &mut [f32]) {
    let rows = from.len() / length;
    let mut tile = Tile::filled(0.0);
    for top in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - top);
        for left in (0..length).step_by(TILE) {
            let width = TILE.min(length - left);
            tile.read(&from[top * length + left..], length, height, width);
            for l in 0..width {
                tile.give(l, &mut to[(left + l) * rows + top..][..height]);
            }
        }
    }
}

/// An error at the first entry, row by row, that is infinite or not a number.
pub(crate) fn check_finite<T: Copy + Into<f64>>(a: ArrayView2<'_, T>) -> Result<(), DecomposeError> {
    let bad = a.indexed_iter().map(|(place, &v)| (place, v.into())).find(|(_, v)| !v.is_finite());
    bad.map_or(Ok(()), |((row, col), value)| Err(DecomposeError::NonFinite { row, col, value }))
}

#[cfg(test)]
mod tests {
    use calabi_testing::matrices::{gaussian, rounded};

    use super::*;

    /// Blocks of a wide and of a tall weight are its columns and its rows, side by side.
    #[test]
    fn blocks_of_rows_are_the_wide_orientation() {
        for (rows, cols, wanted) in
            [(5, 17, 4), (1, 3, 3), (9, 9, 1), (800, 21, 3), (384, 16, 1), (385, 17, 2), (1700, 1600, 5)]
        {
            let a = rounded(&gaussian(rows, cols, 3));
            let weight = Weight::read(a.view()).unwrap();
            let (mut first, mut blocks) = (0, 0);
            weight.for_each_block_of_rows(|block| {
                assert_eq!(block, weight.wide().subcols(first, block.ncols()), "{rows} x {cols} from {first}");
                first += block.ncols();
                blocks += 1;
            });
            assert_eq!(first, rows.max(cols));
            assert_eq!(blocks, wanted, "{rows} x {cols}");
        }
    }
}
