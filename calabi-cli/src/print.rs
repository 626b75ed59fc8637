//! Writes data to stdout; a reader that went away is no failure.

use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use crate::failure::Failure;

/// Writes a text to stdout, whole.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::ClosedStdout),
        Err(error) => Err(Failure::File(format!("stdout cannot be written: {error}"))),
    }
}

/// Writes a value to stdout as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    text(&to_json(value)?)
}

/// Writes a value to a file as JSON.
pub(crate) fn json_file(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    file(path, &to_json(value)?)
}

/// Writes a text to a file.
pub(crate) fn file(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::File(format!("cannot write {}: {error}", path.display())))
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(value);
    json.map(|text| text + "\n").map_err(|error| Failure::File(format!("no JSON can be made: {error}")))
}
