//! `faer`: all singular values, exactly. The default.

use calabi_api::schemars::JsonSchema;
use calabi_api::{DecomposeError, Decomposer, Decomposition, Plugin, Rank, Shape};
use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::cost::{self, Machine};
use crate::exact;
use crate::partial;
use crate::symmetric::Symmetric;
use crate::weight::Weight;

/// All singular values of a weight in pure Rust, on one thread; with `loss`, only those that may be kept, where that costs less.
///
/// # Accuracy
/// | `accuracy` | route | error of a singular value, as a share of the largest one |
/// |---|---|---|
/// | `loss` | Gram matrix of the smaller side in `f32`, its eigenpairs; `input`, where that is not enough | 3e-7 of the largest *square* in each square |
/// | `input` | the same in `f64` | at most 1e-7 where values are that small, 1e-12 above 1e-3 |
/// | `full` | bidiagonalization in `f64` | at most 1e-13 |
///
/// `loss` is enough where no value among the leading ones that may be kept is below 1/150 of the largest, and those behind
/// them are 1/200 of it in the root of their mean square: then what any rank loses is known to 0.1 %. Whether that
/// holds is read off the values themselves; where it does not, `f64` is taken. Below 192 rows or columns it always is. A first
/// value that is 2 to 140 times the second, with two fifths of the energy or more, is scaled down before, to 1.4 times the second,
/// and up again after.
/// A weight stored in `f32` is itself known to 6e-8 of each entry, so `input` loses nothing that the weight holds. The
/// Gram route is the cheaper one at every shape: 2 to 4 times. Where a route does not converge the other one is taken, and
/// the [remark](Decomposition::remark) says so.
///
/// Where the limit is at most an eighth of `min(m, n)`, and that is 512 or more, `loss` looks for the leading ones alone, by
/// products of the Gram matrix with blocks of vectors. A Cholesky factorization proves that what they lose is at most 0.4 % above
/// the optimum of their rank (an error 0.2 % larger), and the remark says so; where that is not proven all are computed.
///
/// # Memory
/// One copy of the weight (`4mn` bytes, from which the larger side's vectors are made; one more while a first value is scaled down),
/// and for `s = min(m, n)`: `input` takes `8 s²` bytes (half as much again while the Gram matrix is reduced) and `16 s r` for the
/// vectors of rank `r`, `loss` half of the first (for leading ones alone as much once more for a proof, and up to half of that for
/// the vectors in work; for a tall weight before, a quarter of it or `1536 s` for rows that are turned), `full` a copy of the
/// weight in `f64` and `40 s²`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(crate = "calabi_api::schemars")]
pub struct Faer {
    /// How exact singular values are: as losses need it, as the weight's own `f32`, or to all digits of `f64`.
    pub accuracy: Accuracy,
}

/// How exact singular values are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(crate = "calabi_api::schemars")]
pub enum Accuracy {
    /// What each rank loses, to 0.1 %: in `f32` where that is enough.
    #[default]
    Loss,
    /// As exact as the weight's own `f32`: errors of at most 1e-7 of the largest singular value.
    Input,
    /// Errors of at most 1e-13 of the largest singular value; takes 2 to 4 times as long.
    Full,
}

impl Decomposer for Faer {
    fn svd<'a>(&self, a: ArrayView2<'a, f32>, limit: Rank) -> Result<Box<dyn Decomposition + 'a>, DecomposeError> {
        Ok(Box::new(exact::svd(Weight::read(a)?, limit, self.accuracy)?))
    }

    fn is_complete(&self, shape: Shape, limit: Rank) -> bool {
        self.accuracy != Accuracy::Loss || !partial::pays(shape.full_rank().get(), limit.get())
    }

    fn is_for_losses(&self) -> bool {
        self.accuracy == Accuracy::Loss
    }

    fn seconds(&self, shape: Shape, rank: Rank) -> Option<f64> {
        (self.accuracy == Accuracy::Loss).then(|| Machine::here().decomposition(shape, rank))
    }

    fn speedup(&self, shape: Shape, threads: usize) -> f64 {
        cost::speedup(shape, threads)
    }

    fn eigh(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        Ok(Box::new(exact::eigh(&Symmetric::read(s)?, limit)?))
    }

    fn eigh_for_losses(&self, s: ArrayView2<'_, f64>, limit: Rank) -> Result<Box<dyn Decomposition>, DecomposeError> {
        let single = if self.is_for_losses() { exact::eigh_in_single(s, limit)? } else { None };
        single.map_or_else(|| self.eigh(s, limit), |found| Ok(Box::new(found)))
    }
}

calabi_api::submit! { Plugin::decomposer::<Faer>("faer", "all singular values, exactly, in pure Rust") }
