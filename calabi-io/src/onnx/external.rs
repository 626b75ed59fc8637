//! External data: files beside the model that hold its tensors, and never files elsewhere.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use calabi_api::{FormatError, Name};

use super::names::NameId;
use super::structure::{Data, Structure, Tensor};
use super::wire::Span;
use crate::file::Input;

/// Finds and checks the files that hold external data; opens each once.
pub(crate) fn resolve(model: &Input, structure: &mut Structure) -> Result<Vec<Input>, FormatError> {
    let mut files = Files { model, opened: Vec::new(), by_location: HashMap::new(), by_path: HashMap::new() };
    for index in 0..structure.tensors.len() {
        let tensor = &structure.tensors[index];
        if let Data::Pointer(pointer) = tensor.data {
            let file = files.open(structure, tensor, pointer.location)?;
            let span = files.span(structure, tensor, file)?;
            structure.tensors[index].data = Data::External(file, span);
        }
    }
    Ok(files.opened)
}

struct Files<'a> {
    model: &'a Input,
    opened: Vec<Input>,
    by_location: HashMap<NameId, usize>,
    by_path: HashMap<PathBuf, usize>,
}

impl Files<'_> {
    fn open(&mut self, structure: &Structure, tensor: &Tensor, location: NameId) -> Result<usize, FormatError> {
        if let Some(&file) = self.by_location.get(&location) {
            return Ok(file);
        }
        let path = self.find(structure.text(location)).map_err(|refusal| {
            let place = Name::new(structure.text(location));
            let tensor = Name::new(structure.text(tensor.name));
            let problem = format!("tensor {tensor}: its external data `{place}` {}", refusal.problem);
            FormatError::malformed(self.model.path(), problem).with_help(refusal.help)
        })?;
        let file = if let Some(&file) = self.by_path.get(&path) {
            file
        } else {
            self.opened.push(Input::open(&path)?);
            self.by_path.insert(path, self.opened.len() - 1);
            self.opened.len() - 1
        };
        self.by_location.insert(location, file);
        Ok(file)
    }

    /// The real path of a location, inside the model's folder.
    fn find(&self, location: &str) -> Result<PathBuf, Refusal> {
        let relative = Path::new(location);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || location.contains('\0') || !plain {
            return Err(Refusal::new("is not a path inside the model's folder", "use a model from a source you trust"));
        }
        let folders = self.folders();
        let path = folders
            .iter()
            .find_map(|folder| fs::canonicalize(folder.join(relative)).ok())
            .ok_or_else(|| Refusal::new("cannot be found", "put the file beside the model"))?;
        let inside = folders.iter().any(|folder| fs::canonicalize(folder).is_ok_and(|folder| path.starts_with(folder)));
        if !inside {
            return Err(Refusal::new("is a link out of the model's folder", "put the file itself beside the model"));
        }
        let facts = fs::metadata(&path).map_err(|_| Refusal::new("cannot be read", "check its permissions"))?;
        if !facts.is_file() {
            return Err(Refusal::new("is not a regular file", "put the file itself beside the model"));
        }
        if facts.nlink() > 1 {
            return Err(Refusal::new(
                "is a hard link: the same file has a name elsewhere",
                "copy the model's folder (`cp -r` makes files of their own), and use the copy",
            ));
        }
        Ok(path)
    }

    /// The model's folder, and where the model is a link (as in the caches of model hubs) that of the file itself.
    fn folders(&self) -> Vec<PathBuf> {
        let path = self.model.path();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut folders = vec![parent.to_owned()];
        if path.is_symlink() {
            folders.extend(fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_owned)));
        }
        folders
    }

    /// Where in its file a tensor is.
    fn span(&self, structure: &Structure, tensor: &Tensor, file: usize) -> Result<Span, FormatError> {
        let wrong = |problem: String| {
            let name = Name::new(structure.text(tensor.name));
            FormatError::malformed(self.model.path(), format!("tensor {name}: {problem}"))
        };
        let Data::Pointer(pointer) = tensor.data else {
            return Err(wrong("its data is in the model".to_owned()));
        };
        let expected = tensor.element.raw_bytes(tensor.elements);
        let Some(expected) = expected else {
            return Err(wrong(format!("its type {} cannot have external data", tensor.element)));
        };
        if let Some(length) = pointer.length.filter(|&length| length != expected) {
            let (element, dims) = (tensor.element, &tensor.dims);
            return Err(wrong(format!(
                "it has {length} bytes, where {element} of dimensions {dims:?} takes {expected}"
            )));
        }
        let available = self.opened[file].len();
        match pointer.offset.checked_add(expected) {
            Some(end) if end <= available => Ok(Span { start: pointer.offset, end }),
            _ => Err(wrong(format!(
                "its {expected} bytes from {} on pass the end of {} at {available}",
                pointer.offset,
                self.opened[file].path().display()
            ))
            .with_help("the file is cut short: fetch it again")),
        }
    }
}

struct Refusal {
    problem: &'static str,
    help: &'static str,
}

impl Refusal {
    fn new(problem: &'static str, help: &'static str) -> Self {
        Self { problem, help }
    }
}
