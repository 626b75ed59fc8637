//! What calibration has to say in a report: the metric, the allocation beside a uniform one, the blocks that were tuned.

use std::fmt::Write as _;

use calabi::{BlockReport, CalibrationReport, Report};

use crate::table::Rows;
use crate::units::{change, seconds};

/// The lines of a report about calibration; none where nothing was calibrated.
pub(crate) fn calibration(report: &Report) -> String {
    let mut text = String::new();
    if let Some(CalibrationReport { objective, bias, sequential }) = &report.calibration {
        let inputs = if *sequential { "what the compressed blocks before produce" } else { "what flows into it" };
        let (objective, bias) = (word(objective), word(bias));
        let _ = writeln!(text, "calibrated: objective {objective}, bias {bias}; each layer on {inputs}");
    }
    if let Some(allocation) = &report.allocation {
        let (uniform, chosen) = (allocation.uniform, allocation.chosen);
        let _ = writeln!(
            text,
            "estimated divergence: {chosen:.4} as chosen, {uniform:.4} for uniform ranks of the same size"
        );
    }
    if !report.blocks.is_empty() {
        let _ = write!(text, "\n{}\n", blocks(&report.blocks));
    }
    text
}

fn blocks(blocks: &[BlockReport]) -> Rows {
    let heads = ["block", "loss", "tuned", "", "held out", "tuned", "", "kept", "time"];
    let mut rows = Rows::new(&heads).right(&[0, 1, 2, 3, 4, 5, 6, 8]);
    for block in blocks {
        let (loss, held_out) = (block.loss, block.held_out);
        rows.add([
            &*block.block.to_string(),
            &format!("{:.4e}", loss.before),
            &format!("{:.4e}", loss.after),
            &change(loss.before, loss.after),
            &format!("{:.4e}", held_out.before),
            &format!("{:.4e}", held_out.after),
            &change(held_out.before, held_out.after),
            if block.kept { "tuned" } else { "as it was" },
            &seconds(block.seconds),
        ]);
    }
    rows
}

/// A setting as the pipeline file writes it.
fn word(setting: &impl serde::Serialize) -> String {
    serde_json::to_value(setting).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
