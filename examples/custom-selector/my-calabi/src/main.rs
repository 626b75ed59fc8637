//! calabi-cli, and a rank selector of one's own. The linker drops a crate that no code names: hence `use knee as _`.

use std::process::ExitCode;

use knee as _;

fn main() -> ExitCode {
    calabi_cli::main()
}
