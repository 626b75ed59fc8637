//! Threads inside one matrix: parts of a step side by side, where the caller says that threads are free for it.
//!
//! Parts and the order of sums depend on shapes alone: the result has the same bits whether they run side by side or one after
//! the other.

use std::cell::Cell;

thread_local! {
    static FREE: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` with the threads of the rayon pool that it is called on, one matrix at a time: what this crate computes in it is split
/// among them where a matrix is large.
///
/// ```
/// use calabi_api::{Decomposer, Decomposition, Rank};
/// use calabi_svd::{Faer, inside};
/// use ndarray::Array2;
///
/// let weight = Array2::from_shape_fn((300, 400), |(i, j)| ((i * 7 + j * 3) % 17) as f32 / 17.0);
/// let spectrum = || Faer::default().svd(weight.view(), Rank::ONE).map(|found| found.spectrum().clone());
/// assert_eq!(inside(&spectrum)?, spectrum()?, "the same bits");
/// # Ok::<(), calabi_api::DecomposeError>(())
/// ```
pub fn inside<R>(work: impl FnOnce() -> R) -> R {
    let _before = Restored(FREE.replace(true));
    work()
}

/// What was said before.
struct Restored(bool);

impl Drop for Restored {
    fn drop(&mut self) {
        FREE.set(self.0);
    }
}

/// Both, side by side where threads are free.
pub(crate) fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    if FREE.get() { rayon::join(|| inside(a), || inside(b)) } else { (a(), b()) }
}

/// Does `work` with each of these, side by side where threads are free.
pub(crate) fn each<T: Send>(mut items: Vec<T>, work: &(impl Fn(T) + Sync)) {
    if items.len() > 1 {
        let behind = items.split_off(items.len() / 2);
        join(|| each(items, work), || each(behind, work));
    } else if let Some(item) = items.pop() {
        work(item);
    }
}

/// What `work` makes of each of these, in their order, side by side where threads are free.
pub(crate) fn map<T: Send, R: Send>(mut items: Vec<T>, work: &(impl Fn(T) -> R + Sync)) -> Vec<R> {
    if items.len() > 1 {
        let behind = items.split_off(items.len() / 2);
        let (mut first, mut rest) = join(|| map(items, work), || map(behind, work));
        first.append(&mut rest);
        return first;
    }
    items.pop().map(work).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_what_was_said_before_holds_again() {
        let squares = |items: Vec<usize>| map(items, &|i| i * i);
        let wanted: Vec<_> = (0..100).map(|i| i * i).collect();
        assert_eq!(squares((0..100).collect()), wanted);
        assert_eq!(inside(|| squares((0..100).collect())), wanted);
        assert!(!FREE.get());
        let failed = std::panic::catch_unwind(|| inside(|| panic!("inside")));
        assert!(failed.is_err() && !FREE.get());
    }
}
