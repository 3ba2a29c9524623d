//! Micro-kernels of the direct engine for AVX-512, AVX2 and any machine, chosen at run time.
//!
//! All of them are one generic tile over a vector type. A tile must stay a function of its own: inlined into a larger
//! loop nest, its accumulators are spilled to memory and half of the speed is lost.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Elements of the widest vector.
const WIDEST: usize = 16;

/// A vector of `N` consecutive elements. Methods are inlined into functions that enable the instructions they need.
trait Lanes: Copy {
    const N: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn sum(self) -> f32;
}

/// `out[b, q] = sum_p w[p, b] * x[offsets[p] + q]` for `B` rows of `out` (`pitch` apart) and `V` vectors of `q`.
type PixelTile = unsafe fn(w: *const f32, offsets: &[usize], x: *const f32, out: *mut f32, pitch: usize);

/// `out[t, b] += sum_q dy[b, q] * x[offsets[t] + q]` for `B` rows of `dy` (`pitch` apart), as many offsets as the
/// tile has taps, and `steps` vectors of `q`.
type TapTile =
    unsafe fn(dy: *const f32, pitch: usize, x: *const f32, offsets: &[usize], steps: usize, out: *mut f32);

/// The tiles for one instruction set.
#[derive(Debug)]
pub(super) struct Kernels {
    /// Elements of a vector.
    pub lanes: usize,
    /// Rows (`B`) of a tile.
    pub block: usize,
    /// Offsets of a [`TapTile`].
    pub taps: usize,
    /// Tiles of 1, 2, ... vectors.
    pub pixels: &'static [PixelTile],
    pub tap: TapTile,
}

#[inline(always)]
unsafe fn pixel_tile<L: Lanes, const B: usize, const V: usize>(
    w: *const f32,
    offsets: &[usize],
    x: *const f32,
    out: *mut f32,
    pitch: usize,
) {
    // SAFETY: the caller of the tile promises the extents.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; B];
        let mut w = w;
        for &offset in offsets {
            let mut pixels = [L::splat(0.0); V];
            for (v, pixels) in pixels.iter_mut().enumerate() {
                *pixels = L::load(x.add(offset + v * L::N));
            }
            for (b, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*w.add(b));
                for (sum, pixels) in sums.iter_mut().zip(pixels) {
                    *sum = sum.add_product(weight, pixels);
                }
            }
            w = w.add(B);
        }
        for (b, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(out.add(b * pitch + v * L::N));
            }
        }
    }
}

#[inline(always)]
unsafe fn tap_tile<L: Lanes, const B: usize, const T: usize>(
    dy: *const f32,
    pitch: usize,
    x: *const f32,
    offsets: &[usize],
    steps: usize,
    out: *mut f32,
) {
    // SAFETY: the caller of the tile promises the extents.
    unsafe {
        let mut sums = [[L::splat(0.0); B]; T];
        let mut starts = [x; T];
        for (start, &offset) in starts.iter_mut().zip(offsets) {
            *start = x.add(offset);
        }
        for step in 0..steps {
            let q = step * L::N;
            let mut pixels = [L::splat(0.0); T];
            for (pixels, start) in pixels.iter_mut().zip(starts) {
                *pixels = L::load(start.add(q));
            }
            for b in 0..B {
                let gradient = L::load(dy.add(b * pitch + q));
                for (sums, pixels) in sums.iter_mut().zip(pixels) {
                    sums[b] = sums[b].add_product(gradient, pixels);
                }
            }
        }
        // By way of memory: taken from the accumulators directly, the horizontal sums made the compiler keep some of
        // them in memory throughout the loop.
        let mut stored = [[[0.0f32; WIDEST]; B]; T];
        for (stored, sums) in stored.iter_mut().zip(sums) {
            for (stored, sum) in stored.iter_mut().zip(sums) {
                sum.store(stored.as_mut_ptr());
            }
        }
        let stored = std::hint::black_box(&stored);
        for (i, stored) in stored.iter().flatten().enumerate() {
            *out.add(i) += L::load(stored.as_ptr()).sum();
        }
    }
}

/// Instantiates the tiles of one vector type as functions with the given features.
macro_rules! kernels {
    ($name:ident, $lanes:ty, $block:literal, $taps:literal, [$($v:literal),+] $(, $feature:literal)?) => {
        pub(super) mod $name {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            #[inline(never)]
            unsafe fn pixels<const V: usize>(
                w: *const f32,
                offsets: &[usize],
                x: *const f32,
                out: *mut f32,
                pitch: usize,
            ) {
                // SAFETY: as promised by the caller.
                unsafe { pixel_tile::<$lanes, $block, V>(w, offsets, x, out, pitch) }
            }

            $(#[target_feature(enable = $feature)])?
            #[inline(never)]
            unsafe fn tap(
                dy: *const f32,
                pitch: usize,
                x: *const f32,
                offsets: &[usize],
                steps: usize,
                out: *mut f32,
            ) {
                // SAFETY: as promised by the caller.
                unsafe { tap_tile::<$lanes, $block, $taps>(dy, pitch, x, offsets, steps, out) }
            }

            pub(in super::super) static KERNELS: Kernels = Kernels {
                lanes: <$lanes as Lanes>::N,
                block: $block,
                taps: $taps,
                pixels: &[$(pixels::<$v>),+],
                tap,
            };
        }
    };
}

kernels!(portable, [f32; 4], 4, 2, [1, 2]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, __m256, 6, 2, [1, 2], "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, __m512, 8, 3, [1, 2, 3], "avx512f");

impl Lanes for [f32; 4] {
    const N: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 has the alignment of one.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { *to.cast() = self }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] + a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        (self[0] + self[2]) + (self[1] + self[3])
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m256 {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: only used by functions with AVX2 and FMA; so in all methods here.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for __m512 {
    const N: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: only used by functions with AVX-512F; so in all methods here.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(self) }
    }
}

/// Every set of tiles that this machine can run, the fastest first.
pub(super) fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let wide = [
        is_x86_feature_detected!("avx512f").then_some(&avx512::KERNELS),
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&avx2::KERNELS),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let wide: [Option<&'static Kernels>; 0] = [];
    wide.into_iter().flatten().chain(std::iter::once(&portable::KERNELS))
}
