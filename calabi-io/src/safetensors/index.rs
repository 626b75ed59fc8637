//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use calabi_api::{FormatError, Name};
use serde_json::json;

use super::json;
use super::weights::Shard;
use crate::file::Input;

/// The file's name.
pub(super) const FILE: &str = "model.safetensors.index.json";
/// No index is longer.
const LONGEST: u64 = 100_000_000;
const FETCH: &str = "fetch the folder again, whole";

/// The shard of each tensor, by the tensor's name.
pub(super) type WeightMap = BTreeMap<String, String>;

/// Reads an index. Its shards are names of files beside it.
pub(super) fn read(path: &Path) -> Result<WeightMap, FormatError> {
    let file = Input::open(path)?;
    let malformed = |problem: String| FormatError::malformed(path, problem).with_help(FETCH);
    if file.len() > LONGEST {
        return Err(malformed(format!("{} bytes are no index", file.len())));
    }
    let map = parse(&file.bytes(0, file.len())?).map_err(malformed)?;
    if map.is_empty() {
        return Err(malformed("its weight_map lists no tensor: this is no model".into()));
    }
    Ok(map)
}

fn parse(text: &[u8]) -> Result<WeightMap, String> {
    let members = json::object(text)?;
    let map = members.iter().find(|(key, _)| key == "weight_map").ok_or("it has no weight_map")?.1;
    let entries = json::object(map.get().as_bytes()).map_err(|problem| format!("weight_map: {problem}"))?;
    entries.into_iter().map(|(tensor, raw)| Ok((tensor, shard(json::value(raw)?)?))).collect()
}

/// A shard's name leads to a file in the folder, and nowhere else.
fn shard(name: String) -> Result<String, String> {
    let mut components = Path::new(&name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name.as_str());
    if plain && name.ends_with(".safetensors") && !name.contains(['\\', '\0']) {
        Ok(name)
    } else {
        Err(format!("weight_map: {} is not the name of a .safetensors file in this folder", Name::new(&name)))
    }
}

/// Checks that every tensor stands where the index says, and nowhere else.
pub(super) fn check(path: &Path, mut map: WeightMap, shards: &[Shard]) -> Result<(), FormatError> {
    for shard in shards {
        for tensor in &shard.header.tensors {
            let problem = match map.remove(&tensor.name) {
                Some(named) if named == shard.name => continue,
                Some(named) => format!("but {FILE} says {}", Name::new(&named)),
                None if stands_before(shards, shard, &tensor.name) => "and in an earlier shard too".into(),
                None => format!("but {FILE} does not list it"),
            };
            let problem = format!("tensor {} stands here, {problem}", Name::new(&tensor.name));
            return Err(FormatError::malformed(shard.file.path(), problem).with_help(FETCH));
        }
    }
    match map.first_key_value() {
        None => Ok(()),
        Some((tensor, shard)) => {
            let problem =
                format!("it lists tensor {} in {}, which does not hold it", Name::new(tensor), Name::new(shard));
            Err(FormatError::malformed(path, problem).with_help(FETCH))
        }
    }
}

fn stands_before(shards: &[Shard], shard: &Shard, tensor: &str) -> bool {
    let earlier = shards.iter().take_while(|other| other.name != shard.name);
    earlier.flat_map(|shard| &shard.header.tensors).any(|other| other.name == tensor)
}

/// The text of an index.
pub(super) fn encode(map: &WeightMap, total_size: u64) -> Vec<u8> {
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": map });
    format!("{index:#}\n").into_bytes()
}
