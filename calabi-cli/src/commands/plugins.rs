//! `calabi-cli plugins`: what can stand in a pipeline file, read off the registry.

use std::fmt::Write as _;

use calabi::PluginEntry;
use calabi::api::{ConfigError, nearest};

use crate::args::{Format, PluginsArgs};
use crate::failure::Failure;
use crate::table::Rows;
use crate::{Ending, print};

pub(crate) fn plugins(args: &PluginsArgs) -> Result<Ending, Failure> {
    let mut entries = calabi::catalogue()?;
    if let Some(kind) = &args.kind {
        let mut known: Vec<_> = entries.iter().map(|entry| entry.kind.clone()).collect();
        known.sort();
        known.dedup();
        entries.retain(|entry| entry.kind == *kind);
        if entries.is_empty() {
            return Err(unknown(kind, &known).into());
        }
    }
    match args.format {
        Format::Json => print::json(&entries)?,
        Format::Human if args.kind.is_some() => print::text(&entries.iter().map(in_full).collect::<String>())?,
        Format::Human => print::text(&overview(&entries))?,
    }
    Ok(Ending::Done)
}

fn unknown(kind: &str, known: &[String]) -> ConfigError {
    let list = format!("known are {}", known.join(", "));
    let help = match nearest(kind, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`? {list}"),
        None => list,
    };
    ConfigError::new(format!("no section or plugin of the name `{kind}`")).with_help(help)
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
