//! A cell over all steps of a batch of sequences, forward and backward through time.
//!
//! Sequences do not depend on each other: a unit of work takes a few of them through all steps, with the hidden state's
//! weight packed once for all.

use super::cells::Cell;
use crate::kernels::gemm::{self, Columns, UNITS, copy_columns, pack_all, run, transpose};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::{PANEL, Panel, Tile, level};

/// Fewest sequences of one unit: fewer would read the weight for too little work.
const FEWEST: usize = 4;
/// Depth of one pass of the product.
const DEPTH: usize = 512;

/// Sequences, steps, width of the hidden state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extents {
    pub n: usize,
    pub t: usize,
    pub h: usize,
}

impl Extents {
    /// Sequences of one unit of work, by shape alone.
    fn block(self) -> usize {
        self.n.div_ceil(UNITS).max(FEWEST)
    }

    fn blocks(self) -> usize {
        self.n.div_ceil(self.block())
    }
}

/// A right operand that is multiplied from the left many times.
struct Packed {
    panels: Buffer,
    depth: usize,
    columns: Columns,
}

impl Packed {
    /// For `x w^T` with `w` `[o, c]`.
    fn transposed(w: &[f32], o: usize, c: usize) -> Self {
        let columns = Columns(o);
        let panels = pack_all(c, columns, &|panel, dst| {
            transpose(&w[panel * PANEL * c..], c, columns.used(panel), columns.width(panel), None, dst);
        });
        Self { panels, depth: c, columns }
    }

    /// For `x w` with `w` `[o, c]`.
    fn plain(w: &[f32], o: usize, c: usize) -> Self {
        let columns = Columns(c);
        let panels = pack_all(o, columns, &|panel, dst| {
            copy_columns(w, c, panel * PANEL, (columns.used(panel), columns.width(panel)), dst);
        });
        Self { panels, depth: o, columns }
    }

    /// Adds the product of `a` `[rows, depth]` to `out` `[rows, columns]`.
    fn add(&self, rows: usize, a: &[f32], out: &mut [f32]) {
        let (depth, columns) = (self.depth, self.columns);
        assert!(a.len() >= rows * depth && out.len() >= rows * columns.0, "recurrent product: too short");
        for panel in 0..columns.panels() {
            let (used, width) = (columns.used(panel), columns.width(panel));
            let b = &self.panels[panel * PANEL * depth..][..depth * width];
            for k in (0..depth).step_by(DEPTH) {
                let tile = Tile {
                    a: a[k..].as_ptr(),
                    a_row: depth,
                    a_step: 1,
                    b: b[k * width..].as_ptr(),
                    b_step: width,
                    c: out[panel * PANEL..].as_mut_ptr(),
                    c_row: columns.0,
                    depth: DEPTH.min(depth - k),
                    add: true,
                };
                // SAFETY: extents as asserted above; `out` is borrowed mutably.
                unsafe { run(Panel::new(level(), width), (used, width), rows, &tile) };
            }
        }
    }
}

/// What the forward pass leaves.
pub(super) struct Outcome {
    /// Hidden states behind every step, `[N, T, H]`.
    pub y: Buffer,
    /// Hidden states before every step, `[N, T, H]`.
    pub before: Buffer,
    /// What the cell keeps, `[N, T, KEPT · H]`.
    pub kept: Buffer,
    /// The states behind the last step, `[N, (1 + EXTRA) H]`.
    pub last: Vec<f32>,
}

/// Gates `[N, T, GATES · H]` of the input, weight `[GATES · H, H]` and bias `[GATES · H]` of the hidden state, first
/// states `[N, (1 + EXTRA) H]`. Before a step where `resets` `[N, T]` says so, the states are zero.
pub(super) fn forward<C: Cell>(
    extents: Extents,
    gates: &[f32],
    (w, bias): (&[f32], &[f32]),
    state: &[f32],
    resets: Option<&[bool]>,
) -> Outcome {
    let Extents { n, t, h } = extents;
    let (g, s) = (C::GATES * h, (1 + C::EXTRA) * h);
    let mut out = Outcome {
        y: Buffer::new(n * t * h),
        before: Buffer::new(n * t * h),
        kept: Buffer::new(n * t * C::KEPT * h),
        last: state.to_vec(),
    };
    let packed = Packed::transposed(w, g, h);
    let y = Disjoint::new(&mut out.y);
    let before = Disjoint::new(&mut out.before);
    let kept = Disjoint::new(&mut out.kept);
    let last = Disjoint::new(&mut out.last);
    parallel::for_each(extents.blocks(), |block| {
        let first = block * extents.block();
        let rows = extents.block().min(n - first);
        // SAFETY: every unit has sequences of its own.
        let (y, before, kept, last) = unsafe {
            (
                y.slice(first * t * h, rows * t * h),
                before.slice(first * t * h, rows * t * h),
                kept.slice(first * t * C::KEPT * h, rows * t * C::KEPT * h),
                last.slice(first * s, rows * s),
            )
        };
        let mut hidden: Vec<f32> = last.chunks_exact(s).flat_map(|state| &state[..h]).copied().collect();
        let mut extra: Vec<f32> = last.chunks_exact(s).flat_map(|state| &state[h..]).copied().collect();
        let mut q = vec![0f32; rows * g];
        for step in 0..t {
            for row in 0..rows {
                if resets.is_some_and(|resets| resets[(first + row) * t + step]) {
                    hidden[row * h..(row + 1) * h].fill(0.0);
                    extra[row * (s - h)..(row + 1) * (s - h)].fill(0.0);
                }
                q[row * g..(row + 1) * g].copy_from_slice(bias);
            }
            packed.add(rows, &hidden, &mut q);
            for row in 0..rows {
                let at = row * t + step;
                let hidden = &mut hidden[row * h..(row + 1) * h];
                before[at * h..(at + 1) * h].copy_from_slice(hidden);
                C::forward(
                    &gates[(first * t + at) * g..][..g],
                    &q[row * g..(row + 1) * g],
                    hidden,
                    &mut extra[row * (s - h)..(row + 1) * (s - h)],
                    &mut kept[at * C::KEPT * h..(at + 1) * C::KEPT * h],
                );
                y[at * h..(at + 1) * h].copy_from_slice(hidden);
            }
        }
        for (row, last) in last.chunks_exact_mut(s).enumerate() {
            last[..h].copy_from_slice(&hidden[row * h..(row + 1) * h]);
            last[h..].copy_from_slice(&extra[row * (s - h)..(row + 1) * (s - h)]);
        }
    });
    out
}

