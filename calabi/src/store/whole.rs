//! Files of the work store appear by a rename, whole or not at all, and end with the hash of what stands before.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Take, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The length of the hash.
const HASH: usize = 32;
/// Bytes that are hashed and written at once.
const TOGETHER: usize = 1 << 16;

/// Writes a file to `path`; to the disk itself, where it is to survive the machine.
pub(super) fn create(
    path: &Path,
    lasting: bool,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(super::BEGUN).tempfile_in(folder)?;
    let mut to = BufWriter::with_capacity(TOGETHER, Hashing { hash: blake3::Hasher::new(), to: file });
    write(&mut to)?;
    let Hashing { hash, to: mut file } = to.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.write_all(hash.finalize().as_bytes())?;
    if lasting {
        file.as_file().sync_data()?;
    }
    file.persist(path).map_err(|error| error.error)
}

/// Opens a file and reads it all once: one that is damaged is an error.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    let file = File::open(path)?;
    let length = length(&file)?;
    let mut hash = blake3::Hasher::new();
    std::io::copy(&mut (&file).take(length), &mut hash)?;
    let mut found = [0; HASH];
    file.read_exact_at(&mut found, length)?;
    if hash.finalize() == found { Ok(file) } else { Err(damaged()) }
}

/// What stands before the hash, of a file that is not damaged.
pub(super) fn content(path: &Path) -> std::io::Result<BufReader<Take<File>>> {
    let mut file = open(path)?;
    let length = length(&file)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(BufReader::with_capacity(TOGETHER, file.take(length)))
}

/// The length of what stands before the hash.
pub(super) fn length(file: &File) -> std::io::Result<u64> {
    file.metadata()?.len().checked_sub(HASH as u64).ok_or_else(damaged)
}

pub(super) fn damaged() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "an entry of the work store is damaged")
}

/// Writes, and hashes what is written.
struct Hashing<W> {
    hash: blake3::Hasher,
    to: W,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
