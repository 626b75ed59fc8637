//! The program `calabi-cli`.

fn main() -> std::process::ExitCode {
    calabi_cli::main()
}
