//! Vectors of neighbouring channels, for the transforms.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A vector of `f32`.
///
/// All methods are unsafe for one reason: the machine must have the instructions of the type.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Lanes: Copy {
    /// Elements of one vector, a divisor of 16.
    const N: usize;

    unsafe fn zero() -> Self;
    /// Reads `N` elements, from any address.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `N` elements, to any address.
    unsafe fn store(self, to: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    unsafe fn times(self, factor: f32) -> Self;
    /// `self + factor * other`.
    unsafe fn plus_times(self, factor: f32, other: Self) -> Self;
}

impl Lanes for [f32; 4] {
    const N: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
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
    unsafe fn plus(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    unsafe fn times(self, factor: f32) -> Self {
        self.map(|v| v * factor)
    }

    #[inline(always)]
    unsafe fn plus_times(self, factor: f32, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + factor * other[i])
    }
}

/// The methods of one vector type by the names of its intrinsics.
macro_rules! lanes {
    ($ty:ty, $n:literal, $zero:ident, $load:ident, $store:ident, $set:ident, $add:ident, $sub:ident, $mul:ident,
     $fma:ident) => {
        #[cfg(target_arch = "x86_64")]
        impl Lanes for $ty {
            const N: usize = $n;

            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the machine has the instructions of this type; so in all methods here.
                unsafe { $zero() }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and the elements are readable.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and the elements are writable.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            unsafe fn minus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $sub(self, other) }
            }

            #[inline(always)]
            unsafe fn times(self, factor: f32) -> Self {
                // SAFETY: as above.
                unsafe { $mul(self, $set(factor)) }
            }

            #[inline(always)]
            unsafe fn plus_times(self, factor: f32, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $fma($set(factor), other, self) }
            }
        }
    };
}

lanes!(
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
lanes!(
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);
