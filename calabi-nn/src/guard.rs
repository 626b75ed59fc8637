//! Libraries that read what nobody has vetted: a panic of theirs becomes an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `work` gives, or what it panicked with.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("the engine panicked: {}", said(panic.as_ref())))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_engine_is_an_error_with_its_words() {
        let (number, literal) = (guarded(|| -> u8 { panic!("node {}", 7) }), guarded(|| -> u8 { panic!("no node") }));
        assert_eq!(number, Err("the engine panicked: node 7".to_owned()));
        assert_eq!(literal, Err("the engine panicked: no node".to_owned()));
        assert_eq!(guarded(|| 7), Ok(7));
    }
}
