//! Models by their names on the Hugging Face hub: `hf:org/name[@revision]`, found in the local cache.

#[cfg(feature = "hub")]
mod download;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use calabi_api::ConfigError;

/// What stands before the name of a model on the hub.
const SCHEME: &str = "hf:";
/// The revision where none is named.
const MAIN: &str = "main";

/// Where a model is: a path stays as it is, `hf:org/name[@revision]` becomes its folder in the local Hugging Face cache.
///
/// The cache is where Hugging Face's own libraries keep it: `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else
/// `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`. A revision is a branch, a tag or a commit: `main` where
/// none is named. With feature `hub` a model that is not there is downloaded, else the error names the command that
/// fetches it.
///
/// ```
/// use std::path::Path;
///
/// assert_eq!(calabi::locate(Path::new("models/small"))?, Path::new("models/small"));
/// # Ok::<(), calabi::api::ConfigError>(())
/// ```
///
/// # Errors
/// Where the name is no name of a model, or the model is not in the cache and cannot be fetched.
pub fn locate(model: &Path) -> Result<PathBuf, ConfigError> {
    let Some(name) = model.to_str().and_then(|model| model.strip_prefix(SCHEME)) else { return Ok(model.to_owned()) };
    let hosted = Hosted::parse(name)?;
    let cache = cache(&|variable| std::env::var_os(variable).filter(|value| !value.is_empty()));
    let cache = cache.ok_or_else(|| ConfigError::new("there is no home folder, and so no Hugging Face cache"));
    hosted.find(&cache?)
}

/// Whether this names a model on the hub, not a path.
///
/// ```
/// assert!(calabi::is_hosted("hf:org/name@main".as_ref()) && !calabi::is_hosted("models/small".as_ref()));
/// ```
#[must_use]
pub fn is_hosted(model: &Path) -> bool {
    model.to_str().is_some_and(|model| model.starts_with(SCHEME))
}

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hosted<'a> {
    /// `org/name`, or a name alone.
    name: &'a str,
    revision: &'a str,
}

impl<'a> Hosted<'a> {
    fn parse(text: &'a str) -> Result<Self, ConfigError> {
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let valid = |part: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(fits)
        };
        let named = name.split('/').count() <= 2 && name.split('/').all(valid);
        if named && revision.split('/').all(valid) {
            return Ok(Self { name, revision });
        }
        let problem = format!("{SCHEME}{text} is no name of a model on the Hugging Face hub");
        Err(ConfigError::new(problem).with_help("write hf:org/name, or hf:org/name@revision"))
    }

    /// The model's folder in a cache.
    fn find(&self, cache: &Path) -> Result<PathBuf, ConfigError> {
        if let Some(folder) = self.snapshot(cache).filter(|folder| has_weights(folder)) {
            return Ok(folder);
        }
        self.fetch(cache)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, cache: &Path) -> Result<PathBuf, ConfigError> {
        Err(self.missing(cache, ""))
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, cache: &Path) -> Result<PathBuf, ConfigError> {
        download::download(self, cache).map_err(|problem| self.missing(cache, &format!(", and {problem}")))?;
        self.snapshot(cache).filter(|folder| has_weights(folder)).ok_or_else(|| self.missing(cache, ""))
    }

    fn missing(&self, cache: &Path, more: &str) -> ConfigError {
        let Self { name, revision } = self;
        let at = if *revision == MAIN { String::new() } else { format!(" --revision {revision}") };
        ConfigError::new(format!(
            "{SCHEME}{name} (revision {revision}) is not in the Hugging Face cache {}, as safetensors{more}",
            cache.display()
        ))
        .with_help(format!("fetch it: `hf download {name}{at}`, or give the folder of a copy"))
    }

    /// The folder of the revision; none where the cache does not know it.
    fn snapshot(&self, cache: &Path) -> Option<PathBuf> {
        let repository = cache.join(format!("models--{}", self.name.replace('/', "--")));
        let branch = std::fs::read_to_string(repository.join("refs").join(self.revision)).ok();
        let commit = branch.as_deref().map_or(self.revision, str::trim);
        let known = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        known.then(|| repository.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
    }
}

/// Whether some weights of a folder are safetensors: a partial download may hold the configuration alone.
fn has_weights(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
}

/// The cache's folder, by environment variables.
fn cache(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| variable(name).map(PathBuf::from);
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| folder("XDG_CACHE_HOME").map(|caches| caches.join("huggingface").join("hub")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache").join("huggingface").join("hub")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn hosted(text: &str) -> Hosted<'_> {
        Hosted::parse(text).unwrap()
    }

    #[test]
    fn names_are_read_and_nonsense_is_refused() {
        assert_eq!(hosted("org/name"), Hosted { name: "org/name", revision: "main" });
        assert_eq!(hosted("gpt2@v1.0"), Hosted { name: "gpt2", revision: "v1.0" });
        assert_eq!(hosted("org/name@refs/pr/1").revision, "refs/pr/1");
        for bad in ["", "a/b/c", "../x", "org/..", "org/na me", "org/name@", "org/name@../x", "/x", "org/"] {
            let error = Hosted::parse(bad).unwrap_err().to_string();
            assert!(error.contains("hf:org/name"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_cache_is_where_the_libraries_keep_it() {
        let known = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let all = known(&[("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")]);
        assert_eq!(cache(&all), Some("/a".into()));
        assert_eq!(cache(&known(&[("HF_HOME", "/b"), ("HOME", "/d")])), Some("/b/hub".into()));
        assert_eq!(cache(&known(&[("XDG_CACHE_HOME", "/c")])), Some("/c/huggingface/hub".into()));
        assert_eq!(cache(&known(&[("HOME", "/d")])), Some("/d/.cache/huggingface/hub".into()));
        assert_eq!(cache(&|_| None), None);
    }

    #[test]
    fn a_branch_and_a_commit_lead_to_the_same_folder() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let folder = repository.join("snapshots").join(COMMIT);
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        fs::write(folder.join("model.safetensors"), "weights").unwrap();
        assert_eq!(hosted("org/name").snapshot(cache.path()), Some(folder.clone()));
        let by_commit = format!("org/name@{COMMIT}");
        assert_eq!(hosted(&by_commit).find(cache.path()).unwrap(), folder);
        assert_eq!(hosted("org/name@other").snapshot(cache.path()), None);
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn what_is_not_there_is_named_with_the_command_that_fetches_it() {
        let cache = tempfile::tempdir().unwrap();
        let error = hosted("org/name@v2").find(cache.path()).unwrap_err().to_string();
        assert!(error.contains("`hf download org/name --revision v2`"), "{error}");
        assert!(error.contains(&cache.path().display().to_string()), "{error}");
        // Only the configuration was fetched.
        let folder = cache.path().join("models--org--name/snapshots").join(COMMIT);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        assert!(hosted(&format!("org/name@{COMMIT}")).find(cache.path()).is_err());
    }
}
