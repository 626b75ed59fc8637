//! Samples in `.safetensors` files.

use std::collections::BTreeMap;
use std::path::Path;

use calabi_api::{DType, RunError, Tensor};
use safetensors::{Dtype, SafeTensors};

use crate::guard::guarded;
use crate::npy::{self, Item};
use crate::text;

/// All tensors of a `.safetensors` file, by name; types as [`read_npz`](crate::read_npz) reads them, and `bf16`.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, RunError> {
    tensors(path).map_err(|problem| RunError::Data { path: path.to_owned(), problem })
}

fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, String> {
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no file".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = guarded(|| SafeTensors::deserialize(&bytes))?
        .map_err(|error| format!("it is no .safetensors file, or damaged: {}", text::shown(&error.to_string())))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let refused = |problem: String| format!("{}: {problem}", text::shown(name));
        let item = item(view.dtype()).ok_or_else(|| {
            refused(format!("numbers of type {:?} are not read: store it as F32 or I64", view.dtype()))
        })?;
        let tensor = npy::plain(item, view.shape().to_vec(), view.data().to_vec()).map_err(refused)?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

fn item(dtype: Dtype) -> Option<Item> {
    Some(match dtype {
        Dtype::F64 => Item::Float(DType::F64),
        Dtype::F32 => Item::Float(DType::F32),
        Dtype::F16 => Item::Float(DType::F16),
        Dtype::BF16 => Item::Float(DType::BF16),
        Dtype::BOOL => Item::Bool,
        Dtype::U8 => Item::U8,
        Dtype::I8 => Item::I8,
        Dtype::U16 => Item::U16,
        Dtype::I16 => Item::I16,
        Dtype::I32 => Item::I32,
        Dtype::U32 => Item::U32,
        Dtype::I64 => Item::I64,
        _ => return None,
    })
}
