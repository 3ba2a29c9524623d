//! The loops. Work is cut into units of one group of samples and a block of channels; a unit reads its part of the
//! batch sample by sample, so that sums are taken in the same order whoever runs it.

use std::ops::Range;
use std::sync::OnceLock;

use super::Extents;
use crate::kernels::parallel::{self, Output};

/// Runs of neighbouring elements that a unit reads at once, at least.
const RUN: usize = 64;
/// Elements that are summed in f32 before they go to f64.
const CHUNK: usize = 512;

/// The blocks of channels of all groups.
struct Units {
    block: usize,
    per_group: usize,
}

impl Units {
    fn new(e: &Extents) -> Self {
        let block = (RUN / e.plane).clamp(1, e.c);
        Self { block, per_group: e.c.div_ceil(block) }
    }

    fn run(&self, e: &Extents, f: impl Fn(usize, Range<usize>) + Send + Sync) {
        parallel::for_each(e.groups * self.per_group, |unit| {
            let start = unit % self.per_group * self.block;
            f(unit / self.per_group, start..(start + self.block).min(e.c));
        });
    }
}

impl Extents {
    fn samples(&self, group: usize) -> Range<usize> {
        let per_group = self.n / self.groups;
        group * per_group..(group + 1) * per_group
    }

    /// Where the channels of a sample lie.
    fn run(&self, sample: usize, channels: &Range<usize>) -> Range<usize> {
        let start = sample * self.c;
        (start + channels.start) * self.plane..(start + channels.end) * self.plane
    }
}

/// For each group and channel the sums of `K` functions of the elements of `M` operands, `[G, K, C]` in f64. `f` gets
/// the channel's place in `[G, C]` and one element of each operand.
fn sums<const M: usize, const K: usize>(
    e: &Extents,
    operands: [&[f32]; M],
    f: impl Fn(usize, [f32; M]) -> [f32; K] + Send + Sync,
) -> Vec<f64> {
    let units = Units::new(e);
    let out: Vec<OnceLock<[f64; K]>> = (0..e.groups * e.c).map(|_| OnceLock::new()).collect();
    units.run(e, |group, channels| {
        let first = group * e.c + channels.start;
        let mut totals = vec![[0f64; K]; channels.len()];
        for sample in e.samples(group) {
            let run = e.run(sample, &channels);
            let operands = operands.map(|o| &o[run.clone()]);
            for (i, total) in totals.iter_mut().enumerate() {
                let channel = operands.map(|o| &o[i * e.plane..(i + 1) * e.plane]);
                for start in (0..e.plane).step_by(CHUNK) {
                    let end = (start + CHUNK).min(e.plane);
                    add_lanes(channel.map(|o| &o[start..end]), total, |values| f(first + i, values));
                }
            }
        }
        for (i, total) in totals.into_iter().enumerate() {
            // Every place belongs to one unit, so it is still empty.
            let _ = out[first + i].set(total);
        }
    });
    let mut sums = vec![0f64; e.groups * K * e.c];
    for (i, totals) in out.iter().enumerate() {
        let (group, channel) = (i / e.c, i % e.c);
        for k in 0..K {
            sums[(group * K + k) * e.c + channel] = totals.get().map_or(0.0, |t| t[k]);
        }
    }
    sums
}

/// Adds the sums over equally long operands to `total`, in sixteen independent lanes, which the compiler keeps in
/// vector registers.
#[inline(always)]
fn add_lanes<const M: usize, const K: usize>(
    operands: [&[f32]; M],
    total: &mut [f64; K],
    f: impl Fn([f32; M]) -> [f32; K],
) {
    const LANES: usize = 16;
    let parts = operands.map(|o| o.as_chunks::<LANES>());
    let (blocks, rest) = parts.first().map_or((0, 0), |(blocks, rest)| (blocks.len(), rest.len()));
    if blocks > 0 {
        let mut sums = [[0f32; LANES]; K];
        for block in 0..blocks {
            let at = parts.map(|(blocks, _)| &blocks[block]);
            // Indices, because a lane runs across all arrays and the compiler must see a constant number of lanes.
            #[allow(clippy::needless_range_loop)]
            for lane in 0..LANES {
                let values = f(at.map(|block| block[lane]));
                for k in 0..K {
                    sums[k][lane] += values[k];
                }
            }
        }
        for (total, lanes) in total.iter_mut().zip(sums) {
            *total += lanes.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
    }
    for i in 0..rest {
        let values = f(parts.map(|(_, rest)| rest[i]));
        for (total, value) in total.iter_mut().zip(values) {
            *total += f64::from(value);
        }
    }
}

/// Sums over the samples of each group: `[G, C]`.
pub(super) fn sum(e: &Extents, x: &[f32]) -> Vec<f64> {
    sums(e, [x], |_, x| x)
}

/// Sums of squared distances from `mean` `[G, C]`: `[G, C]`.
pub(super) fn sum_centred_squares(e: &Extents, x: &[f32], mean: &[f32]) -> Vec<f64> {
    sums(e, [x], |c, [x]| {
        let d = x - mean[c];
        [d * d]
    })
}

/// What `y` is made of: per group and channel `[G, C]`.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub inv_std: Vec<f32>,
}

