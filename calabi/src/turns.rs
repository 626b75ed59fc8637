//! Two levels of parallelism, one at a time: layers side by side, or all threads inside one layer, whichever is done first.

use calabi_api::{Decomposer, Layer, Shape};
use rayon::prelude::*;

use crate::decompose::Context;
use crate::memory::working_set;
use crate::{Error, Plan};

/// Takes groups of layers through `work`, each group on one thread, many at a time; first those that outlast the others so far
/// that all threads inside them are the better use, one at a time. What `work` gave, in the order of the groups.
pub(crate) fn in_turns<R: Send>(
    context: &Context<'_>,
    plan: &Plan,
    groups: Vec<Vec<usize>>,
    work: impl Fn(Vec<usize>) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let threads = rayon::current_num_threads();
    let loads: Vec<_> = groups.iter().map(|group| Load::of(context, plan, group, threads)).collect();
    let alone = alone(&loads, threads, context.memory.bytes());
    let mut results: Vec<Option<R>> = groups.iter().map(|_| None).collect();
    let (first, beside): (Vec<_>, Vec<_>) =
        groups.into_iter().enumerate().partition(|(index, _)| alone.contains(index));
    for (index, group) in first {
        results[index] = Some(calabi_svd::inside(|| work(group))?);
    }
    let beside: Vec<_> =
        beside.into_par_iter().map(|(index, group)| Ok((index, work(group)?))).collect::<Result<_, Error>>()?;
    for (index, result) in beside {
        results[index] = Some(result);
    }
    Ok(results.into_iter().flatten().collect())
}

/// What a group of layers takes, all its layers one after the other.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// On one thread, in units of work.
    alone: f64,
    /// With all threads inside.
    inside: f64,
    bytes: u64,
}

impl Load {
    fn of(context: &Context<'_>, plan: &Plan, group: &[usize], threads: usize) -> Self {
        let decomposer = &*context.pipeline.decomposer;
        let layers = group.iter().filter_map(|&index| plan.layers.get(index));
        let layers: Vec<&Layer> = layers.filter(|planned| planned.may_be_factorized()).map(|p| &p.layer).collect();
        let each = |time: &dyn Fn(Shape) -> f64| layers.iter().map(|layer| time(layer.shape)).sum();
        Self {
            alone: each(&work_of),
            inside: each(&|shape| work_of(shape) / speedup(decomposer, shape, threads)),
            bytes: layers.iter().map(|layer| working_set(context.pipeline, layer)).max().unwrap_or(0),
        }
    }
}

/// Operations of the exact route, but for a factor: the Gram matrix of the smaller side, its reduction at a quarter of the speed.
fn work_of(shape: Shape) -> f64 {
    let (small, large) = (shape.full_rank().get() as f64, shape.rows().max(shape.cols()) as f64);
    small * small * (large + 4.0 * small)
}

fn speedup(decomposer: &dyn Decomposer, shape: Shape, threads: usize) -> f64 {
    decomposer.speedup(shape, threads).max(1.0)
}

/// The groups that are done one at a time with all threads: the largest first, as long as that ends sooner.
fn alone(loads: &[Load], threads: usize, memory: u64) -> Vec<usize> {
    if threads < 2 {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..loads.len()).collect();
    order.sort_by(|&a, &b| loads[b].alone.total_cmp(&loads[a].alone));
    let mut rest: f64 = loads.iter().map(|load| load.alone).sum();
    let mut chosen = Vec::new();
    for (place, &index) in order.iter().enumerate() {
        let load = loads[index];
        let next = order.get(place + 1).map_or(0.0, |&next| loads[next].alone);
        // So many of this size fit the memory at a time.
        let beside = usize::try_from(memory / load.bytes.max(1)).unwrap_or(threads).clamp(1, threads) as f64;
        let side_by_side = load.alone.max(rest / beside);
        let one_first = load.inside + next.max((rest - load.alone) / beside);
        if one_first >= side_by_side {
            break;
        }
        rest -= load.alone;
        chosen.push(index);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(alone: f64, speedup: f64) -> Load {
        Load { alone, inside: alone / speedup, bytes: 1 }
    }

    #[test]
    fn many_alike_go_side_by_side() {
        assert!(alone(&vec![load(1.0, 1.8); 20], 2, u64::MAX).is_empty());
        assert!(alone(&[], 2, u64::MAX).is_empty());
    }

    #[test]
    fn one_that_outlasts_the_others_gets_all_threads() {
        let loads = [load(1.0, 1.0), load(50.0, 1.7), load(1.0, 1.0)];
        assert_eq!(alone(&loads, 2, u64::MAX), [1]);
        assert!(alone(&[load(50.0, 1.0)], 2, u64::MAX).is_empty(), "threads would not help");
        assert!(alone(&loads, 1, u64::MAX).is_empty(), "there is one thread");
    }

    #[test]
    fn layers_that_do_not_fit_side_by_side_get_all_threads() {
        let large = vec![Load { bytes: 60, ..load(10.0, 1.7) }; 4];
        assert_eq!(alone(&large, 2, 100).len(), 4);
        assert!(alone(&large, 2, 120).is_empty());
    }
}
