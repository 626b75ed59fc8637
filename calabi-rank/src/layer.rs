//! What the selectors share: weights that are zero, spectra that end too early, numbers in words.

use calabi_api::{Choice, LayerSpectrum, Rank, SelectError};

/// The choice for a weight that is zero.
pub(crate) fn zero(layer: &LayerSpectrum<'_>) -> Option<Choice> {
    (layer.spectrum().energy() == 0.0).then(|| Choice::at_most(Rank::ONE, "the weight is zero"))
}

/// The full rank of a layer as a number.
pub(crate) fn full(layer: &LayerSpectrum<'_>) -> usize {
    layer.shape().full_rank().get()
}

/// Checks that the leading `asked` singular values are known.
pub(crate) fn known(layer: &LayerSpectrum<'_>, asked: usize) -> Result<(), SelectError> {
    let enough = layer.spectrum().is_complete() || layer.spectrum().known() >= asked;
    enough.then_some(()).ok_or_else(|| cut_short(layer, &format!("{asked} are needed")))
}

/// Checks that all singular values are known.
pub(crate) fn complete(layer: &LayerSpectrum<'_>) -> Result<(), SelectError> {
    let complete = layer.spectrum().is_complete();
    complete.then_some(()).ok_or_else(|| cut_short(layer, &format!("all {} are needed", full(layer))))
}

/// The error for a spectrum that ends before the rule is met.
pub(crate) fn cut_short(layer: &LayerSpectrum<'_>, asked: &str) -> SelectError {
    let known = layer.spectrum().known();
    let way_out = "let the decomposer compute more of them, or take one that computes all";
    SelectError::new(format!("{known} singular values are known and {asked}: {way_out}"))
}

/// A share in percent, to two places: "95 %".
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 1e2)
}
