//! The networks: encoder g_enc over patches, context network g_ar over rows, and the predictors.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{BACKBONE, Builder, Mode, Module, PatchCrops, PatchNet};

use super::config::ImagesConfig;
use super::context::RowContext;
use crate::predictor::Predictor;
use crate::weights::{CONTEXT, PREDICTOR};

/// What the networks say of a batch.
#[derive(Debug, Clone)]
pub struct Grids {
    /// z: one vector for each patch, `[N, rows, cols, D]`.
    pub vectors: Tensor,
    /// c: what has been seen down to each patch's row, `[N, rows, cols, D]`.
    pub contexts: Tensor,
}

/// Encoder, context network and predictors.
#[derive(Debug)]
pub struct ImagesModel {
    /// g_enc.
    pub encoder: PatchNet,
    /// g_ar; none where predictions are made from vectors.
    pub context: Option<RowContext>,
    /// W_1 … W_K.
    pub predictor: Predictor,
}

impl ImagesModel {
    /// Fresh networks under `backbone.*`, `context.*` and `predictor.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &ImagesConfig) -> Result<Self> {
        let width = config.encoder.width();
        let context = |settings| RowContext::new(&b.pp(CONTEXT), width, settings);
        Ok(Self {
            encoder: PatchNet::new(&b.pp(BACKBONE), &config.encoder)?,
            context: config.context.as_ref().map(context).transpose()?,
            predictor: Predictor::new(&b.pp(PREDICTOR), width, width, config.objective.steps)?,
        })
    }

    /// Vectors and contexts of images `[N, C, H, W]`.
    ///
    /// # Errors
    /// As [`PatchNet::vectors`].
    pub fn grids(&self, x: &Tensor, crops: Option<&PatchCrops>, mode: &Mode) -> Result<Grids> {
        let vectors = self.encoder.vectors(x, crops, mode)?;
        let contexts = match &self.context {
            None => vectors.clone(),
            Some(context) => {
                let map = vectors.permute((0, 3, 1, 2))?.contiguous()?;
                context.forward(&map, mode)?.permute((0, 2, 3, 1))?.contiguous()?
            }
        };
        Ok(Grids { vectors, contexts })
    }
}
