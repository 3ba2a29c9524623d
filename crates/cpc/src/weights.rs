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
//! `gEncoder.batchNorm{i}.*` (whatever the normalisation) and `gAR.baseNet.*`: [`from_cpc_audio`] tells their networks and
//! renames them, [`convert_cpc_audio`] makes of a file what `cargo xtask embed` takes as a run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use contrastive_core::train::Method;
use contrastive_core::train::config::to_toml_string;
use contrastive_core::weights::torch::Checkpoint;
use contrastive_core::weights::{
    DataIdentity, MANIFEST_VERSION, Manifest, Origin, canonical_json, check_numbers, save_encoder,
};
use contrastive_core::{Error, Result};

use crate::speech::{CellKind, ContextConfig, EncoderConfig, Norm, SpeechCpc, SpeechRun, recipe};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of g_enc within the backbone.
pub const ENCODER: &str = "encoder";
/// Prefix of g_ar: within the backbone for speech, beside it for images.
pub const CONTEXT: &str = "context";
/// Prefix of the maps W_k in the parameter store.
pub const PREDICTOR: &str = "predictor";

/// The networks of CPC_audio (its five convolutions, with channel norm, batch norm or none, and its GRU or LSTM of any
/// layers) and the backbone's tensors under the names of this crate: what
/// [`contrastive_core::train::Method::load_backbone`] takes. A convolution's bias before a batch norm is moved into the
/// running mean. The criterion's predictors are left out: they belong to training.
///
/// # Errors
/// In words, for tensors of other networks (transformers, bidirectional ones, instance norm).
pub fn from_cpc_audio(
    tensors: &BTreeMap<String, Tensor>,
) -> std::result::Result<(EncoderConfig, ContextConfig, HashMap<String, Tensor>), String> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims);
    let Some(&[channels, 1, 10]) = dims("gEncoder.conv0.weight") else {
        return Err("no `gEncoder.conv0.weight` of kernel 10: not an encoder of CPC_audio".into());
    };
    let norm = match (dims("gEncoder.batchNorm0.weight"), dims("gEncoder.batchNorm0.running_mean")) {
        (None, None) => Norm::None,
        (Some(_), Some(_)) => Norm::Batch,
        (Some([1, _, 1]), None) => Norm::Channel,
        _ => return Err("`gEncoder.batchNorm0` is instance norm, which is not supported".into()),
    };
    let Some(&[rows, width]) = dims("gAR.baseNet.weight_hh_l0") else {
        return Err("no `gAR.baseNet.weight_hh_l0`: the context network is no GRU or LSTM".into());
    };
    let cell = match rows.checked_div(width) {
        Some(3) => CellKind::Gru,
        Some(4) => CellKind::Lstm,
        _ => return Err(format!("`gAR.baseNet.weight_hh_l0` has {rows} rows for {width}: no GRU or LSTM")),
    };
    let layers = (0..64).take_while(|i| dims(&format!("gAR.baseNet.weight_hh_l{i}")).is_some()).count();
    let mut named = HashMap::new();
    for (name, tensor) in tensors {
        if let Some(rest) = name.strip_prefix("gAR.baseNet.") {
            named.insert(format!("{CONTEXT}.{rest}"), tensor.clone());
            continue;
        }
        let Some(rest) = name.strip_prefix("gEncoder.") else { continue };
        let (layer, leaf) = rest.rsplit_once('.').ok_or_else(|| format!("`{name}` is not known"))?;
        let layer = layer.replace("batchNorm", "norm");
        let flat = || tensor.flatten_all().map_err(|e| e.to_string());
        match (norm, leaf) {
            (_, "num_batches_tracked") => continue,
            (Norm::Batch, "bias") if layer.starts_with("conv") => continue,
            (Norm::Batch, "running_mean") => {
                let bias = tensors.get(&format!("gEncoder.{}.bias", layer.replace("norm", "conv")));
                let mean = match bias {
                    Some(bias) => tensor.sub(bias).map_err(|e| e.to_string())?,
                    None => tensor.clone(),
                };
                named.insert(format!("{ENCODER}.{layer}.{leaf}"), mean);
            }
            (Norm::Channel, _) if layer.starts_with("norm") => {
                named.insert(format!("{ENCODER}.{layer}.{leaf}"), flat()?);
            }
            _ => {
                named.insert(format!("{ENCODER}.{layer}.{leaf}"), tensor.clone());
            }
        }
    }
    let encoder = EncoderConfig { norm, ..EncoderConfig::paper(channels) };
    Ok((encoder, ContextConfig { cell, width, layers }, named))
}

/// Writes the networks of a checkpoint of CPC_audio (`checkpoint_30.pt` of its training, or `60k_epoch4-d0f474de.pt`) to
/// the folder `out`: `encoder.safetensors` with its manifest, and `config.toml`, in which the settings of training are the
/// preset's `cpc-audio`.
///
/// # Errors
/// [`Error::Format`] for another file, in words; [`Error::Weights`] listing names that are missing or too many;
/// [`Error::Io`]. Nothing is written then.
pub fn convert_cpc_audio(checkpoint: &mut Checkpoint, out: &Path) -> Result<(SpeechRun, PathBuf)> {
    let path = checkpoint.path().to_path_buf();
    let refuse = |reason: String| Error::format(&path, reason);
    // Training keeps the best state beside the last one; `weights` is what was published.
    let place = ["weights", "gEncoder", "best", ""].into_iter().find(|place| {
        let table = checkpoint.tables().get(*place);
        table.is_some_and(|table| table.keys().any(|name| name.contains("gEncoder.")))
    });
    let Some(table) = place.and_then(|place| checkpoint.tables().get(place)).cloned() else {
        return Err(refuse("has no `gEncoder`: not of facebookresearch/CPC_audio".into()));
    };
    let mut tensors = BTreeMap::new();
    for (name, stored) in &table {
        let bare = name.strip_prefix("module.").unwrap_or(name);
        tensors.insert(bare.to_string(), checkpoint.read(stored)?);
    }
    let (encoder, context, named) = from_cpc_audio(&tensors).map_err(refuse)?;
    let mut run = recipe::preset("cpc-audio")?;
    (run.method.encoder, run.method.context) = (encoder, context);
    let mut sorted: Vec<(String, Tensor)> = named.clone().into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    check_numbers(&path, &sorted)?;
    SpeechCpc::new(run.method.clone(), 0, &candle_core::Device::Cpu)?.load_backbone(&named, &path)?;
    let scale =
        serde_json::to_value(run.windows.scale).map_err(|e| Error::config("windows.scale", e.to_string()))?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: "cpc-speech".to_string(),
        branch: "online".to_string(),
        backbone: run.method.backbone(),
        preprocessing: canonical_json(&scale),
        data: DataIdentity { name: "unknown".to_string(), fingerprint: "unknown".to_string() },
        licence: "unspecified".to_string(),
        origin: Some(Origin::of(&path, "facebookresearch/CPC_audio")?),
    };
    let settings = to_toml_string(&run)?;
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let file = out.join("encoder.safetensors");
    save_encoder(&file, &sorted, &manifest)?;
    let config = out.join("config.toml");
    std::fs::write(&config, settings).map_err(Error::io(&config))?;
    Ok((run, file))
}

#[cfg(test)]
mod tests;