/// The values of a pass: moments, gamma above beta `[2, C]`, the residual, whether a ReLU follows.
pub(super) struct Pass<'a> {
    pub e: Extents,
    pub x: &'a [f32],
    pub affine: &'a [f32],
    pub moments: &'a Moments,
    pub relu: bool,
}

impl Pass<'_> {
    /// Calls `f(place in [G, C], channel, elements)` for every channel of every sample, in parallel.
    fn runs(&self, f: impl Fn(usize, usize, Range<usize>) + Send + Sync) {
        let e = self.e;
        Units::new(&e).run(&e, |group, channels| {
            for sample in e.samples(group) {
                let start = e.run(sample, &channels).start;
                for (i, c) in channels.clone().enumerate() {
                    let start = start + i * e.plane;
                    f(group * e.c + c, c, start..start + e.plane);
                }
            }
        });
    }

    pub(super) fn forward(&self, residual: Option<&[f32]>) -> Vec<f32> {
        let (e, x) = (self.e, self.x);
        let write = |place: usize, c: usize, run: Range<usize>, out: &Output| {
            let mean = self.moments.mean[place];
            let scale = self.moments.inv_std[place] * self.affine[c];
            let beta = self.affine[e.c + c];
            // SAFETY: every run is visited once.
            let out = unsafe { out.slice(run.start, run.len()) };
            let normalised = x[run.clone()].iter().map(|&x| (x - mean) * scale + beta);
            // A comparison that NaN passes through.
            let relu = |y: f32| if y <= 0.0 { 0.0 } else { y };
            let out = out.iter_mut();
            match (residual.map(|r| &r[run]), self.relu) {
                (None, false) => out.zip(normalised).for_each(|(o, y)| {
                    o.write(y);
                }),
                (None, true) => out.zip(normalised).for_each(|(o, y)| {
                    o.write(relu(y));
                }),
                (Some(r), false) => out.zip(normalised).zip(r).for_each(|((o, y), r)| {
                    o.write(y + r);
                }),
                (Some(r), true) => out.zip(normalised).zip(r).for_each(|((o, y), r)| {
                    o.write(relu(y + r));
                }),
            }
        };
        // SAFETY: the runs cover the batch.
        unsafe { parallel::build(x.len(), |out| self.runs(|place, c, run| write(place, c, run, out))) }
    }

    /// `[G, 2, C]`: sums of `dz` and of `dz * xhat`, where `dz` is the gradient before the ReLU.
    pub(super) fn gradient_sums(&self, y: &[f32], dy: &[f32]) -> Vec<f64> {
        let (e, x, mean) = (self.e, self.x, &self.moments.mean);
        let mut sums = if self.relu {
            sums(&e, [x, y, dy], |c, [x, y, dy]| {
                let dz = if y > 0.0 { dy } else { 0.0 };
                [dz, dz * (x - mean[c])]
            })
        } else {
            sums(&e, [x, dy], |c, [x, dy]| [dy, dy * (x - mean[c])])
        };
        for (place, inv_std) in self.moments.inv_std.iter().enumerate() {
            let (group, c) = (place / e.c, place % e.c);
            sums[(group * 2 + 1) * e.c + c] *= f64::from(*inv_std);
        }
        sums
    }

    /// The gradient of `x`; `means` `[G, 2, C]` are the means of `dz` and `dz * xhat` that the batch statistics pass
    /// back, zeros for fixed statistics.
    pub(super) fn backward(&self, y: &[f32], dy: &[f32], means: &[f64]) -> Vec<f32> {
        let (e, x) = (self.e, self.x);
        let write = |place: usize, c: usize, run: Range<usize>, out: &Output| {
            let (mean, inv_std) = (self.moments.mean[place], self.moments.inv_std[place]);
            let scale = inv_std * self.affine[c];
            let at = place / e.c * 2 * e.c + c;
            let (shift, slope) = (means[at] as f32, means[at + e.c] as f32 * inv_std);
            // SAFETY: every run is visited once.
            let out = unsafe { out.slice(run.start, run.len()) };
            let values = out.iter_mut().zip(&x[run.clone()]).zip(&dy[run.clone()]);
            if self.relu {
                for (((o, x), dy), y) in values.zip(&y[run]) {
                    let dz = if *y > 0.0 { *dy } else { 0.0 };
                    o.write(scale * (dz - shift - (x - mean) * slope));
                }
            } else {
                for ((o, x), dy) in values {
                    o.write(scale * (dy - shift - (x - mean) * slope));
                }
            }
        };
        // SAFETY: the runs cover the batch.
        unsafe { parallel::build(x.len(), |out| self.runs(|place, c, run| write(place, c, run, out))) }
    }
}
