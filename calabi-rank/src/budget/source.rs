//! The setting `sensitivity`: three texts.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use calabi_api::SensitivitySource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// Where a rule takes sensitivities from, as a pipeline file says it: `"off"`, `"measured"` or `"file:PATH"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SensitivityFrom(SensitivitySource);

impl SensitivityFrom {
    /// The source that is named.
    #[must_use]
    pub fn source(&self) -> &SensitivitySource {
        &self.0
    }
}

impl From<SensitivitySource> for SensitivityFrom {
    fn from(source: SensitivitySource) -> Self {
        Self(source)
    }
}

impl fmt::Display for SensitivityFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            SensitivitySource::Off => f.write_str("off"),
            SensitivitySource::Measured => f.write_str("measured"),
            SensitivitySource::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for SensitivityFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Texts)
    }
}

impl Serialize for SensitivityFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Texts;

impl Visitor<'_> for Texts {
    type Value = SensitivityFrom;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""off", "measured" or "file:PATH""#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let source = match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => SensitivitySource::File(PathBuf::from(path)),
            None if text == "off" => SensitivitySource::Off,
            None if text == "measured" => SensitivitySource::Measured,
            _ => return Err(E::invalid_value(Unexpected::Str(text), &self)),
        };
        Ok(SensitivityFrom(source))
    }
}

impl JsonSchema for SensitivityFrom {
    fn schema_name() -> Cow<'static, str> {
        "SensitivityFrom".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "enum": ["off", "measured"] }, { "type": "string", "pattern": "^file:." }]
        })
    }
}
