//! What `config.json` and `preprocessor_config.json` say beside weights of timm and of `transformers`.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::Hints;
use crate::augment::{EvalTransform, Interpolation};
use crate::nn::Interpolation as Positions;
use crate::{Error, Result};

/// Bytes of a settings file.
const LONGEST: u64 = 1 << 20;

/// A JSON file, where there is one.
pub(super) fn read(path: &Path) -> Result<Option<Value>> {
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(LONGEST + 1).read_to_string(&mut text).map_err(Error::io(path))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    if text.len() as u64 > LONGEST {
        return Err(Error::format(path, format!("more than {LONGEST} bytes")));
    }
    serde_json::from_str(&text).map(Some).map_err(|e| Error::format(path, e))
}

/// Which library wrote the settings.
pub(super) fn is_transformers(config: &Value) -> bool {
    config.get("model_type").is_some()
}

/// What the settings add to the shapes.
pub(super) fn hints(config: &Value) -> Result<Hints, String> {
    if !is_transformers(config) {
        let heads = number(config, "/model_args/num_heads")?.or(number(config, "/num_heads")?);
        return Ok(Hints { heads, interpolation: Some(Positions::Antialiased), ..Hints::default() });
    }
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    match text("model_type") {
        Some("vit") => {}
        Some("resnet") => return resnet(config).map(|()| Hints::default()),
        other => return Err(format!("`model_type` is {other:?}; vit and resnet are supported")),
    }
    if let Some(other) = text("hidden_act").filter(|act| *act != "gelu") {
        return Err(format!("`hidden_act` is {other}; gelu is supported"));
    }
    let norm_eps = match config.get("layer_norm_eps") {
        None => 1e-12,
        Some(eps) => {
            eps.as_f64().filter(|eps| *eps > 0.0 && *eps < 1.0).ok_or("`layer_norm_eps` is no epsilon")?
        }
    };
    let heads = number(config, "/num_attention_heads")?;
    Ok(Hints { heads: heads.or(Some(12)), norm_eps: Some(norm_eps), ..Hints::default() })
}

/// Refuses ResNets that have torchvision's shapes and compute something else.
fn resnet(config: &Value) -> Result<(), String> {
    for key in ["downsample_in_first_stage", "downsample_in_bottleneck"] {
        if config.get(key) == Some(&Value::Bool(true)) {
            return Err(format!("`{key}` is on, which torchvision's ResNet has not"));
        }
    }
    match config.get("hidden_act").and_then(Value::as_str) {
        None | Some("relu") => Ok(()),
        Some(other) => Err(format!("`hidden_act` is {other}; relu is supported")),
    }
}

fn number(value: &Value, pointer: &str) -> Result<Option<usize>, String> {
    let Some(found) = value.pointer(pointer) else { return Ok(None) };
    let side = found.as_u64().filter(|n| (1..=8192).contains(n));
    side.map(|n| Some(n as usize)).ok_or_else(|| format!("`{pointer}` is {found}, not in 1..=8192"))
}

fn numbers(value: &Value, key: &str, default: [f32; 3]) -> Result<Vec<f32>, String> {
    let Some(found) = value.get(key) else { return Ok(default.to_vec()) };
    let list = found.as_array().map(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
    match list.flatten() {
        Some(list) if list.len() == 3 => Ok(list.into_iter().map(|v| v as f32).collect()),
        _ => Err(format!("`{key}` is {found}, not three numbers")),
    }
}

/// timm's `pretrained_cfg`: the shorter side to the input's divided by `crop_pct`, then the central crop.
pub(super) fn timm_eval(config: &Value) -> Result<Option<EvalTransform>, String> {
    let Some(cfg) = config.get("pretrained_cfg") else { return Ok(None) };
    let Some(side) = number(cfg, "/input_size/2")? else { return Ok(None) };
    let crop = match cfg.get("crop_pct") {
        None => 0.875,
        Some(value) => {
            value.as_f64().filter(|v| *v > 0.1 && *v <= 1.0).ok_or("`crop_pct` is not in (0.1, 1]")?
        }
    };
    if let Some(mode) = cfg.get("crop_mode").and_then(Value::as_str).filter(|mode| *mode != "center") {
        return Err(format!("`crop_mode` is {mode}; center is supported"));
    }
    let interpolation = match cfg.get("interpolation").and_then(Value::as_str) {
        None | Some("bilinear") => Interpolation::Bilinear,
        Some("bicubic") => Interpolation::Bicubic,
        Some(other) => return Err(format!("`interpolation` is {other}; bilinear and bicubic are supported")),
    };
    Ok(Some(EvalTransform {
        resize: Some((side as f64 / crop).floor() as usize),
        crop: Some(side),
        interpolation,
        mean: numbers(cfg, "mean", [0.485, 0.456, 0.406])?,
        std: numbers(cfg, "std", [0.229, 0.224, 0.225])?,
        ..EvalTransform::as_is([0.0; 3], [1.0; 3])
    }))
}

/// The preprocessing of `transformers`. Where it makes both sides the same, whatever the image's, the central square is
/// taken here: nothing is stretched, and on square images both are the same.
pub(super) fn transformers_eval(config: &Value) -> Result<EvalTransform, String> {
    let on = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    if !on("do_rescale", true) {
        return Err("`do_rescale` is off: pixels of 0 to 255 are not supported".into());
    }
    let side = |key: &str| -> Result<Option<usize>, String> {
        for pointer in [format!("/{key}/shortest_edge"), format!("/{key}/height")] {
            if let Some(side) = number(config, &pointer)? {
                return Ok(Some(side));
            }
        }
        if config.get(key).is_some_and(Value::is_number) {
            number(config, &format!("/{key}"))
        } else {
            Ok(None)
        }
    };
    let resize = if on("do_resize", true) { Some(side("size")?.unwrap_or(224)) } else { None };
    let crop = if on("do_center_crop", false) { side("crop_size")?.or(resize) } else { resize };
    // ConvNeXt's processor, which ResNets use: the shorter side is larger by `crop_pct`.
    let larger = match config.get("crop_pct").and_then(Value::as_f64).filter(|v| *v > 0.1 && *v <= 1.0) {
        Some(pct) => resize.map(|side| (side as f64 / pct) as usize),
        None => resize,
    };
    let interpolation = match config.get("resample").and_then(Value::as_u64) {
        None | Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(other) => {
            return Err(format!("`resample` is {other}; 2 (bilinear) and 3 (bicubic) are supported"));
        }
    };
    let (mean, std) = if on("do_normalize", true) {
        (numbers(config, "image_mean", [0.5; 3])?, numbers(config, "image_std", [0.5; 3])?)
    } else {
        (vec![0.0; 3], vec![1.0; 3])
    };
    Ok(EvalTransform {
        resize: larger,
        crop,
        interpolation,
        mean,
        std,
        ..EvalTransform::as_is([0.0; 3], [1.0; 3])
    })
}
