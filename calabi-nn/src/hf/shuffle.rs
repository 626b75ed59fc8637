//! Orders samples by a seed.

use crate::random::SplitMix;

/// Another order for every call.
pub(super) struct Shuffle {
    numbers: SplitMix,
}

impl Shuffle {
    pub(super) fn new(seed: u64) -> Self {
        Self { numbers: SplitMix::new(seed) }
    }

    /// Puts items into another order (Fisher and Yates).
    pub(super) fn mix(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.numbers.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_item_once_and_follows_from_the_seed() {
        let ordered = |seed| {
            let mut items: Vec<usize> = (0..50).collect();
            Shuffle::new(seed).mix(&mut items);
            items
        };
        let mut sorted = ordered(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        assert_eq!(ordered(3), ordered(3));
        assert_ne!(ordered(3), ordered(4));
    }
}
