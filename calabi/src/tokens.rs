//! The tokens among a model's inputs: their ids, and which of them are padding.

use calabi_api::{Output, Samples, Tensor};

/// Token ids of all samples.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    sequence: usize,
    ids: Vec<i64>,
    /// Which of them are tokens rather than padding; none where all are.
    real: Option<Vec<bool>>,
}

impl Tokens {
    /// The tokens of samples that hold `input_ids` (samples × sequence), with `attention_mask` where there is one of
    /// that shape.
    pub(crate) fn of(samples: &Samples) -> Option<Self> {
        let named = |wanted: &str| samples.inputs.iter().find(|(name, _)| name == wanted).map(|(_, tensor)| tensor);
        let tensor = named("input_ids")?;
        let &[_, sequence] = tensor.shape() else { return None };
        let mask = named("attention_mask").filter(|mask| mask.shape() == tensor.shape()).and_then(integers);
        let real = mask.map(|mask| mask.into_iter().map(|value| value != 0).collect());
        Some(Self { sequence, ids: integers(tensor)?, real })
    }

    /// The largest id.
    pub(crate) fn largest(&self) -> i64 {
        self.ids.iter().copied().max().unwrap_or(0)
    }

    /// Whether a token follows another in any sample.
    pub(crate) fn has_pairs(&self) -> bool {
        let samples = self.ids.len().checked_div(self.sequence).unwrap_or(0);
        (0..samples).any(|sample| (0..self.sequence).any(|position| self.next(sample, position).is_some()))
    }

    /// Whether an output has a row of values for every token.
    pub(crate) fn per_token(&self, output: &Output) -> bool {
        matches!(output.values.shape(), &[_, sequence, _] if sequence == self.sequence)
    }

    /// Whether there is a token rather than padding.
    pub(crate) fn is_real(&self, sample: usize, position: usize) -> bool {
        let real = |real: &Vec<bool>| real.get(sample * self.sequence + position).copied().unwrap_or(false);
        position < self.sequence && self.real.as_ref().is_none_or(real)
    }

    /// The id that follows a token in its sample; none behind the last one, and none where either is padding.
    pub(crate) fn next(&self, sample: usize, position: usize) -> Option<usize> {
        let follows = self.is_real(sample, position) && self.is_real(sample, position + 1);
        let id = follows.then(|| self.ids.get(sample * self.sequence + position + 1))??;
        usize::try_from(*id).ok()
    }
}

/// The values of a tensor of integers, or of a mask that is given in floating point.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    match tensor {
        Tensor::I64(values) => Some(values.iter().copied().collect()),
        Tensor::I32(values) => Some(values.iter().map(|&value| value.into()).collect()),
        Tensor::U8(values) => Some(values.iter().map(|&value| value.into()).collect()),
        Tensor::F32(values) => Some(values.iter().map(|&value| i64::from(value != 0.0)).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn samples(mask: Option<Tensor>) -> Samples {
        let ids = Tensor::I64(array![[5, 6, 7], [8, 9, 0]].into_dyn());
        let mut inputs = vec![("input_ids".to_owned(), ids)];
        inputs.extend(mask.map(|mask| ("attention_mask".to_owned(), mask)));
        Samples { inputs }
    }

    fn targets(tokens: &Tokens) -> Vec<Option<usize>> {
        (0..2)
            .flat_map(|sample| (0..3).map(move |position| (sample, position)))
            .map(|(s, p)| tokens.next(s, p))
            .collect()
    }

    #[test]
    fn each_token_but_the_last_is_followed_by_one() {
        let tokens = Tokens::of(&samples(None)).unwrap();
        assert_eq!(targets(&tokens), [Some(6), Some(7), None, Some(9), Some(0), None]);
        assert!(tokens.largest() == 9 && tokens.has_pairs());
    }

    #[test]
    fn padding_on_either_side_is_left_out() {
        let right = Tensor::I32(array![[1, 1, 1], [1, 1, 0]].into_dyn());
        let tokens = Tokens::of(&samples(Some(right))).unwrap();
        assert_eq!(targets(&tokens), [Some(6), Some(7), None, Some(9), None, None]);
        assert!(tokens.is_real(1, 1) && !tokens.is_real(1, 2));
        let left = Tensor::F32(array![[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]].into_dyn());
        let tokens = Tokens::of(&samples(Some(left))).unwrap();
        assert_eq!(targets(&tokens), [None, Some(7), None, Some(9), Some(0), None]);
    }

    #[test]
    fn a_model_without_token_ids_has_none() {
        let image = Tensor::F32(array![[0.5_f32, 1.0]].into_dyn());
        assert!(Tokens::of(&Samples { inputs: vec![("image".to_owned(), image)] }).is_none());
    }
}
