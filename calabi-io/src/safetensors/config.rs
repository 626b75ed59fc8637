//! `config.json`: what it says of the weights, and how it names a factorized model.

use std::path::{Path, PathBuf};

use calabi_api::FormatError;
use serde_json::value::RawValue;

use super::plan::Part;
use super::{json, loader};
use crate::file::Input;

/// The file's name.
pub(super) const FILE: &str = "config.json";
/// The model type of a factorized checkpoint.
const CALABI: &str = "calabi";
/// The version of what stands under `calabi`.
const VERSION: u64 = 1;
/// No configuration is longer.
const LONGEST: u64 = 64 << 20;

/// What a checkpoint's configuration says.
#[derive(Debug, Default)]
pub(super) struct Config {
    path: PathBuf,
    text: Vec<u8>,
    /// The architecture of the dense model.
    pub(super) model_type: Option<String>,
    /// Whether the head is the embedding table.
    pub(super) tied: bool,
    /// Whether the weights are quantised.
    pub(super) quantized: bool,
    /// The ranks of layers that are factorized already.
    ranks: Vec<(String, u64)>,
    /// The dense model's own code, where factors were put into a model that has some.
    own_code: Option<String>,
}

impl Config {
    /// Reads the configuration of a folder; one that is not there says nothing.
    pub(super) fn read(folder: &Path) -> Result<Self, FormatError> {
        let path = folder.join(FILE);
        if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Self { path, ..Self::default() });
        }
        let file = Input::open(&path)?;
        if file.len() > LONGEST {
            return Err(FormatError::malformed(path, format!("{} bytes are no configuration", file.len())));
        }
        let mut config = Self { path, text: file.bytes(0, file.len())?, ..Self::default() };
        config.understand().map_err(|problem| {
            FormatError::malformed(&config.path, problem).with_help("repair it: it decides how the weights are read")
        })?;
        Ok(config)
    }

    fn understand(&mut self) -> Result<(), String> {
        let members = json::object(&self.text)?;
        let named = |name: &str| members.iter().find(|(key, _)| key == name).map(|&(_, raw)| raw);
        let set = |name| named(name).is_some_and(|raw| raw.get() != "null");
        self.quantized = set("quantization_config") || set("compression_config");
        self.tied = flag(named("tie_word_embeddings")) || text_flag(named("text_config"));
        let model_type = named("model_type").map(json::value).transpose().map_err(|e| format!("model_type: {e}"))?;
        self.model_type = model_type.flatten();
        loader::code(named(loader::MAP)).map_err(|problem| format!("{}: {problem}", loader::MAP))?;
        let former = named(CALABI).map(former).transpose().map_err(|e| format!("{CALABI}: {e}"))?;
        let calls_itself = self.model_type.as_deref() == Some(CALABI);
        if let Some(Former { base, ranks, own_code }) = former {
            self.ranks = ranks;
            self.own_code = own_code;
            if calls_itself {
                self.model_type = base;
            }
        } else if calls_itself {
            return Err(format!("its model_type is {CALABI}, but it has no `{CALABI}` with the ranks"));
        }
        Ok(())
    }

    /// The text of the file; none where there is no file.
    pub(super) fn text(&self) -> Option<&[u8]> {
        (!self.text.is_empty()).then_some(&self.text)
    }

    /// The configuration of the checkpoint in which these layers are factorized too: all other keys stay as they are.
    /// `has` tells whether the checkpoint has a tensor of this name.
    pub(super) fn factorized(
        &self,
        ranks: &[(String, u64)],
        has: impl Fn(&str) -> bool,
    ) -> Result<Vec<u8>, FormatError> {
        let malformed = |problem| FormatError::malformed(&self.path, problem);
        let members = json::object(self.text().unwrap_or(b"{}")).map_err(malformed)?;
        let auto_map = members.iter().find(|(key, _)| key == loader::MAP).map(|&(_, raw)| raw);
        let code = loader::code(auto_map).map_err(|problem| malformed(format!("{}: {problem}", loader::MAP)))?;
        let own_code = code.own.map(|own| block(&own, 3)).or_else(|| self.own_code.clone());
        let mut lines: Vec<(String, String)> = members
            .into_iter()
            .filter(|(key, _)| ![CALABI, loader::MAP, loader::WEIGHTS].contains(&key.as_str()))
            .map(|(key, raw)| if key == "model_type" { (key, quoted(CALABI)) } else { (key, raw.get().to_owned()) })
            .collect();
        if lines.iter().all(|(key, _)| key != "model_type") {
            lines.push(("model_type".into(), quoted(CALABI)));
        }
        lines.push((loader::MAP.into(), block(&code.map, 2)));
        lines.push((loader::WEIGHTS.into(), quoted(loader::NO_WEIGHTS)));
        lines.push((CALABI.into(), self.described(ranks, own_code, has)));
        Ok((block(&lines, 1) + "\n").into_bytes())
    }

    fn described(&self, ranks: &[(String, u64)], own_code: Option<String>, has: impl Fn(&str) -> bool) -> String {
        let base = self.model_type.as_deref().map_or_else(|| "null".into(), quoted);
        let ranks: Vec<_> =
            self.ranks.iter().chain(ranks).map(|(name, rank)| (name.clone(), rank.to_string())).collect();
        let biased = ranks.iter().map(|(name, _)| name).filter(|name| has(&Part::Bias.of(name)));
        let biased: Vec<_> = biased.map(|name| format!("{}{}", "  ".repeat(3), quoted(name))).collect();
        let mut members: Vec<(String, String)> = vec![
            ("version".into(), VERSION.to_string()),
            ("base_model_type".into(), base),
            ("ranks".into(), block(&ranks, 3)),
        ];
        if !biased.is_empty() {
            members.push(("biases".into(), format!("[\n{}\n    ]", biased.join(",\n"))));
        }
        members.extend(own_code.map(|own| (loader::MAP.into(), own)));
        block(&members, 2)
    }
}

