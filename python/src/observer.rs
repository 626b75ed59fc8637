//! Shows a run to a Python object, and ends it where Python says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use calabi::{Observer, Stage};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Watches a run for a Python object with `begin`, `step`, `note` and `end`, where there is one.
pub(crate) struct Watcher {
    progress: Option<Py<PyAny>>,
    cancelled: AtomicBool,
    raised: Mutex<Option<PyErr>>,
}

impl Watcher {
    /// Shows a run to this object.
    pub(crate) fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { progress, cancelled: AtomicBool::new(false), raised: Mutex::new(None) }
    }

    /// Ends the run as soon as it can.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// What the object raised.
    pub(crate) fn raised(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn tell<'a, A>(&self, method: &str, arguments: A)
    where
        A: for<'py> IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr> + 'a,
    {
        let Some(progress) = &self.progress else { return };
        let told = Python::attach(|py| {
            let arguments = arguments.into_pyobject(py)?;
            progress.bind(py).call_method1(method, arguments).map(drop)
        });
        if let Err(error) = told {
            self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.cancel();
        }
    }
}

/// The name of a stage.
fn name(stage: Stage) -> String {
    format!("{stage:?}").to_lowercase()
}

impl Observer for Watcher {
    fn begin(&self, stage: Stage, steps: usize) {
        self.tell("begin", (name(stage), steps));
    }

    fn step(&self, stage: Stage, layer: &str) {
        self.tell("step", (name(stage), layer.to_owned()));
    }

    fn note(&self, stage: Stage, line: &str) {
        self.tell("note", (name(stage), line.to_owned()));
    }

    fn end(&self, stage: Stage) {
        self.tell("end", (name(stage),));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
