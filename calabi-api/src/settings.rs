//! Numbers that can only hold what makes sense: a setting out of its range is an error where it is parsed.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _, Unexpected};
use serde::{Serialize, Serializer};

/// Defines a newtype over `f64` with a range, its parser and its JSON schema.
macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $inside:expr, $expected:literal, { $($schema:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
        pub struct $name(f64);

        impl $name {
            /// The value where it lies in the range, else none.
            #[must_use]
            pub fn new(value: f64) -> Option<Self> {
                let inside: fn(f64) -> bool = $inside;
                inside(value).then_some(Self(value))
            }

            /// The value as a number.
            #[must_use]
            pub const fn get(self) -> f64 {
                self.0
            }

            /// For defaults: the value is checked when the program is compiled by the test of each default.
            #[must_use]
            #[doc(hidden)]
            pub const fn constant(value: f64) -> Self {
                Self(value)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = number(deserializer)?;
                Self::new(value).ok_or_else(|| D::Error::invalid_value(Unexpected::Float(value), &$expected))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_f64(self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "number", $($schema)* })
            }
        }
    };
}

ranged! {
    /// A share, larger than 0 and at most 1.
    ///
    /// ```
    /// use calabi_api::{settings::Fraction, toml};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Energy {
    ///     threshold: Fraction,
    /// }
    ///
    /// assert_eq!(toml::from_str::<Energy>("threshold = 0.95")?.threshold.get(), 0.95);
    /// assert!(toml::from_str::<Energy>("threshold = 95").is_err());
    /// assert_eq!((Fraction::new(0.0), Fraction::new(1.0).map(Fraction::get)), (None, Some(1.0)));
    /// # Ok::<(), toml::de::Error>(())
    /// ```
    Fraction, |x| x > 0.0 && x <= 1.0, "a number larger than 0 and at most 1", { "exclusiveMinimum": 0, "maximum": 1 }
}
ranged! {
    /// A share that may be nothing: from 0 to 1, both included.
    ///
    /// ```
    /// use calabi_api::settings::Share;
    ///
    /// assert_eq!(Share::new(0.0).map(Share::get), Some(0.0));
    /// assert_eq!(Share::new(1.1), None);
    /// ```
    Share, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1", { "minimum": 0, "maximum": 1 }
}
ranged! {
    /// A finite number larger than 0.
    ///
    /// ```
    /// use calabi_api::settings::Positive;
    ///
    /// assert_eq!(Positive::new(1e-4).map(Positive::get), Some(1e-4));
    /// assert_eq!((Positive::new(0.0), Positive::new(f64::INFINITY)), (None, None));
    /// ```
    Positive, |x| x > 0.0 && x.is_finite(), "a finite number larger than 0", { "exclusiveMinimum": 0 }
}
ranged! {
    /// A finite number that is not negative.
    ///
    /// ```
    /// use calabi_api::settings::NonNegative;
    ///
    /// assert_eq!(NonNegative::new(0.0).map(NonNegative::get), Some(0.0));
    /// assert_eq!((NonNegative::new(-0.1), NonNegative::new(f64::NAN)), (None, None));
    /// ```
    NonNegative, |x| x >= 0.0 && x.is_finite(), "a finite number that is not negative", { "minimum": 0 }
}

/// Takes `1` for `1.0`: people write settings without the point.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Number;
    impl serde::de::Visitor<'_> for Number {
        type Value = f64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number")
        }

        fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }
    }
    deserializer.deserialize_any(Number)
}
