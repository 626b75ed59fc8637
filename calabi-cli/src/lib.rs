//! The program of calabi, as a library: a program with plugins of its own is
//!
//! ```no_run
//! // use my_selector as _;
//! fn main() -> std::process::ExitCode {
//!     calabi_cli::main()
//! }
//! ```
//!
//! Data goes to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 a gate of `[verify]`
//! is not met, 4 the input model is refused.

mod args;
mod calibration;
mod commands;
mod estimates;
mod failure;
mod print;
mod progress;
mod table;
mod units;
mod verification;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command, DensifyArgs, EvalArgs, InspectArgs};

pub use commands::run::reported;
pub use failure::Failure;
pub use table::report_text;

/// What a command has to say to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    GateNotMet,
}

/// Runs the program on the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Runs the program on these arguments, the first of which is its name.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    ExitCode::from(exit_code(args))
}

/// Runs the program on these arguments, the first of which is its name, and gives its exit code, for a program that ends by
/// itself.
pub fn exit_code(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Nothing is left to say where this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    match dispatch(args.command) {
        Ok(Ending::Done) => 0,
        Ok(Ending::GateNotMet) => 3,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command) -> Result<Ending, Failure> {
    match command {
        Command::Run(args) => commands::run::run(&args),
        Command::Plan(args) => commands::plan::plan(&args),
        Command::Calibrate(args) => commands::calibrate::calibrate(&args),
        Command::Finetune(args) => commands::finetune::finetune(&args),
        Command::Eval(args) => commands::eval::eval(&EvalArgs { model: located(&args.model)?, ..args }),
        Command::Densify(args) => commands::densify::densify(&DensifyArgs { model: located(&args.model)?, ..args }),
        Command::Inspect(args) => commands::inspect::inspect(&InspectArgs { model: located(&args.model)?, ..args }),
        Command::Plugins(args) => commands::plugins::plugins(&args),
        Command::Merge(args) => commands::merge::merge(&args),
        Command::Submit(args) => commands::submit::submit(&args),
        Command::Clean(args) => commands::clean::clean(&args),
        Command::Schema => commands::schema::schema(),
        Command::Init(args) => commands::init::init(&args),
    }
}

/// A model's path, where it was named as `hf:org/name`.
fn located(model: &Path) -> Result<PathBuf, Failure> {
    Ok(calabi::locate(model)?)
}
