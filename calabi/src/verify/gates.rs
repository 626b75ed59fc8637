//! Gates: figures of a comparison, each with a limit.

use calabi_api::ConfigError;

use super::{GateReport, VerifyReport, command};
use crate::{SearchSettings, VerifySettings};

/// A figure that must stay on one side of a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gate {
    figure: Figure,
    limit: f64,
}

/// What a gate looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    RelativeError,
    Cosine,
    Agreement,
    Kl,
    PerplexityIncrease,
    AccuracyDrop,
    ScoreDrop,
}

/// The figures that a comparison of a model will have, besides those that any has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    pub(crate) classes: bool,
    pub(crate) logits: bool,
    pub(crate) next_tokens: bool,
}

impl Gate {
    /// The setting that states it.
    pub(crate) fn name(self) -> &'static str {
        match self.figure {
            Figure::RelativeError => "max_relative_error",
            Figure::Cosine => "min_cosine",
            Figure::Agreement => "min_agreement",
            Figure::Kl => "max_kl",
            Figure::PerplexityIncrease => "max_perplexity_increase",
            Figure::AccuracyDrop => "max_accuracy_drop",
            Figure::ScoreDrop => "max_drop",
        }
    }

    /// Its limit.
    pub(crate) fn limit(self) -> f64 {
        self.limit
    }

    /// Whether a figure meets it: one that is not a number meets no gate.
    pub(crate) fn meets(self, measured: f64) -> bool {
        if self.is_at_least() { measured >= self.limit } else { measured <= self.limit }
    }

    /// Whether larger figures are better.
    fn is_at_least(self) -> bool {
        matches!(self.figure, Figure::Cosine | Figure::Agreement)
    }

    /// The figure that it looks at: the worst of all outputs that have it.
    pub(crate) fn measured(self, report: &VerifyReport) -> f64 {
        let outputs = || report.outputs.iter();
        match self.figure {
            Figure::RelativeError => worst(outputs().map(|o| o.relative_error), f64::max),
            Figure::Cosine => worst(outputs().map(|o| o.cosine), f64::min),
            Figure::Agreement => worst(outputs().filter_map(|o| o.agreement), f64::min),
            Figure::Kl => worst(outputs().filter_map(|o| o.kl), f64::max),
            Figure::PerplexityIncrease => report.perplexity.map_or(f64::NAN, |p| p.after / p.before - 1.0),
            Figure::AccuracyDrop => report.accuracy.map_or(f64::NAN, |a| a.before - a.after),
            Figure::ScoreDrop => report.command.as_ref().map_or(f64::NAN, |c| c.score.before - c.score.after),
        }
    }

    /// How a comparison meets it.
    pub(crate) fn report(self, report: &VerifyReport) -> GateReport {
        let measured = self.measured(report);
        GateReport { gate: self.name(), limit: self.limit, measured, met: self.meets(measured) }
    }

    /// Checks that the comparison will have the figure.
    pub(crate) fn applies(self, known: Known) -> Result<(), ConfigError> {
        let lacks = |what: &str, way_out: &str| {
            Err(ConfigError::new(format!("`{}` {what}", self.name())).with_help(way_out.to_owned()))
        };
        match self.figure {
            Figure::Agreement if !known.classes => lacks(
                "compares classes, and no output of the model has any",
                "leave it out: min_cosine compares any output",
            ),
            Figure::Kl if !known.logits => lacks(
                "compares probabilities, and no output of the model is logits",
                "leave it out: max_relative_error and min_cosine compare any output",
            ),
            Figure::PerplexityIncrease if !known.next_tokens => lacks(
                "is about language models: it needs logits for every token of `input_ids`",
                "leave it out: max_kl compares any logits, min_cosine any output",
            ),
            _ => Ok(()),
        }
    }

    /// Whether it looks at what the models make of `data`.
    fn needs_data(self) -> bool {
        self.figure != Figure::ScoreDrop
    }
}

impl VerifySettings {
    /// The gates that are set, in the order of the report.
    pub(crate) fn gates(&self) -> Vec<Gate> {
        let share = |share: calabi_api::settings::Share| share.get();
        let number = |number: calabi_api::settings::NonNegative| number.get();
        set([
            (Figure::RelativeError, self.max_relative_error.map(number)),
            (Figure::Cosine, self.min_cosine.map(share)),
            (Figure::Agreement, self.min_agreement.map(share)),
            (Figure::Kl, self.max_kl.map(number)),
            (Figure::PerplexityIncrease, self.max_perplexity_increase.map(number)),
            (Figure::AccuracyDrop, self.max_accuracy_drop.map(share)),
            (Figure::ScoreDrop, self.max_drop.map(number)),
        ])
    }

    /// Checks that what its gates look at will be there.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.data.is_none() && self.command.is_none() {
            return Err(ConfigError::new("[verify] has nothing to measure")
                .with_help("name held-out samples as `data`, or a `command` that prints a score"));
        }
        if let Some(gate) = self.gates().into_iter().find(|gate| self.data.is_none() && gate.needs_data()) {
            return Err(ConfigError::new(format!("`{}` needs `data`", gate.name()))
                .with_help("name held-out samples that both models run on"));
        }
        if self.max_accuracy_drop.is_some() && self.labels.is_none() {
            return Err(ConfigError::new("`max_accuracy_drop` needs `labels`")
                .with_help("name the array of the data that holds the right classes"));
        }
        if self.max_drop.is_some() && self.command.is_none() {
            return Err(ConfigError::new("`max_drop` needs `command`")
                .with_help("write command = [\"python\", \"score.py\", \"{model}\"]"));
        }
        self.command.as_ref().map_or(Ok(()), command::check)
    }
}

