//! Small kernels of each step, timed on the machine at hand: in its caches and beyond them.

use std::hint::black_box;

use calabi_api::{Basis, Side};
use ndarray::{Array2, ArrayView2, Axis};
use rustix::time::{ClockId, clock_gettime};

use super::operations::panel;
use super::{Curve, Machine};
use crate::eigen::PANEL;
use crate::gram;
use crate::noise::Noise;
use crate::real::Real as _;
use crate::signs;
use crate::tridiagonal::{Lower, Reduction, Tridiagonal, reduce_panel};
use crate::weight::{Weight, measured};

/// What is left of a matrix where a panel is measured. The largest one's triangle, 52 MB, is beyond most caches.
const PANELS: [usize; 7] = [128, 256, 512, 1024, 2048, 3072, 5120];
/// Where the transformation back is measured.
const BACK: [usize; 3] = [256, 1024, 2048];
/// Where Cholesky factorizations are measured.
const CHOLESKY: [usize; 2] = [512, 2048];
/// A product of this size stays in the caches, in blocks.
const PRODUCT: usize = 1024;
/// The rank of a basis that is measured.
const BASIS: usize = 256;
/// Entries of a weight, 32 MB.
const ENTRIES: usize = 8 << 20;
/// Rounds of a kernel, of which the shortest counts.
const ROUNDS: usize = 3;
/// Panels from this size on take a while: fewer rounds.
const LONG: usize = 3000;

pub(super) fn measure() -> Machine {
    let tridiagonal = Reduction::of(symmetric(PRODUCT)).tridiagonal;
    let entries = noise(ENTRIES);
    Machine {
        gram: gram(&entries),
        panel: Curve::new(&PANELS, reduced),
        values: values(&tridiagonal),
        vectors: vectors(&tridiagonal),
        back: Curve::new(&BACK, back),
        product: product(),
        cholesky: Curve::new(&CHOLESKY, cholesky),
        entry: entry(&entries),
    }
}

/// The shortest of so many rounds, in seconds.
fn shortest(rounds: usize, mut round: impl FnMut()) -> f64 {
    let timed = |()| {
        let started = thread_seconds();
        round();
        thread_seconds() - started
    };
    std::iter::repeat_n((), rounds).map(timed).fold(f64::INFINITY, f64::min)
}

/// What this thread has run, in seconds: what else the machine does is not in it.
fn thread_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + 1e-9 * now.tv_nsec as f64
}

/// Numbers from −1/2 to 1/2 without a pattern.
fn noise(count: usize) -> Vec<f32> {
    let mut noise = Noise::new(1);
    (0..count).map(|_| f32::of(noise.uniform() - 0.5)).collect()
}

fn symmetric(size: usize) -> Lower<f32> {
    Lower { entries: noise(size * size), size }
}

fn square() -> Array2<f32> {
    Array2::from_shape_vec((PRODUCT, PRODUCT), noise(PRODUCT * PRODUCT)).unwrap_or_default()
}

/// An operation of a triangular product, of a weight that is beyond most caches.
fn gram(entries: &[f32]) -> f64 {
    let weight = ArrayView2::from_shape((PRODUCT, ENTRIES / PRODUCT), entries).map(Weight::read);
    let Ok(Ok(weight)) = weight else { return 0.0 };
    let seconds = shortest(ROUNDS, || {
        black_box(gram::in_single(&weight));
    });
    seconds / (PRODUCT * ENTRIES) as f64
}

/// An operation of a panel where so much of a matrix is left.
fn reduced(size: usize) -> f64 {
    let mut matrix = symmetric(size);
    let (mut tridiagonal, mut coefficients) = (Tridiagonal { diagonal: Vec::new(), below: Vec::new() }, Vec::new());
    let rounds = if size < LONG { ROUNDS } else { ROUNDS - 1 };
    shortest(rounds, || reduce_panel(&mut matrix, 0, &mut tridiagonal, &mut coefficients)) / panel(size)
}

/// An operation of a transformation back.
fn back(size: usize) -> f64 {
    let reduction = Reduction::of(symmetric(size));
    let mut vectors = faer::Mat::<f32>::identity(size, PANEL);
    shortest(ROUNDS, || reduction.transform_back(vectors.as_mut())) / (2.0 * (size as f64).powi(2) * PANEL as f64)
}

fn values(tridiagonal: &Tridiagonal) -> f64 {
    let seconds = shortest(ROUNDS, || {
        black_box(tridiagonal.values());
    });
    seconds / (PRODUCT as f64).powi(2)
}

/// What an entry of a basis takes besides its transformation back: found, and made ready to leave the crate.
fn vectors(tridiagonal: &Tridiagonal) -> f64 {
    let Some(values) = tridiagonal.values() else { return 0.0 };
    let seconds = shortest(ROUNDS, || {
        let found = tridiagonal.vectors_one_by_one(&values, BASIS);
        black_box(found.map(|mut vectors| {
            signs::normalize(&mut vectors);
            signs::columns_to_f32(vectors.as_ref())
        }));
    });
    seconds / (PRODUCT * BASIS) as f64
}

fn product() -> f64 {
    let square = square();
    // Column after column, as bases are.
    let vectors = square.slice_axis(Axis(0), (..BASIS).into()).to_owned().reversed_axes();
    let seconds = shortest(ROUNDS, || {
        let basis = Basis { side: Side::Left, vectors: vectors.clone() };
        let _ = black_box(crate::dense::project(square.view(), basis));
    });
    seconds / (2.0 * (PRODUCT as f64).powi(2) * BASIS as f64)
}

/// An operation of a Cholesky factorization.
fn cholesky(size: usize) -> f64 {
    let mut matrix = symmetric(size);
    matrix.add_to_diagonal(f32::of(size as f64));
    let seconds = shortest(ROUNDS, || {
        let mut copy = Lower { entries: matrix.entries.clone(), size };
        let _ = black_box(crate::cholesky::factor(copy.as_mut()));
    });
    3.0 * seconds / (size as f64).powi(3)
}

fn entry(entries: &[f32]) -> f64 {
    shortest(ROUNDS, || {
        let copy = black_box(entries.to_vec());
        black_box(measured(&copy));
    }) / ENTRIES as f64
}
