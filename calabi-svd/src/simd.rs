//! Loops compiled for the widest instructions that the processor has.

/// Runs these statements compiled for them. A closure alone, given to `dispatch`, is left out wherever the compiler takes it for
/// too large to be inlined.
macro_rules! vectorized {
    ($($body:tt)*) => {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || { $($body)* },
        )
    };
}

pub(crate) use vectorized;
