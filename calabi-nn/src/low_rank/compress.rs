//! From a dense layer to its factors, in one call.

use std::borrow::Cow;
use std::fmt;

use calabi_api::{DecomposeError, Decomposer, Kept, LayerSpectrum, Rank, RankSelector, SelectError, Shape, Side};
use candle_core::{DType, Tensor};
use candle_nn::Linear;
use ndarray::Array2;
use thiserror::Error;

use super::LowRankLinear;
use super::arrays::{matrix, tensor};

/// Outputs whose error is measured at a time.
const ROWS: usize = 256;

/// A layer on its factors, and what it lost.
///
/// ```
/// use calabi_api::Rank;
/// use calabi_nn::candle_core::{Device, Tensor};
/// use calabi_nn::candle_nn::Linear;
/// use calabi_nn::{Compressed, LowRankLinear};
///
/// let dense = Linear::new(Tensor::new(&[[3f32, 0.0], [0.0, 4.0]], &Device::Cpu)?, None);
/// let fixed = calabi_rank::Fixed { rank: Rank::ONE };
/// let Compressed { layer, report } = LowRankLinear::compress(&dense, &calabi_svd::Faer::default(), &fixed)?;
/// assert_eq!(layer.rank(), report.rank);
/// assert!((report.relative_error - 0.6).abs() < 1e-6); // 3 of √(3² + 4²)
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compressed {
    /// The layer, of the dense one's type and on its device.
    pub layer: LowRankLinear,
    /// What was chosen, and what it costs.
    pub report: CompressionReport,
}

/// What became of a dense layer's weight.
///
/// ```
/// use calabi_api::{Rank, Shape};
/// use calabi_nn::CompressionReport;
///
/// let shape = Shape::new(100, 60).unwrap();
/// let rank = Rank::new(40).unwrap();
/// let report = CompressionReport {
///     shape,
///     rank,
///     break_even: shape.break_even(),
///     relative_error: 0.02,
///     predicted_error: 0.02,
///     because: "by hand".into(),
///     remark: None,
/// };
/// assert!(!report.pays());
/// assert_eq!(
///     report.to_string(),
///     "100x60 at rank 40, not below break-even at 38: no smaller than dense; relative error 0.0200 (by hand)"
/// );
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CompressionReport {
    /// The shape of the weight, `m × n`.
    pub shape: Shape,
    /// The rank of the factors, `r`.
    pub rank: Rank,
    /// The break-even rank `⌈mn / (m + n)⌉`: from there on the factors are no smaller than the weight.
    pub break_even: usize,
    /// `‖W − left · right‖ / ‖W‖` in the Frobenius norm, of the factors as the layer holds them.
    pub relative_error: f64,
    /// The same as the spectrum predicts it, before factors are rounded: the smallest that this rank allows.
    pub predicted_error: f64,
    /// The rule that chose the rank.
    pub because: Cow<'static, str>,
    /// What the decomposer has to say, if anything.
    pub remark: Option<String>,
}

impl CompressionReport {
    /// Whether the factors are smaller and faster than the dense weight; as [`CompressionReport`] shows.
    #[must_use]
    pub fn pays(&self) -> bool {
        self.rank.get() < self.break_even
    }
}

impl fmt::Display for CompressionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, rank, break_even, relative_error, because, .. } = self;
        let place = if self.pays() { "below break-even at" } else { "not below break-even at" };
        let end = if self.pays() { "" } else { ": no smaller than dense" };
        write!(f, "{shape} at rank {rank}, {place} {break_even}{end}; relative error {relative_error:.4} ({because})")
    }
}

