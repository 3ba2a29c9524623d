//! One safe kernel, compiled twice: for the baseline processor and for AVX2.
//!
//! The kernels are loops that the compiler vectorises. The baseline x86-64 set has no 32-bit integer multiply, which
//! resizing lives on, so a second copy compiled for AVX2 runs where the processor has it. Both copies are the same
//! integer or unfused float arithmetic and give the same bits.

/// Defines `$name` as a function that runs the `#[inline(always)]` function `$kernel` compiled for the best
/// instruction set this processor has.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident = $kernel:ident ($($arg:ident: $type:ty),* $(,)?)) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn for_avx2($($arg: $type),*) {
                    $kernel($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: `for_avx2` is safe code whose only demand is AVX2, and the line above has seen it.
                    return unsafe { for_avx2($($arg),*) };
                }
            }
            $kernel($($arg),*)
        }
    };
}

pub(super) use vectorised;
