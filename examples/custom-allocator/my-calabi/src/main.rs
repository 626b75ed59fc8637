//! calabi-cli, and a rank allocator of one's own. The linker drops a crate that no code names: hence `use equal_error as _`.

use std::process::ExitCode;

use equal_error as _;

fn main() -> ExitCode {
    calabi_cli::main()
}