/// Why a dense layer was not factorized.
///
/// ```
/// use calabi_nn::CompressError;
///
/// let error = CompressError::Dense { because: "no gap stands out".into() };
/// assert_eq!(error.to_string(), "the layer stays dense: no gap stands out");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompressError {
    /// The rule wants the layer to stay dense.
    #[error("the layer stays dense: {because}")]
    Dense {
        /// The rule, in its words.
        because: Cow<'static, str>,
    },
    /// The rank was to be below break-even, and is not.
    #[error("rank {rank} is not below break-even at {break_even}: the layer stays dense ({because})")]
    PastBreakEven {
        /// The rank that was chosen.
        rank: Rank,
        /// The break-even rank.
        break_even: usize,
        /// The rule that chose it.
        because: Cow<'static, str>,
    },
    /// The rule chose a rank that the weight cannot have.
    #[error("rank {rank} was chosen, and {} is the most that {shape} can have", shape.full_rank())]
    Beyond {
        /// The rank that was chosen.
        rank: Rank,
        /// The shape of the weight.
        shape: Shape,
    },
    /// The weight cannot be decomposed.
    #[error("the weight cannot be decomposed")]
    Decompose(#[from] DecomposeError),
    /// No rank can be chosen.
    #[error("no rank can be chosen")]
    Select(#[from] SelectError),
    /// The layer's tensors are not those of a linear layer, or an operation on them failed.
    #[error("the layer's tensors cannot be used")]
    Tensor(#[from] candle_core::Error),
}

impl LowRankLinear {
    /// Factorizes a dense layer's weight at the rank that `selector` chooses; its bias stays.
    ///
    /// Factors are made at the very rank that is chosen, not rounded to a multiple, also past break-even, and the report says so:
    /// [`compress_below_break_even`](Self::compress_below_break_even) refuses those. Weights are decomposed as `f32`, and
    /// factors multiplied in `f32` (`f64` for a layer in `f64`) before they are rounded to the layer's type. A rule that
    /// needs calibration data has none here.
    ///
    /// ```
    /// use calabi_api::settings;
    /// use calabi_nn::LowRankLinear;
    /// use calabi_nn::candle_core::{Device, Module, Tensor};
    /// use calabi_nn::candle_nn::Linear;
    /// use calabi_rank::Energy;
    /// use calabi_svd::Faer;
    ///
    /// let dense = Linear::new(Tensor::new(&[[1f32, 2.0], [2.0, 4.0], [3.0, 6.0]], &Device::Cpu)?, None);
    /// let threshold = settings::Fraction::new(0.99).ok_or("a share")?;
    /// let compressed = LowRankLinear::compress(&dense, &Faer::default(), &Energy { threshold })?;
    /// assert_eq!(compressed.report.rank.get(), 1);
    /// assert!(compressed.report.pays() && compressed.report.relative_error < 1e-6);
    /// let y = compressed.layer.forward(&Tensor::new(&[[1f32, 1.0]], &Device::Cpu)?)?;
    /// assert!((y.to_vec2::<f32>()?[0][2] - 9.0).abs() < 1e-5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where the rule fails or leaves the layer dense, the weight is not finite or cannot be decomposed, or a factor
    /// cannot be in the layer's type.
    pub fn compress(
        dense: &Linear,
        decomposer: &dyn Decomposer,
        selector: &dyn RankSelector,
    ) -> Result<Compressed, CompressError> {
        Parts::of(dense, decomposer, selector)?.factorize()
    }

    /// As [`compress`](Self::compress), where a rank that does not pay is an error before factors are made.
    ///
    /// ```
    /// use calabi_api::Rank;
    /// use calabi_nn::candle_core::{Device, Tensor};
    /// use calabi_nn::candle_nn::Linear;
    /// use calabi_nn::{CompressError, LowRankLinear};
    /// use calabi_rank::Fixed;
    /// use calabi_svd::Faer;
    ///
    /// let dense = Linear::new(Tensor::new(&[[1f32, 2.0], [2.0, 5.0]], &Device::Cpu)?, None);
    /// let one = Fixed { rank: Rank::ONE }; // break-even is at 2 · 2 / 4 = 1
    /// assert!(LowRankLinear::compress(&dense, &Faer::default(), &one).is_ok());
    /// let refused = LowRankLinear::compress_below_break_even(&dense, &Faer::default(), &one);
    /// assert!(matches!(refused, Err(CompressError::PastBreakEven { break_even: 1, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`compress`](Self::compress), and where the rank is not below break-even.
    pub fn compress_below_break_even(
        dense: &Linear,
        decomposer: &dyn Decomposer,
        selector: &dyn RankSelector,
    ) -> Result<Compressed, CompressError> {
        let parts = Parts::of(dense, decomposer, selector)?;
        let (rank, break_even) = (parts.rank, parts.shape.break_even());
        if rank.get() >= break_even {
            return Err(CompressError::PastBreakEven { rank, break_even, because: parts.because });
        }
        parts.factorize()
    }
}

/// A weight taken apart, and the rank at which it is cut.
struct Parts<'d> {
    dense: &'d Linear,
    /// `m × n`, in the type in which factors are multiplied.
    weight: Tensor,
    shape: Shape,
    /// Singular vectors of one side, in `f64`.
    basis: (Side, Array2<f64>),
    predicted_error: f64,
    remark: Option<String>,
    rank: Rank,
    because: Cow<'static, str>,
}

impl<'d> Parts<'d> {
    fn of(dense: &'d Linear, decomposer: &dyn Decomposer, selector: &dyn RankSelector) -> Result<Self, CompressError> {
        let weight = dense.weight().detach();
        let single: Array2<f32> = matrix(&weight.to_dtype(DType::F32)?)?;
        let (rows, cols) = single.dim();
        let shape = Shape::new(rows, cols).ok_or(DecomposeError::Empty { rows, cols })?;
        let decomposition = decomposer.svd(single.view(), selector.limit(shape))?;
        let read = || Ok(single.clone());
        let choice =
            selector.select(&LayerSpectrum::new("linear", shape, decomposition.spectrum()).with_weight(&read))?;
        let Kept::Rank(rank) = choice.kept else { return Err(CompressError::Dense { because: choice.because }) };
        if rank > shape.full_rank() {
            return Err(CompressError::Beyond { rank, shape });
        }
        let working = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        Ok(Self {
            dense,
            weight: weight.to_dtype(working)?,
            shape,
            basis: decomposition.precise_basis(rank)?,
            predicted_error: decomposition.spectrum().relative_error(rank.get()),
            remark: decomposition.remark().map(str::to_owned),
            rank,
            because: choice.because,
        })
    }

    fn factorize(self) -> Result<Compressed, CompressError> {
        let (left, right) = self.factors()?;
        let bias = self.dense.bias().map(|bias| bias.detach().copy()).transpose()?;
        let layer = LowRankLinear::rounded(left, right, bias, self.dense.weight().dtype())?;
        let report = CompressionReport {
            shape: self.shape,
            rank: self.rank,
            break_even: self.shape.break_even(),
            relative_error: self.relative_error(&layer)?,
            predicted_error: self.predicted_error,
            because: self.because,
            remark: self.remark.clone(),
        };
        Ok(Compressed { layer, report })
    }

    /// The best factors in the span of the leading vectors: `U (Uᵀ W)` or `(W V) Vᵀ`.
    fn factors(&self) -> Result<(Tensor, Tensor), CompressError> {
        let (side, vectors) = &self.basis;
        let vectors = tensor(vectors, self.weight.device())?.to_dtype(self.weight.dtype())?;
        Ok(match side {
            Side::Left => (vectors.clone(), vectors.t()?.matmul(&self.weight)?),
            Side::Right => (self.weight.matmul(&vectors)?, vectors.t()?.contiguous()?),
        })
    }

    /// `‖W − left · right‖ / ‖W‖` of the factors that the layer holds; 0 for a weight that is zero.
    fn relative_error(&self, layer: &LowRankLinear) -> Result<f64, candle_core::Error> {
        let working = self.weight.dtype();
        let (left, right) = (layer.left.to_dtype(working)?, layer.right.to_dtype(working)?);
        let (mut lost, mut energy) = (0.0, 0.0);
        for start in (0..self.shape.rows()).step_by(ROWS) {
            let count = ROWS.min(self.shape.rows() - start);
            let weight = self.weight.narrow(0, start, count)?;
            lost += square((&weight - left.narrow(0, start, count)?.matmul(&right)?)?)?;
            energy += square(weight)?;
        }
        Ok(if energy > 0.0 { (lost / energy).sqrt() } else { lost.sqrt() })
    }
}

/// The sum of squares.
fn square(matrix: Tensor) -> Result<f64, candle_core::Error> {
    matrix.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}
