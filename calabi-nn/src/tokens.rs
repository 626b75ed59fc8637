//! Text as tokens: a model's own tokenizer, windows and lines.

use std::path::{Path, PathBuf};

use calabi_api::RunError;
use tokenizers::{Tokenizer, TruncationParams};

use crate::guard::guarded;
use crate::text::shown;

/// A model's tokenizer, without the truncation and the padding that its file asks for.
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    path: PathBuf,
}

impl Tokens {
    /// The tokenizer of this file; where none is named, `tokenizer.json` in the model's folder.
    pub(crate) fn load(given: Option<&Path>, model: &Path) -> Result<Self, RunError> {
        let folder = if model.is_dir() { Some(model) } else { model.parent() };
        let beside = folder.map(|folder| folder.join("tokenizer.json")).unwrap_or_default();
        let path = given.unwrap_or(&beside).to_owned();
        if given.is_none() && !path.is_file() {
            let problem = "there is no tokenizer.json beside the model, and text needs one: name it (`tokenizer = PATH` \
                           in a pipeline, --tokenizer PATH with eval), or give tensors (.npz, .safetensors)";
            return Err(RunError::Data { path: model.to_owned(), problem: problem.to_owned() });
        }
        let refused = |problem| RunError::Data { path: path.clone(), problem };
        let bytes = std::fs::read(&path).map_err(|error| refused(error.to_string()))?;
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(&bytes)).map_err(refused)?.map_err(|error| {
            refused(format!("it is no tokenizer.json of the `tokenizers` library: {}", shown(&error.to_string())))
        })?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        Ok(Self { tokenizer, path })
    }

    /// The tokens of a whole text, without special tokens.
    pub(crate) fn of(&self, text: &str) -> Result<Vec<u32>, RunError> {
        self.encoded(text, false)
    }

    /// Whether special tokens follow a text, as `[SEP]` does in encoders: such a tokenizer wants its texts one by one.
    pub(crate) fn closes(&self) -> Result<bool, RunError> {
        let (plain, whole) = (self.encoded("a", false)?, self.encoded("a", true)?);
        Ok(whole.len() > plain.len() && !whole.ends_with(&plain))
    }

    /// The tokens of each line that is not blank, with special tokens, none longer than `most`.
    pub(crate) fn lines(&mut self, text: &str, most: usize) -> Result<Vec<Vec<u32>>, RunError> {
        let truncation = TruncationParams { max_length: most, ..TruncationParams::default() };
        let cut = self.tokenizer.with_truncation(Some(truncation)).map(drop);
        cut.map_err(|error| self.failed(&error.to_string()))?;
        let added = self.encoded("", true)?.len();
        if most <= added {
            return Err(self.failed(&format!("it adds {added} tokens to every text: `sequence` has to be more")));
        }
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| self.encoded(line, true)).collect()
    }

    /// The token that fills short samples up; it is masked, so that any will do.
    pub(crate) fn padding(&self) -> u32 {
        let named = ["[PAD]", "<pad>", "<|pad|>"].iter().find_map(|name| self.tokenizer.token_to_id(name));
        named.unwrap_or(0)
    }

    fn encoded(&self, text: &str, special: bool) -> Result<Vec<u32>, RunError> {
        let encoding =
            guarded(|| self.tokenizer.encode_fast(text, special)).map_err(|problem| self.failed(&problem))?;
        Ok(encoding.map_err(|error| self.failed(&error.to_string()))?.get_ids().to_vec())
    }

    fn failed(&self, problem: &str) -> RunError {
        RunError::Data { path: self.path.clone(), problem: shown(problem) }
    }
}

/// Which of `count` windows are taken: `samples` of them without repetition, in their order.
///
/// Selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S) on the numbers of `SplitMix64`: the same seed takes the same
/// windows on every machine.
pub(crate) fn chosen(count: usize, samples: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut wanted = samples;
    let mut take = |index: &usize| {
        let left = (count - index) as u128;
        let taken = (u128::from(split_mix(&mut state)) * left) >> 64 < wanted as u128;
        wanted -= usize::from(taken);
        taken
    };
    (0..count).filter(|index| take(index)).collect()
}

/// The next number of `SplitMix64` (Steele, Lea and Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut state = 1_234_567;
        let first: [u64; 3] = std::array::from_fn(|_| split_mix(&mut state));
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn as_many_windows_are_chosen_as_asked_for_each_as_often_as_any_other() {
        let mut times = [0_u32; 10];
        for seed in 0..3000 {
            let windows = chosen(10, 4, seed);
            assert_eq!(windows.len(), 4);
            assert!(windows.is_sorted_by(|a, b| a < b));
            for &window in &windows {
                times[window] += 1;
            }
        }
        // 1200 times each, standard deviation 27
        assert!(times.iter().all(|times| (1080..1320).contains(times)), "{times:?}");
        assert_eq!(chosen(5, 5, 7), [0, 1, 2, 3, 4]);
    }
}
