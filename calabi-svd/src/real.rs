//! `f32` and `f64` alike, with the loops over columns that the reduction spends its time in.

use faer::traits::RealField;
use pulp::{Arch, Simd, WithSimd};

use crate::tridiagonal::{BLOCK, ROWS};

/// A precision in which a symmetric matrix is reduced.
///
/// Sums run in as many strands as the processor's vectors have lanes: results depend on its features, not on threads.
pub(crate) trait Real: RealField + Copy + Send + Sync + 'static {
    /// The nearest number of this precision.
    fn of(x: f64) -> Self;

    /// The same number.
    fn wide(self) -> f64;

    /// The products `aⱼᵀ x` of four columns, while `y += Σⱼ byⱼ aⱼ`: [`ROWS`] rows of one column stand before those of the next, and
    /// there are as many rows, a multiple of that, in `x` and `y`.
    fn times_blocks(a: &[Self], by: [Self; 4], x: &[Self], y: &mut [Self]) -> [Self; 4];

    /// The products `aⱼᵀ x` of four columns.
    fn dots(a: [&[Self]; 4], x: &[Self]) -> [Self; 4];

    /// `y += Σⱼ byⱼ aⱼ` for four columns.
    fn combine(a: [&[Self]; 4], by: [Self; 4], y: &mut [Self]);
}

struct TimesBlocks<'a, T> {
    a: &'a [T],
    by: [T; 4],
    x: &'a [T],
    y: &'a mut [T],
}

struct Dots<'a, T> {
    a: [&'a [T]; 4],
    x: &'a [T],
}

struct Combine<'a, T> {
    a: [&'a [T]; 4],
    by: [T; 4],
    y: &'a mut [T],
}

/// What a function makes of each of four; `map` of an array is not always compiled for the instructions of its caller.
macro_rules! of_each {
    ($four:expr, $($function:tt)+) => {{
        let [first, second, third, fourth] = $four;
        [$($function)+(first), $($function)+(second), $($function)+(third), $($function)+(fourth)]
    }};
}

macro_rules! real {
    ($t:ty, $of:expr, $lanes:ident, $read:ident, $write:ident, $splat:ident, $fused:ident, $sum:ident) => {
        impl Real for $t {
            fn of(x: f64) -> Self {
                $of(x)
            }

            fn wide(self) -> f64 {
                self.into()
            }

            fn times_blocks(a: &[Self], by: [Self; 4], x: &[Self], y: &mut [Self]) -> [Self; 4] {
                Arch::new().dispatch(TimesBlocks { a, by, x, y })
            }

            fn dots(a: [&[Self]; 4], x: &[Self]) -> [Self; 4] {
                Arch::new().dispatch(Dots { a, x })
            }

            fn combine(a: [&[Self]; 4], by: [Self; 4], y: &mut [Self]) {
                Arch::new().dispatch(Combine { a, by, y });
            }
        }

        impl WithSimd for TimesBlocks<'_, $t> {
            type Output = [$t; 4];

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
                // Vectors of one column in a block.
                let each = ROWS / S::$lanes;
                let Self { a, by, x, y } = self;
                let ((a, _), (x, _), (y, _)) = (S::$read(a), S::$read(x), S::$write(y));
                let [by0, by1, by2, by3] = of_each!(by, simd.$splat);
                let [mut s0, mut s1, mut s2, mut s3] = [simd.$splat(0.0); 4];
                let blocks = a.chunks_exact(BLOCK / S::$lanes);
                for ((a, x), y) in blocks.zip(x.chunks_exact(each)).zip(y.chunks_exact_mut(each)) {
                    for (k, (&x, y)) in x.iter().zip(y).enumerate() {
                        let [a0, a1, a2, a3] = [a[k], a[each + k], a[2 * each + k], a[3 * each + k]];
                        s0 = simd.$fused(a0, x, s0);
                        s1 = simd.$fused(a1, x, s1);
                        s2 = simd.$fused(a2, x, s2);
                        s3 = simd.$fused(a3, x, s3);
                        let first_two = simd.$fused(a1, by1, simd.$fused(a0, by0, *y));
                        *y = simd.$fused(a3, by3, simd.$fused(a2, by2, first_two));
                    }
                }
                of_each!([s0, s1, s2, s3], simd.$sum)
            }
        }

        impl WithSimd for Dots<'_, $t> {
            type Output = [$t; 4];

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
                let (x, x_rest) = S::$read(self.x);
                let [(a0, a0_rest), (a1, a1_rest), (a2, a2_rest), (a3, a3_rest)] = of_each!(self.a, S::$read);
                let [mut s0, mut s1, mut s2, mut s3] = [simd.$splat(0.0); 4];
                for ((((&x, &a0), &a1), &a2), &a3) in x.iter().zip(a0).zip(a1).zip(a2).zip(a3) {
                    s0 = simd.$fused(a0, x, s0);
                    s1 = simd.$fused(a1, x, s1);
                    s2 = simd.$fused(a2, x, s2);
                    s3 = simd.$fused(a3, x, s3);
                }
                let mut sums = of_each!([s0, s1, s2, s3], simd.$sum);
                for (sum, rest) in sums.iter_mut().zip([a0_rest, a1_rest, a2_rest, a3_rest]) {
                    *sum += rest.iter().zip(x_rest).map(|(a, x)| a * x).sum::<$t>();
                }
                sums
            }
        }

        impl WithSimd for Combine<'_, $t> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let Self { a, by, y } = self;
                let (y, y_rest) = S::$write(y);
                let [(a0, a0_rest), (a1, a1_rest), (a2, a2_rest), (a3, a3_rest)] = of_each!(a, S::$read);
                let [by0, by1, by2, by3] = of_each!(by, simd.$splat);
                for ((((y, &a0), &a1), &a2), &a3) in y.iter_mut().zip(a0).zip(a1).zip(a2).zip(a3) {
                    let first_two = simd.$fused(a1, by1, simd.$fused(a0, by0, *y));
                    *y = simd.$fused(a3, by3, simd.$fused(a2, by2, first_two));
                }
                for (by, rest) in by.into_iter().zip([a0_rest, a1_rest, a2_rest, a3_rest]) {
                    rest.iter().zip(y_rest.iter_mut()).for_each(|(a, y)| *y += a * by);
                }
            }
        }
    };
}

#[allow(clippy::cast_possible_truncation)] // the nearest number is what is wanted
fn nearest(x: f64) -> f32 {
    x as f32
}

real!(f32, nearest, F32_LANES, as_simd_f32s, as_mut_simd_f32s, splat_f32s, mul_add_e_f32s, reduce_sum_f32s);
real!(
    f64,
    std::convert::identity,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    mul_add_e_f64s,
    reduce_sum_f64s
);
