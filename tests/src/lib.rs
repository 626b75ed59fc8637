//! What the end-to-end tests share: small models, the program, and a look into what it wrote.

// A test that cannot go on panics: that is its way to fail.
#![allow(clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::{bf16, f16};
use ndarray::Array2;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A folder for one test, with a model and pipelines in it.
#[derive(Debug)]
pub struct Workplace {
    folder: TempDir,
    program: PathBuf,
}

impl Workplace {
    /// An empty folder, and the program to run in it.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self { folder: TempDir::new().unwrap(), program: program.into() }
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs the program in the folder.
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        let output = Command::new(&self.program).args(args).current_dir(self.folder.path()).output().unwrap();
        Ran(output)
    }

    /// The names in the folder, hidden ones included.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Writes a safetensors file of these weights, all of type `dtype`.
    #[allow(clippy::must_use_candidate)] // it is called for what it writes
    pub fn model(&self, name: &str, dtype: Dtype, weights: &[(&str, Array2<f32>)]) -> PathBuf {
        let bytes: Vec<_> = weights.iter().map(|(_, weight)| encode(weight, dtype)).collect();
        let views = weights.iter().zip(&bytes).map(|((name, weight), bytes)| {
            (*name, TensorView::new(dtype, vec![weight.nrows(), weight.ncols()], bytes).unwrap())
        });
        self.write(name, safetensors::serialize(views, None).unwrap())
    }

    /// Copies a tiny checkpoint that transformers made into the folder `model`.
    pub fn checkpoint(&self, family: &str) {
        let folder = root().join("calabi-nn/tests/models").join(family);
        for name in ["config.json", "model.safetensors"] {
            self.write(&format!("model/{name}"), fs::read(folder.join(name)).unwrap());
        }
    }

    /// Writes `data.safetensors`: token numbers, a row for each sample.
    pub fn token_ids(&self, samples: usize, sequence: usize, ids: impl IntoIterator<Item = i64>) {
        let bytes: Vec<u8> = ids.into_iter().flat_map(i64::to_le_bytes).collect();
        let ids = TensorView::new(Dtype::I64, vec![samples, sequence], &bytes).unwrap();
        self.write("data.safetensors", safetensors::serialize([("input_ids", ids)], None).unwrap());
    }
}

/// What the program did.
#[derive(Debug)]
pub struct Ran(Output);

impl Ran {
    /// Its exit code.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    /// What it printed on stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// What it printed on stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Its stdout as JSON, after it ended well.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.code(), 0, "{}", self.stderr());
        serde_json::from_slice(&self.0.stdout).unwrap()
    }
}

fn encode(weight: &Array2<f32>, dtype: Dtype) -> Vec<u8> {
    let each = |f: fn(f32) -> Vec<u8>| weight.iter().flat_map(|&v| f(v)).collect();
    match dtype {
        Dtype::F64 => each(|v| f64::from(v).to_le_bytes().to_vec()),
        Dtype::F32 => each(|v| v.to_le_bytes().to_vec()),
        Dtype::F16 => each(|v| f16::from_f32(v).to_le_bytes().to_vec()),
        Dtype::BF16 => each(|v| bf16::from_f32(v).to_le_bytes().to_vec()),
        other => panic!("no weights of {other:?}"),
    }
}

/// The matrices of a safetensors file, as `f64`.
#[must_use]
pub fn matrices(path: &Path) -> BTreeMap<String, Array2<f64>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .filter_map(|(name, view)| {
            let &[rows, cols] = view.shape() else { return None };
            let values = decode(view.data(), view.dtype());
            Some((name.to_owned(), Array2::from_shape_vec((rows, cols), values).unwrap()))
        })
        .collect()
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
        Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).into()).collect(),
        Dtype::BF16 => bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).into()).collect(),
        other => panic!("no matrix of {other:?}"),
    }
}

/// The relative error of the factors that stand for a layer in `compressed`, against its weight in `original`.
#[must_use]
pub fn relative_error(
    original: &BTreeMap<String, Array2<f64>>,
    compressed: &BTreeMap<String, Array2<f64>>,
    layer: &str,
) -> f64 {
    let weight = &original[&format!("{layer}.weight")];
    let product = compressed[&format!("{layer}.left.weight")].dot(&compressed[&format!("{layer}.right.weight")]);
    let norm = |m: &Array2<f64>| m.iter().map(|v| v * v).sum::<f64>().sqrt();
    norm(&(weight - &product)) / norm(weight)
}

/// A weight whose spectrum falls off as `decay^i`, the same for the same seed.
#[must_use]
pub fn decaying(rows: usize, cols: usize, decay: f64, seed: u64) -> Array2<f32> {
    let mut noise = Noise(seed);
    let rank = rows.min(cols);
    let mut weight = Array2::<f64>::zeros((rows, cols));
    for i in 0..rank {
        let left: Vec<f64> = (0..rows).map(|_| noise.next()).collect();
        let right: Vec<f64> = (0..cols).map(|_| noise.next()).collect();
        let scale = decay.powi(i32::try_from(i).unwrap());
        weight.indexed_iter_mut().for_each(|((r, c), w)| *w += scale * left[r] * right[c]);
    }
    #[allow(clippy::cast_possible_truncation)]
    weight.mapv(|w| w as f32)
}

/// A small generator of numbers from -1 to 1 (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(2).wrapping_add(1).max(1);
        for _ in 0..3 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
        }
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        2.0 * bits as f64 / (1_u64 << 53) as f64 - 1.0
    }
}
