//! How a failed command ends: a message that points at the line and names the way out, and an exit code.

use std::error::Error as StdError;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use calabi::api::ConfigError;
use calabi::{Error, PipelineError, Source};

use crate::print;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The engine says why.
    Engine(Box<PipelineError>),
    /// A file of the command itself cannot be read or written.
    File(String),
    /// Nobody reads stdout any more: no failure of ours.
    ClosedStdout,
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Error::from(error).into()
    }
}

impl Failure {
    /// The failure of a run of this pipeline.
    #[must_use]
    pub fn of(error: Error, source: Option<&Source>) -> Self {
        Self::Engine(Box::new(PipelineError { error: Box::new(error), source: source.cloned() }))
    }

    /// What the program would print, without colours: the message, the line that it is about, the way out.
    #[must_use]
    pub fn explain(&self) -> String {
        match self {
            Self::ClosedStdout => "stdout is closed".to_owned(),
            Self::File(problem) => problem.clone(),
            Self::Engine(failure) => {
                let text = render(&failure.error, failure.source.as_ref(), &Renderer::plain());
                text.strip_prefix("error: ").unwrap_or(&text).to_owned()
            }
        }
    }

    /// Prints the message and gives the exit code.
    pub(crate) fn report(self) -> u8 {
        match self {
            Self::ClosedStdout => 0,
            Self::File(problem) => {
                print::note(Renderer::styled().render(&[Group::with_title(Level::ERROR.primary_title(problem))]));
                1
            }
            Self::Engine(failure) => {
                print::note(render(&failure.error, failure.source.as_ref(), &Renderer::styled()));
                code(&failure.error)
            }
        }
    }
}

fn code(error: &Error) -> u8 {
    if error.refuses_input() {
        4
    } else if error.refuses_settings() {
        2
    } else {
        1
    }
}

fn render(error: &Error, source: Option<&Source>, renderer: &Renderer) -> String {
    let title = message(error);
    let mut groups = vec![Group::with_title(Level::ERROR.primary_title(title))];
    if let Some((source, span)) = source.zip(error.span()) {
        let span = span.start.min(source.text.len())..span.end.min(source.text.len());
        let span = one_line(&source.text, span);
        let snippet = Snippet::source(&source.text).path(&source.name).annotation(AnnotationKind::Primary.span(span));
        groups = groups.into_iter().map(|group| group.element(snippet.clone())).collect();
    }
    if let Some(help) = error.help() {
        groups.push(Group::with_title(Level::HELP.secondary_title(help.to_owned())));
    }
    renderer.render(&groups)
}

/// The span of a whole section is shown by its first line.
fn one_line(text: &str, span: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let end = text.get(span.clone()).and_then(|shown| shown.trim_start().find('\n').map(|at| span.start + at));
    span.start..end.unwrap_or(span.end).max(span.start)
}

/// The error with the errors that caused it: none of them repeats its source.
fn message(error: &Error) -> String {
    let mut text = match error {
        Error::Config(config) => config.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = match error {
        Error::Config(_) => None,
        other => other.source(),
    };
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
