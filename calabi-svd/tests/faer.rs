//! The exact decomposer against its contract.

use calabi_svd::{Accuracy, Faer};

#[test]
fn faer_conforms() {
    calabi_testing::decomposers::conforms(&Faer::default());
}

#[test]
fn faer_conforms_in_full_accuracy() {
    calabi_testing::decomposers::conforms(&Faer { accuracy: Accuracy::Full });
}
