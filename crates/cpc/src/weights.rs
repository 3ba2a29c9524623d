//! Names in checkpoints.
//!
//! A training checkpoint of speech holds `backbone.encoder.conv{i}.{weight,bias}` (with batch norm `norm{i}.*` and no
//! bias), `backbone.context.{weight,bias}_{ih,hh}_l{i}` and `predictor.{k - 1}.weight`; an exported encoder holds the
//! first two without `backbone.`.
//!
//! One of images holds `backbone.conv1.*`, `backbone.layer{1..3}.{i}.{conv1,conv2,conv3,shortcut}.{weight,bias}`,
//! `context.blocks.{i}.conv{1..4}.{weight,bias}` (where there is a context network) and `predictor.{k - 1}.weight`; an
//! exported encoder holds the first without `backbone.`: the context network is not part of it.
//!
//! There are no weights of the paper's authors. CPC_audio's checkpoints name the same things `gEncoder.conv{i}.*`,
//! `gEncoder.batchNorm{i}.*` and `gAR.baseNet.*`: [`from_cpc_audio`] renames them. Those with another normalisation than
//! batch norm, or several recurrent layers, fit only a configuration that has them.

use std::collections::HashMap;

use candle_core::Tensor;

pub use contrastive_core::nn::BACKBONE;
/// Prefix of g_enc within the backbone.
pub const ENCODER: &str = "encoder";
/// Prefix of g_ar: within the backbone for speech, beside it for images.
pub const CONTEXT: &str = "context";
/// Prefix of the maps W_k in the parameter store.
pub const PREDICTOR: &str = "predictor";

/// The backbone's tensors of a CPC_audio checkpoint (its entry `weights`) under the names of this crate: what
/// [`contrastive_core::train::Method::load_backbone`] takes. Others are left out.
pub fn from_cpc_audio(tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let rename = |name: &str| {
        if let Some(rest) = name.strip_prefix("gAR.baseNet.") {
            return Some(format!("{CONTEXT}.{rest}"));
        }
        let rest = name.strip_prefix("gEncoder.")?;
        if rest.ends_with("num_batches_tracked") {
            return None;
        }
        Some(format!("{ENCODER}.{}", rest.replace("batchNorm", "norm")))
    };
    tensors.iter().filter_map(|(name, tensor)| Some((rename(name)?, tensor.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn cpc_audios_names() -> candle_core::Result<()> {
        let one = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        let names = [
            "gEncoder.conv0.weight",
            "gEncoder.batchNorm0.running_mean",
            "gEncoder.batchNorm0.num_batches_tracked",
            "gAR.baseNet.weight_ih_l0",
            "wPrediction.predictors.0.weight",
        ];
        let renamed = from_cpc_audio(&names.iter().map(|name| (name.to_string(), one.clone())).collect());
        let mut got: Vec<&str> = renamed.keys().map(String::as_str).collect();
        got.sort_unstable();
        assert_eq!(got, ["context.weight_ih_l0", "encoder.conv0.weight", "encoder.norm0.running_mean"]);
        Ok(())
    }
}
