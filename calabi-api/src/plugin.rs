//! What a plugin registers: its kind, what it does, where it comes from, its settings and how it is built from them.

mod settings;

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

pub use self::settings::Settings;
use crate::{ConfigError, Decomposer, LayerFormat, RankAllocator, RankSelector, Runtime};

/// A plugin that stands behind a `kind` of the pipeline file.
///
/// ```
/// use calabi_api::{Plugin, Rank, RankRule, Settings, schemars::SchemaGenerator, toml::de::DeTable};
/// # use calabi_api::{Choice, LayerSpectrum, RankSelector, SelectError};
///
/// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
/// struct Keep {
///     rank: Rank,
/// }
/// # impl RankSelector for Keep {
/// #     fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> { Ok(Choice::exactly(self.rank, "")) }
/// # }
///
/// let plugin = Plugin::selector::<Keep>("keep", "keep this rank");
/// assert_eq!((plugin.kind(), plugin.summary()), ("keep", "keep this rank"));
/// assert_eq!((plugin.origin(), plugin.missing()), ("", None)); // `submit!` fills in the origin
/// assert_eq!(plugin.schema(&mut SchemaGenerator::default()).as_value()["required"][0], "rank");
/// assert!(!plugin.shares_budget());
///
/// let rule = plugin.build(Settings::new(DeTable::parse("rank = 8")?))?;
/// assert!(matches!(*rule, RankRule::Selector(_)));
/// assert!(plugin.build(Settings::new(DeTable::parse("rank = 0")?)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use calabi_api::{Plugin, RankRule, Settings};
/// # use calabi_api::{Choice, LayerSpectrum, RankSelector, SelectError};
/// # #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
/// # struct Untouched {}
/// # impl RankSelector for Untouched {
/// #     fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> { Ok(Choice::dense("untouched")) }
/// # }
///
/// fn may_override(rule: &RankRule) -> bool {
///     match rule {
///         RankRule::Selector(_) => true,
///         RankRule::Allocator(_) => false,
///     }
/// }
///
/// let rule = Plugin::selector::<Untouched>("untouched", "leave every layer as it is").build(Settings::empty())?;
/// assert!(may_override(&rule));
/// # Ok::<(), calabi_api::ConfigError>(())
/// ```
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
    ///
    /// ```
    /// use calabi_api::{Decomposer, Plugin, Settings};
    ///
    /// /// The settings are known even where the plugin is not: the schema lists them.
    /// #[derive(schemars::JsonSchema)]
    /// struct Cuda {}
    ///
    /// let way_out = "rebuild with --features cuda";
    /// let plugin = Plugin::<dyn Decomposer>::unavailable::<Cuda>("cuda", "all singular values, on a GPU", way_out);
    /// assert_eq!(plugin.missing(), Some(way_out));
    /// let error = plugin.build(Settings::empty()).unwrap_err();
    /// assert_eq!(error.to_string(), "`cuda` is not in this program (rebuild with --features cuda)");
    /// ```
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
    ///
    /// ```
    /// use calabi_api::{Allocation, Choice, Plugin, RankAllocator, SelectError};
    ///
    /// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    /// struct AllDense {}
    ///
    /// impl RankAllocator for AllDense {
    ///     fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
    ///         Ok(model.layers.iter().map(|_| Choice::dense("nothing is cut")).collect())
    ///     }
    /// }
    ///
    /// assert!(Plugin::allocator::<AllDense>("all-dense", "cut nothing").shares_budget());
    /// ```
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
    ///
    /// ```
    /// use calabi_api::{Decomposer, Plugin, Settings, registry};
    /// # use calabi_api::{DecomposeError, Decomposition, Rank, ndarray::ArrayView2};
    ///
    /// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    /// struct Jacobi {}
    /// # type Parts = Result<Box<dyn Decomposition>, DecomposeError>;
    /// # impl Decomposer for Jacobi {
    /// #     fn svd(&self, _: ArrayView2<'_, f32>, _: Rank) -> Parts { unimplemented!() }
    /// #     fn eigh(&self, _: ArrayView2<'_, f64>, _: Rank) -> Parts { unimplemented!() }
    /// # }
    ///
    /// calabi_api::submit! { Plugin::decomposer::<Jacobi>("jacobi", "all singular values, by rotations") }
    ///
    /// let jacobi: Box<dyn Decomposer> = registry::find::<dyn Decomposer>("jacobi")?.build(Settings::empty())?;
    /// assert_eq!(format!("{jacobi:?}"), "Jacobi");
    /// # Ok::<(), calabi_api::ConfigError>(())
    /// ```
    decomposer, Decomposer
}
constructor! {
    /// A model format.
    ///
    /// ```
    /// use std::path::Path;
    /// use calabi_api::{LayerFormat, Plugin, Settings, registry};
    /// # use calabi_api::{FormatError, LayerSource};
    ///
    /// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    /// struct Npy {}
    /// # impl LayerFormat for Npy {
    /// #     fn detect(&self, path: &Path) -> bool { path.extension().is_some_and(|extension| extension == "npy") }
    /// #     fn open(&self, _: &Path) -> Result<Box<dyn LayerSource>, FormatError> { unimplemented!() }
    /// # }
    ///
    /// calabi_api::submit! { Plugin::format::<Npy>("npy", "single arrays of NumPy") }
    ///
    /// let format = registry::find::<dyn LayerFormat>("npy")?.build(Settings::empty())?;
    /// assert!(format.detect(Path::new("weight.npy")));
    /// # Ok::<(), calabi_api::ConfigError>(())
    /// ```
    format, LayerFormat
}
constructor! {
    /// A runtime.
    ///
    /// ```
    /// use std::path::Path;
    /// use calabi_api::{Plugin, Runtime, Settings, registry};
    /// # use calabi_api::{RunError, Runner};
    ///
    /// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    /// struct Tflite {}
    /// # impl Runtime for Tflite {
    /// #     fn detect(&self, path: &Path) -> bool { path.extension().is_some_and(|extension| extension == "tflite") }
    /// #     fn load(&self, _: &Path) -> Result<Box<dyn Runner>, RunError> { unimplemented!() }
    /// # }
    ///
    /// calabi_api::submit! { Plugin::runtime::<Tflite>("tflite", "TensorFlow Lite models") }
    ///
    /// let runtime = registry::find::<dyn Runtime>("tflite")?.build(Settings::empty())?;
    /// assert!(runtime.detect(Path::new("model.tflite")));
    /// # Ok::<(), calabi_api::ConfigError>(())
    /// ```
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

/// Registers a plugin, under the name and version of the crate that calls it.
///
/// The linker drops a crate that no code names: a program that wants the plugins of a crate says `use the_crate as _;`.
///
/// ```
/// use calabi_api::{Choice, LayerSpectrum, Plugin, Rank, RankRule, RankSelector, SelectError, registry};
///
/// #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct One {}
///
/// impl RankSelector for One {
///     fn select(&self, _: &LayerSpectrum<'_>) -> Result<Choice, SelectError> {
///         Ok(Choice::exactly(Rank::ONE, "always one"))
///     }
/// }
///
/// calabi_api::submit! { Plugin::selector::<One>("one", "keep a single dimension") }
///
/// assert!(registry::find::<RankRule>("one")?.origin().starts_with("calabi-api ")); // this crate, with its version
/// # Ok::<(), calabi_api::ConfigError>(())
/// ```
#[macro_export]
macro_rules! submit {
    ($plugin:expr) => {
        $crate::inventory::submit! {
            $plugin.from(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
        }
    };
}
