//! Orders samples by a seed.

/// A generator of numbers that look random (`SplitMix64`, Steele, Lea and Flood 2014).
pub(super) struct Shuffle {
    state: u64,
}

impl Shuffle {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Puts items into another order (Fisher and Yates).
    pub(super) fn mix(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let other = self.next() % (last as u64 + 1);
            items.swap(last, usize::try_from(other).unwrap_or(last));
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
