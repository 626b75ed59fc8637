//! What a layer costs, dense and at every rank, in parameters and in bytes.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

use serde::Serialize;

use crate::{DType, Kept, Rank, Shape};

/// Parameters and the bytes that store them.
///
/// ```
/// use calabi_api::{Cost, DType};
///
/// let (weight, bias) = (Cost::of(1000, DType::F16), Cost::of(10, DType::F32));
/// let layer: Cost = [weight, bias].into_iter().sum();
/// assert_eq!(layer, Cost { parameters: 1010, bytes: 2040 });
/// assert_eq!(layer.without(weight), bias);
/// assert_eq!((layer + layer).bytes, (layer * 2).bytes);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Cost {
    /// Numbers.
    pub parameters: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

impl Cost {
    /// The cost of so many numbers of this type.
    #[must_use]
    pub fn of(parameters: u64, dtype: DType) -> Self {
        Self { parameters, bytes: parameters.saturating_mul(dtype.bytes()) }
    }

    /// What is left of this cost without `other`, at least nothing.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            parameters: self.parameters.saturating_sub(other.parameters),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { parameters: self.parameters + other.parameters, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<u64> for Cost {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self { parameters: self.parameters * times, bytes: self.bytes * times }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}

/// What a layer costs: dense, and factorized as `fixed + r · per_rank`.
///
/// ```
/// use calabi_api::{Cost, DType, Kept, LayerCost, Rank, Shape};
///
/// let shape = Shape::new(30, 20).ok_or("empty")?;
/// let cost = LayerCost::new(shape, DType::F32, DType::F32);
/// let [eleven, twelve] = [11, 12].map(Rank::new).map(Option::unwrap);
/// assert_eq!(cost.at(eleven), Cost::of(11 * (30 + 20), DType::F32));
/// assert!(cost.pays(eleven) && !cost.pays(twelve)); // the weight has 600 entries
///
/// let biased = cost.with_bias(30, DType::F32);
/// assert_eq!(biased.of(Kept::Rank(eleven)), cost.at(eleven) + Cost::of(30, DType::F32));
/// assert_eq!(biased.of(Kept::Dense), cost.dense);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCost {
    /// The weight as it is.
    pub dense: Cost,
    /// The factors at rank 0: a bias that the dense layer does not have.
    pub fixed: Cost,
    /// What each rank adds: a column of `left` and a row of `right`.
    pub per_rank: Cost,
}

impl LayerCost {
    /// The cost of a weight of this shape stored as `weight` and factorized as `factors`, without any added bias.
    #[must_use]
    pub fn new(shape: Shape, weight: DType, factors: DType) -> Self {
        Self {
            dense: Cost::of(shape.entries(), weight),
            fixed: Cost::default(),
            per_rank: Cost::of(shape.rows() as u64 + shape.cols() as u64, factors),
        }
    }

    /// The same cost where the factors bring a bias that the model has no place for: one of `rows` numbers.
    ///
    /// A layer whose [`bias`](crate::Layer::bias) can take another one needs none.
    #[must_use]
    pub fn with_bias(self, rows: usize, dtype: DType) -> Self {
        Self { fixed: self.fixed + Cost::of(rows as u64, dtype), ..self }
    }

    /// The cost where both factors are stored as [`IntegerRows`](crate::IntegerRows), with scales of `dtype`, which count
    /// as bytes and not as parameters.
    #[must_use]
    pub fn as_integers(self, rows: usize, dtype: DType) -> Self {
        let scales = Cost { parameters: 0, bytes: rows as u64 * dtype.bytes() };
        let bytes = self.per_rank.parameters + dtype.bytes();
        Self { fixed: self.fixed + scales, per_rank: Cost { bytes, ..self.per_rank }, ..self }
    }

    /// The cost of the factors of rank `r`.
    #[must_use]
    pub fn at(&self, r: Rank) -> Cost {
        self.fixed + self.per_rank * r.get() as u64
    }

    /// The cost of what is kept.
    #[must_use]
    pub fn of(&self, kept: Kept) -> Cost {
        match kept {
            Kept::Rank(r) => self.at(r),
            Kept::Dense => self.dense,
        }
    }

    /// Whether factors of rank `r` have fewer parameters and fewer bytes than the dense weight.
    #[must_use]
    pub fn pays(&self, r: Rank) -> bool {
        let factors = self.at(r);
        factors.parameters < self.dense.parameters && factors.bytes < self.dense.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_that_needs_room_costs_its_numbers_at_every_rank() {
        let shape = Shape::new(30, 20).unwrap();
        let plain = LayerCost::new(shape, DType::F32, DType::F16);
        let biased = plain.with_bias(30, DType::F16);
        for rank in [1, 11, 12] {
            let rank = Rank::new(rank).unwrap();
            assert_eq!(biased.at(rank), plain.at(rank) + Cost { parameters: 30, bytes: 60 });
        }
        // 12 · 50 = 600 = 30 · 20: at rank 11 the factors alone pay, by 50 numbers; with the bias by 20.
        let [eleven, twelve] = [11, 12].map(|rank| Rank::new(rank).unwrap());
        assert!(biased.pays(eleven) && !biased.pays(twelve));
        assert!(!plain.with_bias(50, DType::F16).pays(eleven));
        assert_eq!(biased.of(Kept::Dense), plain.dense);
    }
}
