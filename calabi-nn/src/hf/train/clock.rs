//! How far a training has come, by time or by steps, and the size of its steps.

use std::time::Instant;

/// The share of a training in which steps grow.
const WARM_UP: f64 = 0.05;

/// What ends a training: whichever is reached first.
///
/// ```
/// use calabi_nn::TrainLimit;
///
/// let limit = TrainLimit { seconds: Some(600.0), steps: Some(1000) };
/// assert_ne!(limit, TrainLimit { steps: None, ..limit });
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainLimit {
    /// Wall-clock time, with what was spent before a resumption.
    pub seconds: Option<f64>,
    /// Steps of the optimizer.
    pub steps: Option<usize>,
}

/// Counts time and steps.
#[derive(Debug)]
pub(super) struct Clock {
    limit: TrainLimit,
    started: Instant,
    /// Seconds that former runs spent.
    before: f64,
}

impl Clock {
    pub(super) fn new(limit: TrainLimit, before: f64) -> Self {
        Self { limit, started: Instant::now(), before }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    /// The share that is done once so many steps are taken; 1 or more ends the training.
    pub(super) fn along(&self, steps: usize) -> f64 {
        let of_steps = self.limit.steps.map_or(0.0, |limit| steps as f64 / limit.max(1) as f64);
        let of_time = self.limit.seconds.map_or(0.0, |limit| self.seconds() / limit.max(f64::MIN_POSITIVE));
        of_steps.max(of_time)
    }
}

/// The size of a step that is taken so far along: it grows in the first twentieth, then falls to 0 along a cosine.
pub(super) fn rate(largest: f64, along: f64) -> f64 {
    if along < WARM_UP {
        return largest * (along / WARM_UP).max(0.02);
    }
    let along = ((along - WARM_UP) / (1.0 - WARM_UP)).min(1.0);
    largest * 0.5 * (1.0 + (std::f64::consts::PI * along).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_and_fall_to_nothing() {
        let all: Vec<f64> = (0..=100).map(|percent| rate(2.0, f64::from(percent) / 100.0)).collect();
        assert!(all[0] > 0.0 && all[..6].is_sorted() && (all[5] - 2.0).abs() < 1e-12);
        assert!(all[5..].windows(2).all(|pair| pair[1] < pair[0]) && all[100] < 1e-12);
    }

    #[test]
    fn what_is_reached_first_ends_a_training() {
        let clock = Clock::new(TrainLimit { seconds: Some(1e6), steps: Some(10) }, 2e5);
        assert!((0.2..0.21).contains(&clock.along(1)));
        assert!((clock.along(10) - 1.0).abs() < 1e-12);
        assert!(Clock::new(TrainLimit { seconds: None, steps: Some(4) }, 1e9).along(1) < 0.26);
    }
}
