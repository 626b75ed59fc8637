//! Sums and maxima of rows in sixteen strands, which become vector registers: fast, and always in one order.

const STRANDS: usize = 16;

/// `Σ f(x)`.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<STRANDS>();
    let mut strands = [0.0_f32; STRANDS];
    for chunk in chunks {
        for (strand, &x) in strands.iter_mut().zip(chunk) {
            *strand += f(x);
        }
    }
    strands.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

/// `Σ f(x, y)`, of rows of one length.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<STRANDS>(), y.as_chunks::<STRANDS>());
    let mut strands = [0.0_f32; STRANDS];
    for (x, y) in xs.iter().zip(ys) {
        for (strand, (&x, &y)) in strands.iter_mut().zip(x.iter().zip(y)) {
            *strand += f(x, y);
        }
    }
    strands.iter().sum::<f32>() + x_rest.iter().zip(y_rest).map(|(&x, &y)| f(x, y)).sum::<f32>()
}

/// The largest value; of nothing, or of nothing but NaN, negative infinity.
pub(super) fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<STRANDS>();
    let mut strands = [f32::NEG_INFINITY; STRANDS];
    for chunk in chunks {
        for (strand, &x) in strands.iter_mut().zip(chunk) {
            *strand = larger(*strand, x);
        }
    }
    strands.iter().chain(rest).fold(f32::NEG_INFINITY, |top, &x| larger(top, x))
}
