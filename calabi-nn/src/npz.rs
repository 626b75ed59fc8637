//! Reads numpy's `.npz` files: zip files of `.npy` arrays, stored or deflated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use calabi_api::{RunError, Tensor};
use zip::ZipArchive;

use crate::{npy, text};

/// No deflated stream is longer than this many times itself.
const MOST_DEFLATED: u64 = 1032;

/// All arrays of an `.npz` file, by name.
///
/// Read are `f16`, `f32` and `f64` (as `f32`), truth values and all integers but `u64`, of either byte order, in C or
/// Fortran order, stored or deflated. An array holds as much as the file can hold, whatever its header says.
///
/// ```
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/held-out.npz").as_ref();
/// let arrays = calabi_nn::read_npz(file)?;
/// let shapes: Vec<_> = arrays.iter().map(|(name, array)| (name.as_str(), array.shape())).collect();
/// assert_eq!(shapes, [("image", &[360, 64][..]), ("labels", &[360][..])]);
/// # Ok::<(), calabi_api::RunError>(())
/// ```
///
/// # Errors
/// [`RunError::Data`] where the file cannot be read, is no `.npz` file, or an array in it is damaged or of another
/// type; the error names the array.
pub fn read_npz(path: &Path) -> Result<BTreeMap<String, Tensor>, RunError> {
    arrays(path).map_err(|problem| RunError::Data { path: path.to_owned(), problem })
}

fn arrays(path: &Path) -> Result<BTreeMap<String, Tensor>, String> {
    let (file, length) = open(path)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| format!("it is no .npz file: {error}"))?;
    let mut budget = length.saturating_mul(MOST_DEFLATED);
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let shown = archive.name_for_index(index).map(text::shown).unwrap_or_default();
        let (name, tensor) =
            array(&mut archive, index, &mut budget).map_err(|problem| format!("{shown}: {problem}"))?;
        arrays.insert(name, tensor);
    }
    Ok(arrays)
}

/// The file and its length; a pipe or a device is refused, since it has none.
fn open(path: &Path) -> Result<(File, u64), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    Ok((File::open(path).map_err(|error| error.to_string())?, metadata.len()))
}

/// The name and the values of one array; `budget` is what the file can still hold.
fn array(
    archive: &mut ZipArchive<BufReader<File>>,
    index: usize,
    budget: &mut u64,
) -> Result<(String, Tensor), String> {
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    let name = entry.name().strip_suffix(".npy").ok_or("an .npz file holds .npy arrays only: take it out")?.to_owned();
    let size = entry.size();
    *budget = budget.checked_sub(size).ok_or("its size is more than the file can hold")?;
    let mut bytes = Vec::new();
    entry.by_ref().take(size).read_to_end(&mut bytes).map_err(|error| format!("it is damaged: {error}"))?;
    let rest = entry.read(&mut [0]).map_err(|error| format!("it is damaged: {error}"))?;
    if rest > 0 || bytes.len() as u64 != size {
        return Err("it is damaged: its length is not what the file says".to_owned());
    }
    Ok((name, npy::tensor(bytes)?))
}
