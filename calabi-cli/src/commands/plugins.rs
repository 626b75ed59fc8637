//! `calabi-cli plugins`: what can stand in a pipeline file, read off the registry.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use calabi::PluginEntry;
use calabi::api::ConfigError;

use crate::args::{Format, PluginsArgs};
use crate::failure::Failure;
use crate::table::Rows;
use crate::{Ending, print};

pub(crate) fn plugins(args: &PluginsArgs) -> Result<Ending, Failure> {
    let mut entries = calabi::catalogue()?;
    if let Some(kind) = &args.kind {
        if entries.iter().all(|entry| entry.kind != *kind) {
            let known: BTreeSet<_> = entries.iter().map(|entry| entry.kind.as_str()).collect();
            let error = ConfigError::new(format!("no section or plugin of the name `{kind}`"));
            return Err(error.with_known(kind, &known.into_iter().collect::<Vec<_>>()).into());
        }
        entries.retain(|entry| entry.kind == *kind);
    }
    match args.format {
        Format::Json => print::json(&entries)?,
        Format::Human if args.kind.is_some() => print::text(&entries.iter().map(in_full).collect::<String>())?,
        Format::Human => print::text(&overview(&entries))?,
    }
    Ok(Ending::Done)
}

fn overview(entries: &[PluginEntry]) -> String {
    let mut rows = Rows::new(&["", "kind", "what it does", "from"]);
    for entry in entries {
        let from = if entry.missing.is_some() { "not in this program" } else { &entry.origin };
        rows.add([entry.noun, &entry.kind, &entry.summary, from]);
    }
    format!("{rows}\n\nThe settings of one: calabi-cli plugins KIND\n")
}

fn in_full(entry: &PluginEntry) -> String {
    let mut text = format!("{} `{}`: {}\nfrom {}\n", entry.noun, entry.kind, entry.summary, entry.origin);
    if let Some(way_out) = entry.missing {
        let _ = writeln!(text, "not in this program: {way_out}");
    }
    if entry.settings.is_empty() {
        return text + "no settings\n";
    }
    for setting in &entry.settings {
        let default = setting.default.as_ref().map_or_else(|| "must be set".to_owned(), |d| format!("default {d}"));
        let _ = write!(text, "\n  {}  ({}; {default})\n      {}\n", setting.name, setting.accepts, setting.description);
    }
    text
}
