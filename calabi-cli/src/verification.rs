//! The comparison of original and compressed, for people.

use std::fmt::Write as _;

use calabi::{Change, OutputReport, VerifyReport};

use crate::table::{Rows, shown};
use crate::units::{change, count, seconds};

/// What `[verify]` measured, and how its gates were met.
pub(crate) fn verification(verify: &VerifyReport) -> String {
    let mut text = String::new();
    if verify.samples > 0 {
        let _ = writeln!(text, "\nOriginal and compressed on {} held-out samples", count(verify.samples as u64));
    } else {
        text += "\nOriginal and compressed\n";
    }
    let mut rows = Rows::new(&["", "original", "compressed", ""]).right(&[1, 2]);
    for [name, before, after, change] in figures(verify) {
        rows.add([&*name, &before, &after, &change]);
    }
    let _ = writeln!(text, "{rows}");
    for output in &verify.outputs {
        let _ = writeln!(text, "{}", output_line(output));
    }
    for gate in &verify.gates {
        let verdict = if gate.met { "met" } else { "NOT MET" };
        let _ = writeln!(text, "gate {} = {}: {:.5}, {verdict}", gate.gate, gate.limit, gate.measured);
    }
    text
}

/// The figures that both models have.
fn figures(verify: &VerifyReport) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    if let Some(Change { before, after }) = verify.accuracy {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let points = format!("{:+.2} points", 100.0 * (after - before));
        rows.push(["accuracy".to_owned(), percent(before), percent(after), points]);
    }
    if let Some(Change { before, after }) = verify.perplexity {
        let tokens = verify.tokens.map_or_else(String::new, |tokens| format!(" on {} tokens", count(tokens)));
        let change = change(before, after) + &tokens;
        rows.push(["perplexity".to_owned(), format!("{before:.3}"), format!("{after:.3}"), change]);
    }
    if let Some(command) = &verify.command {
        let Change { before, after } = command.score;
        let name = shown(command.command.first().map_or("command", String::as_str));
        rows.push([format!("score of {name}"), before.to_string(), after.to_string(), change(before, after)]);
    }
    if let Some(Change { before, after }) = verify.seconds {
        let faster = format!("{:.2} times as fast", before / after.max(1e-9));
        rows.push(["time".to_owned(), seconds(before), seconds(after), faster]);
    }
    rows
}

fn output_line(output: &OutputReport) -> String {
    let (error, cosine) = (100.0 * output.relative_error, output.cosine);
    let mut line = format!("output {}: relative error {error:.2} %, cosine {cosine:.5}", shown(&output.name));
    if let Some(kl) = output.kl {
        let _ = write!(line, ", KL {kl:.5} nats");
    }
    if let Some(agreement) = output.agreement {
        let _ = write!(line, ", same class {:.2} %", 100.0 * agreement);
    }
    line
}
