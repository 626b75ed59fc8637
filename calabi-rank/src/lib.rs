//! Rank selectors and budget allocators: what stands behind `[rank] kind` in a pipeline file.
//!
//! | kind | the rank of a layer | reads |
//! |---|---|---|
//! | [`energy`](Energy) | the smallest that holds a share of the energy | spectrum |
//! | [`max-error`](MaxError) | the smallest whose relative error is small enough | spectrum |
//! | [`spectral-gap`](SpectralGap) | where the spectrum has its largest gap | a window of the spectrum |
//! | [`combined`](Combined) | the gap nearest to the energy rank, else the energy rank | spectrum |
//! | [`fraction`](Fraction) | a share of the dimensions | shape |
//! | [`fixed`](Fixed) | always the same | shape |
//! | [`hard-threshold`](HardThreshold) | what stands above the noise, as the spectrum itself shows it | whole spectrum |
//! | [`effective-rank`](EffectiveRank) | the number of directions that the energy is spread over | whole spectrum |
//! | `budget` | all layers share one budget of parameters or bytes | all spectra, and sensitivities if told to |
//!
//! A weight that is zero gets rank 1 from every selector. A spectrum that ends too early for a rule is an error that
//! names the layer, never a guess.
//!
//! The linker drops a crate that no code names: a program that wants these rules says `use calabi_rank as _;`.

mod budget;
mod combined;
mod effective_rank;
mod energy;
mod fixed;
mod fraction;
mod gaps;
mod hard_threshold;
mod layer;
mod marchenko_pastur;
mod max_error;
mod spectral_gap;

pub use budget::{Budget, Of, SensitivityFrom, Unit};
pub use combined::Combined;
pub use effective_rank::EffectiveRank;
pub use energy::Energy;
pub use fixed::Fixed;
pub use fraction::Fraction;
pub use hard_threshold::HardThreshold;
pub use max_error::{MaxError, RelativeError};
pub use spectral_gap::{Otherwise, SpectralGap, Window};
