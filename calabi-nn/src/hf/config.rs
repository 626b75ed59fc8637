//! `config.json`: its keys, each read with an error that names it.

use std::path::{Path, PathBuf};

use calabi_api::RunError;
use serde_json::{Map, Value};

use crate::text;

/// The file's name.
const FILE: &str = "config.json";
/// No configuration is longer.
const LONGEST: u64 = 64 << 20;

/// The keys of a configuration, or of an object in it.
#[derive(Debug)]
pub(super) struct Keys {
    path: PathBuf,
    /// What stands before a key's name in messages.
    within: String,
    members: Map<String, Value>,
}

impl Keys {
    /// Reads the configuration of a checkpoint folder.
    pub(super) fn read(folder: &Path) -> Result<Self, RunError> {
        let path = folder.join(FILE);
        let refused = |problem: String| RunError::Load { path: path.clone(), problem };
        let length = std::fs::metadata(&path).map_err(|e| refused(format!("it cannot be read: {e}")))?.len();
        if length > LONGEST {
            return Err(refused(format!("{length} bytes are no configuration")));
        }
        let text = std::fs::read(&path).map_err(|e| refused(format!("it cannot be read: {e}")))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(members)) => Ok(Self { path, within: String::new(), members }),
            Ok(_) => Err(refused("it is no JSON object".to_owned())),
            Err(error) => Err(refused(format!("it is no JSON: {error}"))),
        }
    }

    /// The object under a key; none where it is absent or null.
    pub(super) fn object(&self, key: &str) -> Result<Option<Self>, RunError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(members)) => {
                let within = format!("{}{key}.", self.within);
                Ok(Some(Self { path: self.path.clone(), within, members: members.clone() }))
            }
            Some(other) => Err(self.unexpected(key, "an object", other)),
        }
    }

    /// The text under a key; none where it is absent or null.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, RunError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.unexpected(key, "a text", other)),
        }
    }

    /// The texts in the array under a key; none where it is absent or null.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, RunError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str());
                texts.collect::<Option<_>>().map(Some).ok_or_else(|| self.refuse(key, "it is no list of texts"))
            }
            Some(other) => Err(self.unexpected(key, "a list of texts", other)),
        }
    }

    /// The number under a key; none where it is absent or null.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, RunError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.unexpected(key, "a number", value)),
        }
    }

    /// The positive number under a key that has to be there.
    pub(super) fn positive(&self, key: &str) -> Result<f64, RunError> {
        let number = self.number(key)?.ok_or_else(|| self.refuse(key, "it is missing"))?;
        if number > 0.0 && number.is_finite() { Ok(number) } else { Err(self.refuse(key, "it is not positive")) }
    }

    /// The count under a key, which is not zero; none where it is absent or null.
    pub(super) fn count_or_none(&self, key: &str) -> Result<Option<usize>, RunError> {
        let count = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
        match self.get(key) {
            None => Ok(None),
            Some(value) => match count(value) {
                Some(count) => Ok(Some(count as usize)),
                None => Err(self.unexpected(key, "a count of at least 1", value)),
            },
        }
    }

    /// The count under a key that has to be there.
    pub(super) fn count(&self, key: &str) -> Result<usize, RunError> {
        self.count_or_none(key)?.ok_or_else(|| self.refuse(key, "it is missing"))
    }

    /// The truth value under a key; none where it is absent or null.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, RunError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.unexpected(key, "true or false", other)),
        }
    }

    /// Refuses these keys where they say anything but null, false, 0, 1 or nothing at all.
    pub(super) fn refuse_set(&self, keys: &[&str]) -> Result<(), RunError> {
        let idle = |value: &Value| {
            matches!(value, Value::Null | Value::Bool(false)) || matches!(value.as_f64(), Some(0.0 | 1.0))
        };
        match keys.iter().find(|key| self.members.get(**key).is_some_and(|value| !idle(value))) {
            Some(key) => Err(self.refuse(key, "it changes what the model computes in a way that is not supported")),
            None => Ok(()),
        }
    }

    /// The error that names a key, and says what is wrong with it.
    pub(super) fn refuse(&self, key: &str, problem: impl AsRef<str>) -> RunError {
        let problem = format!("{}{key}: {}", self.within, problem.as_ref());
        RunError::Load { path: self.path.clone(), problem }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.members.get(key).filter(|value| !value.is_null())
    }

    fn unexpected(&self, key: &str, wanted: &str, found: &Value) -> RunError {
        self.refuse(key, format!("it is {} instead of {wanted}", text::shown(&found.to_string())))
    }
}
