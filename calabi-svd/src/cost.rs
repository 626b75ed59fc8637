//! What a decomposition in single precision takes: operations of each step by shape, times what they take on the machine at
//! hand.

mod measure;
mod operations;

use std::sync::OnceLock;

use calabi_api::{Rank, Shape};

use operations::{Decomposition, Eigenpairs, Factors, Leading};

/// What operations take on one thread of a machine, in seconds: measured, once for a program, in a third of a second, and a
/// second where layers are large.
///
/// ```
/// use calabi_api::{Rank, Shape};
/// use calabi_svd::cost::Machine;
///
/// let [narrow, wide] = [(64, 256), (64, 4096)].map(|(rows, cols)| Shape::new(rows, cols));
/// let (narrow, wide) = (narrow.ok_or("empty")?, wide.ok_or("empty")?);
/// let machine = Machine::here();
/// assert!(machine.decomposition(narrow, Rank::ONE) > 0.0);
/// assert!(machine.decomposition(narrow, Rank::ONE) < machine.decomposition(wide, Rank::ONE));
/// assert!(machine.factors(narrow, Rank::ONE) < machine.factors(wide, Rank::ONE));
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone)]
pub struct Machine {
    /// An operation of a triangular product.
    gram: f64,
    /// An operation of a panel of the reduction, by the size of what is left of the matrix.
    panel: Curve,
    /// Eigenvalues, for each entry of a matrix of that size.
    values: f64,
    /// An entry of an eigenvector of the tridiagonal matrix, on its way to a basis.
    vectors: f64,
    /// An operation of the transformation back, by the size of the matrix.
    back: Curve,
    /// An operation of a product.
    product: f64,
    /// An operation of a Cholesky factorization, by the size of the matrix.
    cholesky: Curve,
    /// An entry that is read into new memory.
    entry: f64,
}

/// A figure that depends on a size, measured at some sizes where it is asked for near them.
#[derive(Debug, Clone)]
struct Curve {
    sizes: &'static [usize],
    figures: Vec<OnceLock<f64>>,
    measure: fn(usize) -> f64,
}

impl Machine {
    /// This machine, measured at the first call.
    #[must_use]
    pub fn here() -> &'static Self {
        static HERE: OnceLock<Machine> = OnceLock::new();
        HERE.get_or_init(measure::measure)
    }

    /// Singular values of a weight, and the basis of the leading `rank`, in seconds: all values, or the leading ones where these
    /// cost less.
    ///
    /// Where single precision is not enough for the weight, which only its spectrum shows, it takes two to three times as
    /// long; where leading values are not proven to be so, up to half as long again.
    #[must_use]
    pub fn decomposition(&self, shape: Shape, rank: Rank) -> f64 {
        let work = Decomposition::of(shape, rank);
        let found = work.leading().map_or_else(|| self.eigenpairs(work.eigenpairs()), |leading| self.leading(leading));
        work.width() * (self.gram * work.gram() + found) + self.entry * work.entries()
    }

    fn eigenpairs(&self, work: Eigenpairs) -> f64 {
        let reduction: f64 = work.panels().map(|(size, operations)| self.panel.at(size) * operations).sum();
        let back = self.back.at(work.size()) * work.back();
        reduction + self.values * work.values() + self.vectors * work.vectors() + back
    }

    fn leading(&self, work: Leading) -> f64 {
        let (looks, seen) = work.looks();
        let proofs = self.cholesky.at(work.size()) * work.proofs();
        self.product * work.products() + proofs + self.entry * work.entries() + looks * self.eigenpairs(seen)
    }

    /// The factors of a weight whose basis is known, and their error, in seconds.
    #[must_use]
    pub fn factors(&self, shape: Shape, rank: Rank) -> f64 {
        let work = Factors::of(shape, rank);
        self.product * work.products() + self.entry * work.entries()
    }
}

/// How many times as fast the decomposition of a weight gets by so many threads inside it. Steps are split where the smaller side has 1024
/// or more; eigenvalues, and what lies between the products of a panel, are left to one.
pub(crate) fn speedup(shape: Shape, threads: usize) -> f64 {
    const SMALLEST: usize = 1024;
    const SPLIT: f64 = 0.8;
    const MOST: usize = 8;
    if shape.full_rank().get() < SMALLEST {
        return 1.0;
    }
    let threads = threads.clamp(1, MOST) as f64;
    1.0 / (1.0 - SPLIT + SPLIT / threads)
}

impl Curve {
    fn new(sizes: &'static [usize], measure: fn(usize) -> f64) -> Self {
        Self { sizes, figures: sizes.iter().map(|_| OnceLock::new()).collect(), measure }
    }