/// What the configuration of a factorized model says under `calabi`.
struct Former {
    base: Option<String>,
    ranks: Vec<(String, u64)>,
    own_code: Option<String>,
}

fn former(raw: &RawValue) -> Result<Former, String> {
    let members = json::object(raw.get().as_bytes())?;
    let named = |name: &str| members.iter().find(|(key, _)| key == name).map(|&(_, raw)| raw);
    let version: u64 = named("version").map_or(Err("its version is missing".into()), json::value)?;
    if version != VERSION {
        return Err(format!("its version is {version}, and this program knows {VERSION}"));
    }
    let base = named("base_model_type").map(json::value).transpose()?.flatten();
    let ranks = named("ranks").ok_or("its ranks are missing")?;
    let ranks = json::object(ranks.get().as_bytes())?;
    let ranks = ranks.into_iter().map(|(name, raw)| Ok((name, json::value(raw)?))).collect::<Result<_, String>>()?;
    let own_code = named(loader::MAP).map(|raw| raw.get().to_owned());
    Ok(Former { base, ranks, own_code })
}

fn flag(raw: Option<&RawValue>) -> bool {
    raw.is_some_and(|raw| raw.get() == "true")
}

/// The flag of a language model inside a larger one.
fn text_flag(raw: Option<&RawValue>) -> bool {
    let members = raw.and_then(|raw| json::object(raw.get().as_bytes()).ok()).unwrap_or_default();
    members.iter().any(|(key, raw)| key == "tie_word_embeddings" && flag(Some(raw)))
}

/// An object with a line for each member, indented as Hugging Face's libraries do.
fn block(members: &[(String, String)], depth: usize) -> String {
    if members.is_empty() {
        return "{}".into();
    }
    let (inner, outer) = ("  ".repeat(depth), "  ".repeat(depth - 1));
    let lines: Vec<_> = members.iter().map(|(key, value)| format!("{inner}{}: {value}", quoted(key))).collect();
    format!("{{\n{}\n{outer}}}", lines.join(",\n"))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
