//! Losses, forward and backward.

use anyhow::Result;
use candle_core::Var;
use contrastive_core::dist::single;
use contrastive_core::loss::nt_xent;

use super::normal;
use crate::measure::{Timing, time};

pub(super) fn nt_xent_n(n: usize, repeats: usize) -> Result<Timing> {
    let z1 = Var::from_tensor(&normal("z1", &[n / 2, 128])?)?;
    let z2 = Var::from_tensor(&normal("z2", &[n / 2, 128])?)?;
    let comm = single();
    time(n, repeats, || {
        let out = nt_xent(&z1, &z2, 0.5, true, &comm)?;
        out.loss.backward()?;
        Ok(())
    })
}
