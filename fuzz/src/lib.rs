//! What the fuzz targets share: a place in memory for the files of one run.

use std::path::PathBuf;

/// Files that the next run writes over.
pub struct Scratch {
    /// The bytes of the run.
    pub model: PathBuf,
    /// What is written of them.
    pub output: PathBuf,
}

impl Scratch {
    /// Writes the model.
    pub fn new(bytes: &[u8]) -> Self {
        let folder = PathBuf::from(format!("/dev/shm/calabi-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder in memory");
        let scratch = Self { model: folder.join("model.onnx"), output: folder.join("small.onnx") };
        scratch.clear();
        std::fs::write(&scratch.model, bytes).expect("room in memory");
        scratch
    }

    /// Makes room for another output.
    pub fn clear(&self) {
        _ = std::fs::remove_file(&self.output);
    }
}