/// Gradients of everything that [`forward`] takes.
pub(super) struct Gradients {
    /// Of the gates, `[N, T, GATES · H]`.
    pub gates: Buffer,
    /// Of the hidden state's part of the gates: what its weight and bias get their gradients from.
    pub hidden: Buffer,
    /// Of the first states, `[N, (1 + EXTRA) H]`.
    pub state: Vec<f32>,
}

/// From the gradient `dy` `[N, T, H]` of the hidden states behind every step.
pub(super) fn backward<C: Cell>(
    extents: Extents,
    dy: &[f32],
    w: &[f32],
    (kept, before): (&[f32], &[f32]),
    resets: Option<&[bool]>,
) -> Gradients {
    let Extents { n, t, h } = extents;
    let (g, s) = (C::GATES * h, (1 + C::EXTRA) * h);
    let mut out =
        Gradients { gates: Buffer::new(n * t * g), hidden: Buffer::new(n * t * g), state: vec![0f32; n * s] };
    let packed = Packed::plain(w, g, h);
    let d_gates = Disjoint::new(&mut out.gates);
    let d_hidden = Disjoint::new(&mut out.hidden);
    let d_state = Disjoint::new(&mut out.state);
    parallel::for_each(extents.blocks(), |block| {
        let first = block * extents.block();
        let rows = extents.block().min(n - first);
        // SAFETY: every unit has sequences of its own.
        let (da, dq, d_state) = unsafe {
            (
                d_gates.slice(first * t * g, rows * t * g),
                d_hidden.slice(first * t * g, rows * t * g),
                d_state.slice(first * s, rows * s),
            )
        };
        let mut dh = vec![0f32; rows * h];
        let mut d_extra = vec![0f32; rows * (s - h)];
        let mut product = vec![0f32; rows * g];
        for step in (0..t).rev() {
            for row in 0..rows {
                let (at, place) = (row * t + step, (first + row) * t + step);
                let dh = &mut dh[row * h..(row + 1) * h];
                dh.iter_mut().zip(&dy[place * h..]).for_each(|(dh, dy)| *dh += dy);
                let dq = &mut dq[at * g..(at + 1) * g];
                C::backward(
                    &kept[place * C::KEPT * h..][..C::KEPT * h],
                    &before[place * h..][..h],
                    dh,
                    &mut d_extra[row * (s - h)..(row + 1) * (s - h)],
                    &mut da[at * g..(at + 1) * g],
                    dq,
                );
                product[row * g..(row + 1) * g].copy_from_slice(dq);
            }
            packed.add(rows, &product, &mut dh);
            for row in 0..rows {
                if resets.is_some_and(|resets| resets[(first + row) * t + step]) {
                    dh[row * h..(row + 1) * h].fill(0.0);
                    d_extra[row * (s - h)..(row + 1) * (s - h)].fill(0.0);
                }
            }
        }
        for (row, d_state) in d_state.chunks_exact_mut(s).enumerate() {
            d_state[..h].copy_from_slice(&dh[row * h..(row + 1) * h]);
            d_state[h..].copy_from_slice(&d_extra[row * (s - h)..(row + 1) * (s - h)]);
        }
    });
    out
}

/// The gradients of weight `[GATES · H, H]` and bias `[GATES · H]` from [`Gradients::hidden`].
pub(super) fn weights(extents: Extents, gates: usize, before: &[f32], dq: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let Extents { n, t, h } = extents;
    let (mut dw, mut db) = (vec![0f32; gates * h * h], vec![0f32; gates * h]);
    gemm::linear_backward_weight(n * t, h, gates * h, before, dq, &mut dw);
    gemm::column_sums(n * t, gates * h, dq, &mut db);
    (dw, db)
}
