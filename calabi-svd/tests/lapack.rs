//! LAPACK against the contract, or the stub in its place.

use calabi_api::{Decomposer, registry};

#[cfg(feature = "lapack")]
#[test]
fn lapack_conforms() {
    calabi_testing::decomposers::conforms(&calabi_svd::Lapack::default());
}

#[cfg(not(feature = "lapack"))]
#[test]
fn without_the_feature_the_error_names_it() {
    let plugin = registry::find::<dyn Decomposer>("lapack").unwrap();
    assert!(plugin.missing().is_some_and(|way_out| way_out.contains("--features lapack")));
}

#[test]
fn the_decomposers_are_registered() {
    let _ = calabi_svd::Faer::default();
    let kinds: Vec<_> = registry::all::<dyn Decomposer>().unwrap().iter().map(|plugin| plugin.kind()).collect();
    assert_eq!(kinds, ["faer", "lapack", "randomized"]);
}
