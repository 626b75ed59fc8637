//! Settings that remember where they stand in the pipeline file.

use std::borrow::Cow;
use std::ops::{Deref, Range};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

/// A value, and its place in the pipeline file where it came from one.
///
/// ```
/// use calabi::{ModelSettings, Sited, api::toml};
///
/// let text = "input = 'm.onnx'\noutput = 's.onnx'";
/// let model: ModelSettings = toml::from_str(text)?;
/// assert_eq!(model.output.span.clone().map(|span| &text[span]), Some("'s.onnx'"));
/// assert!(model.output.ends_with("s.onnx"), "it derefs to the value");
/// assert_eq!(Sited::from(3), Sited { value: 3, span: None });
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sited<T> {
    /// The value.
    pub value: T,
    /// The bytes of the pipeline file that hold it.
    pub span: Option<Range<usize>>,
}

impl<T> From<T> for Sited<T> {
    fn from(value: T) -> Self {
        Self { value, span: None }
    }
}

impl<T> Deref for Sited<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sited<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self { span: Some(spanned.span()), value: spanned.into_inner() })
    }
}

impl<T: JsonSchema> JsonSchema for Sited<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
