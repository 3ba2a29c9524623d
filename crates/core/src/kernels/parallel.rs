//! Parallel writing at disjoint places, and scratch that threads keep.
//!
//! Work is always cut by shape, never by the number of threads: that is what keeps results identical on every machine.

use std::cell::Cell;
use std::marker::PhantomData;

use rayon::prelude::*;

use super::memory::Buffer;

/// Runs `f` for every unit of `0..units`. A single unit stays on the calling thread.
pub(crate) fn for_each(units: usize, f: impl Fn(usize) + Send + Sync) {
    if units <= 1 {
        (0..units).for_each(f);
    } else {
        (0..units).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// A slice that several threads write at disjoint places.
pub(crate) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    lives: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only used through the unsafe methods below, whose callers promise disjoint places.
unsafe impl Sync for Disjoint<'_> {}
// SAFETY: as above; it stands for an exclusive borrow.
unsafe impl Send for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lives: PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No other slice or pointer to these elements is in use.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start + len <= self.len, "kernel output: {start} + {len} > {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// A pointer to element `start` for a routine that writes strided rows no further than `start + len`.
    ///
    /// # Safety
    /// The routine writes only elements that nobody else uses meanwhile.
    pub(crate) unsafe fn pointer(&self, start: usize, len: usize) -> *mut f32 {
        assert!(start + len <= self.len, "kernel output: {start} + {len} > {}", self.len);
        // SAFETY: in bounds by the assertion.
        unsafe { self.start.add(start) }
    }
}

thread_local! {
    static SCRATCH: Cell<[Option<Buffer>; 2]> = const { Cell::new([None, None]) };
}

/// Calls `f` with two buffers of the given lengths and unknown content, aligned to 64 bytes and kept by the thread for
/// the next call.
pub(crate) fn scratch<T>(first: usize, second: usize, f: impl FnOnce(&mut [f32], &mut [f32]) -> T) -> T {
    let grown =
        |kept: Option<Buffer>, len| kept.filter(|b| b.len() >= len).unwrap_or_else(|| Buffer::new(len));
    let [a, b] = SCRATCH.take();
    let (mut a, mut b) = (grown(a, first), grown(b, second));
    let result = f(&mut a[..first], &mut b[..second]);
    SCRATCH.set([Some(a), Some(b)]);
    result
}
