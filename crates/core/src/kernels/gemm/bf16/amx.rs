//! The product kernel of AMX: up to two by two tile registers of 16 x 16 sums, over 16 pairs of steps of the depth at a
//! time.
//!
//! A pair is two bf16 numbers in one word, the step before in its low half. A tile of A holds rows of 16 pairs, one of B
//! 16 pairs of as many columns each. The compiler knows nothing of these registers: they are named in assembly, and no
//! other code of the program uses them.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::kernels::gemm::LINE;

/// Whether this machine has tile registers for bf16 and the system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_tiles() && permitted())
}

/// What the processor says.
fn has_tiles() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
}

/// Asks the system for the registers, once for all threads: they make what it saves of a thread larger by 8 KiB.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let status: i64;
    // SAFETY: this system call reads no memory of ours; an older system answers with an error.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => status, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// One product `C[rows, columns] = A[rows, depth] B[depth, columns] (+ D[rows, columns])` of one or two blocks of at most
/// 16 rows, which may lie anywhere. Distances of pairs are in words, others in elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block<'a> {
    /// First pair of A. Rows of 16 pairs lie `a_row` apart, the next 16 pairs of all rows `a_step` further, and the
    /// second block `a_block`.
    pub a: *const u32,
    pub a_row: usize,
    pub a_step: usize,
    pub a_block: usize,
    /// First pair of B, whose rows lie `b_row` apart.
    pub b: *const u32,
    pub b_row: usize,
    /// Distance from a tile of A to what rounding has cut off of it, if operands have two parts; in B that is what the
    /// next 16 rows are.
    pub lost: Option<usize>,
    /// The depth: so many groups of 16 pairs from each of these places of A on. Rows of B go on from one to the next.
    pub taps: &'a [usize],
    pub groups: usize,
    /// First element of C; rows lie `c_row` apart, the second block begins at `c_block`.
    pub c: *mut f32,
    pub c_row: usize,
    pub c_block: usize,
    /// First element of what is added, or null; rows lie `d_row` apart, those of the second block begin at `d_block`.
    pub d: *const f32,
    pub d_row: usize,
    pub d_block: usize,
    /// Columns of C and D, at most two vectors.
    pub columns: usize,
}

/// The tile registers of this thread, shaped for the last product; dropped, they need not be saved when threads change.
pub(crate) struct Registers {
    heights: [usize; 2],
    columns: usize,
    of_this_thread: PhantomData<*const ()>,
}

impl Registers {
    /// # Safety
    /// [`available`].
    pub(crate) unsafe fn new() -> Self {
        Self { heights: [0; 2], columns: 0, of_this_thread: PhantomData }
    }

    /// The product of blocks of so many rows, at most 16; the second may have none.
    ///
    /// # Safety
    /// All elements that the extents of the blocks name are readable (C: writable, and touched by nobody else during the
    /// call).
    #[inline]
    pub(crate) unsafe fn multiply(&mut self, block: &Block, heights: [usize; 2]) {
        // SAFETY: the caller's promises; the registers are shaped for these extents.
        unsafe {
            if (heights, block.columns) != (self.heights, self.columns) {
                (self.heights, self.columns) = (heights, block.columns);
                Shapes::new(heights, block.columns).load();
            }
            match (heights[1] > 0, block.columns > LINE, block.lost.is_some()) {
                (true, true, false) => multiply::<2, 2, 1>(block),
                (true, false, false) => multiply::<2, 1, 1>(block),
                (false, true, false) => multiply::<1, 2, 1>(block),
                (false, false, false) => multiply::<1, 1, 1>(block),
                (true, true, true) => multiply::<2, 2, 2>(block),
                (true, false, true) => multiply::<2, 1, 2>(block),
                (false, true, true) => multiply::<1, 2, 2>(block),
                (false, false, true) => multiply::<1, 1, 2>(block),
            }
        }
    }

