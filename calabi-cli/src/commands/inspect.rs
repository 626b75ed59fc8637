//! `calabi-cli inspect`: a model's layers, no pipeline needed.

use std::fmt::Write as _;

use calabi::Pipeline;
use calabi::api::Spectrum;
use calabi::rank::Fixed;

use crate::args::InspectArgs;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::table::Rows;
use crate::{Ending, print, units};

pub(crate) fn inspect(args: &InspectArgs) -> Result<Ending, Failure> {
    let source = calabi::open_model(&args.model, None)?;
    let spectra =
        if args.spectra && !source.layers().is_empty() { spectra(args)? } else { vec![None; source.layers().len()] };
    let totals = source.totals();
    let mut text = format!(
        "{}: {}, {} parameters, {}\n\n",
        args.model.display(),
        totals.format,
        units::count(totals.cost.parameters),
        units::bytes(totals.cost.bytes)
    );
    let mut rows = Rows::new(&["layer", "shape", "type", "parameters", "break-even"]);
    for (layer, spectrum) in source.layers().iter().zip(&spectra) {
        let parameters = units::count(layer.cost.dense.parameters);
        let break_even = layer.shape.break_even().to_string();
        rows.add([&*layer.name, &layer.shape.to_string(), &layer.dtype.to_string(), &parameters, &break_even]);
        if let Some(spectrum) = spectrum {
            rows.add([&*describe(spectrum), "", "", "", ""]);
        }
    }
    let _ = write!(text, "{rows}\n\n{} layers can be factorized (shape: outputs x inputs)\n", source.layers().len());
    if !source.left_alone().is_empty() {
        let mut rows = Rows::new(&["left alone", "dimensions", "type", "why"]);
        for matrix in source.left_alone() {
            let dims: Vec<_> = matrix.dims.iter().map(u64::to_string).collect();
            rows.add([&*matrix.name, &dims.join("x"), &matrix.dtype, &matrix.why]);
        }
        let _ = write!(text, "\n{rows}\n");
    }
    print::text(&text)?;
    Ok(Ending::Done)
}

fn spectra(args: &InspectArgs) -> Result<Vec<Option<Spectrum>>, Failure> {
    let any_rule = Fixed { rank: calabi::api::Rank::ONE };
    let pipeline = Pipeline::new(&args.model, "", any_rule);
    Ok(calabi::spectra(&pipeline, &args.work.options(), true, &Progress::new(args.work.verbose))?.1)
}

/// How steep a spectrum is, in a line: what share of the rank holds what share of the energy.
fn describe(spectrum: &Spectrum) -> String {
    let full = spectrum.known();
    let at = |share: f64| {
        let rank = spectrum.rank_for_loss((1.0 - share) * spectrum.energy()).map_or(full, calabi::api::Rank::get);
        format!("{:.0} % of the energy at rank {rank}", 100.0 * share)
    };
    let largest = spectrum.values().first().copied().unwrap_or_default();
    format!("    largest {largest:.3}; {}, {}, {} of {full}", at(0.5), at(0.9), at(0.99))
}
