//! The gaps of a spectrum, and which of them stand out from their neighbours.

use std::ops::RangeInclusive;

use calabi_api::{LayerSpectrum, Rank, Shape};

use crate::layer::full;

/// The step between `σ_r` and `σ_{r+1}`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gap {
    /// The rank `r` that ends at the gap.
    pub(crate) rank: Rank,
    /// `ln σ_r / σ_{r+1}`; values below the noise floor count as the floor.
    pub(crate) size: f64,
}

impl Gap {
    /// `σ_r / σ_{r+1}`.
    pub(crate) fn ratio(self) -> f64 {
        self.size.exp()
    }
}

/// A spectrum down to its noise floor, `max(m, n) · ε · σ₁` with the `ε` of `f32`: below it, values are rounding.
pub(crate) struct Gaps<'a> {
    values: &'a [f64],
    floor: f64,
    /// How many values lie above the floor.
    numerical_rank: usize,
    /// How far a neighbour may be.
    reach: usize,
}

impl<'a> Gaps<'a> {
    pub(crate) fn of(layer: &LayerSpectrum<'a>) -> Self {
        let (shape, values) = (layer.shape(), layer.spectrum().values());
        let largest = values.first().copied().unwrap_or_default();
        let floor = shape.rows().max(shape.cols()) as f64 * f64::from(f32::EPSILON) * largest;
        let numerical_rank = values.partition_point(|&value| value > floor);
        Self { values, floor, numerical_rank, reach: reach(full(layer)) }
    }

    /// The rank after which the known values are rounding, where they come to that.
    pub(crate) fn end(&self) -> Option<Rank> {
        Rank::new(self.numerical_rank).filter(|_| self.numerical_rank < self.values.len())
    }

    /// The gaps after these ranks, as far as they lie above the floor.
    pub(crate) fn within(&self, ranks: RangeInclusive<usize>) -> impl Iterator<Item = Gap> {
        ranks.filter_map(|rank| self.after(rank))
    }

    /// The gaps after these ranks that exceed the median of their neighbours by so many of its median absolute
    /// deviations and by more than rounding, and the one where the values end in rounding.
    pub(crate) fn outstanding(&self, ranks: RangeInclusive<usize>, deviations: f64) -> impl Iterator<Item = Gap> {
        self.within(ranks).filter(move |gap| Some(gap.rank) == self.end() || self.stands_out(*gap, deviations))
    }

    fn stands_out(&self, gap: Gap, deviations: f64) -> bool {
        let rank = gap.rank.get();
        let near = rank.saturating_sub(self.reach)..=rank + self.reach;
        let others = self.within(near).filter(|other| other.rank != gap.rank).map(|other| other.size).collect();
        let rounding = self.values.get(rank).map_or(f64::INFINITY, |next| self.floor / next.max(self.floor));
        Typical::of(others)
            .is_some_and(|typical| gap.size - typical.median > rounding.max(deviations * typical.deviation))
    }

    fn after(&self, rank: usize) -> Option<Gap> {
        let above = self.values.get(rank.checked_sub(1)?).filter(|&&value| value > self.floor)?;
        let below = self.values.get(rank)?.max(self.floor);
        Some(Gap { rank: Rank::new(rank)?, size: (above / below).ln() })
    }
}

/// How many singular values must be known to judge the gaps up to this rank.
pub(crate) fn needed(rank: usize, shape: Shape) -> usize {
    let full = shape.full_rank().get();
    (rank + reach(full) + 1).min(full)
}

/// Gaps are compared with those of this many ranks on either side: spectra fall faster at their ends than in the middle.
fn reach(full: usize) -> usize {
    (full / 16).max(8)
}

/// The median of some gaps and the median of their deviations from it.
struct Typical {
    median: f64,
    deviation: f64,
}

impl Typical {
    /// None of fewer than two gaps.
    fn of(mut gaps: Vec<f64>) -> Option<Self> {
        if gaps.len() < 2 {
            return None;
        }
        let median = median(&mut gaps);
        let mut deviations: Vec<_> = gaps.iter().map(|gap| (gap - median).abs()).collect();
        Some(Self { median, deviation: self::median(&mut deviations) })
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    let half = numbers.len() / 2;
    let even = numbers.len().is_multiple_of(2);
    let (below, &mut upper, _) = numbers.select_nth_unstable_by(half, f64::total_cmp);
    match below.iter().copied().max_by(f64::total_cmp) {
        Some(lower) if even => f64::midpoint(lower, upper),
        _ => upper,
    }
}

#[cfg(test)]
mod tests {
    use calabi_api::Spectrum;

    use super::*;

    const NONE: [usize; 0] = [];

    fn outstanding(values: Vec<f64>, deviations: f64) -> Vec<usize> {
        let full = values.len();
        let spectrum = Spectrum::complete(values).unwrap();
        let layer = LayerSpectrum::new("layer", Shape::new(full, full).unwrap(), &spectrum);
        Gaps::of(&layer).outstanding(1..=full, deviations).map(|gap| gap.rank.get()).collect()
    }

    #[test]
    fn smooth_spectra_have_no_gap() {
        let smooth: [fn(f64) -> f64; 4] = [|_| 1.0, |i| 0.97_f64.powf(i), |i| 1.0 / (i + 1.0), |i| 200.0 - i];
        for spectrum in smooth {
            assert_eq!(outstanding((1..=150).map(|i| spectrum(f64::from(i))).collect(), 10.0), NONE);
        }
    }

    #[test]
    fn steps_are_gaps() {
        let steps = (0..90).map(|i| f64::from(1 << (2 - i / 30)) - 0.001 * f64::from(i)).collect();
        assert_eq!(outstanding(steps, 10.0), [30, 60]);
    }

    #[test]
    fn the_end_of_the_spectrum_is_a_gap_whatever_its_neighbours() {
        assert_eq!(outstanding(vec![1.0, 0.0], 10.0), [1]);
        assert_eq!(outstanding(vec![3.0, 2.0, 1e-9, 1e-10, 0.0], 10.0), [2]);
        assert_eq!(outstanding(vec![3.0, 2.0], 10.0), NONE);
    }

    #[test]
    fn medians_lie_in_the_middle() {
        let medians = [median(&mut [3.0]), median(&mut [9.0, 1.0]), median(&mut [7.0, 1.0, 2.0])];
        assert_eq!(medians.map(f64::to_bits), [3.0, 5.0, 2.0].map(f64::to_bits));
    }
}
