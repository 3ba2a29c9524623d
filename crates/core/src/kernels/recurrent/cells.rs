//! The arithmetic of one step of one sequence, forward and backward. Gates are in PyTorch's order.

use crate::kernels::simd::math::{fused, sigmoid, tanh};

/// What differs between kinds of cells. `H` is the width of the hidden state; all slices are of one step of one sequence.
pub(super) trait Cell: Send + Sync + 'static {
    /// For error messages.
    const NAME: &'static str;
    /// Gates: the inputs of a step are so many times `H`.
    const GATES: usize;
    /// States carried beside the hidden one.
    const EXTRA: usize;
    /// What a step keeps for its backward, in multiples of `H`.
    const KEPT: usize;

    /// From the input's part `a` and the hidden state's part `q` of the gates (both `GATES · H`) to the next states, in
    /// place: `h` `[H]` and `extra` `[EXTRA · H]`.
    fn forward(a: &[f32], q: &[f32], h: &mut [f32], extra: &mut [f32], kept: &mut [f32]);

    /// From the gradients of the states behind the step to those before it, in place and without what flows through `q`;
    /// `da` and `dq` are the gradients of `a` and `q`. `before` is the hidden state before the step.
    fn backward(
        kept: &[f32],
        before: &[f32],
        dh: &mut [f32],
        d_extra: &mut [f32],
        da: &mut [f32],
        dq: &mut [f32],
    );
}

/// Gated recurrent unit (Cho et al. 2014 in PyTorch's form): gates r, z, n. Keeps r, z, n and the hidden state's part of n.
pub(super) struct Gru;

impl Cell for Gru {
    const NAME: &'static str = "gru";
    const GATES: usize = 3;
    const EXTRA: usize = 0;
    const KEPT: usize = 4;

    fn forward(a: &[f32], q: &[f32], h: &mut [f32], _extra: &mut [f32], kept: &mut [f32]) {
        gru_forward(a, q, h, kept);
    }

    fn backward(
        kept: &[f32],
        before: &[f32],
        dh: &mut [f32],
        _d_extra: &mut [f32],
        da: &mut [f32],
        dq: &mut [f32],
    ) {
        gru_backward(kept, before, dh, da, dq);
    }
}

/// Long short-term memory (Hochreiter & Schmidhuber 1997 in PyTorch's form): gates i, f, g, o. Keeps them, the cell state
/// before the step and the hyperbolic tangent of the one behind it.
pub(super) struct Lstm;

impl Cell for Lstm {
    const NAME: &'static str = "lstm";
    const GATES: usize = 4;
    const EXTRA: usize = 1;
    const KEPT: usize = 6;

    fn forward(a: &[f32], q: &[f32], h: &mut [f32], extra: &mut [f32], kept: &mut [f32]) {
        lstm_forward(a, q, h, extra, kept);
    }

    fn backward(
        kept: &[f32],
        _before: &[f32],
        dh: &mut [f32],
        d_extra: &mut [f32],
        da: &mut [f32],
        dq: &mut [f32],
    ) {
        lstm_backward(kept, dh, d_extra, da);
        dq.copy_from_slice(da);
    }
}

/// The parts of `H` elements that a slice has.
#[inline(always)]
fn parts<const N: usize>(x: &[f32], h: usize) -> [&[f32]; N] {
    std::array::from_fn(|i| &x[i * h..(i + 1) * h])
}

/// As [`parts`], to write.
#[inline(always)]
fn parts_mut<const N: usize>(mut x: &mut [f32], h: usize) -> [&mut [f32]; N] {
    std::array::from_fn(|_| {
        let (part, rest) = std::mem::take(&mut x).split_at_mut(h);
        x = rest;
        part
    })
}

fused! {
    fn gru_forward<const FMA: bool>(a: &[f32], q: &[f32], h: &mut [f32], kept: &mut [f32]) {
        let n = h.len();
        let ([ar, az, an], [qr, qz, qn]) = (parts::<3>(a, n), parts::<3>(q, n));
        let [kr, kz, kn, kq] = parts_mut::<4>(kept, n);
        for i in 0..n {
            let r = sigmoid::<FMA>(ar[i] + qr[i]);
            let z = sigmoid::<FMA>(az[i] + qz[i]);
            let new = tanh::<FMA>(an[i] + r * qn[i]);
            h[i] = new + z * (h[i] - new);
            (kr[i], kz[i], kn[i], kq[i]) = (r, z, new, qn[i]);
        }
    }

    fn gru_backward<const FMA: bool>(
        kept: &[f32],
        before: &[f32],
        dh: &mut [f32],
        da: &mut [f32],
        dq: &mut [f32],
    ) {
        let n = dh.len();
        let before = &before[..n];
        let [kr, kz, kn, kq] = parts::<4>(kept, n);
        let ([ar, az, an], [qr, qz, qn]) = (parts_mut::<3>(da, n), parts_mut::<3>(dq, n));
        for i in 0..n {
            let (r, z, new) = (kr[i], kz[i], kn[i]);
            let d_new = dh[i] * (1.0 - z) * (1.0 - new * new);
            let d_z = dh[i] * (before[i] - new) * z * (1.0 - z);
            let d_r = d_new * kq[i] * r * (1.0 - r);
            dh[i] *= z;
            (ar[i], az[i], an[i]) = (d_r, d_z, d_new);
            (qr[i], qz[i], qn[i]) = (d_r, d_z, d_new * r);
        }
    }

    fn lstm_forward<const FMA: bool>(
        a: &[f32],
        q: &[f32],
        h: &mut [f32],
        c: &mut [f32],
        kept: &mut [f32],
    ) {
        let n = h.len();
        let c = &mut c[..n];
        let ([ai, af, ag, ao], [qi, qf, qg, qo]) = (parts::<4>(a, n), parts::<4>(q, n));
        let [ki, kf, kg, ko, kc, kt] = parts_mut::<6>(kept, n);
        for j in 0..n {
            let i = sigmoid::<FMA>(ai[j] + qi[j]);
            let f = sigmoid::<FMA>(af[j] + qf[j]);
            let g = tanh::<FMA>(ag[j] + qg[j]);
            let o = sigmoid::<FMA>(ao[j] + qo[j]);
            kc[j] = c[j];
            c[j] = f * c[j] + i * g;
            let t = tanh::<FMA>(c[j]);
            h[j] = o * t;
            (ki[j], kf[j], kg[j], ko[j], kt[j]) = (i, f, g, o, t);
        }
    }

    fn lstm_backward<const FMA: bool>(kept: &[f32], dh: &mut [f32], dc: &mut [f32], da: &mut [f32]) {
        let n = dh.len();
        let dc = &mut dc[..n];
        let [ki, kf, kg, ko, kc, kt] = parts::<6>(kept, n);
        let [ai, af, ag, ao] = parts_mut::<4>(da, n);
        for j in 0..n {
            let (i, f, g, o, t) = (ki[j], kf[j], kg[j], ko[j], kt[j]);
            let d_cell = dc[j] + dh[j] * o * (1.0 - t * t);
            ai[j] = d_cell * g * i * (1.0 - i);
            af[j] = d_cell * kc[j] * f * (1.0 - f);
            ag[j] = d_cell * i * (1.0 - g * g);
            ao[j] = dh[j] * t * o * (1.0 - o);
            dc[j] = d_cell * f;
            dh[j] = 0.0;
        }
    }
}
