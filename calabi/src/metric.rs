//! What a layer's loss is measured in, and the best factors in it: one formula for all objectives and bias modes.
//!
//! A layer is `y = W x + b` (`W` is `m × n`), its inputs have the mean `μ`. The mean square error of the outputs of a
//! replacement is `tr(E D Eᵀ)` for `E = W − W_r`. With the eigenvectors `u₁, u₂, ...` of `W D Wᵀ`, largest eigenvalue
//! first, the best replacement of every rank is `W_r = U_r (U_rᵀ W)`, and for any metric `D'` and any orthonormal `U`
//!
//! ```text
//! loss(r) = tr(W D' Wᵀ) − Σ_{i≤r} uᵢᵀ (W D' Wᵀ) uᵢ
//! ```
//!
//! | `bias` | `U` from | loss in | bias written |
//! |---|---|---|---|
//! | `none` | `E[xxᵀ]` | `E[xxᵀ]` | `b` |
//! | `residual` | `E[xxᵀ]` | `C = E[xxᵀ] − μμᵀ` | `b + (W − W_r) μ` |
//! | `joint` | `C` | `C` | `b + (W − W_r) μ` |
//!
//! What finds `U` may be less than what judges it: the diagonal, or a matrix that is shrunk. Sources: Swift-SVD (the
//! uncentred form and its optimality), AFM (AAAI 2023, the centred form), AA-SVD (arXiv 2604.02119, [`Anchored`]).

mod anchored;
mod basis;
mod factorize;
mod form;
mod inputs;
mod judged;
mod losses;
mod measure;
mod root;
mod route;
mod settings;
#[cfg(test)]
mod tests;
mod whitened;

use std::sync::OnceLock;

use calabi_api::Normalisation;
use ndarray::Array1;

use crate::store::Hashed;
use judged::Judged;
use root::Rooted;

pub(crate) use anchored::Anchored;
pub(crate) use factorize::{Factorization, Limits, factorize, factors_from_basis};
pub(crate) use form::Form;
pub(crate) use inputs::Inputs;
pub(crate) use measure::{compensation, measured_loss};
pub(crate) use settings::Shrinkage;
pub use settings::{Bias, Objective};
pub(crate) use whitened::Room;

/// The metric of one distinct input: layers that share the input share the metric, and with it its root.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Where `U` comes from.
    find: Rooted,
    /// What losses are measured in; none where `find` does both.
    judge: Option<Form>,
    /// How one follows from the other, for Gram matrices.
    judged: Option<Judged>,
    /// The mean that the bias makes up for; none where nothing is made up for.
    mean: Option<Array1<f64>>,
    hash: OnceLock<blake3::Hash>,
}

impl Metric {
    /// No data: the loss is that of the weight itself, `‖W − W_r‖²`.
    pub(crate) fn identity(n: usize) -> Self {
        Self::new(Form::Identity(n), None, None)
    }

    /// No data, but the normalisation whose output is the input: `E[xxᵀ] = diag(γ²) + ββᵀ`, `μ = β`.
    pub(crate) fn of_normalisation(normalisation: &Normalisation, bias: Bias) -> Self {
        let scales = Form::Diagonal(normalisation.gamma.mapv(|v| f64::from(v).powi(2)));
        let Some(mean) = normalisation.beta.as_ref().map(|beta| beta.mapv(f64::from)) else {
            return Self::new(scales, None, None);
        };
        let uncentred = |scales: Form| {
            let mut full = scales.into_full();
            form::rank_one(&mut full, 1.0, &mean, &mean);
            Form::from(full)
        };
        match bias {
            Bias::None => Self::new(uncentred(scales), None, None),
            Bias::Residual => Self::new(uncentred(scales.clone()), Some(scales), Some(mean)),
            Bias::Joint => Self::new(scales, None, Some(mean)),
        }
    }

    /// `U` from the scales of the features alone; losses on the whole Gram matrix.
    pub(crate) fn diagonal(inputs: impl Into<Inputs>, bias: Bias) -> Self {
        let Seen { find, judge, mean } = Seen::new(inputs.into(), bias);
        let diagonal = find.diagonal();
        Self::new(diagonal, Some(judge.unwrap_or(find)), mean)
    }

    /// `U` from the whole Gram matrix, shrunk by `α`; losses on the matrix as it was measured.
    pub(crate) fn gram(inputs: impl Into<Inputs>, bias: Bias, shrinkage: Shrinkage) -> Self {
        let inputs = inputs.into();
        let alpha = shrinkage.alpha(inputs.tokens, inputs.mean.len());
        let Seen { find, judge, mean } = Seen::new(inputs, bias);
        let centred = mean.clone().filter(|_| bias == Bias::Residual);
        if alpha == 0.0 {
            return Self { judged: Judged::new(0.0, 0.0, centred), ..Self::new(find, judge, mean) };
        }
        let shift = alpha * form::mean_diagonal(&find.full());
        let shrunk = Form::from(form::shrunk(find.full().into_owned(), alpha, shift));
        let judged = Judged::new(alpha, shift, centred);
        Self { judged, ..Self::new(shrunk, Some(judge.unwrap_or(find)), mean) }
    }

    fn new(find: Form, judge: Option<Form>, mean: Option<Array1<f64>>) -> Self {
        Self { find: Rooted::new(find), judge, judged: None, mean, hash: OnceLock::new() }
    }

    /// Whether singular values in it are losses.
    pub(crate) fn tells_losses(&self) -> bool {
        self.judged.as_ref().is_some_and(Judged::is_same)
    }

    /// A hash of all that results depend on.
    pub(crate) fn hash(&self) -> &blake3::Hash {
        self.hash.get_or_init(|| {
            let mut hash = Hashed::new();
            self.add_to(&mut hash);
            hash.finish()
        })
    }

    fn add_to(&self, hash: &mut Hashed) {
        self.find.form().hash(hash);
        match &self.judge {
            Some(judge) => judge.hash(hash),
            None => hash.text("judged by the same"),
        }
        match &self.mean {
            Some(mean) => hash.numbers(mean),
            None => hash.text("no mean"),
        }
    }

    /// The metric that finds `U`.
    pub(crate) fn find(&self) -> &Rooted {
        &self.find
    }

    /// The metric that losses are measured in.
    pub(crate) fn judge(&self) -> &Form {
        self.judge.as_ref().unwrap_or(self.find.form())
    }

    /// The mean that the bias makes up for; none where nothing is made up for.
    pub(crate) fn mean(&self) -> Option<&Array1<f64>> {
        self.mean.as_ref()
    }
}

/// The moments of statistics as a bias mode uses them.
struct Seen {
    find: Form,
    judge: Option<Form>,
    mean: Option<Array1<f64>>,
}

impl Seen {
    fn new(Inputs { gram, mean, .. }: Inputs, bias: Bias) -> Self {
        let centred = || Form::from(form::centred(&gram, &mean));
        match bias {
            Bias::None => Self { find: Form::Full(gram), judge: None, mean: None },
            Bias::Residual => Self { judge: Some(centred()), find: Form::Full(gram), mean: Some(mean) },
            Bias::Joint => Self { find: centred(), judge: None, mean: Some(mean) },
        }
    }
}
