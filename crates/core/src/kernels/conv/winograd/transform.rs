//! The transforms of both variants, for the points 0, 1, -1, infinity and, for the larger one, 2 and -2.
//!
//! A two-dimensional transform is the one-dimensional one down the columns and then along the rows, for 16 channels at
//! a time. What is read and written is named by one pointer for every element of the square, so that pixels (of which
//! some lie outside the map) and positions of a scratch buffer look alike.

use super::Variant;
use super::lanes::Lanes;
use crate::kernels::gemm::LINE;
use crate::kernels::simd::Level;

/// Most elements of a square.
pub(super) const MOST: usize = 36;

/// One square of `16 * chunks` channels to transform.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    /// The elements of the square that is read, row by row.
    pub src: &'a [*const f32],
    /// Offset from every pointer in `src`, and how much further each following 16 channels lie.
    pub from: (usize, usize),
    /// The elements of the square that is written.
    pub dst: &'a [*mut f32],
    /// As `from`, for `dst`.
    pub to: (usize, usize),
    pub chunks: usize,
    /// Elements of the square to be read next, to be brought into the cache meanwhile.
    pub ahead: &'a [*const f32],
    /// Whether the result is added to what is there.
    pub add: bool,
}

/// The five transforms. `t` is the side of a tile with its surroundings, `m` that of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Pixels of the input, `t` to `t`.
    Input,
    /// Products to pixels of the output, `t` to `m`.
    Output,
    /// Weights, 3 to `t`.
    Weight,
    /// Pixels of the gradient of the output, `m` to `t`: the transpose of `Output`.
    Gradient,
    /// Products to the gradient of the weights, `t` to 3: the transpose of `Weight`.
    Unweight,
}

/// A transform of one variant at one level.
///
/// # Safety
/// The pointers of the job are as many as its squares have elements, and readable or writable for all its channels.
pub(super) type Kernel = unsafe fn(&Job);

pub(super) fn kernel(level: Level, variant: Variant, step: Step) -> Kernel {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::kernel(variant, step),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::kernel(variant, step),
        Level::Portable => portable::kernel(variant, step),
    }
}

/// Instantiates the transforms for one vector type as functions with the given features.
macro_rules! kernels {
    ($name:ident, $lanes:ty $(, $feature:literal)?) => {
        mod $name {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            unsafe fn run<X: Transform<I, O>, const I: usize, const O: usize>(job: &Job) {
                assert!(job.src.len() >= I * I && job.dst.len() >= O * O, "winograd: square too small");
                // SAFETY: as promised by the caller.
                unsafe { square::<$lanes, X, I, O>(job) }
            }

            pub(super) fn kernel(variant: Variant, step: Step) -> Kernel {
                match (variant, step) {
                    (Variant::F2, Step::Input) => run::<Input<2>, 4, 4>,
                    (Variant::F2, Step::Output) => run::<Output<2>, 4, 2>,
                    (Variant::F2, Step::Weight) => run::<Weight<2>, 3, 4>,
                    (Variant::F2, Step::Gradient) => run::<Gradient<2>, 2, 4>,
                    (Variant::F2, Step::Unweight) => run::<Unweight<2>, 4, 3>,
                    (Variant::F4, Step::Input) => run::<Input<4>, 6, 6>,
                    (Variant::F4, Step::Output) => run::<Output<4>, 6, 4>,
                    (Variant::F4, Step::Weight) => run::<Weight<4>, 3, 6>,
                    (Variant::F4, Step::Gradient) => run::<Gradient<4>, 4, 6>,
                    (Variant::F4, Step::Unweight) => run::<Unweight<4>, 6, 3>,
                }
            }
        }
    };
}

kernels!(portable, [f32; 4]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, "avx512f");

// Counted loops over fixed arrays are what the compiler turns into registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn square<L: Lanes, X: Transform<I, O>, const I: usize, const O: usize>(job: &Job) {
    let (src, dst) = (job.src.as_ptr(), job.dst.as_ptr());
    for chunk in 0..job.chunks {
        for lane in (0..LINE).step_by(L::N) {
            let from = job.from.0 + chunk * job.from.1 + lane;
            let to = job.to.0 + chunk * job.to.1 + lane;
            if lane == 0 {
                for place in job.ahead {
                    prefetch(place.wrapping_add(from));
                }
            }
            // SAFETY: `src` and `dst` have as many pointers as is read here, good for all channels of the job.
            unsafe {
                let mut half = [[L::zero(); I]; O];
                for j in 0..I {
                    let mut column = [L::zero(); I];
                    for i in 0..I {
                        column[i] = L::load((*src.add(i * I + j)).add(from));
                    }
                    let column = X::apply(column);
                    for i in 0..O {
                        half[i][j] = column[i];
                    }
                }
                for i in 0..O {
                    let row = X::apply(half[i]);
                    for j in 0..O {
                        let place = (*dst.add(i * O + j)).add(to);
                        let value = if job.add { L::load(place).plus(row[j]) } else { row[j] };
                        value.store(place);
                    }
                }
            }
        }
    }
}

