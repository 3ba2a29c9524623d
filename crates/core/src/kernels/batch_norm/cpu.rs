//! The loops over `[rows, C]`, where rows are samples times pixels. A unit of work is a block of rows small enough for
//! the first cache, so that the two sweeps of a stable variance read memory once. Blocks depend on the shape alone and
//! are added up in order.

use std::ops::Range;

use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::vectorized;

/// Elements of a block.
const BLOCK: usize = 1 << 13;
/// Most rows of a block: what is summed in f32 before it goes to f64.
const MOST_ROWS: usize = 512;

/// `[rows, C]` in equal groups of consecutive rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub rows: usize,
    pub c: usize,
    pub groups: usize,
}

impl Rows {
    fn per_group(&self) -> usize {
        self.rows / self.groups
    }

    fn block(&self) -> usize {
        (BLOCK / self.c).clamp(1, MOST_ROWS)
    }

    fn blocks_per_group(&self) -> usize {
        self.per_group().div_ceil(self.block())
    }

    fn blocks(&self) -> usize {
        self.groups * self.blocks_per_group()
    }

    /// The group of a block and its elements.
    fn place(&self, block: usize) -> (usize, Range<usize>) {
        let (group, i) = (block / self.blocks_per_group(), block % self.blocks_per_group());
        let first = group * self.per_group();
        let rows = first + i * self.block()..first + ((i + 1) * self.block()).min(self.per_group());
        (group, rows.start * self.c..rows.end * self.c)
    }

    /// Calls `f(group, elements, [2, C] to fill)` for every block and returns what it filled.
    fn gather(&self, f: impl Fn(usize, Range<usize>, &mut [f32], &mut [f32]) + Send + Sync) -> Vec<f32> {
        let width = 2 * self.c;
        let mut parts = vec![0f32; self.blocks() * width];
        let out = Disjoint::new(&mut parts);
        parallel::for_each(self.blocks(), |block| {
            let (group, elements) = self.place(block);
            // SAFETY: every block has its own part.
            let (a, b) = unsafe { out.slice(block * width, width) }.split_at_mut(self.c);
            f(group, elements, a, b);
        });
        parts
    }

    /// Rows of each block's group, block by block.
    fn heights(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        (0..self.blocks()).map(|block| {
            let (group, elements) = self.place(block);
            (group, (elements.len() / self.c) as f64)
        })
    }
}

/// Sums and squared distances from the mean of every block: what batch statistics are made of.
pub(super) struct BlockMoments {
    at: Rows,
    parts: Vec<f32>,
}

impl BlockMoments {
    pub(super) fn new(at: Rows, x: &[f32]) -> Self {
        let parts = at.gather(|_, elements, sums, squares| block_moments(&x[elements], sums, squares));
        Self { at, parts }
    }

    /// Sums over the rows of each group: `[G, C]`.
    pub(super) fn sums(&self) -> Vec<f64> {
        let c = self.at.c;
        let mut total = vec![0f64; self.at.groups * c];
        for ((group, _), part) in self.at.heights().zip(self.parts.chunks_exact(2 * c)) {
            for (total, &sum) in total[group * c..].iter_mut().zip(&part[..c]) {
                *total += f64::from(sum);
            }
        }
        total
    }

    /// Sums of squared distances from `mean` `[G, C]`: `[G, C]`.
    pub(super) fn squares(&self, mean: &[f64]) -> Vec<f64> {
        let c = self.at.c;
        let mut total = vec![0f64; self.at.groups * c];
        for ((group, rows), part) in self.at.heights().zip(self.parts.chunks_exact(2 * c)) {
            let (sums, squares) = part.split_at(c);
            for (i, (&sum, &square)) in sums.iter().zip(squares).enumerate() {
                let at = group * c + i;
                let off = f64::from(sum) / rows - mean[at];
                total[at] += f64::from(square) + rows * off * off;
            }
        }
        total
    }
}

/// What `y` is made of, per group and channel `[G, C]`.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub inv_std: Vec<f32>,
}

/// The values of a pass.
pub(super) struct Pass<'a> {
    pub at: Rows,
    pub x: &'a [f32],
    /// Gamma above beta, `[2, C]`.
    pub affine: &'a [f32],
    pub moments: &'a Moments,
    pub relu: bool,
}

/// Which gradients pass the ReLU.
#[derive(Clone, Copy)]
pub(super) enum Mask<'a> {
    /// Those where the output, made anew from `x`, is positive; all where no ReLU follows.
    Recomputed,
    /// Those where this output is positive.
    Output(&'a [f32]),
}