    /// The figure at a size: on a line between neighbours over the logarithm of the size, level beyond the ends.
    fn at(&self, size: usize) -> f64 {
        let above = self.sizes.partition_point(|&known| known < size);
        let before = above.checked_sub(1).and_then(|index| self.known(index));
        match (before, self.known(above)) {
            (Some((low, from)), Some((high, to))) => {
                let log = |size: usize| (size as f64).ln();
                from + (to - from) * (log(size) - log(low)) / (log(high) - log(low))
            }
            (Some((_, only)), None) | (None, Some((_, only))) => only,
            (None, None) => 0.0,
        }
    }

    /// A size by its index, and the figure there.
    fn known(&self, index: usize) -> Option<(usize, f64)> {
        let (&size, figure) = self.sizes.get(index).zip(self.figures.get(index))?;
        Some((size, *figure.get_or_init(|| (self.measure)(size))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(rows: usize, cols: usize) -> Shape {
        Shape::new(rows, cols).unwrap()
    }

    fn level(figure: fn(usize) -> f64) -> Curve {
        Curve::new(&[1], figure)
    }

    /// A machine that does everything at once.
    fn idle() -> Machine {
        Machine {
            gram: 0.0,
            panel: level(|_| 0.0),
            values: 0.0,
            vectors: 0.0,
            back: level(|_| 0.0),
            product: 0.0,
            cholesky: level(|_| 0.0),
            entry: 0.0,
        }
    }

    #[test]
    fn seconds_are_operations_times_what_they_take() {
        let none = idle();
        let (shape, rank) = (weight(1024, 8192), Rank::new(256).unwrap());
        let (n, l, r) = (1024.0, 8192.0, 256.0);
        let near = |machine: Machine, expected: f64| {
            let seconds = machine.decomposition(shape, rank);
            assert!((seconds / expected - 1.0).abs() < 0.06, "{seconds} for {expected} of {machine:?}");
        };
        near(Machine { gram: 1.0, ..none.clone() }, n * n * l);
        near(Machine { panel: level(|_| 1.0), ..none.clone() }, 4.0 / 3.0 * n * n * n);
        near(Machine { values: 1.0, ..none.clone() }, n * n);
        near(Machine { vectors: 1.0, ..none.clone() }, n * r);
        near(Machine { back: level(|_| 1.0), ..none.clone() }, 2.0 * n * n * r);
        let products = Machine { product: 1.0, ..none }.factors(shape, rank);
        assert!((products / (4.0 * n * l * r) - 1.0).abs() < 1e-12);
    }

    /// Up to an eighth of all, vectors come from a subspace: what is reduced is its projection, a few times, and there are proofs.
    #[test]
    fn few_vectors_leave_the_matrix_as_it_is() {
        let shape = weight(1024, 8192);
        let seconds = |machine: Machine, rank: usize| machine.decomposition(shape, Rank::new(rank).unwrap());
        let reduction = |rank: usize| seconds(Machine { panel: level(|_| 1.0), ..idle() }, rank);
        let proofs = |rank: usize| seconds(Machine { cholesky: level(|_| 1.0), ..idle() }, rank);
        let product = |rank: usize| seconds(Machine { product: 1.0, ..idle() }, rank);
        let cube = 1024_f64.powi(3);
        assert!(reduction(64) < 0.2 * cube && reduction(129) > 1.3 * cube);
        assert!(proofs(128) > cube / 3.0 && proofs(129).abs() < 1e-12);
        assert!(product(128) > product(64) && product(64) > 0.0 && product(129).abs() < 1e-12);
    }

    #[test]
    fn figures_between_sizes_lie_between_theirs() {
        let curve = Curve::new(&[100, 1000], |size| if size == 100 { 1.0 } else { 3.0 });
        for (size, figure) in [(10, 1.0), (100, 1.0), (316, 2.0), (1000, 3.0), (5000, 3.0)] {
            assert!((curve.at(size) - figure).abs() < 1e-2, "{size}");
        }
    }

    #[test]
    fn only_what_is_near_is_measured() {
        let curve = Curve::new(&[100, 1000, 10_000], |size| {
            assert!(size <= 1000, "it is far away");
            1.0
        });
        assert!((curve.at(500) - 1.0).abs() < 1e-12 && (curve.at(50) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn this_machine_has_a_figure_for_every_step() {
        let Machine { gram, panel, values, vectors, back, product, cholesky, entry } = Machine::here();
        let figures = [*gram, panel.at(300), *values, *vectors, back.at(300), *product, cholesky.at(300), *entry];
        assert!(figures.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{figures:?}");
    }
}
