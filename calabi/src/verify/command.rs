//! The user's own metric: a command that prints a score of a model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use calabi_api::{ConfigError, RunError};

use super::CommandReport;
use crate::{Change, Error, Sited};

/// Stands for the model in a command.
const MODEL: &str = "{model}";

/// A command, and what it says of the original.
pub(super) struct Scorer<'a> {
    command: &'a Sited<Vec<String>>,
    folder: &'a Path,
    original: f64,
}

/// Checks a command in itself: it names a program, and the model.
pub(crate) fn check(command: &Sited<Vec<String>>) -> Result<(), ConfigError> {
    let refuse = |problem: &str, help: &str| Err(ConfigError::new(problem).with_help(help).at(command.span.clone()));
    match command.split_first() {
        None => refuse("the command is empty", "write command = [\"python\", \"score.py\", \"{model}\"]"),
        Some((program, _)) if program.is_empty() => {
            refuse("the command names no program", "write command = [\"python\", \"score.py\", \"{model}\"]")
        }
        Some((_, arguments)) if !arguments.iter().any(|argument| argument.contains(MODEL)) => refuse(
            "the command does not say where the model goes",
            "write {model} among its arguments: it is replaced by the path of the original, then of the result",
        ),
        Some(_) => Ok(()),
    }
}

impl<'a> Scorer<'a> {
    /// Scores the original: a command that does not work is told before any work.
    pub(super) fn new(command: &'a Sited<Vec<String>>, folder: &'a Path, original: &Path) -> Result<Self, Error> {
        let score = score(command, folder, original)?;
        Ok(Self { command, folder, original: score })
    }

    /// Scores the compressed model.
    pub(super) fn compare(&self, compressed: &Path) -> Result<CommandReport, Error> {
        let after = score(self.command, self.folder, compressed)?;
        Ok(CommandReport { command: self.command.value.clone(), score: Change { before: self.original, after } })
    }
}

/// Runs the command in the pipeline's folder: the number on the last line of its stdout.
fn score(command: &Sited<Vec<String>>, folder: &Path, model: &Path) -> Result<f64, Error> {
    let (Some(program), Ok(model)) = (command.first(), std::path::absolute(model)) else {
        return Err(ConfigError::new("the command is empty").at(command.span.clone()).into());
    };
    let arguments = command.iter().skip(1).map(|argument| argument.replace(MODEL, &model.to_string_lossy()));
    let ran = Command::new(found(program, folder))
        .args(arguments)
        .current_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = ran.map_err(|error| {
        ConfigError::new(format!("the command `{program}` cannot be run: {error}"))
            .with_help(
                "the first entry is the program, each argument an entry of its own; it runs in the pipeline's folder",
            )
            .at(command.span.clone())
    })?;
    let failed = |problem: String| Error::Verify {
        source: RunError::Failed(format!("the command `{program}` on {}: {problem}", model.display())),
        span: command.span.clone(),
    };
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    last_number(&String::from_utf8_lossy(&output.stdout)).map_err(failed)
}

/// A program with a folder in its name is one of the pipeline's folder, whatever the system makes of relative names.
fn found(program: &str, folder: &Path) -> PathBuf {
    if program.contains('/') {
        std::path::absolute(folder.join(program)).unwrap_or_else(|_| PathBuf::from(program))
    } else {
        PathBuf::from(program)
    }
}

/// The score that a command printed: its last line that is not empty.
fn last_number(stdout: &str) -> Result<f64, String> {
    let Some(line) = stdout.lines().map(str::trim).rfind(|line| !line.is_empty()) else {
        return Err("it printed nothing; the last line of its stdout is the score, a number".to_owned());
    };
    match line.parse::<f64>() {
        Ok(score) if score.is_finite() => Ok(score),
        _ => {
            let shown: String = line.chars().take(80).flat_map(char::escape_debug).collect();
            Err(format!("the last line of its stdout is `{shown}`: it must be the score, a finite number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(parts: &[&str]) -> Sited<Vec<String>> {
        parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>().into()
    }

    #[test]
    fn the_last_line_is_the_score() {
        assert_eq!(last_number("loading\n0.5\n 0.75 \n\n"), Ok(0.75));
        assert_eq!(last_number("-1e-3"), Ok(-1e-3));
        for nothing in ["", "\n", "accuracy 0.5", "nan", "inf", "0.5\ndone"] {
            assert!(last_number(nothing).is_err(), "{nothing}");
        }
    }

    #[test]
    fn the_model_is_an_argument_of_its_own_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a model; rm -rf {x}");
        std::fs::write(&model, "12345").unwrap();
        let size = command(&["sh", "-c", "wc -c < \"$1\"", "sh", "{model}"]);
        assert!((score(&size, folder.path(), &model).unwrap() - 5.0).abs() < 1e-12);
    }

    #[test]
    fn it_runs_in_the_pipelines_folder_with_its_own_programs() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tools")).unwrap();
        let script = folder.path().join("tools/score");
        std::fs::write(&script, "#!/bin/sh\ncat number\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("number"), "2.5").unwrap();
        let score = score(&command(&["tools/score", "{model}"]), folder.path(), Path::new("m"));
        assert!((score.unwrap() - 2.5).abs() < 1e-12);
    }

    #[test]
    fn a_command_that_does_not_work_is_an_error_that_names_it() {
        let refused = |parts: &[&str]| {
            let error = score(&command(parts), Path::new(""), Path::new("m")).unwrap_err();
            format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string))
        };
        assert!(refused(&["no-such-program", "{model}"]).contains("`no-such-program` cannot be run"));
        assert!(refused(&["sh", "-c", "exit 3", "{model}"]).contains("exit status: 3"));
        assert!(refused(&["echo", "{model} is fine"]).contains("must be the score"));
        assert!(refused(&["cat"]).contains("printed nothing"), "stdin is closed");
        for wrong in [&[][..], &[""], &["score", "model"]] {
            assert!(check(&command(wrong)).is_err(), "{wrong:?}");
        }
        assert!(check(&command(&["score", "--model={model}"])).is_ok());
    }
}