impl Pass<'_> {
    fn channels(&self, group: usize) -> Channels<'_> {
        let c = self.at.c;
        Channels {
            mean: &self.moments.mean[group * c..(group + 1) * c],
            inv_std: &self.moments.inv_std[group * c..(group + 1) * c],
            gamma: &self.affine[..c],
            beta: &self.affine[c..2 * c],
        }
    }

    /// Below this an output counts as clipped.
    fn floor(&self) -> f32 {
        if self.relu { 0.0 } else { f32::NEG_INFINITY }
    }

    fn for_each(&self, f: impl Fn(Channels<'_>, Range<usize>) + Send + Sync) {
        parallel::for_each(self.at.blocks(), |block| {
            let (group, elements) = self.at.place(block);
            f(self.channels(group), elements);
        });
    }

    pub(super) fn forward(&self, residual: Option<&[f32]>, y: &mut [f32]) {
        let (floor, out) = (self.floor(), Disjoint::new(y));
        self.for_each(|channels, elements| {
            // SAFETY: blocks do not overlap.
            let y = unsafe { out.slice(elements.start, elements.len()) };
            let x = &self.x[elements.clone()];
            match residual {
                None => block_forward(channels, x, floor, y),
                Some(residual) => block_forward_residual(channels, x, &residual[elements], floor, y),
            }
        });
    }

    /// `[G, 2, C]`: sums of `dz` and of `dz * xhat`, where `dz` is the gradient before the ReLU.
    pub(super) fn gradient_sums(&self, mask: Mask, dy: &[f32]) -> Vec<f64> {
        let (c, floor) = (self.at.c, self.floor());
        let parts = self.at.gather(|group, elements, sums, products| {
            let (channels, x, dy) = (self.channels(group), &self.x[elements.clone()], &dy[elements.clone()]);
            match mask {
                Mask::Recomputed => block_gradient_sums(channels, x, dy, floor, sums, products),
                Mask::Output(y) => block_gradient_sums_masked(channels, x, &y[elements], dy, sums, products),
            }
        });
        let mut total = vec![0f64; self.at.groups * 2 * c];
        for ((group, _), part) in self.at.heights().zip(parts.chunks_exact(2 * c)) {
            for (total, &part) in total[group * 2 * c..].iter_mut().zip(part) {
                *total += f64::from(part);
            }
        }
        for (place, inv_std) in self.moments.inv_std.iter().enumerate() {
            total[(place / c * 2 + 1) * c + place % c] *= f64::from(*inv_std);
        }
        total
    }

    /// Turns `dy` into the gradient of `x`, where the mask is [`Mask::Recomputed`]. `means` `[G, 2, C]` are the means
    /// of `dz` and `dz * xhat` that batch statistics pass back, zeros for fixed ones.
    pub(super) fn backward(&self, dy: &mut [f32], means: &[f32]) {
        let (floor, out) = (self.floor(), Disjoint::new(dy));
        self.blocks_with(means, |channels, means, elements| {
            // SAFETY: blocks do not overlap.
            let dy = unsafe { out.slice(elements.start, elements.len()) };
            block_backward(channels, means, &self.x[elements], floor, dy);
        });
    }

    /// Turns `dy` into the gradient of the residual, `dz`, and fills `dx`, where a ReLU made the output `y`.
    pub(super) fn backward_residual(&self, y: &[f32], dy: &mut [f32], means: &[f32], dx: &mut [f32]) {
        let (dz, out) = (Disjoint::new(dy), Disjoint::new(dx));
        self.blocks_with(means, |channels, means, elements| {
            let (start, len) = (elements.start, elements.len());
            // SAFETY: blocks do not overlap.
            let (dz, dx) = unsafe { (dz.slice(start, len), out.slice(start, len)) };
            block_backward_masked(channels, means, &self.x[elements.clone()], &y[elements], dz, dx);
        });
    }

    fn blocks_with(&self, means: &[f32], f: impl Fn(Channels<'_>, Means<'_>, Range<usize>) + Send + Sync) {
        let c = self.at.c;
        parallel::for_each(self.at.blocks(), |block| {
            let (group, elements) = self.at.place(block);
            let (shift, slope) = means[group * 2 * c..(group + 1) * 2 * c].split_at(c);
            f(self.channels(group), Means { shift, slope }, elements);
        });
    }
}

/// The channels of one group.
#[derive(Clone, Copy)]
struct Channels<'a> {
    mean: &'a [f32],
    inv_std: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
}

/// Means of `dz` and of `dz * xhat` of one group.
#[derive(Clone, Copy)]
struct Means<'a> {
    shift: &'a [f32],
    slope: &'a [f32],
}

