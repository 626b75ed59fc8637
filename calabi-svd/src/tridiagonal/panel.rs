//! A few columns of a reduction, whose reflections the rest of the matrix has not seen yet.

use faer::MatRef;

use super::packed::Packed;
use super::reduce::{Lower, subtract_products};
use crate::real::Real;

/// Reflections `v` of the columns from `first` on, and the `w` for which the matrix is to become `S − V Wᵀ − W Vᵀ`.
pub(super) struct Panel<'a, T> {
    matrix: &'a mut Lower<T>,
    /// The part from `first` on, as it was before any of it was reflected.
    packed: Packed<T>,
    first: usize,
    width: usize,
    /// `[V W]` and `[W V]`: the columns of both orders, so that the update is one product.
    pairs: Vec<T>,
    vector: Vec<T>,
    product: Vec<T>,
    scratch: Vec<T>,
}

impl<'a, T: Real> Panel<'a, T> {
    pub(super) fn new(matrix: &'a mut Lower<T>, first: usize, width: usize) -> Self {
        let rows = matrix.size - first;
        let packed = Packed::of(matrix, first);
        let zeros = |count: usize| vec![T::zero_impl(); count];
        let (pairs, scratch) = (zeros(3 * width * rows), zeros(packed.scratch()));
        let (vector, product) = (zeros(packed.padded()), zeros(packed.padded()));
        Self { matrix, packed, first, width, pairs, vector, product, scratch }
    }

    fn rows(&self) -> usize {
        self.matrix.size - self.first
    }

    /// Brings column `i` up to date; its diagonal entry.
    pub(super) fn update_column(&mut self, i: usize) -> T {
        let (known, from, rows) = (i - self.first, i - self.first, self.rows());
        let row = |start: usize| -> Vec<T> { (0..known).map(|k| -self.pairs[(start + k) * rows + from]).collect() };
        let (v, w) = (row(0), row(self.width));
        let column = self.matrix.column_mut(i, i);
        add_columns(&self.pairs, (0, rows, from), &w, column);
        add_columns(&self.pairs, (self.width, rows, from), &v, column);
        column[0]
    }

    /// Reflects column `i` onto its first entry below the diagonal: that entry, and the coefficient `τ` of `I − v vᵀ / τ`.
    pub(super) fn reflect(&mut self, i: usize) -> (f64, T) {
        let (known, from, rows) = (i - self.first, i - self.first + 1, self.rows());
        let column = self.matrix.column_mut(i, i + 1);
        let (below, coefficient) = reflection(column);
        if coefficient.is_infinite() {
            return (below, T::of(coefficient));
        }
        let at = known * rows + from;
        let (vectors, length) = (&mut self.pairs, column.len());
        vectors[at..at + length].copy_from_slice(column);
        vectors[at] = T::one_impl();
        let (pairs, width) = (&self.pairs, self.width);
        let v = &pairs[at..at + length];
        self.vector[..from].fill(T::zero_impl());
        self.vector[from..from + length].copy_from_slice(v);
        self.packed.times(from, &self.vector, &mut self.product, &mut self.scratch);
        let product = &mut self.product[from..from + length];
        let along_v = dots(pairs, (0, rows, from), known, v);
        let along_w = dots(pairs, (width, rows, from), known, v);
        add_columns(pairs, (0, rows, from), &along_w, product);
        add_columns(pairs, (width, rows, from), &along_v, product);
        let inverse = T::of(coefficient.recip());
        let along = T::of(0.5 * inner(v, product) * coefficient.recip().powi(2));
        let (before, after) = self.pairs.split_at_mut((width + known) * rows);
        let v = &before[at..at + length];
        let w = &mut after[from..from + length];
        w.iter_mut().zip(&*product).zip(v).for_each(|((w, &p), &v)| *w = p * inverse - along * v);
        (below, T::of(coefficient))
    }

    /// Brings the columns behind the panel up to date.
    pub(super) fn update_rest(mut self) {
        let (rows, width) = (self.rows(), self.width);
        if rows == width {
            return;
        }
        self.pairs.copy_within(..width * rows, 2 * width * rows);
        let of = |start: usize| {
            let columns = &self.pairs[start * rows..(start + 2 * width) * rows];
            MatRef::from_column_major_slice(columns, rows, 2 * width).subrows(width, rows - width)
        };
        subtract_products(self.matrix, self.first + width, of(0), of(width));
    }
}

/// Makes the Householder vector of a column in its place, but for its first entry, which is one: what becomes of the
/// first entry, and `τ = ‖v‖²/2`, infinite where nothing is to be reflected.
fn reflection<T: Real>(column: &mut [T]) -> (f64, f64) {
    let Some((head, tail)) = column.split_first_mut() else { return (0.0, f64::INFINITY) };
    let (head, beyond) = (head.wide(), inner(tail, tail));
    if beyond == 0.0 {
        return (head, f64::INFINITY);
    }
    let norm = head.hypot(beyond.sqrt());
    let below = if head > 0.0 { -norm } else { norm };
    let inverse = (head - below).recip();
    let by = T::of(inverse);
    for v in &mut *tail {
        *v *= by;
    }
    (below, 0.5 * (1.0 + inner(tail, tail)))
}

/// `xᵀ y`, summed in `f64`, in eight strands.
fn inner<T: Real>(x: &[T], y: &[T]) -> f64 {
    let (xs, x_rest) = x.as_chunks::<8>();
    let (ys, y_rest) = y.as_chunks::<8>();
    let mut strands = [0.0; 8];
    for (x, y) in xs.iter().zip(ys) {
        strands.iter_mut().zip(x).zip(y).for_each(|((sum, &x), &y)| *sum += x.wide() * y.wide());
    }
    strands.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(&x, &y)| x.wide() * y.wide()).sum::<f64>()
}

/// Columns of a panel from column `start` and row `from` on: slices of `rows − from`.
fn column<T>(pairs: &[T], (start, rows, from): (usize, usize, usize), k: usize) -> &[T] {
    &pairs[(start + k) * rows + from..(start + k + 1) * rows]
}

/// `y += Σ_k by_k a_k`.
fn add_columns<T: Real>(pairs: &[T], place: (usize, usize, usize), by: &[T], y: &mut [T]) {
    let (fours, rest) = by.as_chunks::<4>();
    for (q, &by) in fours.iter().enumerate() {
        T::combine([0, 1, 2, 3].map(|k| column(pairs, place, 4 * q + k)), by, y);
    }
    for (k, &by) in rest.iter().enumerate() {
        let column = column(pairs, place, 4 * fours.len() + k);
        y.iter_mut().zip(column).for_each(|(y, &a)| *y += a * by);
    }
}

/// `−a_kᵀ x` for the first `known` columns.
fn dots<T: Real>(pairs: &[T], place: (usize, usize, usize), known: usize, x: &[T]) -> Vec<T> {
    let mut found = Vec::with_capacity(known + 4);
    for q in (0..known).step_by(4) {
        found.extend(T::dots([0, 1, 2, 3].map(|k| column(pairs, place, (q + k).min(known - 1))), x).map(|dot| -dot));
    }
    found.truncate(known);
    found
}
