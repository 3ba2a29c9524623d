//! The networks: backbone f and head h of one of the two, and how they take views of several sizes.

use candle_core::Tensor;
use contrastive_core::nn::{Backbone, BackboneConfig, BatchNormKind, Builder, Encoder, Mode, Module, Noise};
use contrastive_core::{Error, Result};

use crate::config::DinoConfig;
use crate::head::{DinoHead, HeadOutput};
use crate::weights::{BACKBONE, HEAD};

/// Student or teacher: `h(f(x))`.
#[derive(Debug)]
pub struct DinoModel {
    /// f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// h: `[N, width]` to `[N, K]`.
    pub head: DinoHead,
}

impl DinoModel {
    /// The student with fresh parameters under `backbone.*` and `head.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn student(b: &Builder, config: &DinoConfig) -> Result<Self> {
        Self::new(b, config, config.backbone)
    }

    /// The teacher: the same without stochastic depth.
    ///
    /// # Errors
    /// As [`DinoModel::student`].
    pub fn teacher(b: &Builder, config: &DinoConfig) -> Result<Self> {
        Self::new(b, config, config.teacher_backbone())
    }

    fn new(b: &Builder, config: &DinoConfig, backbone: BackboneConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let backbone = Backbone::new(&b.pp(BACKBONE), &backbone.with_norm(kind))?;
        let head = DinoHead::new(&b.pp(HEAD), backbone.width(), &config.head, kind)?;
        Ok(Self { backbone, head })
    }

    /// Features `[V N, width]` of V `views` of N samples and the head's outputs for them, view by view. Views of equal
    /// size that follow each other go through the backbone in one batch (and are one batch for its batch norm); the
    /// head sees all rows at once. The draws of `mode` are named for all `V N` rows.
    ///
    /// # Errors
    /// Views that the backbone cannot take or of different sample counts.
    pub fn forward_views(&self, views: &[Tensor], mode: &Mode) -> Result<(Tensor, HeadOutput)> {
        let mut features = Vec::new();
        let mut first = 0;
        for group in views.chunk_by(|a, b| a.dims() == b.dims()) {
            let x = Tensor::cat(group, 0)?;
            let rows = x.dim(0)?;
            features.push(self.backbone.forward(&x, &part(mode, first, rows)?)?);
            first += rows;
        }
        let features = Tensor::cat(&features, 0)?;
        let out = self.head.forward_all(&features, mode)?;
        Ok((features, out))
    }
}

/// The mode of some of its rows.
fn part(mode: &Mode, first: usize, rows: usize) -> Result<Mode> {
    let Some(noise) = &mode.noise else { return Ok(mode.clone()) };
    let Some(names) = noise.rows.get(first..first + rows) else {
        return Err(Error::shape("noise", format!("{} rows or more", first + rows), &[noise.rows.len()]));
    };
    Ok(mode.with_noise(Noise { rows: names.into(), ..noise.clone() }))
}
