//! The walk that the forward pass and the data gradient share: every destination pixel is a sum over source pixels at
//! fixed offsets, so neighbouring destination pixels are the rows of a product whose left operand is read in place.
//!
//! A unit copies the source pixels of its destination rows once, with zeros beside the columns, and takes all taps of a
//! tile in registers. On narrow maps neighbouring images, not pixels, are the rows of a tile; taps outside the map are
//! then left out altogether.

use crate::kernels::gemm::{Columns, Strip, pack_all};
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tap, Tile};

use super::clip;
use super::cut::Cut;
use super::partial::run;

/// Extents of one side of a walk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plane {
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

/// Destination places along one axis that use the same taps: place `i` lies at `first + i * step` (see [`Axis`]) and
/// reads the source places `i * stride + low ..` of consecutive taps.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub first: usize,
    pub count: usize,
    pub low: isize,
    /// Places in the kernel of the taps, in the order of their source places.
    pub taps: Vec<usize>,
}

/// All classes along one axis. Together they use every place in the kernel exactly once, and the first one has the most
/// destination places.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub stride: usize,
    pub step: usize,
    pub classes: Vec<Class>,
}

impl Axis {
    /// Destination places of the largest class.
    pub(super) fn count(&self) -> usize {
        self.classes.iter().map(|class| class.count).max().unwrap_or(0)
    }

    /// The source places that destination places `places` read, perhaps beyond the map.
    pub(super) fn reach(&self, places: std::ops::Range<usize>) -> (isize, isize) {
        let used = self.classes.iter().filter(|class| !class.taps.is_empty() && class.count > places.start);
        let ends = used.map(|class| {
            let last = (places.end.min(class.count) - 1) * self.stride + class.taps.len();
            ((places.start * self.stride) as isize + class.low, last as isize + class.low)
        });
        ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0))
    }
}

/// A whole walk.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    pub n: usize,
    pub groups: usize,
    pub from: Plane,
    pub to: Plane,
    pub down: Axis,
    pub across: Axis,
}

impl Sweep {
    /// Places `(down, across)` in the kernel, in the order in which the right operand holds them.
    pub(super) fn order(&self) -> Vec<(usize, usize)> {
        let mut order = Vec::new();
        for down in &self.down.classes {
            for across in &self.across.classes {
                order.extend(down.taps.iter().flat_map(|&i| across.taps.iter().map(move |&j| (i, j))));
            }
        }
        order
    }

    /// `y` from `x`, or added to `y`. `pack` fills the panel of a group with `[tap][source channel][column]`.
    pub(super) fn run(
        &self,
        level: Level,
        x: &[f32],
        pack: impl Fn(usize, usize, &mut [f32]) + Sync,
        y: &mut [f32],
        add: bool,
    ) {
        let (from, to) = (self.from, self.to);
        assert!(
            x.len() >= self.n * from.h * from.w * from.c && y.len() >= self.n * to.h * to.w * to.c,
            "convolution: operands too short"
        );
        let columns = Columns(to.c / self.groups);
        let taps = self.order().len();
        let depth = taps * (from.c / self.groups);
        let packed: Vec<_> = (0..self.groups)
            .map(|group| pack_all(depth, columns, &|panel, dst: &mut [f32]| pack(group, panel, dst)))
            .collect();
        let panels = columns.panels() * self.groups;
        let cut = Cut::new(self, panels);
        let (blocks, bands) = (self.n.div_ceil(cut.images), self.down.count().div_ceil(cut.rows));
        let shares = panels.div_ceil(cut.panels);
        let out = Disjoint::new(y);
        parallel::for_each(blocks * bands * shares, |unit| {
            let (place, share) = (unit / shares, unit % shares);
            let (block, band) = (place / bands, place % bands);
            let images = (block * cut.images)..self.n.min((block + 1) * cut.images);
            let rows = (band * cut.rows)..self.down.count().min((band + 1) * cut.rows);
            let window = Window::new(self, &cut, images, rows);
            scratch(window.len(), 0, |copy, _| {
                window.copy(x, copy);
                let share = (share * cut.panels)..panels.min((share + 1) * cut.panels);
                for (group, packed) in packed.iter().enumerate() {
                    // The panels of the share in this group.
                    let own = group * columns.panels()..(group + 1) * columns.panels();
                    let within = |panel: usize| panel.clamp(own.start, own.end) - own.start;
                    for strip in columns.strips(within(share.start)..within(share.end)) {
                        let task = Task {
                            window: &window,
                            kernel: strip.kernels(level, PANEL * depth),
                            strip,
                            depth: from.c / self.groups,
                            a: &copy[..],
                            channel: group * (from.c / self.groups),
                            b: &packed[strip.panel * PANEL * depth..][..depth * strip.width],
                            out: &out,
                            column: group * columns.0 + strip.panel * PANEL,
                            add,
                        };
                        task.run();
                    }
                }
            });
        });
    }
}

