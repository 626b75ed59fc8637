//! Which windows a step is made of.

use crate::hf::shuffle::Shuffle;

/// The windows that are trained on, in an order of their own every epoch.
pub(super) struct Order {
    windows: Vec<usize>,
    shuffle: Shuffle,
    epochs: usize,
}

impl Order {
    pub(super) fn new(windows: Vec<usize>, seed: u64) -> Self {
        Self { windows, shuffle: Shuffle::new(seed), epochs: 0 }
    }

    /// The windows of a step of so many; steps are asked for in their order, the first may be any.
    pub(super) fn step(&mut self, step: usize, batch: usize) -> Vec<usize> {
        let count = self.windows.len().max(1);
        let place = |place: usize| {
            while self.epochs <= place / count {
                self.shuffle.mix(&mut self.windows);
                self.epochs += 1;
            }
            self.windows.get(place % count).copied()
        };
        (step * batch..(step + 1) * batch).filter_map(place).collect()
    }
}

/// The windows that judge, spread evenly over all, and those that are left to train on.
pub(super) fn split(count: usize, held_out: usize) -> (Vec<usize>, Vec<usize>) {
    let judges: Vec<_> = (0..held_out).map(|judge| (2 * judge + 1) * count / (2 * held_out.max(1))).collect();
    let trained = (0..count).filter(|window| judges.binary_search(window).is_err()).collect();
    (judges, trained)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_comes_once_an_epoch_and_a_resumed_order_is_the_same() {
        let mut order = Order::new((10..17).collect(), 3);
        let steps: Vec<_> = (0..7).map(|step| order.step(step, 3)).collect();
        for epoch in steps.concat().chunks(7) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (10..17).collect::<Vec<_>>());
        }
        let mut resumed = Order::new((10..17).collect(), 3);
        assert_eq!(resumed.step(4, 3), steps[4]);
        assert_eq!(resumed.step(5, 3), steps[5]);
    }

    #[test]
    fn judges_are_spread_and_not_trained_on() {
        assert_eq!(split(10, 2), (vec![2, 7], vec![0, 1, 3, 4, 5, 6, 8, 9]));
        assert_eq!(split(3, 1), (vec![1], vec![0, 2]));
        assert_eq!(split(2, 2).1, Vec::<usize>::new());
    }
}
