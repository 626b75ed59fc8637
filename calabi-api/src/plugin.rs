//! What a plugin registers: its kind, what it does, where it comes from, its settings and how it is built from them.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::{ConfigError, Decomposer, LayerFormat, RankAllocator, RankSelector, Runtime};

/// Settings of a plugin as they stand in the pipeline file, `kind` taken out.
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

/// A plugin that stands behind a `kind` of the pipeline file.
pub struct Plugin<T: ?Sized> {
    kind: &'static str,
    summary: &'static str,
    origin: &'static str,
    shares_budget: bool,
    schema: fn(&mut SchemaGenerator) -> Schema,
    build: Build<T>,
}

enum Build<T: ?Sized> {
    From(fn(Settings<'_>) -> Result<Box<T>, ConfigError>),
    Unavailable(&'static str),
}

impl<T: ?Sized> Clone for Build<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Build<T> {}

/// What stands behind a kind of `[rank]`: selectors and allocators share one namespace.
#[derive(Debug)]
pub enum RankRule {
    /// Chooses layer by layer; may be named in an `[[override]]`.
    Selector(Box<dyn RankSelector>),
    /// Shares one budget among all layers.
    Allocator(Box<dyn RankAllocator>),
}

impl<T: ?Sized> Plugin<T> {
    const fn new<S: JsonSchema>(
        kind: &'static str,
        summary: &'static str,
        build: fn(Settings<'_>) -> Result<Box<T>, ConfigError>,
    ) -> Self {
        Self::with::<S>(kind, summary, Build::From(build))
    }

    const fn with<S: JsonSchema>(kind: &'static str, summary: &'static str, build: Build<T>) -> Self {
        Self { kind, summary, origin: "", shares_budget: false, schema: |generator| S::json_schema(generator), build }
    }

    /// A plugin that is known, but not in this program; `way_out` says how to get it.
    #[must_use]
    pub const fn unavailable<S: JsonSchema>(kind: &'static str, summary: &'static str, way_out: &'static str) -> Self {
        Self::with::<S>(kind, summary, Build::Unavailable(way_out))
    }

    /// The same plugin, from this crate. [`submit!`](crate::submit) fills it in.
    #[doc(hidden)]
    #[must_use]
    pub const fn from(self, origin: &'static str) -> Self {
        Self {
            origin,
            kind: self.kind,
            summary: self.summary,
            shares_budget: self.shares_budget,
            schema: self.schema,
            build: self.build,
        }
    }

    /// The name by which the pipeline file knows it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What it does, in a line.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        self.summary
    }

    /// The crate it comes from, with its version.
    #[must_use]
    pub fn origin(&self) -> &'static str {
        self.origin
    }

    /// The JSON schema of its settings.
    pub fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        (self.schema)(generator)
    }

    /// Why this program lacks it, where it does, and the way out.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        match self.build {
            Build::From(_) => None,
            Build::Unavailable(way_out) => Some(way_out),
        }
    }

    /// Builds it from its settings.
    ///
    /// # Errors
    /// Where a setting is wrong, or this program lacks the plugin.
    pub fn build(&self, settings: Settings<'_>) -> Result<Box<T>, ConfigError> {
        match self.build {
            Build::From(build) => build(settings),
            Build::Unavailable(way_out) => {
                Err(ConfigError::new(format!("`{}` is not in this program", self.kind)).with_help(way_out))
            }
        }
    }
}

impl Plugin<RankRule> {
    /// A rank selector.
    #[must_use]
    pub const fn selector<S: RankSelector + DeserializeOwned + JsonSchema + 'static>(
        kind: &'static str,
        summary: &'static str,
    ) -> Self {
        Self::new::<S>(kind, summary, |settings| Ok(Box::new(RankRule::Selector(Box::new(settings.parse::<S>()?)))))
    }

    /// A rank allocator.
    #[must_use]
    pub const fn allocator<S: RankAllocator + DeserializeOwned + JsonSchema + 'static>(
        kind: &'static str,
        summary: &'static str,
    ) -> Self {
        let plugin = Self::new::<S>(kind, summary, |settings| {
            Ok(Box::new(RankRule::Allocator(Box::new(settings.parse::<S>()?))))
        });
        Self { shares_budget: true, ..plugin }
    }

    /// Whether it is an allocator: those stand in `[rank]` alone.
    #[must_use]
    pub fn shares_budget(&self) -> bool {
        self.shares_budget
    }
}

/// Constructors of plugins that stand behind one trait.
macro_rules! constructor {
    ($(#[$doc:meta])* $name:ident, $contract:ident) => {
        impl Plugin<dyn $contract> {
            $(#[$doc])*
            #[must_use]
            pub const fn $name<S: $contract + DeserializeOwned + JsonSchema + 'static>(
                kind: &'static str,
                summary: &'static str,
            ) -> Self {
                Self::new::<S>(kind, summary, |settings| Ok(Box::new(settings.parse::<S>()?)))
            }
        }
    };
}

constructor! {
    /// A decomposer.
    decomposer, Decomposer
}
constructor! {
    /// A model format.
    format, LayerFormat
}
constructor! {
    /// A runtime.
    runtime, Runtime
}

impl<T: ?Sized> fmt::Debug for Plugin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("kind", &self.kind).field("origin", &self.origin).finish_non_exhaustive()
    }
}

inventory::collect!(Plugin<RankRule>);
inventory::collect!(Plugin<dyn Decomposer>);
inventory::collect!(Plugin<dyn LayerFormat>);
inventory::collect!(Plugin<dyn Runtime>);

/// Registers a plugin: `calabi_api::submit! { Plugin::selector::<Energy>("energy", "keep a share of the energy") }`.
///
/// The linker drops a crate that no code names: a program that wants the plugins of a crate says `use the_crate as _;`.
#[macro_export]
macro_rules! submit {
    ($plugin:expr) => {
        $crate::inventory::submit! {
            $plugin.from(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
        }
    };
}
