//! The names of a model, each stored once; and new ones that are none of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A name of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NameId(usize);

impl NameId {
    /// The empty name: an input or output that is left out.
    pub(crate) const NONE: Self = Self(0);
}

/// All names of a model.
#[derive(Debug)]
pub(crate) struct Names {
    texts: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, NameId>,
}

impl Names {
    pub(crate) fn new() -> Self {
        let none: Arc<str> = "".into();
        Self { texts: vec![none.clone()], ids: HashMap::from([(none, NameId::NONE)]) }
    }

    /// The id of a name, and whether it is a new one.
    pub(crate) fn intern(&mut self, text: &str) -> (NameId, bool) {
        if let Some(&id) = self.ids.get(text) {
            return (id, false);
        }
        let id = NameId(self.texts.len());
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.ids.insert(text, id);
        (id, true)
    }

    pub(crate) fn text(&self, id: NameId) -> &str {
        self.texts.get(id.0).map_or("", |text| text)
    }

    /// The id of a name of the model.
    pub(crate) fn find(&self, text: &str) -> Option<NameId> {
        self.ids.get(text).copied()
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.ids.contains_key(text)
    }
}

/// Makes names that the model does not have.
#[derive(Debug)]
pub(crate) struct Fresh<'m> {
    names: &'m Names,
    made: HashSet<String>,
}

impl<'m> Fresh<'m> {
    pub(crate) fn new(names: &'m Names) -> Self {
        Self { names, made: HashSet::new() }
    }

    /// `base.suffix`, with a number behind it where that is taken.
    pub(crate) fn name(&mut self, base: &str, suffix: &str) -> String {
        let plain = format!("{base}.{suffix}");
        let numbered = (2_u64..).map(|number| format!("{plain}.{number}"));
        let name = std::iter::once(plain.clone()).chain(numbered).find(|name| self.is_free(name)).unwrap_or(plain);
        self.made.insert(name.clone());
        name
    }

    fn is_free(&self, name: &str) -> bool {
        !self.names.contains(name) && !self.made.contains(name)
    }
}
