//! From a published checkpoint to `encoder.safetensors` and `heads.safetensors`.

use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use super::expected::expected;
use super::infer::{Hints, Shapes, backbone, faults};
use super::published::{Branch, Published, identify, unwrapped};
use super::tensors::{Outline, save_each};
use super::torch::{Checkpoint, Stored};
use super::{DataIdentity, MANIFEST_VERSION, Manifest, Origin, canonical_json};
use crate::nn::BackboneConfig;
use crate::{Error, Result};

/// What to convert.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method that the file is said to be of.
    pub method: &'a str,
    /// The network that is wanted; the layout's first where absent.
    pub branch: Option<&'a str>,
    /// Attention heads of a transformer whose width is none of the usual ones.
    pub heads: Option<usize>,
    /// The layouts that are known.
    pub layouts: &'a [&'a Published],
    /// Methods whose checkpoints are read otherwise: an error that lists what is known names them too.
    pub others: &'a [&'a str],
}

/// What was converted.
#[derive(Debug)]
pub struct Converted<'a> {
    /// The layout that was found.
    pub layout: &'a Published,
    /// The network that was taken.
    pub branch: &'static str,
    /// Its backbone, where there is one.
    pub backbone: Option<BackboneConfig>,
    /// The files that were written, with the number of tensors in each.
    pub written: Vec<(PathBuf, usize)>,
    /// Tensors of the same dictionary that were left out.
    pub left_out: usize,
}

/// Writes a network of a checkpoint to the folder `out`: the backbone, under torchvision's or timm's names, to
/// `encoder.safetensors`, and what else the method's own model has, under the names of its parameter store, to
/// `heads.safetensors`. Element types stay as they are. One tensor at a time is in memory. Files that are there are
/// replaced, each whole; elements are checked before the first is.
///
/// # Errors
/// [`Error::Config`] for a method or a branch that is not known; [`Error::Format`] for a file of another layout, which
/// says whose it looks like, and for elements that are not finite; [`Error::Weights`] for a backbone with missing,
/// unexpected or mis-shaped tensors; [`Error::Io`].
pub fn convert<'a>(checkpoint: &mut Checkpoint, request: Request<'a>, out: &Path) -> Result<Converted<'a>> {
    let layout = layout(checkpoint, request)?;
    let branch = branch(layout, request.branch)?;
    let Some((table, tensors)) = branch.table(checkpoint) else {
        return Err(Error::format(
            checkpoint.path(),
            format!("has no `{}`, where `{}` should lie", branch.tables.join("` or `"), branch.name),
        ));
    };
    let parted = part(branch, tensors);
    let path = checkpoint.path().to_path_buf();
    let refuse = |reason: String| Error::format(&path, reason);
    let (config, manifest) = if branch.backbone {
        let shapes: Shapes =
            parted.backbone.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        let hints = Hints { heads: request.heads.or(heads(layout, &shapes)), ..Hints::default() };
        let config = backbone(&shapes, hints)
            .map_err(|reason| refuse(format!("`{}` of {}: {reason}", branch.name, layout.describe())))?;
        let [missing, unexpected, mismatched] = faults(&expected(&config).map_err(refuse)?, &shapes);
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(Error::Weights { path, missing, unexpected, mismatched });
        }
        (Some(config), config.to_string())
    } else {
        (None, "none".to_string())
    };
    for (name, stored) in parted.backbone.iter().chain(&parted.heads) {
        let float = matches!(stored.dtype(), Some(DType::F16 | DType::BF16 | DType::F32 | DType::F64));
        if !float {
            return Err(refuse(format!("`{name}` holds {}, not real numbers", kind(stored))));
        }
    }
    checkpoint.check_size(parted.backbone.iter().chain(&parted.heads).map(|(_, stored)| stored))?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: layout.method.to_string(),
        branch: branch.name.to_string(),
        backbone: manifest,
        preprocessing: preprocessing(layout)?,
        data: DataIdentity { name: layout.data.to_string(), fingerprint: "unknown".to_string() },
        licence: layout.licence.to_string(),
        origin: Some(Origin::of(&path, layout.repository)?),
    };
    let left_out = checkpoint.tables()[table].len() - parted.backbone.len() - parted.heads.len();
    // Before anything is written.
    for (name, stored) in parted.backbone.iter().chain(&parted.heads) {
        if let Some(value) = not_finite(&checkpoint.read(stored)?)? {
            return Err(Error::format(&path, format!("`{name}` holds {value}")));
        }
    }
    let made = !out.exists();
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let files = [("encoder.safetensors", &parted.backbone), ("heads.safetensors", &parted.heads)];
    let mut written = Vec::new();
    for (name, tensors) in files.into_iter().filter(|(_, tensors)| !tensors.is_empty()) {
        let file = out.join(name);
        if let Err(error) = write(checkpoint, &file, tensors, &manifest) {
            if made {
                // Only if nothing is in it.
                let _ = std::fs::remove_dir(out);
            }
            return Err(error);
        }
        written.push((file, tensors.len()));
    }
    Ok(Converted { layout, branch: branch.name, backbone: config, written, left_out })
}

