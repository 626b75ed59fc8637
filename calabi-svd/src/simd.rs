//! Loops compiled for wide instructions (on x86 AVX2 and FMA) where the processor has them.

/// Runs these statements compiled for wide instructions, and what is inlined here with them: functions that they call must be told
/// to be.
///
/// `dispatch` calls a closure that may run several times through an adapter, which cannot be told so. This one gives something away,
/// hence runs once and is called directly.
macro_rules! vectorized {
    ($($body:tt)*) => {{
        struct Once;
        let once = Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _given = once;
                $($body)*
            },
        )
    }};
}

pub(crate) use vectorized;
