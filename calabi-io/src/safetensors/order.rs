//! Names in the order in which people count: `layers.2` before `layers.10`.

use std::cmp::Ordering;

/// Compares names with their numbers compared as numbers.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (first_run(left), first_run(right)) {
        let order = if is_number(x) && is_number(y) { by_value(x, y) } else { x.cmp(y) };
        if order.is_ne() {
            return order;
        }
        (left, right) = (&left[x.len()..], &right[y.len()..]);
    }
    // Equal but for leading zeros, or one is the other's beginning.
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The digits at the beginning, or all up to the next digit; none of an empty name.
fn first_run(name: &str) -> Option<&str> {
    let digit = name.chars().next()?.is_ascii_digit();
    let end = name.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(name.len());
    Some(&name[..end])
}

fn is_number(run: &str) -> bool {
    run.starts_with(|c: char| c.is_ascii_digit())
}

fn by_value(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_are_counted() {
        let mut names = ["h.10.b", "h.2.b", "h.2.a", "lm", "h.2", "h.002.c", "h.99999999999999999999999.a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["h.2", "h.2.a", "h.2.b", "h.002.c", "h.10.b", "h.99999999999999999999999.a", "lm"]);
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[a0-2.é]{0,6}", b in "[a0-2.é]{0,6}", c in "[a0-2.é]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
