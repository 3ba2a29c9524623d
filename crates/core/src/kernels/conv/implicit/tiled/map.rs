//! A map as rows of pairs of channels.

use crate::kernels::conv::implicit::clip;
use crate::kernels::conv::implicit::sweep::Sweep;
use crate::kernels::gemm::UNITS;
use crate::kernels::gemm::bf16::pack;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};

/// The source of a walk with all places that it reads, and zeros where those are beyond the source.
pub(super) struct Map {
    words: Buffer,
    /// Place of the first row and column in the source.
    pub first: (isize, isize),
    /// Rows and columns, and words of a pixel.
    pub extents: (usize, usize, usize),
}

impl Map {
    pub(super) fn new(sweep: &Sweep, x: &[f32]) -> Self {
        let from = sweep.from;
        let (top, bottom) = sweep.down.reach(0..sweep.down.count().max(1));
        let (left, right) = sweep.across.reach(0..sweep.across.count().max(1));
        let (h, w, c) = ((bottom - top) as usize, (right - left) as usize, from.c / 2);
        let mut words = Buffer::new(sweep.n * h * w * c);
        let out = Disjoint::new(&mut words);
        let (rows, columns) = (clip(top, h, from.h), clip(left, w, from.w));
        let share = (sweep.n * h).div_ceil(UNITS).max(1);
        parallel::for_each((sweep.n * h).div_ceil(share), |unit| {
            for row in (unit * share)..(sweep.n * h).min((unit + 1) * share) {
                // SAFETY: every row belongs to one unit.
                let to = pack::words_mut(unsafe { out.slice(row * w * c, w * c) });
                let (n, i) = (row / h, row % h);
                if !(rows.0..rows.1).contains(&i) || columns.0 == columns.1 {
                    to.fill(0);
                    continue;
                }
                let place = (top + i as isize) as usize * from.w + (left + columns.0 as isize) as usize;
                let len = (columns.1 - columns.0) * from.c;
                let x = &x[(n * from.h * from.w + place) * from.c..][..len];
                to[..columns.0 * c].fill(0);
                to[columns.1 * c..].fill(0);
                // SAFETY: only called on machines with the instructions.
                unsafe { pack::rows::<1>(x, len, len, &mut to[columns.0 * c..columns.1 * c], len / 2) };
            }
        });
        Self { words, first: (top, left), extents: (h, w, c) }
    }

    pub(super) fn words(&self) -> &[u32] {
        pack::words(&self.words)
    }
}
