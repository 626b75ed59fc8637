//! Finds plugins by their kind.

use crate::{ConfigError, Decomposer, LayerFormat, Plugin, RankRule, Runtime};

/// What can be registered: one registry for each contract.
///
/// ```
/// use calabi_api::registry::{Registered, all};
/// use calabi_api::{ConfigError, Runtime};
///
/// fn listed<T: Registered + ?Sized>() -> Result<Vec<String>, ConfigError> {
///     Ok(all::<T>()?.iter().map(|plugin| format!("{} {}: {}", T::NOUN, plugin.kind(), plugin.summary())).collect())
/// }
///
/// assert_eq!(<dyn Runtime>::NOUN, "runtime");
/// assert!(listed::<dyn Runtime>()?.iter().all(|line| line.starts_with("runtime ")));
/// # Ok::<(), ConfigError>(())
/// ```
pub trait Registered: 'static {
    /// What a plugin of this registry is called in messages: "rank rule".
    const NOUN: &'static str;

    /// The plugins of this registry, as the linker left them.
    #[doc(hidden)]
    fn submitted() -> Vec<&'static Plugin<Self>>;
}

macro_rules! registered {
    ($($contract:ty => $noun:literal),+ $(,)?) => {$(
        impl Registered for $contract {
            const NOUN: &'static str = $noun;

            fn submitted() -> Vec<&'static Plugin<Self>> {
                inventory::iter::<Plugin<Self>>().collect()
            }
        }
    )+};
}

registered! {
    RankRule => "rank rule",
    dyn Decomposer => "decomposer",
    dyn LayerFormat => "format",
    dyn Runtime => "runtime",
}

/// All plugins of a registry, by kind.
///
/// ```
/// use calabi_api::{Plugin, RankRule, registry};
/// # use calabi_api::{Choice, LayerSpectrum, RankSelector, SelectError};
/// # #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
/// # struct Median {}
/// # impl RankSelector for Median {
/// #     fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> { Ok(Choice::dense("untouched")) }
/// # }
/// calabi_api::submit! { Plugin::selector::<Median>("median", "keep what lies above the median") }
///
/// let kinds: Vec<_> = registry::all::<RankRule>()?.iter().map(|plugin| plugin.kind()).collect();
/// assert!(kinds.contains(&"median") && kinds.is_sorted());
/// # Ok::<(), calabi_api::ConfigError>(())
/// ```
///
/// # Errors
/// Where two plugins have the same kind; the error names both origins.
pub fn all<T: Registered + ?Sized>() -> Result<Vec<&'static Plugin<T>>, ConfigError> {
    sorted(T::submitted(), T::NOUN)
}

/// The plugin of this kind.
///
/// ```
/// use calabi_api::{Plugin, RankRule, registry};
/// # use calabi_api::{Choice, LayerSpectrum, RankSelector, SelectError};
/// # #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
/// # struct Quarter {}
/// # impl RankSelector for Quarter {
/// #     fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> { Ok(Choice::dense("untouched")) }
/// # }
/// calabi_api::submit! { Plugin::selector::<Quarter>("quarter", "keep a quarter of the rank") }
///
/// assert_eq!(registry::find::<RankRule>("quarter")?.summary(), "keep a quarter of the rank");
/// let error = registry::find::<RankRule>("quater").unwrap_err();
/// assert_eq!(error.message(), "unknown rank rule `quater`");
/// assert!(error.help().unwrap().starts_with("did you mean `quarter`?"));
/// # Ok::<(), calabi_api::ConfigError>(())
/// ```
///
/// # Errors
/// Where there is none (the error lists those that are there, and names the nearest), or two plugins clash.
pub fn find<T: Registered + ?Sized>(kind: &str) -> Result<&'static Plugin<T>, ConfigError> {
    let plugins = all::<T>()?;
    plugins.iter().find(|plugin| plugin.kind() == kind).copied().ok_or_else(|| unknown(kind, &plugins, T::NOUN))
}

fn sorted<T: ?Sized>(mut plugins: Vec<&'static Plugin<T>>, noun: &str) -> Result<Vec<&'static Plugin<T>>, ConfigError> {
    plugins.sort_by_key(|plugin| (plugin.kind(), plugin.origin()));
    match plugins.windows(2).find(|pair| pair[0].kind() == pair[1].kind()) {
        None => Ok(plugins),
        Some(pair) => {
            let (kind, first, second) = (pair[0].kind(), pair[0].origin(), pair[1].origin());
            Err(ConfigError::new(format!("two plugins register the {noun} `{kind}`: {first} and {second}"))
                .with_help("leave one of them out of the program, or rename it"))
        }
    }
}

fn unknown<T: ?Sized>(kind: &str, plugins: &[&Plugin<T>], noun: &str) -> ConfigError {
    let kinds: Vec<_> = plugins.iter().map(|plugin| plugin.kind()).collect();
    ConfigError::new(format!("unknown {noun} `{kind}`")).with_known(kind, &kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    struct Nothing {}

    impl crate::RankSelector for Nothing {
        fn select(&self, _: &crate::LayerSpectrum<'_>) -> Result<crate::Choice, crate::SelectError> {
            Ok(crate::Choice::dense("nothing"))
        }
    }

    static ONE: Plugin<RankRule> = Plugin::selector::<Nothing>("energy", "").from("one 1.0.0");
    static TWO: Plugin<RankRule> = Plugin::selector::<Nothing>("energy", "").from("two 2.0.0");
    static GAP: Plugin<RankRule> = Plugin::selector::<Nothing>("spectral-gap", "").from("one 1.0.0");

    #[test]
    fn a_clash_names_both_origins() {
        let error = sorted(vec![&TWO, &GAP, &ONE], "rank rule").unwrap_err();
        assert_eq!(error.message(), "two plugins register the rank rule `energy`: one 1.0.0 and two 2.0.0");
    }

    #[test]
    fn an_unknown_kind_is_answered_with_the_known_and_the_nearest() {
        let error = unknown("enrgy", &[&ONE, &GAP], "rank rule");
        assert_eq!(error.message(), "unknown rank rule `enrgy`");
        assert_eq!(error.help(), Some("did you mean `energy`? known are energy, spectral-gap"));
        assert_eq!(unknown("zzz", &[&ONE], "rank rule").help(), Some("known are energy"));
    }
}
