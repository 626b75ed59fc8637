//! The program `calabi-cli`.

/// Matrices of many sizes come and go: glibc keeps several times what is in use.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    calabi_cli::main()
}