fn kind(stored: &Stored) -> String {
    stored.dtype().map_or("numbers of a type that is not supported".to_string(), |dtype| format!("{dtype:?}"))
}

fn preprocessing(layout: &Published) -> Result<String> {
    let value = serde_json::to_value((layout.eval)()).map_err(|e| Error::config("eval", e.to_string()))?;
    Ok(canonical_json(&value))
}

/// The layout of the method that the checkpoint has.
fn layout<'a>(checkpoint: &Checkpoint, request: Request<'a>) -> Result<&'a Published> {
    let own: Vec<&Published> =
        request.layouts.iter().copied().filter(|layout| layout.method == request.method).collect();
    if own.is_empty() {
        let mut names: Vec<&str> = request.layouts.iter().map(|layout| layout.method).collect();
        names.extend(request.others);
        names.sort_unstable();
        names.dedup();
        let reason = format!("no checkpoints of `{}` are known; known: {}", request.method, names.join(", "));
        return Err(Error::config("method", reason));
    }
    if let Some(layout) = identify(checkpoint, &own).first() {
        return Ok(layout);
    }
    let like: Vec<String> =
        identify(checkpoint, request.layouts).iter().map(|layout| layout.describe()).collect();
    let tables = checkpoint.tables();
    let reason = if !like.is_empty() {
        format!("its names are not those of {}, but of {}", request.method, like.join(" or "))
    } else if tables.is_empty() {
        "there are no tensors in it".to_string()
    } else {
        let shown = tables.iter().take(4).map(|(place, table)| {
            let names: Vec<&str> = table.keys().take(3).map(String::as_str).collect();
            let place = if place.is_empty() { "the outermost dictionary" } else { place };
            format!("{place}: {}", names.join(", "))
        });
        let shown = shown.collect::<Vec<_>>().join("; ").escape_debug().to_string();
        format!("its names are those of no known layout ({shown} ...)")
    };
    Err(Error::format(checkpoint.path(), reason))
}

fn branch(layout: &Published, wanted: Option<&str>) -> Result<&'static Branch> {
    let found = match wanted {
        None => layout.branches.first(),
        Some(name) => layout.branches.iter().find(|branch| branch.name == name),
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = layout.branches.iter().map(|branch| branch.name).collect();
        let reason = format!(
            "{} has no `{}`; known: {}",
            layout.describe(),
            wanted.unwrap_or_default(),
            known.join(", ")
        );
        Error::config("branch", reason)
    })
}

/// The unusual number of heads that a layout has for this width.
fn heads(layout: &Published, shapes: &Shapes) -> Option<usize> {
    let width = shapes.get("patch_embed.proj.weight")?.first()?;
    layout.attention_heads.iter().find(|(dim, _)| dim == width).map(|(_, heads)| *heads)
}

/// The tensors of a branch under their new names.
struct Parted {
    backbone: Vec<(String, Stored)>,
    heads: Vec<(String, Stored)>,
}

/// The place and the rest of a name in one of these parts.
fn renamed(parts: &'static [(&'static str, &'static str)], name: &str) -> Option<(&'static str, String)> {
    parts.iter().find_map(|(from, to)| Some((*to, name.strip_prefix(from)?.to_string())))
}

fn part(branch: &'static Branch, table: &super::torch::Table) -> Parted {
    let mut parted = Parted { backbone: Vec::new(), heads: Vec::new() };
    for (bare, full) in unwrapped(table) {
        let stored = &table[full];
        if bare.ends_with("num_batches_tracked") {
            continue;
        }
        let within = bare.strip_prefix(branch.prefix);
        let beside = renamed(branch.beside, bare);
        match (beside, within.map(|name| (name, renamed(branch.parts, name)))) {
            (Some((to, rest)), _) | (None, Some((_, Some((to, rest))))) if !to.is_empty() => {
                parted.heads.push((format!("{to}{rest}"), stored.clone()));
            }
            (None, Some((name, None))) if branch.backbone => {
                parted.backbone.push((name.to_string(), stored.clone()));
            }
            _ => {}
        }
    }
    parted
}

/// Writes tensors of the checkpoint.
fn write(
    checkpoint: &mut Checkpoint,
    path: &Path,
    tensors: &[(String, Stored)],
    manifest: &Manifest,
) -> Result<()> {
    let outline = |(name, stored): &(String, Stored)| {
        let dtype = stored.dtype().unwrap_or(DType::F32);
        (name.clone(), dtype, stored.shape().to_vec())
    };
    let outlines: Vec<Outline> = tensors.iter().map(outline).collect();
    let metadata = serde_json::to_value(manifest).map_err(|e| Error::format(path, e))?;
    save_each(path, &outlines, &metadata, |i| checkpoint.read(&tensors[i].1))
}

/// The first value that is no finite number.
pub(super) fn not_finite(tensor: &Tensor) -> Result<Option<f64>> {
    let flat = tensor.flatten_all()?;
    let bad = match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>()?.into_iter().find(|value| !value.is_finite()),
        DType::F16 | DType::BF16 | DType::F32 => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            values.into_iter().find(|value| !value.is_finite()).map(f64::from)
        }
        _ => None,
    };
    Ok(bad)
}

/// BLAKE3 of a file.
pub(super) fn hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io(path))? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}
