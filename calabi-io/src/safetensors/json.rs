//! JSON objects whose order is kept and whose keys are distinct; values stay text until they are asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use calabi_api::Name;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object: keys in their order, each with the text of its value.
pub(super) type Members<'a> = Vec<(String, &'a RawValue)>;

/// Parses an object; a key that stands there twice is an error.
pub(super) fn object(text: &[u8]) -> Result<Members<'_>, String> {
    parse::<Object<'_>>(text).map(|object| object.0)
}

/// Parses a value out of an object.
pub(super) fn value<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, String> {
    // Inside a value its own lines and columns would mislead: the caller names the key.
    serde_json::from_str(raw.get()).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        shown(message.strip_suffix(&place).unwrap_or(&message))
    })
}

/// Parses a whole text.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| shown(&error.to_string()))
}

/// A parser's message, which may repeat what it has read: control characters replaced, cut when very long.
fn shown(message: &str) -> String {
    const SHOWN: usize = 300;
    let safe = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut cut: String = message.chars().take(SHOWN).map(safe).collect();
    if message.chars().nth(SHOWN).is_some() {
        cut.push_str("...");
    }
    cut
}

struct Object<'a>(Members<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Distinct).map(Object)
    }
}

struct Distinct;

impl<'de> Visitor<'de> for Distinct {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found: HashMap<String, (usize, &'de RawValue)> = HashMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = found.len();
            match found.entry(key) {
                Entry::Vacant(free) => free.insert((place, map.next_value()?)),
                Entry::Occupied(taken) => {
                    return Err(A::Error::custom(format!("the key {} stands there twice", Name::new(taken.key()))));
                }
            };
        }
        let mut members: Vec<_> = found.into_iter().collect();
        members.sort_unstable_by_key(|&(_, (place, _))| place);
        Ok(members.into_iter().map(|(key, (_, value))| (key, value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_text_are_kept() {
        let members = object(br#"{"b": 1e-05, "a": [1,  2]}"#).unwrap();
        let texts: Vec<_> = members.iter().map(|(key, raw)| (key.as_str(), raw.get())).collect();
        assert_eq!(texts, [("b", "1e-05"), ("a", "[1,  2]")]);
    }

    #[test]
    fn equal_keys_are_found_behind_escapes() {
        let problem = object(br#"{"a": 1, "\u0061": 2}"#).unwrap_err();
        assert!(problem.starts_with("the key a stands there twice at line 1"), "{problem}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "1", "", "{\"a\":1} x", "{\"a\":}", "{a:1}"] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
    }
}
