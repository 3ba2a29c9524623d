//! What v3 changes in a vision transformer: how it begins, and its fixed positions.

use candle_core::{Device, Tensor};
use contrastive_core::nn::{Builder, Init, VitConfig};
use contrastive_core::{Error, Result};

use crate::weights::{BACKBONE, POSITIONS};

/// Makes the parameters that begin otherwise than timm's; a transformer built at the same place afterwards takes them as
/// they are (a parameter store gives a name that exists).
///
/// Linear weights are Xavier-uniform, query, key and value each as a matrix of its own; the class token has deviation
/// 1e-6; the patch projection is Xavier-uniform over a patch's pixels, without bias at first.
///
/// # Errors
/// A name that exists with another shape.
pub fn declare(b: &Builder, config: &VitConfig) -> Result<()> {
    let VitConfig { dim, patch, in_channels, .. } = *config;
    let hidden = dim * config.mlp_ratio;
    let xavier = |inputs: usize, outputs: usize| Init::Uniform((6.0 / (inputs + outputs) as f64).sqrt());
    b.param("cls_token", (1, 1, dim), Init::Normal(1e-6))?;
    let proj = b.pp("patch_embed").pp("proj");
    proj.param("weight", (dim, in_channels, patch, patch), xavier(in_channels * patch * patch, dim))?;
    proj.param("bias", dim, Init::Const(0.0))?;
    for block in 0..config.depth {
        let b = b.pp("blocks").pp(block);
        b.pp("attn").pp("qkv").param("weight", (3 * dim, dim), xavier(dim, dim))?;
        b.pp("attn").pp("proj").param("weight", (dim, dim), xavier(dim, dim))?;
        b.pp("mlp").pp("fc1").param("weight", (hidden, dim), xavier(dim, hidden))?;
        b.pp("mlp").pp("fc2").param("weight", (dim, hidden), xavier(hidden, dim))?;
    }
    Ok(())
}

/// Writes [`sin_cos`] into the positions of the transformer that was built under `backbone.*`.
///
/// # Errors
/// No transformer there.
pub fn fix_positions(b: &Builder, config: &VitConfig) -> Result<()> {
    let Some(entry) = b.store().get(&format!("{BACKBONE}.{POSITIONS}")) else {
        return Err(Error::shape("moco-v3", "a transformer with positions", &[]));
    };
    Ok(entry.var.set(&sin_cos(config.image / config.patch, config.dim, entry.var.device())?)?)
}

/// Positions of a grid of `side` x `side` patches in row-major order behind the class token's, which are 0:
/// `[1, 1 + side², dim]`. A patch in row u and column v has `[sin uω, cos uω, sin vω, cos vω]` with the `dim / 4`
/// frequencies `ω_k = 10000^(−4k/dim)`.
///
/// # Errors
/// Candle's.
pub fn sin_cos(side: usize, dim: usize, device: &Device) -> Result<Tensor> {
    let n = dim / 4;
    let mut values = vec![0f32; dim];
    for token in 0..side * side {
        for coordinate in [token / side, token % side] {
            for wave in [f64::sin, f64::cos] {
                let angle = |k: usize| coordinate as f64 * 10_000f64.powf(-(k as f64) / n as f64);
                values.extend((0..n).map(|k| wave(angle(k)) as f32));
            }
        }
    }
    Ok(Tensor::from_vec(values, (1, 1 + side * side, dim), device)?)
}
