//! The lower convex hull of a layer's options in the plane of cost and loss.

use super::ladder::Rung;

/// The places of the rungs from `start` on that lie on the hull: each step gains, and no step gains more for each
/// parameter or byte than the one before it.
pub(super) fn hull(rungs: &[Rung], start: usize) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    for (place, rung) in rungs.iter().enumerate().skip(start) {
        let Some(&last) = hull.last() else {
            hull.push(place);
            continue;
        };
        if rung.loss >= rungs[last].loss {
            continue;
        }
        while let [.., before, last] = hull[..]
            && rungs[before].rate(&rungs[last]) < rungs[last].rate(rung)
        {
            hull.pop();
        }
        hull.push(place);
    }
    hull
}

#[cfg(test)]
mod tests {
    use calabi_api::Kept;

    use super::*;

    fn hull_of(points: &[(u64, f64)]) -> Vec<usize> {
        let rungs: Vec<_> = points.iter().map(|&(cost, loss)| Rung { kept: Kept::Dense, cost, loss }).collect();
        hull(&rungs, 0)
    }

    #[test]
    fn only_steps_of_falling_gain_are_left() {
        assert_eq!(hull_of(&[(1, 10.0), (2, 6.0), (3, 4.0), (4, 3.0)]), [0, 1, 2, 3]);
        assert_eq!(hull_of(&[(1, 10.0), (2, 9.0), (3, 1.0), (4, 0.9)]), [0, 2, 3]);
        assert_eq!(hull_of(&[(1, 10.0), (2, 9.0), (3, 8.0), (4, 0.0)]), [0, 3]);
    }

    #[test]
    fn steps_of_equal_gain_stay_apart_and_steps_without_gain_are_none() {
        assert_eq!(hull_of(&[(1, 3.0), (2, 2.0), (3, 1.0)]), [0, 1, 2]);
        assert_eq!(hull_of(&[(1, 3.0), (2, 3.0), (3, 0.0), (4, 0.0)]), [0, 2]);
        assert_eq!(hull_of(&[(5, 0.0)]), [0]);
    }
}
