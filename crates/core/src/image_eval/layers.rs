//! What of a backbone a classifier sees.

use candle_core::Tensor;

use crate::kernels::take_token;
use crate::nn::{Backbone, BackboneConfig, Mode, Module};
use crate::{Error, Result};

/// Features of a backbone; in a file, the table's `kind` is `"pooled"`, `"last-blocks"`, `"class-mean"` or `"stages"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FeatureKind {
    /// The backbone's own: a ResNet's after global average pooling, a transformer's class token after the final norm.
    Pooled {},
    /// The class tokens after the last `count` blocks of a transformer, each through the final norm, oldest first
    /// (DINO's ViT-S: 4).
    LastBlocks {
        /// Blocks, at least 1 and at most all.
        count: usize,
    },
    /// Class token and mean of the patch tokens of a transformer, both after the final norm, interleaved:
    /// `[cls0, mean0, cls1, mean1, ..]` (DINO's ViT-B).
    ClassMean {},
    /// The stem and the four groups of a ResNet (those of both halves of a split network; the five convolutions where
    /// the halves are AlexNets), each by itself: max-pooled to a square of about 9,000 values
    /// ([`adaptive_max_pool`]), so one classifier for each.
    Stages {},
}

/// The size that the features of a stage are pooled to.
const STAGE: f64 = 9000.0;

impl FeatureKind {
    /// Checks that the backbone has such features.
    ///
    /// # Errors
    /// [`Error::Config`] for another kind of backbone or more blocks than it has.
    pub fn check(self, backbone: &BackboneConfig, at: &str) -> Result<()> {
        let refuse = |reason: String| Err(Error::config(at, reason));
        match (self, backbone) {
            (Self::Pooled {}, _)
            | (Self::ClassMean {}, BackboneConfig::Vit(_))
            | (Self::Stages {}, BackboneConfig::Resnet(_) | BackboneConfig::Split(_)) => Ok(()),
            (Self::LastBlocks { count }, BackboneConfig::Vit(vit)) if (1..=vit.depth).contains(&count) => {
                Ok(())
            }
            (Self::LastBlocks { count }, BackboneConfig::Vit(vit)) => {
                refuse(format!("{count} blocks of {}", vit.depth))
            }
            (Self::Stages {}, _) => {
                refuse(format!("stages are those of a convolutional network; {backbone} has none"))
            }
            _ => refuse(format!("tokens are those of a vision transformer; {backbone} has none")),
        }
    }

    /// The names of the features, where there are several.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Stages {} => &["stem", "layer1", "layer2", "layer3", "layer4"],
            _ => &[],
        }
    }

    /// Features `[N, D]` of images `[N, C, H, W]`: one tensor, or one for each stage.
    ///
    /// # Errors
    /// Images that the backbone cannot take; what [`FeatureKind::check`] refuses.
    pub fn of(self, backbone: &Backbone, x: &Tensor, mode: &Mode) -> Result<Vec<Tensor>> {
        match (self, backbone) {
            (Self::Pooled {}, _) => Ok(vec![backbone.forward(x, mode)?]),
            (Self::LastBlocks { count }, Backbone::Vit(vit)) => {
                let mut tokens = Vec::with_capacity(count);
                for block in vit.last_blocks(x, count, mode)? {
                    tokens.push(vit.final_norm(&take_token(&block, 0)?, mode)?.rows()?);
                }
                Ok(vec![Tensor::cat(&tokens, 1)?])
            }
            (Self::ClassMean {}, Backbone::Vit(vit)) => {
                let blocks = vit.last_blocks(x, 1, mode)?;
                let last = blocks.last().ok_or_else(|| Error::config("vit.depth", "at least 1 block"))?;
                let tokens = vit.final_norm(last, mode)?.rows()?; // [N, 1 + P, D]
                let class = tokens.narrow(1, 0, 1)?.squeeze(1)?;
                let mean = tokens.narrow(1, 1, tokens.dim(1)? - 1)?.mean(1)?;
                Ok(vec![Tensor::stack(&[class, mean], 2)?.flatten_from(1)?])
            }
            (Self::Stages {}, Backbone::Resnet(_) | Backbone::Split(_)) => {
                let pooled = |map: &crate::kernels::FeatureMap| {
                    let x = map.tensor()?;
                    let side = (STAGE / x.dim(1)? as f64).sqrt().round().max(1.0) as usize;
                    adaptive_max_pool(&x, side.min(x.dim(2)?).min(x.dim(3)?))
                };
                let stages = match backbone {
                    Backbone::Resnet(network) => network.stages(x, mode)?,
                    Backbone::Split(network) => network.stages(x, mode)?,
                    _ => Vec::new(),
                };
                stages.iter().map(pooled).collect()
            }
            _ => Err(Error::config("features", "this backbone has no such features")),
        }
    }
}

/// `[N, C, H, W]` to `[N, C side side]`: the maximum of each of `side` x `side` cells, from `floor(i H / side)` to
/// `ceil((i + 1) H / side)` (PyTorch's `AdaptiveMaxPool2d`). For frozen features: ties share a gradient.
///
/// # Errors
/// [`Error::Shape`] for another rank or sides below 1.
pub fn adaptive_max_pool(x: &Tensor, side: usize) -> Result<Tensor> {
    let &[n, c, height, width] = x.dims() else {
        return Err(Error::shape("adaptive max pool", "[N, C, H, W]", x.dims()));
    };
    if side == 0 || height == 0 || width == 0 {
        return Err(Error::shape("adaptive max pool", format!("sides that give {side}"), x.dims()));
    }
    let cell = |i: usize, length: usize| {
        let start = i * length / side;
        (start, ((i + 1) * length).div_ceil(side) - start)
    };
    let mut cells = Vec::with_capacity(side * side);
    for i in 0..side {
        let (top, rows) = cell(i, height);
        let band = x.narrow(2, top, rows)?.max(2)?; // [N, C, W]
        for j in 0..side {
            let (left, columns) = cell(j, width);
            cells.push(band.narrow(2, left, columns)?.max(2)?);
        }
    }
    Ok(Tensor::stack(&cells, 2)?.reshape((n, c * side * side))?)
}
