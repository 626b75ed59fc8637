//! Tables for people: what a run did, and what it would do.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use calabi::api::{Kept, LeftAlone, Spectrum};
use calabi::{Change, Decision, LayerReport, Outcome, Plan, Report, SearchReport};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::calibration::calibration;
use crate::estimates::Estimates;
use crate::units::{bytes, change, count, operations, seconds};
use crate::verification::verification;

/// A table that grows row by row: no borders, a line under the header.
pub(crate) struct Rows(Table);

impl Rows {
    /// A table with these column heads.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(heads.iter().copied());
        Self(table)
    }

    /// Adds a row; names out of files are shown without their control characters.
    pub(crate) fn add<'a>(&mut self, cells: impl IntoIterator<Item = &'a str>) {
        self.0.add_row(cells.into_iter().map(shown));
    }

    /// Aligns these columns to the right.
    pub(crate) fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }
}

pub(crate) fn shown(cell: &str) -> String {
    if cell.chars().any(char::is_control) { cell.escape_debug().to_string() } else { cell.to_owned() }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

/// What a run did: warnings first, then each layer, then totals and the comparison.
#[must_use]
pub fn report_text(report: &Report) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        let _ = write!(text, "note: {warning}\n\n");
    }
    let shared = report.layers.iter().any(|layer| layer.uniform_rank.is_some());
    let heads = ["layer", "shape", "rank", "uniform", "even at", "parameters", "predicted", "measured", "time", "rule"];
    let heads: Vec<_> = heads.into_iter().filter(|&head| shared || head != "uniform").collect();
    let last = heads.len() - 1;
    let mut rows = Rows::new(&heads).right(&(2..last).collect::<Vec<_>>());
    for layer in &report.layers {
        add_layer(&mut rows, layer, shared);
    }
    let _ = write!(text, "{rows}\n\n");
    text += &left_alone(&report.left_alone);
    for remark in report.layers.iter().filter_map(|layer| Some((&layer.name, layer.remark.as_ref()?))) {
        let _ = writeln!(text, "{}: {}", shown(remark.0), remark.1);
    }
    text += &totals(report);
    text += &calibration(report);
    if let Some(search) = &report.search {
        text += &searched(search);
    }
    if let Some(verify) = &report.verify {
        text += &verification(verify);
    }
    let _ = writeln!(text, "\n{} in {}", short(&report.output).display(), seconds(report.seconds));
    text
}

/// A path as one would type it here: without the detours of a pipeline file's relative paths.
pub(crate) fn short(path: &Path) -> PathBuf {
    let Ok(whole) = path.canonicalize() else { return path.to_owned() };
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    here.ok().and_then(|here| Some(whole.strip_prefix(here).ok()?.to_owned())).unwrap_or(whole)
}

fn add_layer(rows: &mut Rows, layer: &LayerReport, shared: bool) {
    let [m, n] = layer.shape;
    let rank = match layer.outcome {
        Outcome::Factorized => layer.rank.map_or_else(String::new, |rank| rank.to_string()),
        Outcome::Dense => "dense".to_owned(),
        Outcome::Skipped => "skipped".to_owned(),
    };
    let percent = |error: Option<f64>| error.map_or_else(|| "-".to_owned(), |e| format!("{:.2} %", 100.0 * e));
    let parameters = match layer.outcome {
        Outcome::Factorized => change(layer.parameters.before as f64, layer.parameters.after as f64),
        _ => "-".to_owned(),
    };
    let uniform = layer.uniform_rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string());
    let shape = format!("{m}x{n}");
    let first = [&*layer.name, &shape, &rank].into_iter().chain(shared.then_some(&*uniform));
    rows.add(first.chain([
        &*layer.break_even.to_string(),
        &parameters,
        &percent(layer.predicted_error),
        &percent(layer.measured_error),
        &seconds(layer.seconds),
        &layer.because,
    ]));
}

/// The matrices that the format leaves alone, by reason.
fn left_alone(matrices: &[LeftAlone]) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for matrix in matrices {
        reasons.entry(&matrix.why).or_default().push(&matrix.name);
    }
    let mut text = String::new();
    for (why, names) in reasons {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        let _ = writeln!(text, "left alone: {}{more}: {why}", shown(names.first().unwrap_or(&"")));
    }
    text
}

fn totals(report: &Report) -> String {
    let of = |outcome| report.layers.iter().filter(|layer| layer.outcome == outcome).count();
    let mut rows = Rows::new(&["", "before", "after", "change"]).right(&[1, 2, 3]);
    let mut add = |name: &str, figure: Change<u64>, unit: fn(u64) -> String| {
        let change = change(figure.before as f64, figure.after as f64);
        rows.add([name, &unit(figure.before), &unit(figure.after), &change]);
    };
    add("parameters of the model", report.parameters, count);
    add("size of its files", report.bytes, bytes);
    add("operations of the layers", report.flops, operations);
    format!(
        "{} layers factorized, {} dense, {} skipped\n\n{rows}\n",
        of(Outcome::Factorized),
        of(Outcome::Dense),
        of(Outcome::Skipped)
    )
}

