//! The shape of a weight and the ranks that it admits.

use std::fmt;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// The shape of a weight `W`: `rows` outputs by `cols` inputs (`m × n`), neither of them zero.
///
/// ```
/// use calabi_api::{Shape, ndarray::Array2};
///
/// let shape = Shape::of(Array2::<f32>::zeros((3072, 768)).view()).unwrap();
/// assert_eq!((shape.rows(), shape.cols(), shape.to_string()), (3072, 768, "3072x768".to_owned()));
/// assert_eq!(shape.full_rank().get(), 768);
///
/// // Each rank costs a column of 3072 and a row of 768 numbers: below 615 the factors are smaller than the weight.
/// assert_eq!(shape.break_even(), 615);
/// assert!(614 * (3072 + 768) < shape.entries() && shape.entries() <= 615 * (3072 + 768));
///
/// assert_eq!(Shape::new(0, 768), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    rows: NonZeroUsize,
    cols: NonZeroUsize,
}

impl Shape {
    /// A shape of `rows` outputs and `cols` inputs; none for an empty matrix.
    #[must_use]
    pub fn new(rows: usize, cols: usize) -> Option<Self> {
        Some(Self { rows: NonZeroUsize::new(rows)?, cols: NonZeroUsize::new(cols)? })
    }

    /// The shape of a matrix; none where it is empty.
    #[must_use]
    pub fn of<T>(matrix: ndarray::ArrayView2<'_, T>) -> Option<Self> {
        Self::new(matrix.nrows(), matrix.ncols())
    }

    /// Outputs, `m`.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows.get()
    }

    /// Inputs, `n`.
    #[must_use]
    pub fn cols(self) -> usize {
        self.cols.get()
    }

    /// The number of entries, `m · n`.
    #[must_use]
    pub fn entries(self) -> u64 {
        self.rows() as u64 * self.cols() as u64
    }

    /// The largest rank that a matrix of this shape can have, `min(m, n)`.
    #[must_use]
    pub fn full_rank(self) -> Rank {
        Rank(self.rows.min(self.cols))
    }

    /// The break-even rank `⌈mn / (m + n)⌉`: from there on the factors have no fewer entries than the weight.
    #[must_use]
    pub fn break_even(self) -> usize {
        let per_rank = self.rows() as u64 + self.cols() as u64;
        usize::try_from(self.entries().div_ceil(per_rank)).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// A number of kept singular values: at least one.
///
/// ```
/// use calabi_api::{Rank, Shape};
///
/// let shape = Shape::new(30, 20).unwrap();
/// assert_eq!(Rank::clamped(64, shape).get(), 20);
/// assert_eq!(Rank::clamped(0, shape), Rank::ONE);
/// assert_eq!(Rank::new(0), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(NonZeroUsize);

impl Rank {
    /// The smallest rank.
    pub const ONE: Self = Self(NonZeroUsize::MIN);

    /// A rank of `value`; none for zero.
    #[must_use]
    pub fn new(value: usize) -> Option<Self> {
        NonZeroUsize::new(value).map(Self)
    }

    /// The rank nearest to `value` that a matrix of this shape can have.
    #[must_use]
    pub fn clamped(value: usize, shape: Shape) -> Self {
        Self::new(value).map_or(Self::ONE, |rank| rank.min(shape.full_rank()))
    }

    /// The rank as a number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0.get()
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl schemars::JsonSchema for Rank {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rank".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1 })
    }
}
