//! Files that are read and written by position, with their path in every error.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use calabi_api::FormatError;

/// How much is held in memory when bytes are copied from file to file.
const COPY: usize = 1 << 20;

/// A regular file that is read by position.
#[derive(Debug)]
pub(crate) struct Input {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Input {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let io = |source| FormatError::io("read", path, source);
        // Asked before opening: opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(FormatError::malformed(path, "not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads `length` bytes from `offset` on; bytes beyond the end are an error before anything is allocated.
    pub(crate) fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, FormatError> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.len);
        let (true, Ok(size)) = (inside, usize::try_from(length)) else {
            let problem = format!("{length} bytes from {offset} on are beyond its end at {}", self.len);
            return Err(FormatError::malformed(&self.path, problem).with_help("the file is cut short: fetch it again"));
        };
        let mut bytes = vec![0; size];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buffer` from `offset` on.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), FormatError> {
        self.file.read_exact_at(buffer, offset).map_err(|source| FormatError::io("read", &self.path, source))
    }

    /// Copies `length` bytes from `offset` on to `target` at `position`, a bounded piece at a time.
    pub(crate) fn copy(&self, offset: u64, length: u64, target: &Output, position: u64) -> Result<(), FormatError> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(COPY as u64);
            buffer.resize(usize::try_from(piece).unwrap_or(COPY), 0);
            self.read(offset + done, &mut buffer)?;
            target.write(position + done, &buffer)?;
            done += piece;
        }
        Ok(())
    }
}

/// A new file that is written by position.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    /// Creates a file that does not exist yet.
    pub(crate) fn create(path: &Path) -> Result<Self, FormatError> {
        let file = File::create_new(path).map_err(|source| FormatError::io("create", path, source))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `bytes` at `position`.
    pub(crate) fn write(&self, position: u64, bytes: &[u8]) -> Result<(), FormatError> {
        self.file.write_all_at(bytes, position).map_err(|source| FormatError::io("write", &self.path, source))
    }

    /// Makes what was written durable; returns the length of the file.
    pub(crate) fn sync(&self) -> Result<u64, FormatError> {
        let io = |source| FormatError::io("write", &self.path, source);
        self.file.sync_all().map_err(io)?;
        Ok(self.file.metadata().map_err(io)?.len())
    }
}