impl SearchSettings {
    /// The gates that are set: one, in a pipeline that was checked.
    pub(crate) fn gates(&self) -> Vec<Gate> {
        let share = |share: calabi_api::settings::Share| share.get();
        let number = |number: calabi_api::settings::NonNegative| number.get();
        set([
            (Figure::RelativeError, self.max_relative_error.map(number)),
            (Figure::Cosine, self.min_cosine.map(share)),
            (Figure::Agreement, self.min_agreement.map(share)),
            (Figure::Kl, self.max_kl.map(number)),
            (Figure::PerplexityIncrease, self.max_perplexity_increase.map(number)),
        ])
    }
}

fn set<const N: usize>(gates: [(Figure, Option<f64>); N]) -> Vec<Gate> {
    gates.into_iter().filter_map(|(figure, limit)| Some(Gate { figure, limit: limit? })).collect()
}

/// The worst of some figures; not a number where one of them is not, or there is none: no gate is met by that.
fn worst(mut figures: impl Iterator<Item = f64>, worse: fn(f64, f64) -> f64) -> f64 {
    let first = figures.next().unwrap_or(f64::NAN);
    figures.fold(first, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { worse(a, b) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, CommandReport, OutputReport};

    fn settings(text: &str) -> VerifySettings {
        toml::from_str(text).unwrap()
    }

    fn report(outputs: &[(f64, Option<f64>)], pair: Option<(f64, f64)>) -> VerifyReport {
        let output = |&(figure, optional): &(f64, Option<f64>)| OutputReport {
            name: "y".into(),
            relative_error: figure,
            cosine: figure,
            agreement: optional,
            kl: optional,
        };
        let change = pair.map(|(before, after)| Change { before, after });
        VerifyReport {
            outputs: outputs.iter().map(output).collect(),
            accuracy: change,
            perplexity: change,
            command: change.map(|score| CommandReport { command: Vec::new(), score }),
            ..VerifyReport::default()
        }
    }

    #[test]
    fn a_figure_that_is_not_a_number_meets_no_gate() {
        assert!(worst([0.1, f64::NAN, 0.2].into_iter(), f64::max).is_nan());
        assert!(worst([f64::NAN, 0.1].into_iter(), f64::min).is_nan());
        assert!(worst(std::iter::empty(), f64::min).is_nan());
        assert!((worst([0.1, 0.3, 0.2].into_iter(), f64::max) - 0.3).abs() < 1e-12);
        let all = "max_relative_error = 1e9\nmin_cosine = 0\nmin_agreement = 0\nmax_kl = 1e9\n\
                   max_perplexity_increase = 1e9\nmax_accuracy_drop = 1\nmax_drop = 1e9\n";
        let gates = settings(all).gates();
        assert_eq!(gates.len(), 7);
        let met = |report: &VerifyReport| gates.iter().filter(|gate| gate.report(report).met).count();
        assert_eq!(met(&report(&[(f64::NAN, Some(f64::NAN))], Some((f64::NAN, 1.0)))), 0);
        assert_eq!(met(&report(&[(0.5, None)], None)), 2, "what was not measured is not met");
        assert_eq!(met(&report(&[(0.5, Some(0.5))], Some((1.0, 0.9)))), 7);
    }

    #[test]
    fn the_worst_output_counts_and_limits_are_met_by_equality() {
        let met = |text: &str, report: &VerifyReport| settings(text).gates()[0].report(report).met;
        let outputs = report(&[(0.25, Some(0.5)), (0.5, None), (0.75, Some(0.25))], Some((8.0, 10.0)));
        assert!(met("max_relative_error = 0.75", &outputs) && !met("max_relative_error = 0.74", &outputs));
        assert!(met("min_cosine = 0.25", &outputs) && !met("min_cosine = 0.26", &outputs));
        assert!(met("min_agreement = 0.25", &outputs) && !met("min_agreement = 0.26", &outputs));
        assert!(met("max_kl = 0.5", &outputs) && !met("max_kl = 0.49", &outputs));
        assert!(met("max_perplexity_increase = 0.25", &outputs) && !met("max_perplexity_increase = 0.24", &outputs));
        let dropped = report(&[], Some((0.75, 0.5)));
        assert!(met("max_accuracy_drop = 0.25", &dropped) && !met("max_accuracy_drop = 0.2", &dropped));
        assert!(met("max_drop = 0.25", &dropped) && !met("max_drop = 0.2", &dropped));
    }

    #[test]
    fn a_gate_without_its_figure_is_refused() {
        let refused = |text: &str| settings(text).check().unwrap_err().to_string();
        assert!(refused("").contains("nothing to measure"));
        assert!(refused("max_kl = 0.1\ncommand = [\"a\", \"{model}\"]").contains("`max_kl` needs `data`"));
        assert!(refused("max_drop = 0.1\ndata = \"x.npz\"").contains("`max_drop` needs `command`"));
        assert!(refused("max_accuracy_drop = 0.1\ndata = \"x.npz\"").contains("needs `labels`"));
        assert!(settings("max_drop = 0.1\ncommand = [\"a\", \"{model}\"]").check().is_ok());
        for (text, figures) in [
            ("min_agreement = 1", Known { classes: true, ..Known::default() }),
            ("max_kl = 1", Known { logits: true, ..Known::default() }),
            ("max_perplexity_increase = 1", Known { next_tokens: true, ..Known::default() }),
        ] {
            let gate = settings(text).gates()[0];
            assert!(gate.applies(Known::default()).unwrap_err().to_string().contains(gate.name()));
            assert!(gate.applies(figures).is_ok());
        }
    }
}
