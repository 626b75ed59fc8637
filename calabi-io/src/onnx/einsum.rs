//! An Einsum of data with a matrix, as two of them.

use std::collections::HashSet;

use super::structure::{Node, Structure};

/// The terms of an equation in which a matrix maps one label of the data to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Einsum {
    data: String,
    output: String,
    contracted: char,
    free: char,
    /// A label that the equation does not have.
    inner: char,
    /// Whether the matrix has its outputs in rows.
    pub(crate) outputs_first: bool,
    weight_first: bool,
}

impl Einsum {
    pub(crate) fn of(structure: &Structure, node: &Node, slot: usize, rank: usize) -> Result<Self, String> {
        let equation = structure.attribute_text(node, "equation").ok_or("an Einsum without an equation")?;
        let refuse = || format!("the Einsum {equation} is no product with a matrix: not handled; export it as MatMul");
        if node.inputs.len() != 2 || rank != 2 {
            return Err(refuse());
        }
        Self::parse(equation, slot).ok_or_else(refuse)
    }

    fn parse(equation: &str, slot: usize) -> Option<Self> {
        let plain: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, output) = plain.split_once("->")?;
        let terms: Vec<&str> = inputs.split(',').collect();
        let (&weight, &data) = (terms.get(slot)?, terms.get(1_usize.checked_sub(slot)?)?);
        let distinct = |term: &str| {
            let mut seen = HashSet::new();
            term.chars().all(|label| label.is_ascii_alphabetic() && seen.insert(label))
        };
        if terms.len() != 2 || ![weight, data, output].into_iter().all(distinct) {
            return None;
        }
        let [a, b] = *weight.chars().collect::<Vec<_>>() else { return None };
        let is_contracted = |label| data.contains(label) && !output.contains(label);
        let is_free = |label| output.contains(label) && !data.contains(label);
        let outputs_first = is_free(a) && is_contracted(b);
        let inputs_first = is_contracted(a) && is_free(b);
        if outputs_first == inputs_first {
            return None;
        }
        let (contracted, free) = if outputs_first { (b, a) } else { (a, b) };
        let inner = ('a'..='z').chain('A'..='Z').find(|&label| !plain.contains(label))?;
        // What is summed over the data alone would be summed too early.
        let kept = data.chars().all(|label| label == contracted || output.contains(label));
        let (data, output) = (data.to_owned(), output.to_owned());
        kept.then_some(Self { data, output, contracted, free, inner, outputs_first, weight_first: slot == 0 })
    }

    fn between(&self) -> String {
        self.data.chars().map(|label| if label == self.contracted { self.inner } else { label }).collect()
    }

    fn equation(&self, data: &str, rows: char, cols: char, output: &str) -> String {
        if self.weight_first {
            format!("{rows}{cols},{data}->{output}")
        } else {
            format!("{data},{rows}{cols}->{output}")
        }
    }

    /// From the data to the inner value.
    pub(crate) fn first(&self) -> String {
        let (rows, cols) =
            if self.outputs_first { (self.inner, self.contracted) } else { (self.contracted, self.inner) };
        self.equation(&self.data, rows, cols, &self.between())
    }

    /// From the inner value to the output.
    pub(crate) fn second(&self) -> String {
        let (rows, cols) = if self.outputs_first { (self.free, self.inner) } else { (self.inner, self.free) };
        self.equation(&self.between(), rows, cols, &self.output)
    }

    /// The axis of the data, and of the inner value, that the matrix maps.
    pub(crate) fn axis(&self) -> Option<usize> {
        self.data.chars().position(|label| label == self.contracted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_becomes_two() {
        let einsum = Einsum::parse("bsd, de -> bse", 1).unwrap();
        assert_eq!((einsum.first().as_str(), einsum.second().as_str()), ("bsd,da->bsa", "bsa,ae->bse"));
        assert!(!einsum.outputs_first);
        let einsum = Einsum::parse("ed,bds->sbe", 0).unwrap();
        assert_eq!((einsum.first().as_str(), einsum.second().as_str()), ("ad,bds->bas", "ea,bas->sbe"));
        assert!(einsum.outputs_first && einsum.axis() == Some(1));
    }

    #[test]
    fn other_equations_are_refused() {
        for equation in
            ["bsd,de", "bsd,bd->bsd", "bs,de->bsde", "...d,de->...e", "bsd,de->be", "bdd,de->be", "a,b,c->abc"]
        {
            assert_eq!(Einsum::parse(equation, 1), None, "{equation}");
        }
    }
}
