//! Shares of a plan: which of several machines decomposes which layers, without anybody who hands them out.

use std::fmt;
use std::str::FromStr;

use calabi_api::ConfigError;

use crate::{Plan, PlannedLayer};

/// What says how many shards there are, where a job's own variables do not.
const COUNT: &str = "CALABI_SHARDS";
/// More shards than any model has layers.
const MOST: usize = 1_000_000;

/// One share of so many.
///
/// ```
/// use calabi::Shard;
///
/// let second: Shard = "1/3".parse()?;
/// assert_eq!((second, second.to_string()), (Shard::new(1, 3).ok_or("no such shard")?, "1/3".to_owned()));
/// assert!("3/3".parse::<Shard>().is_err(), "they count from zero");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Shard `index`, from zero, of `count`, a million at most.
    #[must_use]
    pub fn new(index: usize, count: usize) -> Option<Self> {
        (index < count && count <= MOST).then_some(Self { index, count })
    }

    /// Its place, from zero.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> usize {
        self.count
    }

    /// The shard of an array job of Slurm or an indexed job of Kubernetes, by the variables of its environment.
    ///
    /// `CALABI_SHARDS` says how many there are; without it an array of Slurm that begins at zero does.
    ///
    /// ```
    /// use calabi::Shard;
    ///
    /// let of = |vars: &[(&str, &str)]| {
    ///     let vars: Vec<_> = vars.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    ///     Shard::of_job(move |name| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    /// };
    /// let slurm = [("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_MIN", "0"), ("SLURM_ARRAY_TASK_MAX", "3")];
    /// assert_eq!(of(&slurm)?.to_string(), "2/4");
    /// let again = [("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_MIN", "2"), ("CALABI_SHARDS", "4")];
    /// assert_eq!(of(&again)?.to_string(), "2/4");
    /// assert_eq!(of(&[("JOB_COMPLETION_INDEX", "0"), ("CALABI_SHARDS", "2")])?.to_string(), "0/2");
    /// assert!(of(&[]).is_err());
    /// # Ok::<(), calabi::api::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// Where the variables are not there, or make no shard.
    pub fn of_job(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse::<usize>().ok());
        let Some(index) = number("SLURM_ARRAY_TASK_ID").or_else(|| number("JOB_COMPLETION_INDEX")) else {
            let error = ConfigError::new("neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set");
            return Err(error.with_help("`--shard auto` is for array jobs: name the shard, as in --shard 0/4"));
        };
        let whole = number("SLURM_ARRAY_TASK_MIN") == Some(0);
        let of_slurm = || number("SLURM_ARRAY_TASK_MAX").filter(|_| whole).map(|last| last + 1);
        let Some(count) = number(COUNT).or_else(of_slurm) else {
            let error = ConfigError::new("the job does not say how many shards there are");
            return Err(error.with_help(format!("set {COUNT} in the job script")));
        };
        Self::new(index, count).ok_or_else(|| beyond(index, count))
    }

    /// Whose each layer of a plan is; nobody's where it needs no work. The longest first, each to the shard that has
    /// least: the same for everybody who looks.
    pub(crate) fn owners(count: usize, plan: &Plan) -> Vec<Option<usize>> {
        let mut order: Vec<usize> =
            (0..plan.layers.len()).filter(|&index| plan.layers[index].may_be_factorized()).collect();
        order.sort_by(|&a, &b| work(&plan.layers[b]).total_cmp(&work(&plan.layers[a])).then(a.cmp(&b)));
        let mut loads = vec![0.0_f64; count];
        let mut owners = vec![None; plan.layers.len()];
        for index in order {
            let least = (0..count).min_by(|&a, &b| loads[a].total_cmp(&loads[b])).unwrap_or(0);
            loads[least] += work(&plan.layers[index]);
            owners[index] = Some(least);
        }
        owners
    }
}

/// Operations of a decomposition, weighed as measured: the Gram matrix of the smaller side, and its eigenpairs.
fn work(planned: &PlannedLayer) -> f64 {
    let shape = planned.layer.shape;
    let small = shape.full_rank().get() as f64;
    let large = shape.rows().max(shape.cols()) as f64;
    small * small * (large + 4.0 * small)
}

fn beyond(index: usize, count: usize) -> ConfigError {
    ConfigError::new(format!("there is no shard {index} of {count}")).with_help("shards count from 0: 0/4 to 3/4")
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let numbers = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let Some((index, count)) = numbers else {
            let error = ConfigError::new(format!("`{text}` is no shard"));
            return Err(error.with_help("shards are named as 0/4, the first of four, or `auto` in an array job"));
        };
        Self::new(index, count).ok_or_else(|| beyond(index, count))
    }
}
