//! Patterns over whole layer names.

use std::borrow::Cow;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// A glob over a whole name (`*` crosses `.` and `/`, which are literal characters), or `re:` and a regular expression
/// that must match the whole name.
///
/// ```
/// use calabi::Pattern;
///
/// assert!(Pattern::new("model.layers.1.*")?.matches("model.layers.1.mlp.up_proj"));
/// assert!(!Pattern::new("q_proj")?.matches("self_attn.q_proj"), "the whole name must match");
/// assert!(Pattern::new(r"re:layers\.(0|1)")?.matches("layers.1"));
/// assert!(Pattern::new("re:(").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    Glob(GlobMatcher),
    Regex(Regex),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Where the glob or the regular expression cannot be read: what the parser says.
    pub fn new(text: &str) -> Result<Self, String> {
        let matcher = match text.strip_prefix("re:") {
            Some(regex) => Regex::new(&format!("^(?:{regex})$")).map(Matcher::Regex).map_err(|e| e.to_string())?,
            None => GlobBuilder::new(text)
                .literal_separator(false)
                .build()
                .map(|glob| Matcher::Glob(glob.compile_matcher()))
                .map_err(|e| e.kind().to_string())?,
        };
        Ok(Self { text: text.to_owned(), matcher })
    }

    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.matcher {
            Matcher::Glob(glob) => glob.is_match(name),
            Matcher::Regex(regex) => regex.is_match(name),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|problem| serde::de::Error::custom(format!("`{text}` is no pattern: {problem}")))
    }
}

impl JsonSchema for Pattern {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Pattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names_and_take_dots_literally() {
        let matches = |pattern, name| Pattern::new(pattern).unwrap().matches(name);
        assert!(matches("model.layers.1.*", "model.layers.1.mlp.up_proj"));
        assert!(!matches("model.layers.1.*", "model.layers.10.mlp.up_proj"));
        assert!(!matches("a.b", "aXb"));
        assert!(!matches("q_proj", "self_attn.q_proj"));
        assert!(matches("*/q_proj/*", "/layer/q_proj/MatMul"));
        assert!(matches("*.{q,k}_proj", "x.k_proj"));
    }

    #[test]
    fn a_regular_expression_is_anchored_at_both_ends() {
        let matches = |pattern, name| Pattern::new(pattern).unwrap().matches(name);
        assert!(matches(r"re:layers\.(0|1)", "layers.1"));
        assert!(!matches(r"re:layers\.(0|1)", "layers.10"));
        assert!(!matches("re:a|b", "ab"));
        assert!(Pattern::new("re:(").is_err());
        assert!(Pattern::new("{").is_err());
    }
}
