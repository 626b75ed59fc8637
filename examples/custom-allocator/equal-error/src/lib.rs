//! `equal-error`: one error for all layers, as small as a budget of parameters allows.

use calabi_api::settings::Fraction;
use calabi_api::{
    Allocation, Choice, Kept, LayerOptions, LayerSpectrum, Needs, Plugin, Rank, RankAllocator, SelectError,
    SensitivitySource,
};

/// The smallest error that, allowed to every layer alike, leaves at most this share of the parameters.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EqualError {
    /// The share of the selected layers' parameters that may remain.
    pub keep: Fraction,
    /// Whose error is equal. `layer`: the relative error of the weight. `model`: what the layer's loss is estimated to
    /// do to the model's output; it is measured on the samples of `[calibration]`.
    #[serde(default)]
    pub of: Of,
}

/// Whose error is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Of {
    /// The layer's own.
    #[default]
    Layer,
    /// That which the layer causes in the model.
    Model,
}

impl RankAllocator for EqualError {
    fn allocate(&self, model: &Allocation<'_>) -> Result<Vec<Choice>, SelectError> {
        let target = self.keep.get() * (model.dense() + model.decided.0).parameters as f64;
        let left = target - model.decided.1.parameters as f64;
        let layers = model.layers.iter().map(|layer| self.of.options(layer)).collect::<Result<Vec<_>, _>>()?;
        let (mut fails, mut meets) = (0.0, layers.iter().filter_map(Options::largest).fold(0.0, f64::max));
        if cost(&layers, meets) > left {
            return Err(SelectError::new(
                "even at the smallest ranks the layers are larger than `keep` allows: raise it",
            ));
        }
        for _ in 0..50 {
            let error = f64::midpoint(fails, meets);
            if cost(&layers, error) <= left { meets = error } else { fails = error }
        }
        Ok(layers.iter().map(|layer| layer.choice(meets)).collect())
    }

    /// Nothing is measured that nobody asks for.
    fn needs(&self) -> Needs {
        match self.of {
            Of::Layer => Needs::NONE,
            Of::Model => Needs { sensitivity: SensitivitySource::Measured, ..Needs::NONE },
        }
    }
}

/// A layer's ranks, ascending, with the error at each.
struct Options<'a> {
    layer: &'a LayerOptions<'a>,
    errors: Vec<(Rank, f64)>,
}

impl Of {
    fn options<'a>(self, layer: &'a LayerOptions<'a>) -> Result<Options<'a>, SelectError> {
        let known = |rank: &&Rank| rank.get() <= layer.spectrum.spectrum().known();
        let errors = layer.ranks.iter().filter(known).map(|&rank| Ok((rank, self.error(&layer.spectrum, rank)?)));
        Ok(Options { layer, errors: errors.collect::<Result<_, SelectError>>()? })
    }

    fn error(self, layer: &LayerSpectrum<'_>, rank: Rank) -> Result<f64, SelectError> {
        match self {
            Self::Layer => Ok(layer.spectrum().relative_error(rank.get())),
            Self::Model => divergence(layer, layer.spectrum().loss(rank.get())),
        }
    }
}

/// What a loss of this layer is estimated to do to the model. Without a measurement it is an error, never a guess.
fn divergence(layer: &LayerSpectrum<'_>, loss: f64) -> Result<f64, SelectError> {
    if loss == 0.0 {
        return Ok(0.0);
    }
    let measured = layer.sensitivity().filter(|of| of.loss > 0.0 && of.divergence.is_finite());
    let estimate = measured.map(|of| of.divergence_at(loss)).filter(|estimate| estimate.is_finite());
    estimate.ok_or_else(|| {
        let name = layer.name();
        let way_out = "add [calibration] to the pipeline file, or set `of = \"layer\"`";
        SelectError::new(format!("there is no measurement of what cutting layer {name} does to the model: {way_out}"))
    })
}

impl Options<'_> {
    fn largest(&self) -> Option<f64> {
        self.errors.first().map(|&(_, error)| error)
    }

    /// The smallest option with at most this error.
    fn choice(&self, bound: f64) -> Choice {
        match self.errors.iter().find(|&&(_, error)| error <= bound) {
            Some(&(rank, _)) => Choice::exactly(rank, format!("error at most {bound:.3e}")),
            None => Choice::dense(format!("no rank has an error of {bound:.3e}")),
        }
    }

    fn cost(&self, kept: Kept) -> f64 {
        self.layer.cost.of(kept).parameters as f64
    }
}

/// The parameters of all layers when each may have this error.
fn cost(layers: &[Options<'_>], error: f64) -> f64 {
    layers.iter().map(|layer| layer.cost(layer.choice(error).kept)).sum()
}

calabi_api::submit! { Plugin::allocator::<EqualError>("equal-error", "one error for all layers, theirs or the model's") }

#[cfg(test)]
mod tests {
    use calabi_api::Shape;
    use calabi_testing::allocators::{Model, conforms};
    use calabi_testing::selectors::Case;

    use super::*;

    fn rule(of: Of) -> EqualError {
        EqualError { keep: Fraction::new(0.6).expect("a share"), of }
    }

    fn twins() -> Model {
        let layer = || Case::new(Shape::new(64, 64).expect("not empty"), (0..64).map(|i| 0.9_f64.powi(i)).collect());
        Model::new(vec![layer().diverging(0.01), layer().diverging(0.1)], 1)
    }

    #[test]
    fn it_keeps_the_contract_of_allocators() {
        conforms(&rule(Of::Layer));
        conforms(&rule(Of::Model));
    }

    #[test]
    fn equal_layers_are_alike_unless_the_model_feels_one_more() {
        let ranks = |of| twins().ask(&rule(of)).expect("choices").iter().map(|choice| choice.kept).collect::<Vec<_>>();
        let kept = |rank| Kept::Rank(Rank::new(rank).expect("not zero"));
        // 0.6 of 8192 parameters are 38 ranks. A tenth of the loss is ln 10 / (-2 ln 0.9) = 10.9 ranks.
        assert_eq!(ranks(Of::Layer), [kept(19), kept(19)]);
        assert_eq!(ranks(Of::Model), [kept(14), kept(24)]);
    }

    #[test]
    fn without_a_measurement_it_says_how_to_get_one() {
        let error = rule(Of::Model).allocate(&twins().allocation()).expect_err("nothing was measured").to_string();
        assert!(error.ends_with("add [calibration] to the pipeline file, or set `of = \"layer\"`"), "{error}");
        assert!(rule(Of::Layer).allocate(&twins().allocation()).is_ok());
    }
}