impl Channels<'_> {
    /// The same slices, known to the compiler to be of one length.
    #[inline(always)]
    fn cut(self) -> Self {
        let c = self.mean.len();
        Self { mean: self.mean, inv_std: &self.inv_std[..c], gamma: &self.gamma[..c], beta: &self.beta[..c] }
    }

    /// Every pass must find the same bits, or masks would differ.
    #[inline(always)]
    fn normal(&self, i: usize, x: f32) -> f32 {
        (x - self.mean[i]) * (self.inv_std[i] * self.gamma[i]) + self.beta[i]
    }
}

// Counted loops over slices cut to one length: the compiler drops the bounds checks and vectorises.
vectorized! {
    fn block_moments(x: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        let c = sums.len();
        let squares = &mut squares[..c];
        for row in x.chunks_exact(c) {
            for i in 0..c {
                sums[i] += row[i];
            }
        }
        let part = c as f32 / x.len() as f32;
        for row in x.chunks_exact(c) {
            for i in 0..c {
                let off = row[i] - sums[i] * part;
                squares[i] += off * off;
            }
        }
    }

    fn block_forward(channels: Channels<'_>, x: &[f32], floor: f32, y: &mut [f32]) {
        let channels = channels.cut();
        let c = channels.mean.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            for i in 0..c {
                let z = channels.normal(i, x[i]);
                // A comparison that NaN passes through.
                y[i] = if z <= floor { floor } else { z };
            }
        }
    }

    fn block_forward_residual(channels: Channels<'_>, x: &[f32], residual: &[f32], floor: f32, y: &mut [f32]) {
        let channels = channels.cut();
        let c = channels.mean.len();
        for ((x, r), y) in x.chunks_exact(c).zip(residual.chunks_exact(c)).zip(y.chunks_exact_mut(c)) {
            for i in 0..c {
                let z = channels.normal(i, x[i]) + r[i];
                y[i] = if z <= floor { floor } else { z };
            }
        }
    }

    fn block_gradient_sums(
        channels: Channels<'_>, x: &[f32], dy: &[f32], floor: f32, sums: &mut [f32], products: &mut [f32],
    ) {
        let channels = channels.cut();
        let c = channels.mean.len();
        let (sums, products) = (&mut sums[..c], &mut products[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                let dz = if channels.normal(i, x[i]) <= floor { 0.0 } else { dy[i] };
                sums[i] += dz;
                products[i] += dz * (x[i] - channels.mean[i]);
            }
        }
    }

    fn block_gradient_sums_masked(
        channels: Channels<'_>, x: &[f32], y: &[f32], dy: &[f32], sums: &mut [f32], products: &mut [f32],
    ) {
        let c = channels.mean.len();
        let (sums, products) = (&mut sums[..c], &mut products[..c]);
        for ((x, y), dy) in x.chunks_exact(c).zip(y.chunks_exact(c)).zip(dy.chunks_exact(c)) {
            for i in 0..c {
                let dz = if y[i] <= 0.0 { 0.0 } else { dy[i] };
                sums[i] += dz;
                products[i] += dz * (x[i] - channels.mean[i]);
            }
        }
    }

    fn block_backward(channels: Channels<'_>, means: Means<'_>, x: &[f32], floor: f32, dy: &mut [f32]) {
        let channels = channels.cut();
        let c = channels.mean.len();
        let (shift, slope) = (&means.shift[..c], &means.slope[..c]);
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact_mut(c)) {
            for i in 0..c {
                let dz = if channels.normal(i, x[i]) <= floor { 0.0 } else { dy[i] };
                let off = (x[i] - channels.mean[i]) * channels.inv_std[i];
                dy[i] = channels.inv_std[i] * channels.gamma[i] * (dz - shift[i] - off * slope[i]);
            }
        }
    }

    fn block_backward_masked(
        channels: Channels<'_>, means: Means<'_>, x: &[f32], y: &[f32], dy: &mut [f32], dx: &mut [f32],
    ) {
        let channels = channels.cut();
        let c = channels.mean.len();
        let (shift, slope) = (&means.shift[..c], &means.slope[..c]);
        let inputs = x.chunks_exact(c).zip(y.chunks_exact(c));
        for ((x, y), (dy, dx)) in inputs.zip(dy.chunks_exact_mut(c).zip(dx.chunks_exact_mut(c))) {
            for i in 0..c {
                let dz = if y[i] <= 0.0 { 0.0 } else { dy[i] };
                let off = (x[i] - channels.mean[i]) * channels.inv_std[i];
                dx[i] = channels.inv_std[i] * channels.gamma[i] * (dz - shift[i] - off * slope[i]);
                dy[i] = dz;
            }
        }
    }
}
