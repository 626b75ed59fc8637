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
fn has_metric(pipeline: &Pipeline) -> bool {
    pipeline.calibration.as_ref().is_some_and(|settings| settings.objective != Objective::None)
}

fn selected(plan: &Plan) -> impl Iterator<Item = &PlannedLayer> {
    plan.layers.iter().filter(|planned| planned.is_selected())
}

/// An error where a layer alone takes more than there is.
fn check(plan: &Plan, pipeline: &Pipeline, budget: Option<ByteSize>) -> Result<(), ConfigError> {
    let Some(budget) = budget else { return Ok(()) };
    let needs = |planned: &PlannedLayer| working_set(pipeline, &planned.layer);
    let Some(largest) = selected(plan).max_by_key(|planned| needs(planned)) else { return Ok(()) };
    if needs(largest) <= budget.bytes() {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let (name, shape) = (Name::new(&largest.layer.name), largest.layer.shape);
    let error = ConfigError::new(format!(
        "layer {name} ({shape}) takes {} MiB while it is decomposed, more than the {} MiB that may be used",
        mebibytes(needs(largest)),
        budget.bytes() >> 20,
    ));
    Err(error.with_help(format!("give the run --memory {}MiB, or leave the layer out", mebibytes(needs(largest)))))
}

/// Memory that layers in work share: the next one waits until what it takes is free.
#[derive(Debug)]
pub(crate) struct Budget {
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
    /// A budget for the layers of a plan; an error where one of them would wait for ever.
    pub(crate) fn of(plan: &Plan, pipeline: &Pipeline, bytes: Option<ByteSize>) -> Result<Self, ConfigError> {
        check(plan, pipeline, bytes)?;
        Ok(Self::new(bytes))
    }

    /// A budget of so many bytes; none has no end.
    fn new(bytes: Option<ByteSize>) -> Self {
        Self { free: Mutex::new(bytes.map_or(u64::MAX, ByteSize::bytes)), freed: Condvar::new() }
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
        let budget = Budget::new(Some(ByteSize::new(10)));
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
}
