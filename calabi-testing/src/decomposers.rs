//! What every decomposer promises, as a test.
//!
//! ```no_run
//! # fn my_decomposer() -> &'static dyn calabi_api::Decomposer { unimplemented!() }
//! calabi_testing::decomposers::conforms(my_decomposer());
//! ```

mod cases;
mod checks;
mod refusals;
mod repeats;
mod symmetric;

use calabi_api::Decomposer;

/// The accuracy that [`conforms`] asks for: an exact decomposer that works in `f32` throughout reaches it.
pub const EXACT: f64 = 4e-6;

/// Checks the contract of [`Decomposer`] for one that is exact: [`conforms_within`] with [`EXACT`].
///
/// # Panics
/// Where the decomposer breaks its contract; the message says on which matrix, and how.
pub fn conforms(decomposer: &dyn Decomposer) {
    conforms_within(decomposer, EXACT);
}

/// Checks the contract of [`Decomposer`] on some thirty small matrices of known spectra.
///
/// `accuracy` bounds two things: the error of each singular value, as a share of the largest, and how far the loss at a rank
/// may lie above the optimum, as a share of the optimum (plus 1e-10 of the energy). A decomposer that iterates gives the
/// tolerance to which it does. Everything else is the same for all: vectors orthonormal to 1e-5, the loss that the
/// spectrum states equal to the one measured on the factors, signs, repeats, refusals.
///
/// # Panics
/// Where the decomposer breaks its contract; the message says on which matrix, and how.
pub fn conforms_within(decomposer: &dyn Decomposer, accuracy: f64) {
    for case in cases::all() {
        checks::check(decomposer, &case, accuracy);
    }
    checks::scales(decomposer, accuracy);
    repeats::check(decomposer, accuracy);
    refusals::check(decomposer);
    symmetric::check(decomposer, accuracy);
}