/// How the smallest budget was found: its steps in the order of their size.
fn searched(search: &SearchReport) -> String {
    let mut rows = Rows::new(&["keep", search.gate, ""]).right(&[0, 1]);
    let mut steps: Vec<_> = search.steps.iter().collect();
    steps.sort_by(|a, b| b.keep.total_cmp(&a.keep));
    for step in steps {
        let figure = if step.figure.is_nan() { "too small".to_owned() } else { format!("{:.5}", step.figure) };
        let verdict = match (step.passed, step.keep <= search.keep) {
            (true, true) => "met, the smallest",
            (true, false) => "met",
            (false, _) => "not met",
        };
        rows.add([&*step.keep.to_string(), &figure, verdict]);
    }
    format!("\nThe smallest keep with {} = {} is {}\n{rows}\n", search.gate, search.limit, search.keep)
}

/// What a run would do.
pub(crate) fn plan_text(plan: &Plan, spectra: &[Option<Spectrum>], estimates: &Estimates) -> String {
    let mut rows = Rows::new(&["layer", "shape", "rank", "even at", "dense", "factorized", "predicted", "rule"])
        .right(&[2, 3, 4, 5, 6]);
    for (planned, spectrum) in plan.layers.iter().zip(spectra) {
        let layer = &planned.layer;
        let (rank, because) = decision(&planned.decision);
        let factorized = planned.rank().map_or_else(|| "-".to_owned(), |_| count(planned.cost().parameters));
        rows.add([
            &*layer.name,
            &layer.shape.to_string(),
            &rank,
            &layer.shape.break_even().to_string(),
            &count(layer.cost.dense.parameters),
            &factorized,
            &predicted(planned.rank().map(calabi::api::Rank::get), spectrum.as_ref())
                .map_or_else(|| "-".to_owned(), |e| format!("{:.2} %", 100.0 * e)),
            because,
        ]);
    }
    let mut text = format!("{rows}\n\n{}", left_alone(&plan.left_alone));
    let selected = plan.layers.iter().filter(|l| l.is_selected());
    let dense: u64 = selected.clone().map(|l| l.layer.cost.dense.parameters).sum();
    let total = plan.totals.cost;
    let (layers, all) = (plan.layers.len(), selected.count());
    let share = 100.0 * dense as f64 / total.parameters.max(1) as f64;
    let _ = writeln!(
        text,
        "{all} of {layers} layers take part: {} of the model's {} parameters ({share:.1} %), {} in files",
        count(dense),
        count(total.parameters),
        bytes(total.bytes)
    );
    text += &estimates.text();
    if plan.is_open() {
        text += "open: the rule needs the spectra; --with-spectra decomposes the layers and fills the ranks in\n";
    } else {
        let after: u64 = plan.layers.iter().map(|l| l.cost().parameters).sum();
        let before: u64 = plan.layers.iter().map(|l| l.layer.cost.dense.parameters).sum();
        let left = total.parameters.saturating_sub(before) + after;
        let _ = writeln!(
            text,
            "the model will have {} parameters ({})",
            count(left),
            change(total.parameters as f64, left as f64)
        );
    }
    text
}

fn decision(decision: &Decision) -> (String, &str) {
    match decision {
        Decision::Open => ("open".to_owned(), ""),
        Decision::Skipped { why } => ("skipped".to_owned(), why),
        Decision::Chosen { kept: Kept::Dense, because } => ("dense".to_owned(), because),
        Decision::Chosen { kept: Kept::Rank(rank), because } => (rank.to_string(), because),
    }
}

fn predicted(rank: Option<usize>, spectrum: Option<&Spectrum>) -> Option<f64> {
    Some(spectrum?.relative_error(rank?))
}

/// The plan as one JSON object.
pub(crate) fn plan_json(plan: &Plan, spectra: &[Option<Spectrum>], estimates: &Estimates) -> Value {
    let layers: Vec<Value> = plan
        .layers
        .iter()
        .zip(spectra)
        .map(|(planned, spectrum)| {
            let shape = planned.layer.shape;
            let rank = planned.rank().map(calabi::api::Rank::get);
            let (decided, because) = decision(&planned.decision);
            let outcome = if rank.is_some() { "factorized" } else { &decided };
            json!({
                "name": planned.layer.name,
                "shape": [shape.rows(), shape.cols()],
                "outcome": outcome,
                "rank": rank,
                "break_even": shape.break_even(),
                "because": because,
                "predicted_error": predicted(rank, spectrum.as_ref()),
                "parameters": { "before": planned.layer.cost.dense.parameters, "after": planned.cost().parameters },
            })
        })
        .collect();
    let mut object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "parameters": { "before": plan.totals.cost.parameters },
        "bytes": { "before": plan.totals.cost.bytes },
        "layers": layers,
        "left_alone": plan.left_alone,
    });
    for (key, value) in estimates.json() {
        object[key] = value;
    }
    object
}