    /// The product of any number of rows: both blocks move on together.
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    pub(crate) unsafe fn multiply_rows(&mut self, mut block: Block, rows: usize) {
        for first in (0..rows).step_by(2 * LINE) {
            let heights = [0, LINE].map(|skipped| (rows - first).saturating_sub(skipped).min(LINE));
            // SAFETY: the caller's promise, for a part of the rows.
            unsafe { self.multiply(&block, heights) };
            block.a = block.a.wrapping_add(2 * block.a_block);
            block.c = block.c.wrapping_add(2 * block.c_block);
            block.d = block.d.wrapping_add(if block.d.is_null() { 0 } else { 2 * block.d_block });
        }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the machine has the instruction.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Shapes of the tile registers, as the processor reads them: sums in 0 to 3, A in 4 and 5, B in 6 and 7.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// For blocks of `heights` rows, and columns of at most two vectors.
    fn new(heights: [usize; 2], columns: usize) -> Self {
        let mut shapes = Self { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let widths = [0, LINE].map(|skipped| columns.saturating_sub(skipped).min(LINE));
        for (i, height) in heights.into_iter().enumerate() {
            for (j, width) in widths.into_iter().enumerate() {
                shapes.set(2 * i + j, height, width);
            }
            shapes.set(4 + i, height, LINE);
        }
        for (j, width) in widths.into_iter().enumerate() {
            shapes.set(6 + j, LINE, width);
        }
        shapes
    }

    /// A register without rows or columns is left out.
    fn set(&mut self, register: usize, rows: usize, words: usize) {
        if rows > 0 && words > 0 {
            // At most 16 rows of 64 bytes.
            (self.rows[register], self.row_bytes[register]) = (rows as u8, 4 * words as u16);
        }
    }

    /// # Safety
    /// [`available`].
    unsafe fn load(&self) {
        // SAFETY: 64 bytes of the layout that the instruction reads.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(readonly, nostack)) };
    }
}

/// Loads a register with rows that lie `$pitch` bytes apart.
macro_rules! load {
    ($register:literal, $from:expr, $pitch:expr) => {
        asm!(concat!("tileloadd tmm", $register, ", [{} + {}*1]"), in(reg) $from, in(reg) $pitch,
             options(readonly, nostack, preserves_flags))
    };
}

macro_rules! store {
    ($register:literal, $to:expr, $pitch:expr) => {
        asm!(concat!("tilestored [{} + {}*1], tmm", $register), in(reg) $to, in(reg) $pitch,
             options(nostack, preserves_flags))
    };
}

macro_rules! add_product {
    ($sums:literal, $a:literal, $b:literal) => {
        asm!(
            concat!("tdpbf16ps tmm", $sums, ", tmm", $a, ", tmm", $b),
            options(nomem, nostack, preserves_flags)
        )
    };
}

/// Begins the sums in a register with what is added, or with nothing.
macro_rules! begin {
    ($register:literal, $t:ident, $row:literal, $column:literal) => {
        if $t.d.is_null() {
            asm!(concat!("tilezero tmm", $register), options(nomem, nostack, preserves_flags));
        } else {
            load!($register, $t.d.add($row * $t.d_block + LINE * $column), 4 * $t.d_row);
        }
    };
}

/// Loads one or two tiles of B.
macro_rules! load_b {
    ($b:expr, $pitch:ident) => {
        load!(6, $b, $pitch);
        if COLUMNS == 2 {
            load!(7, $b.add(LINE), $pitch);
        }
    };
}

/// Adds the products of one or two tiles of A, which it loads, with those of B.
macro_rules! add_products {
    ($a:expr, $t:ident, $pitch:ident) => {
        load!(4, $a, $pitch);
        add_product!(0, 4, 6);
        if COLUMNS == 2 {
            add_product!(1, 4, 7);
        }
        if ROWS == 2 {
            load!(5, $a.add($t.a_block), $pitch);
            add_product!(2, 5, 6);
        }
        if ROWS == 2 && COLUMNS == 2 {
            add_product!(3, 5, 7);
        }
    };
}

/// Sums of `ROWS` by `COLUMNS` registers, of operands of so many parts. What rounding has cut off of both is too small to
/// be multiplied.
///
/// # Safety
/// As for [`Registers::multiply`], and the registers have these shapes.
unsafe fn multiply<const ROWS: usize, const COLUMNS: usize, const PARTS: usize>(t: &Block<'_>) {
    // SAFETY: by the caller's promise. The instructions touch what the shapes name and no more.
    unsafe {
        begin!(0, t, 0, 0);
        if COLUMNS == 2 {
            begin!(1, t, 0, 1);
        }
        if ROWS == 2 {
            begin!(2, t, 1, 0);
        }
        if ROWS == 2 && COLUMNS == 2 {
            begin!(3, t, 1, 1);
        }
        let (a_pitch, b_pitch) = (4 * t.a_row, 4 * t.b_row);
        let mut b = t.b;
        for tap in t.taps {
            let mut a = t.a.add(*tap);
            for _ in 0..t.groups {
                load_b!(b, b_pitch);
                add_products!(a, t, a_pitch);
                if PARTS == 2 {
                    add_products!(a.add(t.lost.unwrap_or_default()), t, a_pitch);
                    load_b!(b.add(LINE * t.b_row), b_pitch);
                    add_products!(a, t, a_pitch);
                }
                a = a.wrapping_add(t.a_step);
                b = b.wrapping_add(PARTS * LINE * t.b_row);
            }
        }
        let c_pitch = 4 * t.c_row;
        store!(0, t.c, c_pitch);
        if COLUMNS == 2 {
            store!(1, t.c.add(LINE), c_pitch);
        }
        if ROWS == 2 {
            store!(2, t.c.add(t.c_block), c_pitch);
        }
        if ROWS == 2 && COLUMNS == 2 {
            store!(3, t.c.add(t.c_block + LINE), c_pitch);
        }
    }
}