/// Source pixels that a unit needs, copied to where the tile reads them.
struct Window<'a> {
    sweep: &'a Sweep,
    by_image: bool,
    images: std::ops::Range<usize>,
    /// Destination rows, counted within their class.
    rows: std::ops::Range<usize>,
    /// Source rows that exist.
    from_rows: (usize, usize),
    /// Source columns; those beyond the map are zeros.
    from_columns: (isize, isize),
    /// Distance of copied pixels and images.
    pixel: usize,
    image: usize,
}

impl<'a> Window<'a> {
    /// The window of the given images and destination rows.
    fn new(
        sweep: &'a Sweep,
        cut: &Cut,
        images: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
    ) -> Self {
        let (low, high) = sweep.down.reach(rows.clone());
        let from_rows = (low.max(0) as usize, high.clamp(0, sweep.from.h as isize) as usize);
        let from_rows = (from_rows.0.min(from_rows.1), from_rows.1);
        let from_columns = cut.columns(sweep);
        let width = (from_columns.1 - from_columns.0) as usize;
        let image = cut.image_pitch((from_rows.1 - from_rows.0) * width * cut.pixel);
        Self { sweep, by_image: cut.by_image, images, rows, from_rows, from_columns, pixel: cut.pixel, image }
    }

    /// Copied columns.
    fn width(&self) -> usize {
        (self.from_columns.1 - self.from_columns.0) as usize
    }

    /// Floats of the copy.
    fn len(&self) -> usize {
        self.images.len() * self.image
    }

    /// Offset of a copied pixel.
    fn at(&self, image: usize, row: usize, column: isize) -> usize {
        let column = (column - self.from_columns.0) as usize;
        image * self.image + ((row - self.from_rows.0) * self.width() + column) * self.pixel
    }

    /// Copies the source pixels.
    fn copy(&self, x: &[f32], dst: &mut [f32]) {
        let Plane { h, w, c } = self.sweep.from;
        let (low, high) = self.from_columns;
        let taken = (low.max(0) as usize).min(w)..high.clamp(0, w as isize) as usize;
        let left = (-low).clamp(0, high - low) as usize * self.pixel;
        let right = left + taken.len() * self.pixel;
        if self.width() == 0 {
            return;
        }
        for (i, n) in self.images.clone().enumerate() {
            let rows = dst[i * self.image..].chunks_exact_mut(self.width() * self.pixel);
            for (row, dst) in (self.from_rows.0..self.from_rows.1).zip(rows) {
                let src = &x[((n * h + row) * w + taken.start) * c..][..taken.len() * c];
                dst[..left].fill(0.0);
                dst[right..].fill(0.0);
                let dst = &mut dst[left..right];
                if self.pixel == c {
                    dst.copy_from_slice(src);
                } else {
                    for (dst, src) in dst.chunks_exact_mut(self.pixel).zip(src.chunks_exact(c)) {
                        dst[..c].copy_from_slice(src);
                    }
                }
            }
        }
    }
}

/// One panel of columns for the pixels of one unit.
struct Task<'a> {
    window: &'a Window<'a>,
    kernel: Panel,
    strip: Strip,
    /// Source channels of the group.
    depth: usize,
    a: &'a [f32],
    channel: usize,
    b: &'a [f32],
    out: &'a Disjoint<'a>,
    column: usize,
    add: bool,
}

