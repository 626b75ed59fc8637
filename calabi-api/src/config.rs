//! Errors in a pipeline file, with their place in it.

use std::fmt;
use std::ops::Range;

/// What is wrong with a setting, where, and the way out.
///
/// ```
/// use calabi_api::ConfigError;
///
/// let error = ConfigError::new("unknown rank rule `enrgy`").at(14..21).with_known("enrgy", &["energy", "uniform"]);
/// assert_eq!((error.message(), error.span()), ("unknown rank rule `enrgy`", Some(14..21)));
/// assert_eq!(error.help(), Some("did you mean `energy`? known are energy, uniform"));
///
/// let error = ConfigError::new("there are no samples").with_help("add [calibration]");
/// assert_eq!(error.to_string(), "there are no samples (add [calibration])");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
    span: Option<Range<usize>>,
    help: Option<String>,
}

impl ConfigError {
    /// An error without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, help: None }
    }

    /// The same error, at these bytes of the pipeline file where they are known, unless it has a place already.
    #[must_use]
    pub fn at(mut self, span: impl Into<Option<Range<usize>>>) -> Self {
        self.span = self.span.or_else(|| span.into());
        self
    }

    /// The same error, with the way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same error about an unknown word, with those that are known and the nearest of them.
    #[must_use]
    pub fn with_known(self, word: &str, known: &[&str]) -> Self {
        let list =
            if known.is_empty() { "none is registered".to_owned() } else { format!("known are {}", known.join(", ")) };
        let near = nearest(word, known.iter().copied());
        self.with_help(near.map_or_else(|| list.clone(), |near| format!("did you mean `{near}`? {list}")))
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The bytes of the pipeline file that are at fault.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// The way out.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl From<toml::de::Error> for ConfigError {
    fn from(error: toml::de::Error) -> Self {
        let message = error.message().trim().to_owned();
        let help = suggestion(&message);
        Self { message, span: error.span(), help }
    }
}

/// The way out of serde's "unknown field `x`, expected one of `a`, `b`": the nearest of those that it lists.
fn suggestion(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next()?;
    nearest(unknown, names).map(|name| format!("did you mean `{name}`?"))
}

/// The one of `known` that is spelt most like `word`, where one is near enough to be meant.
///
/// ```
/// use calabi_api::nearest;
///
/// assert_eq!(nearest("treshold", ["threshold", "keep"]), Some("threshold"));
/// assert_eq!(nearest("colour", ["threshold", "keep"]), None);
/// ```
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    known.into_iter().filter(|name| likeness(name) > 0.8).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_answered_with_the_nearest() {
        let help = |message| suggestion(message);
        assert_eq!(
            help("unknown field `treshold`, expected `threshold`").as_deref(),
            Some("did you mean `threshold`?")
        );
        assert_eq!(
            help("unknown field `kep`, expected one of `keep`, `unit`").as_deref(),
            Some("did you mean `keep`?")
        );
        assert_eq!(help("unknown field `zzz`, expected `keep`"), None);
        assert_eq!(help("unknown field `zzz`, there are no fields"), None);
    }
}
