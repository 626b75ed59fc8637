//! Work without the interpreter's lock, on a thread of its own, while this one watches for Ctrl-C.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::of_panic;

/// How often signals are looked at.
const PATIENCE: Duration = Duration::from_millis(50);
/// The stack of the thread that works: as much as a program's own.
const STACK: usize = 8 << 20;

/// Works without the interpreter's lock. On Ctrl-C `cancel` is called, and the exception follows once the work has ended.
///
/// # Errors
/// What a signal's handler raised, and a panic of the work.
pub(crate) fn away<T: Send>(py: Python<'_>, cancel: impl Fn() + Send, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| thread::scope(|scope| watched(scope, cancel, work)))
}

fn signals(py: Python<'_>) -> PyResult<()> {
    py.check_signals()
}

fn watched<'s, T: Send + 's>(
    scope: &'s thread::Scope<'s, '_>,
    cancel: impl Fn(),
    work: impl FnOnce() -> T + Send + 's,
) -> PyResult<T> {
    let (done, ended) = channel::<()>();
    let worker = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
        // Dropped where the work ends, also by a panic.
        let _done = done;
        work()
    });
    let worker = worker.map_err(|error| PyRuntimeError::new_err(format!("no thread can be started: {error}")))?;
    let mut raised = None;
    while ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = Python::attach(signals) {
            cancel();
            raised = Some(error);
        }
    }
    let result = worker.join().map_err(|panic| of_panic(&*panic));
    raised.map_or(result, Err)
}
