//! Links the system's `OpenBLAS`, which holds LAPACK, where the feature `lapack` asks for it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_LAPACK").is_some() {
        println!("cargo:rustc-link-lib=openblas");
    }
}
