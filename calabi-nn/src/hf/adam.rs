//! `AdamW` (Loshchilov and Hutter 2019) without weight decay: warm-up, cosine decay, gradients clipped.

use rayon::prelude::*;

const MOMENTUM: f64 = 0.9;
const SQUARES: f64 = 0.999;
/// Keeps the step of a value without gradients finite.
const LEAST: f32 = 1e-10;
/// Gradients of a larger norm, over all values, are scaled down to it.
const LARGEST_NORM: f64 = 1.0;
/// One step of so many is warm-up.
const WARM_UP: usize = 20;
/// Values that one task treats.
const CHUNK: usize = 1 << 14;

/// The size of each step: rises in the first twentieth of the steps, then falls to 0 along a cosine.
pub(super) struct Rates {
    pub(super) largest: f64,
    pub(super) steps: usize,
}

impl Rates {
    pub(super) fn at(&self, step: usize) -> f64 {
        let warm_up = self.steps.div_ceil(WARM_UP);
        if step < warm_up {
            return self.largest * (step + 1) as f64 / warm_up as f64;
        }
        let along = (step - warm_up) as f64 / (self.steps - warm_up).max(1) as f64;
        self.largest * 0.5 * (1.0 + (std::f64::consts::PI * along.min(1.0)).cos())
    }
}

/// Moves values against their gradients.
#[derive(Default)]
pub(super) struct Adam {
    step: usize,
    /// Of each value, the running means of its gradient and of its square.
    means: Vec<(Vec<f32>, Vec<f32>)>,
}

/// What one step does to every value.
#[derive(Clone, Copy)]
struct Step {
    /// What gradients are multiplied by.
    clip: f32,
    /// The rate, with what makes up for means that start at 0.
    rate: f32,
    of_squares: f32,
}

impl Adam {
    /// One that has taken so many steps, with these means.
    pub(super) fn resumed(step: usize, means: Vec<(Vec<f32>, Vec<f32>)>) -> Self {
        Self { step, means }
    }

    /// Of each value, the running means of its gradient and of its square; nothing before the first step.
    pub(super) fn means(&self) -> &[(Vec<f32>, Vec<f32>)] {
        &self.means
    }

    /// Takes a step of this rate; false where gradients overflow, and nothing is moved.
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn step<'a>(
        &mut self,
        rate: f64,
        values: impl Iterator<Item = &'a mut Vec<f32>>,
        gradients: &[Vec<f32>],
    ) -> bool {
        let norm = gradients.iter().map(|gradient| squares(gradient)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return false;
        }
        if self.means.is_empty() {
            self.means = gradients.iter().map(|g| (vec![0.0; g.len()], vec![0.0; g.len()])).collect();
        }
        self.step += 1;
        let short = |decay: f64| 1.0 - decay.powi(i32::try_from(self.step).unwrap_or(i32::MAX));
        let step = Step {
            clip: (LARGEST_NORM / norm.max(LARGEST_NORM)) as f32,
            rate: (rate / short(MOMENTUM)) as f32,
            of_squares: (1.0 / short(SQUARES)) as f32,
        };
        for ((values, gradient), (mean, square)) in values.zip(gradients).zip(&mut self.means) {
            step.take(values, gradient, mean, square);
        }
        true
    }
}

impl Step {
    #[allow(clippy::cast_possible_truncation)]
    fn take(self, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        const M: (f32, f32) = (MOMENTUM as f32, (1.0 - MOMENTUM) as f32);
        const S: (f32, f32) = (SQUARES as f32, (1.0 - SQUARES) as f32);
        let moved = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        let means = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
        moved.zip(means).for_each(|((values, gradient), (mean, square))| {
            let means = mean.iter_mut().zip(square);
            for ((value, &gradient), (mean, square)) in values.iter_mut().zip(gradient).zip(means) {
                let gradient = gradient * self.clip;
                *mean = M.0 * *mean + M.1 * gradient;
                *square = S.0 * *square + S.1 * gradient * gradient;
                *value -= self.rate * *mean / ((*square * self.of_squares).sqrt() + LEAST);
            }
        });
    }
}

/// `Σ x²`, in one order.
fn squares(x: &[f32]) -> f64 {
    let sums: Vec<f64> =
        x.par_chunks(CHUNK).map(|x| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()).collect();
    sums.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_and_fall_to_nothing() {
        let rates = Rates { largest: 2.0, steps: 100 };
        let all: Vec<f64> = (0..100).map(|step| rates.at(step)).collect();
        assert!((all[0] - 0.4).abs() < 1e-12 && (all[4] - 2.0).abs() < 1e-12);
        assert!(all[5..].windows(2).all(|pair| pair[1] < pair[0]));
        assert!(all[99] > 0.0 && all[99] < 1e-2);
    }

    #[test]
    fn a_bowl_is_walked_down() {
        let (mut adam, rates) = (Adam::default(), Rates { largest: 0.1, steps: 400 });
        let wanted: Vec<f32> = (0..40_000).map(|i| (i as f32).sin()).collect();
        let mut values = [vec![0.0_f32; wanted.len()]];
        for step in 0..400 {
            let gradient = values[0].iter().zip(&wanted).map(|(x, y)| (x - y) * 100.0).collect();
            assert!(adam.step(rates.at(step), values.iter_mut(), &[gradient]));
        }
        assert!(values[0].iter().zip(&wanted).all(|(x, y)| (x - y).abs() < 1e-3));
    }

    #[test]
    fn a_first_step_is_the_rate_whatever_the_gradient() {
        let mut adam = Adam::default();
        let mut values = vec![vec![1.0_f32; 3]];
        assert!(adam.step(0.5, values.iter_mut(), &[vec![1e4, -1e-3, 0.0]]));
        assert!((values[0][0] - 0.5).abs() < 1e-3 && (values[0][1] - 1.5).abs() < 1e-3, "{values:?}");
        assert_eq!(values[0][2].to_bits(), 1.0_f32.to_bits());
    }

    #[test]
    fn an_overflow_moves_nothing() {
        let mut adam = Adam::default();
        let mut values = vec![vec![1.0_f32; 2]];
        assert!(!adam.step(0.5, values.iter_mut(), &[vec![f32::NAN, 1.0]]));
        assert_eq!(values, [[1.0, 1.0]]);
    }
}
