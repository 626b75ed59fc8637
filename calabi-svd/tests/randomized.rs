//! The partial decomposer against its contract.

use calabi_svd::Randomized;

#[test]
fn randomized_conforms_within_its_tolerance() {
    let decomposer = Randomized { oversampling: 8, ..Randomized::default() };
    calabi_testing::decomposers::conforms_within(&decomposer, decomposer.tolerance.get());
}