/// Asks for the cache line at `place`, which may be any address.
#[inline(always)]
pub(super) fn prefetch(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 machine has the instruction, and it never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// A one-dimensional transform.
trait Transform<const I: usize, const O: usize> {
    /// # Safety
    /// The machine has the instructions of `L`.
    unsafe fn apply<L: Lanes>(v: [L; I]) -> [L; O];
}

struct Input<const M: usize>;
struct Output<const M: usize>;
struct Weight<const M: usize>;
struct Gradient<const M: usize>;
struct Unweight<const M: usize>;

/// Defines transforms by expressions over `Lanes`.
macro_rules! transforms {
    ($($name:ident<$m:literal>: $i:literal -> $o:literal, |$v:ident| $body:block)*) => {$(
        impl Transform<$i, $o> for $name<$m> {
            #[inline(always)]
            unsafe fn apply<L: Lanes>($v: [L; $i]) -> [L; $o] {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        }
    )*};
}

transforms! {
    Input<2>: 4 -> 4, |d| {
        [d[0].minus(d[2]), d[1].plus(d[2]), d[2].minus(d[1]), d[1].minus(d[3])]
    }

    Output<2>: 4 -> 2, |p| {
        [p[0].plus(p[1].plus(p[2])), p[1].minus(p[2]).minus(p[3])]
    }

    Weight<2>: 3 -> 4, |g| {
        let even = g[0].plus(g[2]).times(0.5);
        [g[0], even.plus_times(0.5, g[1]), even.plus_times(-0.5, g[1]), g[2]]
    }

    Gradient<2>: 2 -> 4, |y| {
        [y[0], y[0].plus(y[1]), y[0].minus(y[1]), L::zero().minus(y[1])]
    }

    Unweight<2>: 4 -> 3, |u| {
        let even = u[1].plus(u[2]).times(0.5);
        [u[0].plus(even), u[1].minus(u[2]).times(0.5), even.plus(u[3])]
    }

    Input<4>: 6 -> 6, |d| {
        let (even, odd) = (d[4].plus_times(-4.0, d[2]), d[3].plus_times(-4.0, d[1]));
        let (even2, odd2) = (d[4].minus(d[2]), d[3].minus(d[1]));
        [
            d[4].plus_times(-5.0, d[2]).plus_times(4.0, d[0]),
            even.plus(odd),
            even.minus(odd),
            even2.plus_times(2.0, odd2),
            even2.plus_times(-2.0, odd2),
            d[5].plus_times(-5.0, d[3]).plus_times(4.0, d[1]),
        ]
    }

    Output<4>: 6 -> 4, |p| {
        let (even, odd) = (p[1].plus(p[2]), p[1].minus(p[2]));
        let (even2, odd2) = (p[3].plus(p[4]), p[3].minus(p[4]));
        [
            p[0].plus(even).plus(even2),
            odd.plus_times(2.0, odd2),
            even.plus_times(4.0, even2),
            odd.plus_times(8.0, odd2).plus(p[5]),
        ]
    }

    Weight<4>: 3 -> 6, |g| {
        let even = g[0].plus(g[2]).times(-1.0 / 6.0);
        let even2 = g[0].times(1.0 / 24.0).plus_times(1.0 / 6.0, g[2]);
        [
            g[0].times(0.25),
            even.plus_times(-1.0 / 6.0, g[1]),
            even.plus_times(1.0 / 6.0, g[1]),
            even2.plus_times(1.0 / 12.0, g[1]),
            even2.plus_times(-1.0 / 12.0, g[1]),
            g[2],
        ]
    }

    Gradient<4>: 4 -> 6, |y| {
        let (even, odd) = (y[0].plus(y[2]), y[1].plus(y[3]));
        let (even2, odd2) = (y[0].plus_times(4.0, y[2]), y[1].plus_times(4.0, y[3]));
        [
            y[0],
            even.plus(odd),
            even.minus(odd),
            even2.plus_times(2.0, odd2),
            even2.plus_times(-2.0, odd2),
            y[3],
        ]
    }

    Unweight<4>: 6 -> 3, |u| {
        let (even, odd) = (u[1].plus(u[2]).times(-1.0 / 6.0), u[2].minus(u[1]).times(1.0 / 6.0));
        let (even2, odd2) = (u[3].plus(u[4]), u[3].minus(u[4]));
        [
            even.plus_times(0.25, u[0]).plus_times(1.0 / 24.0, even2),
            odd.plus_times(1.0 / 12.0, odd2),
            even.plus_times(1.0 / 6.0, even2).plus(u[5]),
        ]
    }
}
