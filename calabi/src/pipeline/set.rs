//! Settings changed from outside: `--set rank.keep=0.6`.

use std::fmt;
use std::str::FromStr;

use calabi_api::ConfigError;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

/// A setting and its new value: `rank.keep=0.6`, `override.0.rank.rank=64`.
///
/// ```
/// use calabi::{Assignment, Pipeline};
///
/// let text = "[model]\ninput = 'm.onnx'\noutput = 's.onnx'\n[rank]\nkind = 'budget'\nkeep = 0.5\n";
/// let change: Assignment = "layers.min_features=128".parse()?;
/// let pipeline = Pipeline::parse("p.toml", text, "".as_ref(), &[change]).map_err(|refused| refused.error)?;
/// assert_eq!(pipeline.layers.min_features.get(), 128);
/// assert!("min_features".parse::<Assignment>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    keys: Vec<String>,
    value: String,
}

/// No setting of a pipeline lies deeper.
const DEEPEST: usize = 8;

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.keys.join("."), self.value)
    }
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no setting: write section.key=value, such as rank.keep=0.6");
        let (path, value) = text.split_once('=').ok_or_else(refuse)?;
        let keys: Vec<_> = path.split('.').map(|key| key.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) || keys.len() > DEEPEST {
            return Err(refuse());
        }
        Ok(Self { keys, value: value.trim().to_owned() })
    }
}

impl Assignment {
    /// The value as TOML where it is some, else as text: `energy` need not be quoted.
    fn value(&self) -> Value {
        self.value.parse().unwrap_or_else(|_| Value::from(self.value.as_str()))
    }

    fn refuse(&self, problem: &str) -> ConfigError {
        ConfigError::new(format!("--set {}={}: {problem}", self.keys.join("."), self.value))
    }
}

/// The text of a pipeline file with these settings changed.
pub(super) fn apply(text: &str, changes: &[Assignment]) -> Result<String, ConfigError> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| match error.span() {
        Some(span) => ConfigError::new(error.message().trim()).at(span),
        None => ConfigError::new(error.message().trim()),
    })?;
    // A `kind` comes first: it drops the settings of the former one, not those given with it.
    let is_kind = |change: &&Assignment| change.keys.last().is_some_and(|key| key == "kind");
    for change in changes.iter().filter(is_kind).chain(changes.iter().filter(|change| !is_kind(change))) {
        let (last, sections) = change.keys.split_last().ok_or_else(|| change.refuse("no setting is named"))?;
        let has_overrides = document.contains_array_of_tables("override");
        if change.keys.first().is_some_and(|key| key == "override") && !has_overrides {
            return Err(change.refuse("the pipeline has no [[override]]"));
        }
        let mut item = document.as_item_mut();
        for key in sections {
            item = descend(item, key).ok_or_else(|| change.refuse(&format!("`{key}` is no section")))?;
        }
        let table = item.as_table_like_mut().ok_or_else(|| change.refuse("not a section"))?;
        assign(table, last, change.value());
    }
    Ok(document.to_string())
}

/// The section `key` of `item`, made where it is missing; in a list of sections, the one of that number.
fn descend<'a>(item: &'a mut Item, key: &str) -> Option<&'a mut Item> {
    if item.is_array_of_tables() || item.is_array() {
        let index: usize = key.parse().ok()?;
        return item.get_mut(index);
    }
    let table = item.as_table_like_mut()?;
    Some(table.entry(key).or_insert(Item::Table(Table::new())))
}

/// Sets a key. Another `kind` drops the settings of the former one: they mean nothing to it.
fn assign(table: &mut dyn TableLike, key: &str, value: Value) {
    let former = table.get("kind").and_then(Item::as_str);
    if key == "kind" && former.is_some_and(|former| Some(former) != value.as_str()) {
        table.clear();
    }
    table.insert(key, Item::Value(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, changes: &[&str]) -> Result<String, ConfigError> {
        apply(text, &changes.iter().map(|c| c.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn a_setting_is_changed_or_added_and_all_else_stays() {
        let text = "# note\n[rank]\nkind = \"energy\" # why\nthreshold = 0.9\n";
        assert_eq!(set(text, &["rank.threshold=0.8"]).unwrap(), text.replace("0.9", "0.8"));
        assert_eq!(set(text, &["model.output=x.onnx"]).unwrap(), format!("{text}\n[model]\noutput = \"x.onnx\"\n"));
    }

    #[test]
    fn another_kind_drops_the_settings_of_the_former() {
        let text = "[rank]\nkind = \"energy\"\nthreshold = 0.9\n";
        let changed = set(text, &["rank.kind=budget", "rank.keep=0.6"]).unwrap();
        assert_eq!(changed, "[rank]\nkind = \"budget\"\nkeep = 0.6\n");
        let reversed = set(text, &["rank.keep=0.6", "rank.kind=budget"]).unwrap();
        assert_eq!(reversed, changed);
        assert_eq!(set(text, &["rank.kind=energy"]).unwrap(), text);
    }

    #[test]
    fn an_override_is_reached_by_its_number() {
        let text = "[[override]]\nlayers = [\"a\"]\nrank = { kind = \"fixed\", rank = 4 }\n";
        assert_eq!(set(text, &["override.0.rank.rank=8"]).unwrap(), text.replace('4', "8"));
        assert!(set(text, &["override.1.rank.rank=8"]).is_err());
        assert!(set(text, &["override.0.layers.x.y=8"]).is_err());
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        for wrong in ["", "rank", "=3", "rank..keep=3", ".=1", "a.b.c.d.e.f.g.h.i=1"] {
            assert!(wrong.parse::<Assignment>().is_err(), "{wrong}");
        }
    }
}
