//! Random starts that are the same on every machine.

use std::f64::consts::TAU;

use faer::Mat;

/// `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Independent normal entries, `rows × cols`.
    pub(crate) fn matrix(&mut self, rows: usize, cols: usize) -> Mat<f64> {
        Mat::from_fn(rows, cols, |_, _| self.normal())
    }

    /// A number below `bound`, and a sign.
    pub(crate) fn signed_index(&mut self, bound: usize) -> (usize, bool) {
        let bits = self.bits();
        (usize::try_from((bits >> 1) % bound.max(1) as u64).unwrap_or_default(), bits & 1 == 1)
    }

    /// So many independent signs, 1 or −1.
    pub(crate) fn signs(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| if self.bits() & 1 == 1 { -1.0 } else { 1.0 }).collect()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (TAU * self.uniform()).cos()
    }

    /// Uniform in (0, 1].
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
