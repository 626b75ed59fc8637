//! Writes data to stdout; a reader that went away is no failure.

use std::fmt::Display;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use calabi::Target;
use calabi::api::ConfigError;
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

/// A line on stderr; where nobody can read it, nothing is lost.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// A file that will be written, its place checked before any work.
pub(crate) struct FileTarget(PathBuf);

impl FileTarget {
    /// Checks the place: nothing that is `taken` stands there, and what exists is replaced only when told to.
    pub(crate) fn check(path: &Path, taken: &[PathBuf], force: bool) -> Result<Self, ConfigError> {
        Ok(Self(Target { path, span: None, taken, force }.check_file()?))
    }

    /// Writes a value as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&to_json(value)?)
    }

    /// Writes a text, whole or not at all.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            let folder = self.0.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder)?;
            let readable = fs::Permissions::from_mode(0o644);
            let mut file = tempfile::Builder::new().prefix(".calabi-").permissions(readable).tempfile_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&self.0).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| Failure::File(format!("cannot write {}: {error}", self.0.display())))
    }
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(value);
    json.map(|text| text + "\n").map_err(|error| Failure::File(format!("no JSON can be made: {error}")))
}
