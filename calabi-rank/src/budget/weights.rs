//! What a layer's relative loss counts: the same for all, or as much as it does to the model.

use calabi_api::{Allocation, LayerOptions, SelectError, Sensitivity, SensitivitySource};

use super::ladder::ranks;

/// Up to this share of a layer's energy a loss is rounding: factors in `f32` have a relative error of 1e-6.
const ROUNDING: f64 = 1e-12;

/// The least that a layer counts, as a share of what the most sensitive one does: enough to put an order on layers that
/// the model does not feel, too little to take anything from those that it does.
const LEAST: f64 = 1e-9;

/// One weight a layer. Without sensitivities 1, else the divergence that losing all of the layer's energy is estimated
/// to cause.
///
/// A layer whose divergence is zero or, by rounding, negative counts as [`LEAST`]. One that lost nothing at its
/// reference rank tells nothing about the ranks that do lose: it counts as the most sensitive one.
pub(super) fn weights(model: &Allocation<'_>, source: &SensitivitySource) -> Result<Vec<f64>, SelectError> {
    if *source == SensitivitySource::Off {
        return Ok(vec![1.0; model.layers.len()]);
    }
    let known: Vec<_> = model.layers.iter().map(|layer| measured(layer, source)).collect::<Result<_, _>>()?;
    let most = known.iter().flatten().copied().fold(0.0, f64::max);
    if most == 0.0 {
        return Ok(vec![1.0; known.len()]);
    }
    Ok(known.into_iter().map(|weight| weight.map_or(most, |weight| weight.max(LEAST * most))).collect())
}

/// The divergence at the loss of all energy; none where it cannot be told, or does not matter.
fn measured(layer: &LayerOptions<'_>, source: &SensitivitySource) -> Result<Option<f64>, SelectError> {
    let energy = layer.spectrum.spectrum().energy();
    if energy == 0.0 || ranks(layer).next().is_none() {
        return Ok(None);
    }
    let sensitivity = layer.spectrum.sensitivity().ok_or_else(|| unknown(layer, source))?;
    let weight = sensitivity.divergence_at(energy);
    if !is_measurement(sensitivity) || !weight.is_finite() {
        return Err(no_measurement(layer, sensitivity, source));
    }
    Ok((sensitivity.loss > ROUNDING * energy).then_some(weight))
}

fn is_measurement(Sensitivity { loss, divergence }: Sensitivity) -> bool {
    loss >= 0.0 && loss.is_finite() && divergence.is_finite()
}

fn unknown(layer: &LayerOptions<'_>, source: &SensitivitySource) -> SelectError {
    let name = layer.spectrum.name();
    SelectError::new(match source {
        SensitivitySource::File(path) => {
            format!(
                "{} does not know the sensitivity of layer {name}: measure again with `sensitivity = \"measured\"`",
                path.display()
            )
        }
        _ => format!(
            "the sensitivity of layer {name} was not measured: add [calibration], or set `sensitivity = \"off\"`"
        ),
    })
}

fn no_measurement(layer: &LayerOptions<'_>, of: Sensitivity, source: &SensitivitySource) -> SelectError {
    let (name, Sensitivity { loss, divergence }) = (layer.spectrum.name(), of);
    let way_out = match source {
        SensitivitySource::File(path) => format!("correct {}, or measure again", path.display()),
        _ => "exclude the layer, or set `sensitivity = \"off\"`".to_owned(),
    };
    SelectError::new(format!("layer {name} at a loss of {loss} diverges by {divergence}: no measurement; {way_out}"))
}
