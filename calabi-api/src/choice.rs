//! What was chosen for a layer, which rule bound, and how the rank multiple rounds it.

use std::borrow::Cow;

use crate::Rank;

/// What becomes of a layer.
///
/// ```
/// use calabi_api::{Choice, Kept, Rank};
///
/// let shown = |choice: &Choice| match choice.kept {
///     Kept::Rank(rank) => format!("rank {rank}: {}", choice.because),
///     Kept::Dense => format!("dense: {}", choice.because),
/// };
/// assert_eq!(shown(&Choice::exactly(Rank::ONE, "an override")), "rank 1: an override");
/// assert_eq!(shown(&Choice::dense("no rank pays")), "dense: no rank pays");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is factorized at this rank.
    Rank(Rank),
    /// It stays as it is.
    Dense,
}

/// How a rank is brought to the rank multiple of the pipeline.
///
/// ```
/// use calabi_api::Rounding;
///
/// let multiple = 8;
/// let rounded = |rank: usize, rounding| match rounding {
///     Rounding::Up => rank.next_multiple_of(multiple),
///     Rounding::Down => (rank / multiple * multiple).max(multiple),
///     Rounding::Literal => rank,
/// };
/// assert_eq!([Rounding::Up, Rounding::Down, Rounding::Literal].map(|way| rounded(41, way)), [48, 40, 41]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Up: the choice promises an error that a smaller rank would break.
    Up,
    /// Down: the choice promises a size that a larger rank would break.
    Down,
    /// Not at all.
    Literal,
}

/// A rank, or none, and the rule that led to it: shown in the report.
///
/// ```
/// use calabi_api::{Choice, Kept, Rank, Rounding};
///
/// let rank = Rank::new(41).ok_or("zero")?;
/// assert_eq!(Choice::at_least(rank, "error 0.1").rounding, Rounding::Up);
/// assert_eq!(Choice::at_most(rank, "half of the parameters").rounding, Rounding::Down);
/// assert_eq!(Choice::exactly(rank, "an override").rounding, Rounding::Literal);
/// assert_eq!(Choice::dense("an override").kept, Kept::Dense);
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What becomes of the layer.
    pub kept: Kept,
    /// How the rank multiple rounds it.
    pub rounding: Rounding,
    /// Which rule bound, in a few words: "gap at 41 (ratio 3.2)".
    pub because: Cow<'static, str>,
}

impl Choice {
    /// A rank that an error needs: the rank multiple rounds it up.
    pub fn at_least(rank: Rank, because: impl Into<Cow<'static, str>>) -> Self {
        Self { kept: Kept::Rank(rank), rounding: Rounding::Up, because: because.into() }
    }

    /// A rank that a size allows: the rank multiple rounds it down.
    pub fn at_most(rank: Rank, because: impl Into<Cow<'static, str>>) -> Self {
        Self { kept: Kept::Rank(rank), rounding: Rounding::Down, because: because.into() }
    }

    /// A rank that is taken literally.
    pub fn exactly(rank: Rank, because: impl Into<Cow<'static, str>>) -> Self {
        Self { kept: Kept::Rank(rank), rounding: Rounding::Literal, because: because.into() }
    }

    /// The layer stays as it is.
    pub fn dense(because: impl Into<Cow<'static, str>>) -> Self {
        Self { kept: Kept::Dense, rounding: Rounding::Literal, because: because.into() }
    }
}
