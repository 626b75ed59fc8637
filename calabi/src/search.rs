//! The smallest share that passes a gate, found by bisection: every step is a verification, nothing is decomposed again.

mod steps;

use calabi_api::ConfigError;
use serde::Serialize;

use crate::verify::gates::Gate;
use crate::{Error, SearchSettings, Sited};

pub(crate) use steps::{check, search};

/// How the smallest `keep` was found.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml").as_ref();
/// let set = [small.parse()?, "search.min_agreement=0.99".parse()?, "search.tolerance=0.2".parse()?];
/// let pipeline = Pipeline::load(file, &set).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let search = report.search.ok_or("no [search]")?;
/// assert_eq!((search.gate, search.limit, search.tolerance), ("min_agreement", 0.99, 0.2));
/// assert!(search.keep < 1.0 && search.figure >= search.limit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchReport {
    /// The setting of the gate, such as `max_kl`.
    pub gate: &'static str,
    /// Its value.
    pub limit: f64,
    /// The distance between one `keep` that is looked at and the next.
    pub tolerance: f64,
    /// The `keep` that was found.
    pub keep: f64,
    /// What was measured there.
    pub figure: f64,
    /// What was measured, in the order of the search.
    pub steps: Vec<SearchStep>,
}

/// A step of a search.
///
/// ```
/// # use calabi::{Pipeline, RunOptions, Silent, run};
/// # let folder = tempfile::tempdir()?;
/// # let small = format!("model.output='{}'", folder.path().join("small.onnx").display());
/// # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pipelines/quickstart.toml").as_ref();
/// let set = [small.parse()?, "search.min_agreement=0.99".parse()?, "search.tolerance=0.2".parse()?];
/// let pipeline = Pipeline::load(file, &set).map_err(|refused| refused.error)?;
/// let report = run(&pipeline, &RunOptions::default(), &Silent)?;
/// let search = report.search.ok_or("no [search]")?;
/// assert!(search.steps.iter().all(|step| step.passed == (step.figure >= search.limit)));
/// assert!(search.steps.iter().any(|step| step.keep == search.keep && step.passed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchStep {
    /// The share that was kept.
    pub keep: f64,
    /// What was measured; not a number (`null`) where the budget cannot be met.
    pub figure: f64,
    /// Whether it passes the gate.
    pub passed: bool,
}

/// The shares among which a search looks: `max`, `max − tolerance`, and so on down to `min`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    min: f64,
    max: f64,
    tolerance: f64,
}

impl Range {
    /// The range that the settings state.
    pub(crate) fn of(settings: &SearchSettings) -> Self {
        let tolerance = settings.tolerance.get();
        let max = settings.max_keep.map_or(1.0, calabi_api::settings::Fraction::get);
        let min = settings.min_keep.map_or(tolerance.min(max), calabi_api::settings::Fraction::get);
        Self { min, max, tolerance }
    }

    /// The number of steps from `max` down to `min`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of steps
    fn last(self) -> usize {
        ((self.max - self.min) / self.tolerance - 1e-6).ceil().max(0.0) as usize
    }

    /// The share after so many steps down, without the last digits of rounding: 0.63, not 0.6299999999999999.
    fn keep(self, step: usize) -> f64 {
        let exact = (self.max - step as f64 * self.tolerance).max(self.min);
        (exact * 1e9).round() / 1e9
    }

    /// The most shares that a search looks at.
    pub(crate) fn most_steps(self) -> usize {
        2 + self.last().checked_ilog2().map_or(0, |log| log as usize)
    }
}

/// The smallest share of the range that passes the gate.
///
/// The largest share must pass: it is measured first. Then the range is halved between a share that passes and one that
/// does not, until they are neighbours. What a model loses falls with what it keeps, nearly always: where it does not,
/// the share that is found still passes, its lower neighbour (unless it is the end of the range) does not, and a
/// smaller one beyond that may pass unseen.
///
/// # Errors
/// Where the largest share does not pass (the error says what it gives), or nothing can be measured.
pub(crate) fn smallest_keep(
    range: Range,
    gate: Gate,
    measure: &mut dyn FnMut(f64) -> Result<f64, Error>,
) -> Result<SearchReport, Error> {
    let mut steps = Vec::new();
    let mut passes = |step: usize| {
        let keep = range.keep(step);
        let figure = measure(keep)?;
        let passed = gate.meets(figure);
        steps.push(SearchStep { keep, figure, passed });
        Ok::<_, Error>((passed, figure))
    };
    let (passed, mut figure) = passes(0)?;
    if !passed {
        return Err(unreachable(range, gate, figure).into());
    }
    let (mut good, mut bad) = (0, range.last() + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match passes(middle)? {
            (true, measured) => (good, figure) = (middle, measured),
            (false, _) => bad = middle,
        }
    }
    let (keep, tolerance) = (range.keep(good), range.tolerance);
    Ok(SearchReport { gate: gate.name(), limit: gate.limit(), tolerance, keep, figure, steps })
}

fn unreachable(range: Range, gate: Gate, figure: f64) -> ConfigError {
    let (name, limit, keep) = (gate.name(), gate.limit(), range.max);
    ConfigError::new(format!("{name} = {limit} is not met at the largest keep, {keep}: it is {figure:.5} there"))
        .with_help(if keep < 1.0 { "raise max_keep, or loosen the gate" } else { "loosen the gate" })
}

