//! `config.json`: what it says of the weights, and how it names a factorized model.

use std::path::{Path, PathBuf};

use calabi_api::{FormatError, Name};
use serde_json::value::RawValue;

use super::bias_keys::{self, BiasKey};
use super::plan::Part;
use super::{json, loader};
use crate::file::Input;

/// The file's name.
pub(super) const FILE: &str = "config.json";
/// The model type of a factorized checkpoint.
const CALABI: &str = "calabi";
/// The version of what stands under `calabi`.
const VERSION: u64 = 1;
/// Where the layers are listed whose bias came with their factors.
const ADDED: &str = "added_biases";
/// No configuration is longer.
const LONGEST: u64 = 64 << 20;

/// A layer that becomes factors.
pub(super) struct Replaced {
    pub(super) layer: String,
    pub(super) rank: u64,
    /// Whether it gets a bias that it had none of.
    pub(super) adds_bias: bool,
}

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
    /// The layers among them that had no bias before.
    added_biases: Vec<String>,
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
        if let Some(Former { base, ranks, added_biases, own_code }) = former {
            self.ranks = ranks;
            self.added_biases = added_biases;
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
    pub(super) fn factorized(&self, replaced: &[Replaced], has: impl Fn(&str) -> bool) -> Result<Vec<u8>, FormatError> {
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
        lines.push((CALABI.into(), self.described(replaced, own_code, has)));
        Ok((block(&lines, 1) + "\n").into_bytes())
    }

    /// Whether it names layers that are factorized.
    pub(super) fn is_factorized(&self) -> bool {
        !self.ranks.is_empty()
    }

    /// The layers that are factorized already.
    pub(super) fn factorized_layers(&self) -> impl Iterator<Item = &str> {
        self.ranks.iter().map(|(layer, _)| layer.as_str())
    }

    /// The keys that give a dense layer the biases that factorized layers have and their dense weights had none of.
    pub(super) fn bias_keys(&self) -> Result<Vec<&'static BiasKey>, FormatError> {
        bias_keys::needed(self.model_type.as_deref(), &self.added_biases).map_err(|layer| {
            let layer = Name::new(layer);
            let problem = format!("layer {layer} has a bias that the original architecture has no place for");
            FormatError::limit(problem, "compress without one: [calibration] bias = \"none\", no [refine]")
        })
    }

    /// The configuration of the dense checkpoint: what [`factorized`](Self::factorized) added is taken out.
    pub(super) fn dense(&self) -> Result<Vec<u8>, FormatError> {
        let malformed = |problem| FormatError::malformed(&self.path, problem);
        let biased = self.bias_keys()?;
        let mut lines = Vec::new();
        for (key, raw) in json::object(self.text().unwrap_or(b"{}")).map_err(malformed)? {
            match key.as_str() {
                CALABI | loader::WEIGHTS => {}
                "model_type" => lines.extend(self.model_type.as_deref().map(|base| (key, quoted(base)))),
                loader::MAP => {
                    let own = loader::own(raw, self.own_code.as_deref());
                    let own = own.map_err(|problem| malformed(format!("{}: {problem}", loader::MAP)))?;
                    lines.extend((!own.is_empty()).then(|| (key, block(&own, 2))));
                }
                name if biased.iter().any(|biased| biased.key == name) => {}
                _ => lines.push((key, raw.get().to_owned())),
            }
        }
        lines.extend(biased.into_iter().map(|biased| (biased.key.to_owned(), "true".to_owned())));
        Ok((block(&lines, 1) + "\n").into_bytes())
    }

    fn described(&self, replaced: &[Replaced], own_code: Option<String>, has: impl Fn(&str) -> bool) -> String {
        let base = self.model_type.as_deref().map_or_else(|| "null".into(), quoted);
        let new = replaced.iter().map(|replaced| (&replaced.layer, replaced.rank));
        let ranks: Vec<_> = self.ranks.iter().map(|(name, rank)| (name, *rank)).chain(new).collect();
        let ranks: Vec<_> = ranks.into_iter().map(|(name, rank)| (name.clone(), rank.to_string())).collect();
        let biased = list(ranks.iter().map(|(name, _)| name).filter(|name| has(&Part::Bias.of(name))));
        let added = replaced.iter().filter(|replaced| replaced.adds_bias).map(|replaced| &replaced.layer);
        let added = list(self.added_biases.iter().chain(added));
        let mut members: Vec<(String, String)> = vec![
            ("version".into(), VERSION.to_string()),
            ("base_model_type".into(), base),
            ("ranks".into(), block(&ranks, 3)),
        ];
        members.extend(biased.map(|biased| ("biases".into(), biased)));
        members.extend(added.map(|added| (ADDED.into(), added)));
        members.extend(own_code.map(|own| (loader::MAP.into(), own)));
        block(&members, 2)
    }
}

/// What the configuration of a factorized model says under `calabi`.
struct Former {
    base: Option<String>,
    ranks: Vec<(String, u64)>,
    added_biases: Vec<String>,
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
    let added_biases = named(ADDED).map(json::value).transpose()?.unwrap_or_default();
    Ok(Former { base, ranks, added_biases, own_code })
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

/// A list of names, a line each; none where there are none.
fn list<'a>(names: impl Iterator<Item = &'a String>) -> Option<String> {
    let lines: Vec<_> = names.map(|name| format!("{}{}", "  ".repeat(3), quoted(name))).collect();
    (!lines.is_empty()).then(|| format!("[\n{}\n    ]", lines.join(",\n")))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
