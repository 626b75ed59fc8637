//! What shards of a plan have finished, noted in the work store.

use std::path::PathBuf;

use super::Store;
use crate::{Error, Plan, Shard};

/// What the notes are called.
pub(super) const SHARD: &str = "shard";

impl Store {
    fn note(&self, plan: &Plan, shard: Shard) -> PathBuf {
        self.entries.join(format!("{}-{}-of-{}.{SHARD}", name(plan), shard.index(), shard.count()))
    }

    /// Notes that a shard of a plan is done.
    pub(crate) fn finished(&self, plan: &Plan, shard: Shard) -> Result<(), Error> {
        let path = self.note(plan, shard);
        std::fs::write(&path, b"").map_err(|e| Error::io("write", path, e))
    }

    /// Whether a shard of a plan is done.
    pub(crate) fn is_finished(&self, plan: &Plan, shard: Shard) -> bool {
        self.note(plan, shard).exists()
    }

    /// Into how many shards a plan was cut, as far as shards of it are done; the largest number of several.
    pub(crate) fn shards(&self, plan: &Plan) -> Option<usize> {
        let (start, end) = (format!("{}-", name(plan)), format!(".{SHARD}"));
        let count = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (_, count) = name.strip_prefix(&start)?.strip_suffix(&end)?.split_once("-of-")?;
            count.parse().ok()
        };
        std::fs::read_dir(&self.entries).ok()?.flatten().filter_map(count).max()
    }
}

/// What a plan is known by: a hash of what it decides.
fn name(plan: &Plan) -> String {
    let mut hash = super::Hashed::new();
    hash.text(&plan.to_text());
    hash.finish().to_hex().chars().take(16).collect()
}
