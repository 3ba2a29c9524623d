//! How a walk is cut into units: by shape alone, so that results do not depend on the number of threads.

use super::sweep::Sweep;
use crate::kernels::gemm::{LINE, UNITS};

/// Floats of a copied window that stay in the second-level cache beside a panel.
const WINDOW: usize = 96 << 10;
/// Destination pixels that a panel is worth being read for.
const PIXELS: usize = 256;
/// Destination columns below which neighbouring images make better rows of a tile.
const NARROW: usize = 7;
/// Images of one unit where they are the rows of a tile.
const IMAGES: usize = 24;

/// Extents of one unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Whether neighbouring images are the rows of a tile.
    pub by_image: bool,
    pub images: usize,
    /// Destination rows, counted within a class.
    pub rows: usize,
    /// Panels of columns.
    pub panels: usize,
    /// Distance of copied pixels.
    pub pixel: usize,
}

/// `len` in `parts` parts that differ by at most one: the largest.
fn even(len: usize, most: usize) -> usize {
    len.div_ceil(len.div_ceil(most.clamp(1, len.max(1))).max(1)).max(1)
}

impl Cut {
    /// The cut of a walk whose columns fill so many panels.
    pub(super) fn new(sweep: &Sweep, panels: usize) -> Self {
        let (rows, columns) = (sweep.down.count(), sweep.across.count());
        let by_image = columns < NARROW && sweep.n > columns;
        let c = sweep.from.c;
        // Rows of a tile 1 KiB or more apart in steps of a power of two would push each other out of the cache.
        let aliased = !by_image && columns > 1 && (c * sweep.across.stride).is_multiple_of(PIXELS);
        let mut cut = Self { by_image, images: 1, rows, panels, pixel: if aliased { c + LINE } else { c } };
        let (low, high) = cut.columns(sweep);
        let row = (high - low) as usize * cut.pixel * sweep.down.stride;
        let pixels = sweep.to.h * sweep.to.w;
        if by_image {
            cut.images = even(sweep.n, IMAGES);
        } else if row * rows > WINDOW {
            cut.rows = even(rows, (WINDOW / row).max(1));
        } else {
            cut.images = even(sweep.n, (PIXELS / pixels.max(1)).min(WINDOW / (row * rows).max(1)).max(1));
        }
        let blocks = |cut: &Self| sweep.n.div_ceil(cut.images) * rows.div_ceil(cut.rows);
        let divisible = |cut: &Self| cut.rows > 1 && cut.rows * columns >= 2 * PIXELS;
        while !by_image && cut.images == 1 && blocks(&cut) < UNITS && divisible(&cut) {
            cut.rows = even(rows, cut.rows.div_ceil(2));
        }
        let shares = UNITS.div_ceil(blocks(&cut).max(1)).min(panels);
        cut.panels = panels.div_ceil(shares.max(1)).max(1);
        cut
    }

    /// Source columns of a window.
    pub(super) fn columns(&self, sweep: &Sweep) -> (isize, isize) {
        let (low, high) = sweep.across.reach(0..sweep.across.count().max(1));
        if self.by_image {
            let high = high.clamp(0, sweep.from.w as isize);
            (low.clamp(0, high), high)
        } else {
            (low, high)
        }
    }

    /// Distance of copied images of `len` floats each.
    pub(super) fn image_pitch(&self, len: usize) -> usize {
        // As for pixels: images are the rows of a tile.
        if self.by_image && len.is_multiple_of(PIXELS) { len + LINE } else { len }
    }
}
