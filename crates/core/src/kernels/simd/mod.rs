//! Instruction sets, chosen when the program runs: AVX-512, AVX2 with FMA, or whatever the compiler makes of plain
//! loops (SSE2 on x86-64, NEON on AArch64).
//!
//! Two things live here: [`Tile`], the one product kernel that every matrix product and convolution is made of, and
//! [`vectorized!`], which compiles an ordinary loop once for each instruction set.

mod tile;

pub(crate) use tile::{PANEL, Panel, TILE_ROWS, Tap, Tile};

use std::sync::OnceLock;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Every level that this machine can run, the plainest first.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Self::Avx2);
            }
            if levels.contains(&Self::Avx2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
            {
                levels.push(Self::Avx512);
            }
        }
        levels
    }
}

/// The best level of this machine.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| Level::available().into_iter().max().unwrap_or(Level::Portable))
}

/// Defines a function whose body is compiled for each [`Level`] and runs the best one. The body must be a plain loop
/// over slices or fixed arrays; it may call only `#[inline(always)]` functions (others keep the plain instructions).
///
/// ```ignore
/// vectorized! {
///     /// Adds `x` to `y`.
///     pub(crate) fn add(y: &mut [f32], x: &[f32]) {
///         for (y, x) in y.iter_mut().zip(x) { *y += x; }
///     }
/// }
/// ```
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::kernels::simd::level() {
                    // SAFETY: the level is only given by a machine that has these instructions.
                    $crate::kernels::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::simd::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use vectorized;
