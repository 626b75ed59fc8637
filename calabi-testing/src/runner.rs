//! Runs a property on many cases, the same ones every time.

use std::fmt::Debug;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Checks a property on the cases of a strategy, and shows the smallest case that breaks it.
pub(crate) fn check<S: Strategy<Value: Debug>>(cases: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    if let Err(error) = runner.run(cases, property) {
        panic!("{error}");
    }
}

/// Checks a condition inside a property.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), TestCaseError> {
    if holds { Ok(()) } else { Err(TestCaseError::fail(otherwise())) }
}
