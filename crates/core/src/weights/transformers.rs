//! Names of Hugging Face's `transformers`: its vision transformers and ResNets.

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;

/// Whether these are names of `transformers`.
pub(super) fn is(names: &HashMap<String, Tensor>) -> bool {
    let known = ["embeddings.cls_token", "embedder.embedder.convolution.weight"];
    names.keys().any(|name| known.contains(&bare(name)))
}

/// A name without what classifiers put before their backbone.
fn bare(name: &str) -> &str {
    ["vit.", "resnet."].iter().find_map(|model| name.strip_prefix(model)).unwrap_or(name)
}

/// The tensors under timm's or torchvision's names; those of poolers and classifiers are left out and returned by name.
/// Names that are not known stay as they are, to be refused later.
pub(super) fn renamed(
    tensors: HashMap<String, Tensor>,
) -> Result<(HashMap<String, Tensor>, Vec<String>), String> {
    let (mut out, mut dropped) = (HashMap::new(), Vec::new());
    // The three parts of `qkv` by block and leaf.
    let mut thirds: BTreeMap<(String, String), [Option<Tensor>; 3]> = BTreeMap::new();
    for (full, tensor) in tensors {
        let name = bare(&full);
        if ["pooler.", "classifier.", "layernorm_head."].iter().any(|head| name.starts_with(head))
            || name.ends_with("num_batches_tracked")
        {
            dropped.push(full);
        } else if let Some((block, which, leaf)) = third(name) {
            thirds.entry((block.to_string(), leaf.to_string())).or_default()[which] = Some(tensor);
        } else {
            let name = plain(name).or_else(|| layer(name)).or_else(|| residual(name));
            let name = name.unwrap_or_else(|| full.clone());
            if out.insert(name.clone(), tensor).is_some() {
                return Err(format!("two tensors become `{name}`"));
            }
        }
    }
    for ((block, leaf), parts) in thirds {
        let [Some(q), Some(k), Some(v)] = &parts else {
            return Err(format!("encoder.layer.{block}: query, key and value are not all there"));
        };
        let joined = Tensor::cat(&[q, k, v], 0)
            .map_err(|_| format!("encoder.layer.{block}: query, key and value do not fit together"))?;
        out.insert(format!("blocks.{block}.attn.qkv.{leaf}"), joined);
    }
    Ok((out, dropped))
}

/// `encoder.layer.3.attention.attention.key.bias`: block, place among q, k and v, leaf.
fn third(name: &str) -> Option<(&str, usize, &str)> {
    let (block, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
    let (which, leaf) = rest.strip_prefix("attention.attention.")?.split_once('.')?;
    Some((block, ["query", "key", "value"].iter().position(|w| *w == which)?, leaf))
}

fn plain(name: &str) -> Option<String> {
    let leaf = |prefix: &str, to: &str| Some(format!("{to}.{}", name.strip_prefix(prefix)?));
    match name {
        "embeddings.cls_token" => Some("cls_token".into()),
        "embeddings.position_embeddings" => Some("pos_embed".into()),
        _ => leaf("embeddings.patch_embeddings.projection.", "patch_embed.proj")
            .or_else(|| leaf("layernorm.", "norm")),
    }
}

fn layer(name: &str) -> Option<String> {
    let (block, rest) = name.strip_prefix("encoder.layer.")?.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let part = match part {
        "layernorm_before" => "norm1",
        "attention.output.dense" => "attn.proj",
        "layernorm_after" => "norm2",
        "intermediate.dense" => "mlp.fc1",
        "output.dense" => "mlp.fc2",
        _ => return None,
    };
    Some(format!("blocks.{block}.{part}.{leaf}"))
}

/// A ResNet's `encoder.stages.0.layers.1.layer.2.convolution.weight`.
fn residual(name: &str) -> Option<String> {
    let (part, leaf) = name.rsplit_once('.')?;
    let (place, kind) = part.rsplit_once('.')?;
    let norm = match kind {
        "convolution" => false,
        "normalization" => true,
        _ => return None,
    };
    if place == "embedder.embedder" {
        return Some(format!("{}.{leaf}", if norm { "bn1" } else { "conv1" }));
    }
    let parts: Vec<&str> = place.strip_prefix("encoder.stages.")?.split('.').collect();
    let group = |stage: &str| stage.parse::<usize>().ok()?.checked_add(1);
    match parts.as_slice() {
        [stage, "layers", block, "shortcut"] => {
            Some(format!("layer{}.{block}.downsample.{}.{leaf}", group(stage)?, usize::from(norm)))
        }
        [stage, "layers", block, "layer", place] => {
            let kind = if norm { "bn" } else { "conv" };
            Some(format!("layer{}.{block}.{kind}{}.{leaf}", group(stage)?, group(place)?))
        }
        _ => None,
    }
}
