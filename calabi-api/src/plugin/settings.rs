//! The settings of a plugin, on their way from the pipeline file to the plugin's own type.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::ConfigError;

/// Settings of a plugin as they stand in the pipeline file, `kind` taken out.
///
/// ```
/// use calabi_api::{Settings, settings::Fraction, toml::de::DeTable};
///
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Energy {
///     threshold: Fraction,
/// }
///
/// let settings = Settings::new(DeTable::parse("threshold = 0.95")?);
/// assert_eq!(settings.parse::<Energy>()?.threshold.get(), 0.95);
///
/// let text = "treshold = 0.95";
/// let error = Settings::new(DeTable::parse(text)?).parse::<Energy>().unwrap_err();
/// assert_eq!(error.help(), Some("did you mean `threshold`?"));
/// assert_eq!(error.span().map(|span| &text[span]), Some("treshold"));
///
/// assert!(Settings::empty().parse::<Energy>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Settings<'i>(Spanned<DeTable<'i>>);

impl<'i> Settings<'i> {
    /// The settings in this table.
    #[must_use]
    pub fn new(table: Spanned<DeTable<'i>>) -> Self {
        Self(table)
    }

    /// No settings: for plugins that are found rather than named.
    #[must_use]
    pub fn empty() -> Self {
        Self(Spanned::new(0..0, DeTable::new()))
    }

    /// Parses them by the plugin's own `Deserialize`.
    ///
    /// # Errors
    /// Where a setting is missing, unknown or out of its range; the error has its place in the file.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        let span = self.0.span();
        let value = Spanned::new(span.clone(), DeValue::Table(self.0.into_inner()));
        T::deserialize(ValueDeserializer::from(value)).map_err(|error| ConfigError::from(error).at(span))
    }
}