impl Task<'_> {
    /// Every destination pixel of the unit.
    fn run(&self) {
        let sweep = self.window.sweep;
        let mut taps = Vec::new();
        let mut start = 0;
        for down in &sweep.down.classes {
            for across in &sweep.across.classes {
                let rows = self.window.rows.start..self.window.rows.end.min(down.count);
                for i in rows {
                    let place = (i, down.first + i * sweep.down.step);
                    if self.window.by_image {
                        for j in 0..across.count {
                            let low = (j * sweep.across.stride) as isize + across.low;
                            let clipped = clip(low, across.taps.len(), sweep.from.w);
                            let depth = self.taps(start, (down, across), (place.0, low), clipped, &mut taps);
                            let to = across.first + j * sweep.across.step;
                            let images = self.window.images.clone();
                            self.rows(
                                &taps,
                                depth,
                                self.window.image,
                                (images.start, place.1, to),
                                images.len(),
                            );
                        }
                    } else {
                        let all = (0, across.taps.len());
                        let depth = self.taps(start, (down, across), (place.0, across.low), all, &mut taps);
                        let row = sweep.across.stride * self.window.pixel;
                        for n in self.window.images.clone() {
                            self.rows(&taps, depth, row, (n, place.1, across.first), across.count);
                            taps.iter_mut().for_each(|tap| tap.a += self.window.image);
                        }
                    }
                }
                start += down.taps.len() * across.taps.len();
            }
        }
    }

    /// Fills `taps` for destination row `i` whose first pixel reads the source columns from `low` on, of which only
    /// those in `used` count, and returns the depth of each. `start` is the place of the class in the right operand.
    fn taps(
        &self,
        start: usize,
        (down, across): (&Class, &Class),
        (i, low): (usize, isize),
        used: (usize, usize),
        taps: &mut Vec<Tap>,
    ) -> usize {
        let Window { sweep, pixel, .. } = self.window;
        taps.clear();
        let first = (i * sweep.down.stride) as isize + down.low;
        let (top, bottom) = clip(first, down.taps.len(), sweep.from.h);
        // Neighbouring pixels without anything between them are one tap.
        let joined = *pixel == self.depth;
        for t in top..bottom {
            let row = (first + t as isize) as usize;
            let mut push = |u: usize| {
                let a = self.window.at(0, row, low + u as isize) + self.channel;
                let b = (start + t * across.taps.len() + u) * self.depth * self.strip.step;
                taps.push(Tap { a, b });
            };
            if used.0 >= used.1 {
                continue;
            } else if joined {
                push(used.0);
            } else {
                (used.0..used.1).for_each(push);
            }
        }
        if joined { (used.1 - used.0) * self.depth } else { self.depth }
    }

    /// `count` rows of C from destination pixel `(image, row, column)` on.
    fn rows(
        &self,
        taps: &[Tap],
        depth: usize,
        a_row: usize,
        (n, row, column): (usize, usize, usize),
        count: usize,
    ) {
        let sweep = self.window.sweep;
        let Plane { h, w, c } = sweep.to;
        let c_row = if self.window.by_image { h * w * c } else { sweep.across.step * c };
        let start = ((n * h + row) * w + column) * c + self.column;
        if count == 0 {
            return;
        }
        if taps.is_empty() {
            for row in 0..if self.add { 0 } else { count } {
                // SAFETY: these columns of these pixels belong to this unit.
                unsafe { self.out.slice(start + row * c_row, self.strip.used) }.fill(0.0);
            }
            return;
        }
        let tile = Tile {
            a: self.a.as_ptr(),
            a_row,
            a_step: 1,
            b: self.b.as_ptr(),
            b_step: self.strip.step,
            // SAFETY: these columns of these pixels belong to this unit; the last row ends with the panel.
            c: unsafe { self.out.pointer(start, (count - 1) * c_row + self.strip.used) },
            c_row,
            depth,
            add: self.add,
        };
        // SAFETY: the window holds all pixels that the taps of its rows reach, `b` all taps.
        unsafe { run(self.kernel, (self.strip.used, self.strip.width), count, &tile, taps) }
    }
}
