//! Loops compiled for the widest instructions that the processor has.

/// Runs these statements compiled for them.
///
/// A closure alone, given to `dispatch`, is left out wherever the compiler takes it for too large to be inlined. One that may run
/// once only, as it gives something away, is called without anything in between that could not be told to be inlined.
macro_rules! vectorized {
    ($($body:tt)*) => {{
        let once = $crate::simd::Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _given = once;
                $($body)*
            },
        )
    }};
}

/// What a closure that runs once gives away.
pub(crate) struct Once;

pub(crate) use vectorized;
