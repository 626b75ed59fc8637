//! Memory: what a layer takes while it is in work, and the budget that layers wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use calabi_api::{ConfigError, Layer, Name};

use crate::{ByteSize, Objective, Pipeline, Plan, PlannedLayer};

/// What a layer takes while it is decomposed, weight included, in bytes: at most, by the exact routes.
///
/// An `m × n` weight with the smaller side `s`: its bytes in the file and in `f32`; the reduction of the Gram matrix in `f64`,
/// divide and conquer on it, and the vectors, six matrices of `s × s`. In a metric the weight in `f64`, its image and
/// what is left of it, and four matrices of `n × n`.
pub(crate) fn working_set(pipeline: &Pipeline, layer: &Layer) -> u64 {
    let (rows, cols) = (layer.shape.rows() as u64, layer.shape.cols() as u64);
    let (entries, small) = (rows * cols, rows.min(cols));
    let plain = 8 * entries + 48 * small * small;
    if has_metric(pipeline) { plain + 24 * entries + 32 * cols * cols } else { plain }
}

impl Plan {
    /// What the layers that are in work at the same time take, one a thread, in bytes: at most, for the largest ones.
    ///
    /// ```
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::ONE };
    /// # let pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
    /// let plan = calabi::plan(&pipeline)?;
    /// let (one, two) = (plan.working_set(&pipeline, 1), plan.working_set(&pipeline, 2));
    /// assert!(one > 4 * 512 * 512 && one < two && two < 2 * one);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn working_set(&self, pipeline: &Pipeline, threads: usize) -> u64 {
        let mut sets: Vec<u64> = selected(self).map(|planned| working_set(pipeline, &planned.layer)).collect();
        sets.sort_unstable_by(|a, b| b.cmp(a));
        sets.iter().take(threads).sum()
    }
}

/// Whether layers are decomposed in a metric.
pub(crate) fn has_metric(pipeline: &Pipeline) -> bool {
    pipeline.calibration.as_ref().is_some_and(|settings| settings.objective != Objective::None)
}

fn selected(plan: &Plan) -> impl Iterator<Item = &PlannedLayer> {
    plan.layers.iter().filter(|planned| planned.is_selected())
}

/// How many bytes there are for layers in work, and who says so.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// The user: nobody looks at what is free.
    Given(u64),
    /// The machine, before any work.
    Free(u64),
}

impl Bound {
    fn of(given: Option<ByteSize>, free: Option<u64>) -> Option<Self> {
        given.map(|given| Self::Given(given.bytes())).or(free.map(Self::Free))
    }

    fn bytes(self) -> u64 {
        let (Self::Given(bytes) | Self::Free(bytes)) = self;
        bytes
    }

    /// An error where a layer alone takes more than there is.
    fn check(self, plan: &Plan, pipeline: &Pipeline) -> Result<(), ConfigError> {
        let needs = |planned: &PlannedLayer| working_set(pipeline, &planned.layer);
        let Some(largest) = selected(plan).max_by_key(|planned| needs(planned)) else { return Ok(()) };
        let (needs, there) = (needs(largest).div_ceil(1 << 20), self.bytes() >> 20);
        if self.bytes() >= working_set(pipeline, &largest.layer) {
            return Ok(());
        }
        let (name, shape) = (Name::new(&largest.layer.name), largest.layer.shape);
        let takes = format!("layer {name} ({shape}) takes {needs} MiB while it is decomposed");
        Err(match self {
            Self::Given(_) => ConfigError::new(format!("{takes}, more than the {there} MiB that may be used"))
                .with_help(format!("give the run --memory {needs}MiB, or leave the layer out")),
            Self::Free(_) => ConfigError::new(format!("{takes}, and {there} MiB of memory are free")).with_help(
                format!("leave the layer out, free some, or say that it will be there: --memory {needs}MiB"),
            ),
        })
    }
}

/// Memory that layers in work share: the next one waits until what it takes is free.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// Memory that a layer has; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'b> {
    budget: &'b Budget,
    bytes: u64,
}

impl Budget {
    /// A budget for the layers of a plan: what was given, else what is free. An error where one of them would wait for ever.
    pub(crate) fn of(
        plan: &Plan,
        pipeline: &Pipeline,
        given: Option<ByteSize>,
        free: Option<u64>,
    ) -> Result<Self, ConfigError> {
        let bound = Bound::of(given, free);
        bound.map_or(Ok(()), |bound| bound.check(plan, pipeline))?;
        Ok(Self::new(bound.map_or(u64::MAX, Bound::bytes)))
    }

    fn new(bytes: u64) -> Self {
        Self { bytes, free: Mutex::new(bytes), freed: Condvar::new() }
    }

    /// All that layers in work may take together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn free(&self) -> MutexGuard<'_, u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many bytes are free, no more than there are in all, and takes them.
    pub(crate) fn admit(&self, bytes: u64) -> Admitted<'_> {
        let mut free = self.free();
        while *free < bytes {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Admitted { budget: self, bytes }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        *self.budget.free() += self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_is_taken_than_there_is() {
        let budget = Budget::new(10);
        let (taken, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (budget, taken, most) = (&budget, &taken, &most);
                scope.spawn(move || {
                    for round in 0..50 {
                        let bytes = 1 + (thread + round) % 10;
                        let _admitted = budget.admit(bytes);
                        most.fetch_max(taken.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        std::thread::yield_now();
                        taken.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=10).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(*budget.free(), 10);
    }

    #[test]
    fn what_is_free_bounds_layers_together_and_refuses_one_that_does_not_fit() {
        let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
        let pipeline = Pipeline::new(input, "unused", crate::rank::Fixed { rank: calabi_api::Rank::ONE });
        let plan = crate::plan(&pipeline).unwrap();
        let (one, two) = (plan.working_set(&pipeline, 1), plan.working_set(&pipeline, 2));
        let free = |given, free| Budget::of(&plan, &pipeline, given, Some(free)).map(|budget| *budget.free());
        assert_eq!(free(None, two - 1).unwrap(), two - 1, "they wait for each other");
        assert_eq!(free(None, one).unwrap(), one);
        let refused = free(None, one - 1).unwrap_err();
        assert!(refused.message().contains("hidden2 (256x512) takes 4 MiB"), "{refused}");
        assert!(refused.message().contains("3 MiB of memory are free"), "{refused}");
        assert!(refused.help().unwrap().contains("--memory 4MiB"), "{refused}");
        assert_eq!(free(Some(ByteSize::new(one)), 0).unwrap(), one, "the user knows better");
        assert!(free(Some(ByteSize::new(one - 1)), u64::MAX).unwrap_err().message().contains("that may be used"));
        assert_eq!(*Budget::of(&plan, &pipeline, None, None).unwrap().free(), u64::MAX, "nobody knows");
    }
}