/// Checks a search in itself.
fn check_settings(settings: &Sited<SearchSettings>) -> Result<(), ConfigError> {
    let gates = settings.gates();
    let refuse = |problem: String, help: &str| Err(ConfigError::new(problem).with_help(help).at(settings.span.clone()));
    if gates.len() != 1 {
        let names: Vec<_> = gates.iter().map(|gate| gate.name()).collect();
        let named = if names.is_empty() { "none".to_owned() } else { names.join(" and ") };
        return refuse(format!("[search] takes one gate, and names {named}"), "write one, such as max_kl = 0.02");
    }
    let Range { min, max, tolerance } = Range::of(settings);
    if min > max {
        return refuse(format!("min_keep = {min} is above max_keep = {max}"), "swap them");
    }
    if tolerance < 1e-6 {
        return refuse(format!("tolerance = {tolerance} is finer than any rank"), "write 0.001 or more");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::float_cmp, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shares of one grid are the same bits
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(text: &str) -> SearchSettings {
        toml::from_str(text).unwrap()
    }

    fn found(text: &str, curve: impl Fn(f64) -> f64) -> Result<SearchReport, Error> {
        let settings = settings(text);
        smallest_keep(Range::of(&settings), settings.gates()[0], &mut |keep| Ok(curve(keep)))
    }

    #[test]
    fn the_smallest_share_is_found_in_few_steps() {
        // KL falls as (1 - keep)²: 0.04 at 0.8.
        let report = found("max_kl = 0.0401", |keep| (1.0 - keep).powi(2)).unwrap();
        assert!((report.keep - 0.8).abs() < 1e-12 && (report.figure - 0.04).abs() < 1e-12, "{report:?}");
        assert_eq!((report.gate, report.steps[0].keep), ("max_kl", 1.0));
        assert!(report.steps.len() <= 9, "{}", report.steps.len());
        assert!(report.steps.iter().all(|step| step.passed == (step.figure <= 0.0401)));
    }

    #[test]
    fn an_end_of_the_range_may_be_the_answer() {
        let all = found("min_cosine = 0.9\nmin_keep = 0.35\nmax_keep = 0.5", |_| 0.95).unwrap();
        assert!((all.keep - 0.35).abs() < 1e-12);
        let none = found("min_cosine = 0.9\nmax_keep = 0.5", |keep| if keep < 0.5 { 0.0 } else { 0.95 }).unwrap();
        assert!((none.keep - 0.5).abs() < 1e-12);
        let point = found("min_cosine = 0.9\nmin_keep = 0.5\nmax_keep = 0.5", |_| 0.95).unwrap();
        assert_eq!((point.keep, point.steps.len()), (0.5, 1));
    }

    #[test]
    fn a_gate_out_of_reach_says_what_the_largest_share_gives() {
        let error = found("max_kl = 0.01\nmax_keep = 0.9", |_| 0.25).unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_kl = 0.01 is not met at the largest keep, 0.9: it is 0.25000 there (raise max_keep, or loosen the gate)"
        );
        assert!(found("max_kl = 0.01", |_| f64::NAN).is_err());
    }

    #[test]
    fn what_cannot_be_measured_passes_no_gate_and_an_error_ends_the_search() {
        let report = found("max_kl = 1", |keep| if keep < 0.3 { f64::NAN } else { 0.5 }).unwrap();
        assert!((report.keep - 0.3).abs() < 1e-12);
        let settings = settings("max_kl = 1");
        let mut calls = 0;
        let failed = smallest_keep(Range::of(&settings), settings.gates()[0], &mut |_| {
            calls += 1;
            if calls == 2 { Err(Error::Cancelled) } else { Ok(0.0) }
        });
        assert!(matches!(failed, Err(Error::Cancelled)) && calls == 2);
    }

    #[test]
    fn one_gate_and_a_range_that_is_one() {
        let refused = |text: &str| check_settings(&settings(text).into()).unwrap_err().to_string();
        assert!(refused("").contains("names none"));
        assert!(refused("max_kl = 1\nmin_cosine = 0.5").contains("min_cosine and max_kl"));
        assert!(refused("max_kl = 1\nmin_keep = 0.9\nmax_keep = 0.8").contains("above"));
        assert!(refused("max_kl = 1\ntolerance = 1e-9").contains("finer"));
        assert!(check_settings(&settings("max_kl = 1").into()).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// On any curve, monotone or not: what is found passes, and its lower neighbour was seen not to pass. On a
        /// monotone one it is the smallest of the grid.
        #[test]
        fn what_is_found_passes_and_its_neighbour_does_not(
            figures in proptest::collection::vec(0.0_f64..1.0, 101),
            tolerance in 0.01_f64..0.3,
            monotone: bool,
        ) {
            let mut figures = figures;
            figures[100] = 0.0;
            if monotone {
                figures.sort_by(|a, b| b.total_cmp(a));
            }
            let figure = |keep: f64| figures[(keep * 100.0).round() as usize];
            let text = format!("max_kl = 0.5\ntolerance = {tolerance}");
            let report = found(&text, figure).unwrap();
            prop_assert!(figure(report.keep) <= 0.5);
            let range = Range::of(&settings(&text));
            let grid: Vec<f64> = (0..=range.last()).map(|step| range.keep(step)).collect();
            let below = grid.iter().find(|&&keep| keep < report.keep);
            if let Some(below) = below {
                prop_assert!(report.steps.iter().any(|step| step.keep == *below && !step.passed));
            }
            if monotone {
                let smallest = grid.iter().copied().filter(|&keep| figure(keep) <= 0.5).fold(1.0, f64::min);
                prop_assert_eq!(report.keep, smallest);
            }
            prop_assert!(report.steps.len() <= range.most_steps());
        }
    }
}
