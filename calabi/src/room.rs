//! Room: how much memory and disk is free, and whether a run's output and work fit, looked at before any work.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use calabi_api::ConfigError;

use crate::decompose::Purpose;
use crate::staging::{Places, left_behind};
use crate::{Pipeline, Plan, RunOptions, estimate, store};

/// Memory that is free for this program; none where the system does not say (other than Linux).
pub(crate) fn free_memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let of_machine = read(Path::new("/proc/meminfo")).and_then(|text| available(&text));
    let group = read(Path::new("/proc/self/cgroup")).and_then(|text| group(&text).map(str::to_owned));
    let root = Path::new("/sys/fs/cgroup");
    let of_group = group.and_then(|group| left_in_groups(root, &root.join(group), read));
    of_machine.into_iter().chain(of_group).min()
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The control group (version 2) of `/proc/self/cgroup`, relative to the root of all.
fn group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// What a control group and those that hold it leave; none where they have no limit.
fn left_in_groups(root: &Path, group: &Path, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let left = |folder: &Path| {
        let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
        let (most, taken) = (number("memory.max")?, number("memory.current")?);
        let cache = read(&folder.join("memory.stat")).map_or(0, |stat| cached(&stat));
        Some(most.saturating_sub(taken.saturating_sub(cache)))
    };
    group.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// Files that a group holds in memory: given up where memory is short.
fn cached(stat: &str) -> u64 {
    let of = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        ["active_file", "inactive_file"].contains(&name).then(|| bytes.parse::<u64>().ok())?
    };
    stat.lines().filter_map(of).sum()
}

/// A disk and what is free on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    device: u64,
    free: u64,
}

/// The disk that a path will be on; none where the system does not say.
fn disk(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let device = fs::metadata(there).ok()?.dev();
    let state = rustix::fs::statvfs(there).ok()?;
    Some(Disk { device, free: state.f_bavail.checked_mul(state.f_frsize)? })
}

/// What is to be written, and where.
#[derive(Debug, Clone, Copy)]
struct Need<'a> {
    what: &'a str,
    path: &'a Path,
    bytes: u64,
    /// What lies there and will be used, or removed first.
    there: u64,
}

/// Checks that what a run must write has room: output and work, on one disk or on two.
pub(crate) fn check(
    (pipeline, plan): (&Pipeline, &Plan),
    options: &RunOptions,
    purpose: Purpose,
    places: Option<&Places>,
) -> Result<(), ConfigError> {
    let output = places.map(Places::output);
    let temporary = std::env::temp_dir();
    let work = options.work.as_deref().or(output).unwrap_or(&temporary);
    let bytes = estimate::certain_work(pipeline, plan, purpose, options.work.is_some());
    let held = options.work.as_deref().map_or(0, store::held);
    let mut needs = vec![Need { what: "its work", path: work, bytes: bytes.saturating_sub(held), there: 0 }];
    needs.extend(output.map(|path| Need {
        what: "the output",
        path,
        bytes: estimate::least_output(plan),
        there: left_behind(path),
    }));
    check_needs(&needs, disk)
}

fn check_needs(needs: &[Need<'_>], disk: impl Fn(&Path) -> Option<Disk>) -> Result<(), ConfigError> {
    let on: Vec<_> = needs.iter().filter_map(|need| Some((need, disk(need.path)?))).collect();
    for (_, disk) in &on {
        let here: Vec<_> = on.iter().filter(|(_, other)| other.device == disk.device).map(|(need, _)| *need).collect();
        let bytes: u64 = here.iter().map(|need| need.bytes).sum();
        let free = disk.free.saturating_add(here.iter().map(|need| need.there).sum());
        if bytes > free {
            return Err(refused(&here, bytes, free));
        }
    }
    Ok(())
}

fn refused(needs: &[&Need<'_>], bytes: u64, free: u64) -> ConfigError {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let what: Vec<_> = needs
        .iter()
        .filter(|need| need.bytes > 0)
        .map(|need| format!("{} ({} MiB)", need.what, mebibytes(need.bytes)))
        .collect();
    let place = needs.last().map_or_else(String::new, |need| format!(" where {} goes", need.path.display()));
    let error = ConfigError::new(format!(
        "the disk has {} MiB free{place}, and {} MiB are needed: {}",
        free >> 20,
        mebibytes(bytes),
        what.join(" and ")
    ));
    error.with_help("free some, or name another folder: [model] output, --work DIR")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn free_memory_is_what_machine_and_groups_leave() {
        assert_eq!(available("MemTotal: 9 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!(group("1:name=x:/y\n0::/a/b\n"), Some("a/b"));
        let files = |own: &str| -> HashMap<PathBuf, String> {
            let files = [
                ("/c/a/memory.max", "1000\n"),
                ("/c/a/memory.current", "700"),
                ("/c/a/memory.stat", "anon 1\nactive_file 150\ninactive_file 50\nshmem 9"),
                ("/c/a/b/memory.max", own),
                ("/c/a/b/memory.current", "100"),
            ];
            files.into_iter().map(|(path, text)| (PathBuf::from(path), text.to_owned())).collect()
        };
        let left = |own: &str| {
            let files = files(own);
            left_in_groups(Path::new("/c"), Path::new("/c/a/b"), |path| files.get(path).cloned())
        };
        assert_eq!(left("max"), Some(500), "what is cached is given up");
        assert_eq!(left("450"), Some(350));
        assert_eq!(left("90"), Some(0));
        assert_eq!(left_in_groups(Path::new("/c"), Path::new("/c/a"), |_| None), None);
    }

    #[test]
    fn what_goes_to_one_disk_must_fit_together() {
        let disk = |path: &Path| match path.to_str() {
            Some("/one/x" | "/one/y") => Some(Disk { device: 1, free: 10 << 20 }),
            Some("/two") => Some(Disk { device: 2, free: 4 << 20 }),
            _ => None,
        };
        let needs = |work: (&'static str, u64), output: (&'static str, u64, u64)| {
            let need = |what, path, bytes, there| Need { what, path: Path::new(path), bytes, there };
            let needs = [
                need("its work", work.0, work.1 << 20, 0),
                need("the output", output.0, output.1 << 20, output.2 << 20),
            ];
            check_needs(&needs, disk).map_err(|error| error.to_string())
        };
        assert_eq!(needs(("/one/x", 3), ("/one/y", 7, 0)), Ok(()));
        let refused = needs(("/one/x", 4), ("/one/y", 7, 0)).unwrap_err();
        assert!(refused.contains("10 MiB free where /one/y goes, and 11 MiB are needed"), "{refused}");
        assert!(refused.contains("its work (4 MiB) and the output (7 MiB)") && refused.contains("--work DIR"));
        assert_eq!(needs(("/two", 4), ("/one/y", 7, 0)), Ok(()));
        let refused = needs(("/two", 5), ("/one/y", 7, 0)).unwrap_err();
        assert!(refused.contains("4 MiB free where /two goes, and 5 MiB are needed: its work (5 MiB)"), "{refused}");
        assert_eq!(needs(("/one/x", 4), ("/one/y", 7, 1)), Ok(()), "a dead run's folder makes room");
        assert_eq!(needs(("/none", 400), ("/none", 700, 0)), Ok(()), "nobody knows");
    }

    #[test]
    fn a_disk_is_found_for_what_is_not_there_yet() {
        let folder = tempfile::tempdir().unwrap();
        let found = disk(&folder.path().join("not/yet")).unwrap();
        assert_eq!(Some(found.device), disk(folder.path()).map(|disk| disk.device));
    }
}
