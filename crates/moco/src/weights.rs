//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*` (v3: `projector.*`, `predictor.*`), the key encoder as
//! `momentum.*` and the queue as `queue`, `queue.next`, `queue.pushed`; an exported encoder holds the query encoder's
//! backbone under torchvision's or timm's names. [`official_backbone`] reads the authors' files.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::config::TransformerConfig;

pub use contrastive_core::nn::BACKBONE;
/// Prefix of v1's and v2's head in the parameter store.
pub const HEAD: &str = "head";
/// Prefix of v3's projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of v3's predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";
/// The queue's name in checkpoints.
pub const QUEUE: &str = "queue";
/// A transformer's positions, under the backbone.
pub const POSITIONS: &str = "pos_embed";
/// Prefix of a transformer's patch projection, under the backbone.
pub const PATCHES: &str = "patch_embed";

/// Whether v3 leaves this parameter as it began.
pub fn is_fixed(config: &TransformerConfig, name: &str) -> bool {
    let Some(name) = name.strip_prefix(BACKBONE).and_then(|name| name.strip_prefix('.')) else {
        return false;
    };
    (config.sin_cos && name == POSITIONS) || (config.frozen_patches && name.starts_with(PATCHES))
}

/// The backbone in the `state_dict` of an official checkpoint, under torchvision's or timm's names: that of the query
/// encoder (v1, v2: `module.encoder_q.`) or of the base encoder (v3: `module.base_encoder.`), without its head
/// (`fc.*`; `head.*` of a transformer) and without the counters of batch norm. Empty where there is neither.
///
/// Build a v3 ViT-S with 12 heads: weights of 6 heads have the same shapes.
pub fn official_backbone(state: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let own = |name: &str| -> Option<String> {
        let name = ["module.encoder_q.", "module.base_encoder."].iter().find_map(|p| name.strip_prefix(p))?;
        let dropped =
            name.starts_with("fc.") || name.starts_with("head.") || name.ends_with("num_batches_tracked");
        (!dropped).then(|| name.to_string())
    };
    state.iter().filter_map(|(name, tensor)| Some((own(name)?, tensor.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use contrastive_core::Result;

    use super::*;

    #[test]
    fn official_files_give_their_backbone() -> Result<()> {
        let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        let of = |names: &[&str]| {
            let state = names.iter().map(|name| (name.to_string(), tensor.clone())).collect();
            let mut names: Vec<String> = official_backbone(&state).into_keys().collect();
            names.sort();
            names
        };
        let v2 = [
            "module.encoder_q.conv1.weight",
            "module.encoder_q.bn1.num_batches_tracked",
            "module.encoder_q.fc.0.weight",
            "module.encoder_k.conv1.weight",
            "module.queue",
            "module.queue_ptr",
        ];
        assert_eq!(of(&v2), ["conv1.weight"]);
        let v3 = [
            "module.base_encoder.cls_token",
            "module.base_encoder.head.0.weight",
            "module.base_encoder.blocks.0.attn.qkv.bias",
            "module.momentum_encoder.cls_token",
            "module.predictor.0.weight",
        ];
        assert_eq!(of(&v3), ["blocks.0.attn.qkv.bias", "cls_token"]);
        Ok(())
    }

    #[test]
    fn fixed_parameters_are_the_papers() {
        let all = TransformerConfig { frozen_patches: true, sin_cos: true };
        for name in
            ["backbone.pos_embed", "backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"]
        {
            assert!(is_fixed(&all, name), "{name}");
            assert!(!is_fixed(&TransformerConfig { frozen_patches: false, sin_cos: false }, name), "{name}");
        }
        for name in ["backbone.cls_token", "predictor.0.weight", "backbone.blocks.0.norm1.bias"] {
            assert!(!is_fixed(&all, name), "{name}");
        }
    }
}
