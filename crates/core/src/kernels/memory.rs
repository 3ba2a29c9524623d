//! Memory for activations and gradients: aligned buffers that go back to a pool when dropped.
//!
//! A training step asks for the same sizes over and over. Fresh pages from the system cost several times what writing
//! them costs, so freed buffers wait for the next request of the same size. Contents are what the last user left:
//! always initialised, never meaningful.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// A cache line, and the width of the widest vector.
const ALIGN: usize = 64;
/// Lengths are rounded up to this many elements, so that sizes that differ a little share buffers.
const GRAIN: usize = 1024;
/// Elements the pool keeps at most (4 GiB); what comes back beyond that is freed.
const MOST_KEPT: usize = 1 << 30;

struct Block {
    start: NonNull<f32>,
    capacity: usize,
}

// SAFETY: a block is plain memory owned by whoever holds it.
unsafe impl Send for Block {}
// SAFETY: as above; shared access is reading only.
unsafe impl Sync for Block {}

impl Block {
    fn new(capacity: usize) -> Self {
        // The capacity is a multiple of GRAIN and at least GRAIN, and far below the limit of a layout.
        let Ok(layout) = Layout::array::<f32>(capacity).and_then(|l| l.align_to(ALIGN)) else {
            handle_alloc_error(Layout::new::<f32>())
        };
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start.cast()) {
            Some(start) => Self { start, capacity },
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::array::<f32>(self.capacity).and_then(|l| l.align_to(ALIGN)) {
            // SAFETY: allocated with this layout in `new`.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Block>>,
    kept: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), kept: 0 });

/// `len` floats, aligned to 64 bytes, of unknown (but initialised) content.
pub(crate) struct Buffer {
    block: Option<Block>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` elements whose content is not known.
    pub(crate) fn new(len: usize) -> Self {
        let capacity = len.max(1).next_multiple_of(GRAIN);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = pool.free.get_mut(&capacity).and_then(Vec::pop);
        if reused.is_some() {
            pool.kept -= capacity;
        }
        drop(pool);
        Self { block: Some(reused.unwrap_or_else(|| Block::new(capacity))), len }
    }

    /// A buffer of zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `values`.
    pub(crate) fn from_slice(values: &[f32]) -> Self {
        let mut buffer = Self::new(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.block {
            // SAFETY: the block has at least `len` initialised elements and is owned by this buffer.
            Some(block) => unsafe { std::slice::from_raw_parts(block.start.as_ptr(), self.len) },
            None => &[],
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &self.block {
            // SAFETY: as in `deref`, and exclusive through `&mut self`.
            Some(block) => unsafe { std::slice::from_raw_parts_mut(block.start.as_ptr(), self.len) },
            None => &mut [],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.kept + block.capacity <= MOST_KEPT {
            pool.kept += block.capacity;
            pool.free.entry(block.capacity).or_default().push(block);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}
