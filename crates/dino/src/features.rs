//! What the paper's protocols look at: features of the linear probe, attention of the class token.

use candle_core::Tensor;
use contrastive_core::nn::{Backbone, Encoder, Mode, Module, VisionTransformer};
use contrastive_core::{Error, Result};

/// Blocks that the probe of ViT-S looks at.
const BLOCKS: usize = 4;
/// The width from which on the probe looks at the last block alone, with the patches' mean: ViT-B's.
const WIDE: usize = 768;

/// What the paper's linear probe is trained on: the class tokens of the last four blocks for ViT-S and smaller,
/// [`class_and_patches`] from ViT-B on, the pooled features of a residual network.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_features(backbone: &Backbone, x: &Tensor) -> Result<Tensor> {
    match backbone {
        Backbone::Vit(vit) if vit.width() >= WIDE => class_and_patches(vit, x),
        Backbone::Vit(vit) => last_classes(vit, x, BLOCKS),
        other => other.forward(x, &Mode::eval()),
    }
}

/// The class tokens of the last `blocks` blocks (all, where there are fewer), each through the final norm, oldest
/// first: images `[N, C, H, W]` to `[N, blocks * dim]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn last_classes(vit: &VisionTransformer, x: &Tensor, blocks: usize) -> Result<Tensor> {
    let mode = Mode::eval();
    let tokens = vit.last_blocks(x, blocks, &mode)?;
    let class = |tokens| -> Result<Tensor> {
        Ok(vit.final_norm(tokens, &mode)?.rows()?.narrow(1, 0, 1)?.squeeze(1)?)
    };
    let classes = tokens.iter().map(class).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&classes, 1)?)
}

/// Class token and mean of the patch tokens of the last block after the final norm, interleaved as in the official code
/// (`cls_0, mean_0, cls_1, mean_1, ...`): images `[N, C, H, W]` to `[N, 2 * dim]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn class_and_patches(vit: &VisionTransformer, x: &Tensor) -> Result<Tensor> {
    let mode = Mode::eval();
    let last = vit.last_blocks(x, 1, &mode)?;
    let [last] = last.as_slice() else {
        return Err(Error::shape("class and patches", "1 block", &[last.len()]));
    };
    let tokens = vit.final_norm(last, &mode)?.rows()?; // [N, 1 + P, dim]
    let class = tokens.narrow(1, 0, 1)?.squeeze(1)?;
    let mean = tokens.narrow(1, 1, tokens.dim(1)? - 1)?.mean(1)?;
    Ok(Tensor::stack(&[class, mean], 2)?.flatten_from(1)?)
}

/// How much the class token of the last block attends to each patch, head by head: images `[N, C, H, W]` to
/// `[N, heads, h, w]` for a grid of `h` by `w` patches (the paper's figures 1 and 3). The class token's attention to
/// itself is left out, so a map sums to less than 1.
///
/// # Errors
/// A backbone that is no vision transformer; sides that are no multiples of the patch.
pub fn attention_maps(backbone: &Backbone, x: &Tensor) -> Result<Tensor> {
    let Backbone::Vit(vit) = backbone else {
        return Err(Error::config("backbone", "attention maps need a vision transformer"));
    };
    let &[n, _, height, width] = x.dims() else {
        return Err(Error::shape("attention maps", "[N, C, H, W]", x.dims()));
    };
    let attention = vit.last_attention(x)?; // [N, heads, 1 + P]
    let (heads, patches) = (attention.dim(1)?, attention.dim(2)? - 1);
    // Square patches: P = (H / p) (W / p).
    let patch = (((height * width) as f64 / patches as f64).sqrt().round() as usize).max(1);
    let grid = (n, heads, height / patch, width / patch);
    Ok(attention.narrow(2, 1, patches)?.contiguous()?.reshape(grid)?)
}
