//! A backbone from a file, a folder or the Hub, whoever wrote it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::convert::not_finite;
use super::expected::expected;
use super::infer::{Hints, Shapes, backbone, faults};
use super::published::imagenet_eval;
use super::{Manifest, load_encoder, settings, torch, transformers};
use crate::augment::{EvalTransform, Interpolation};
use crate::nn::{BACKBONE, Backbone, BackboneConfig, ParamStore, ResNetConfig, Stem};
use crate::{Error, Result};

/// Weights of a backbone that have been checked, with all that is needed to use them.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// The backbone.
    pub config: BackboneConfig,
    /// Its tensors under torchvision's or timm's names, on the CPU.
    pub tensors: HashMap<String, Tensor>,
    /// What happens to an image before the network: as the manifest, timm's `config.json` or the
    /// `preprocessor_config.json` of `transformers` say; without them ImageNet's usual one, with the bicubic filter for a
    /// transformer.
    pub preprocessing: EvalTransform,
    /// The manifest of weights that were trained or converted here.
    pub manifest: Option<Manifest>,
    /// Tensors of the file that are no backbone: classifiers, poolers, counters.
    pub left_out: Vec<String>,
    /// The file.
    pub source: PathBuf,
    /// The commit of the Hub's repository, for weights from there.
    pub commit: Option<String>,
    /// The licence of the weights: the manifest's, or that of the repository's card.
    pub licence: Option<String>,
}

impl Pretrained {
    /// Reads a file (safetensors, or a PyTorch file with one network in it) or a folder as the Hub's repositories are:
    /// `encoder.safetensors`, `model.safetensors` or `pytorch_model.bin`, with the settings beside it.
    ///
    /// The layout is told by the names: ours, torchvision's ResNets, timm's ResNets and plain vision transformers, those
    /// of `transformers`. What shapes cannot tell is in `hints`, then in the settings.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a broken file, one that is no such network, elements that are not finite or no
    /// real numbers; [`Error::Weights`] listing every missing, unexpected and mis-shaped name.
    pub fn open(path: &Path, hints: Hints) -> Result<Self> {
        let file = if path.is_dir() { weights_in(path)? } else { path.to_path_buf() };
        let folder = file.parent().unwrap_or(Path::new(""));
        // A file of another name may lie beside settings that are not its own.
        let beside = FILES.iter().any(|name| file.file_name().is_some_and(|own| own == *name));
        let setting = |name: &str| if beside { settings::read(&folder.join(name)) } else { Ok(None) };
        let (config, processor) = (setting("config.json")?, setting("preprocessor_config.json")?);
        Self::assemble(file, config, processor, hints)
    }

    /// A model repository of the Hub (`timm/vit_small_patch16_224.dino`, `facebook/dino-vits16`), from the cache or else
    /// the network.
    ///
    /// The commit is recorded. Once loaded, it loads without a network.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::Data`] for files that are neither in the cache nor can be had.
    #[cfg(feature = "hub")]
    pub fn from_hub(
        repo: &str,
        revision: &str,
        settings: &crate::data::hub::HubSettings,
        hints: Hints,
    ) -> Result<Self> {
        let groups: [&[&str]; 4] = [&FILES, &["config.json"], &["preprocessor_config.json"], &["README.md"]];
        let snapshot = settings.model_files(repo, revision, &groups)?;
        let mut files = snapshot.files.into_iter();
        let mut next = || files.next().flatten();
        let Some(weights) = next() else {
            return Err(Error::data(repo, format!("holds none of {}", FILES.join(", "))));
        };
        let read = |path: Option<PathBuf>| path.map_or(Ok(None), |path| super::settings::read(&path));
        let (config, processor, card) = (read(next())?, read(next())?, next());
        let of_transformers = config.as_ref().is_some_and(super::settings::is_transformers);
        let mut read = Self::assemble(weights, config, processor.filter(|_| of_transformers), hints)?;
        read.commit = Some(snapshot.commit);
        read.licence = read.licence.or_else(|| card.and_then(|card| licence_of(&card)));
        Ok(read)
    }

    /// [`Self::from_hub`] of the main branch of `owner/name`, as the environment says where the Hub and its cache are
    /// ([`crate::data::hub::HubSettings::from_env`]).
    ///
    /// # Errors
    /// As [`Self::from_hub`].
    #[cfg(feature = "hub")]
    pub fn load(repo: &str) -> Result<Self> {
        Self::from_hub(repo, "main", &crate::data::hub::HubSettings::from_env(), Hints::default())
    }

    /// These weights, if they are of one of the methods or say nothing.
    ///
    /// # Errors
    /// [`Error::Format`] for weights of another method.
    pub fn of(self, methods: &[&str]) -> Result<Self> {
        match &self.manifest {
            Some(manifest) if !methods.contains(&manifest.method.as_str()) => {
                let reason = format!("weights of {}, not of {}", manifest.method, methods.join(" or "));
                Err(Error::format(&self.source, reason))
            }
            _ => Ok(self),
        }
    }

    /// Which network of its method it is (`online`, `teacher`), where the manifest says.
    pub fn branch(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| manifest.branch.as_str())
    }

    fn assemble(
        source: PathBuf,
        config: Option<Value>,
        processor: Option<Value>,
        hints: Hints,
    ) -> Result<Self> {
        let refuse = |reason: String| Error::format(&source, reason);
        let (tensors, manifest) = read(&source)?;
        let (tensors, left_out) = backbone_names(tensors).map_err(refuse)?;
        let said = match (&manifest, &config) {
            (Some(manifest), _) => own_hints(&manifest.backbone),
            (None, Some(config)) => {
                settings::hints(config).map_err(|e| refuse(format!("config.json beside it: {e}")))?
            }
            (None, None) => Hints::default(),
        };
        let hints = Hints {
            heads: hints.heads.or(said.heads),
            norm_eps: hints.norm_eps.or(said.norm_eps),
            interpolation: hints.interpolation.or(said.interpolation),
            same_padding: hints.same_padding || said.same_padding,
            same_convolutions: hints.same_convolutions || said.same_convolutions,
        };
        let shapes: Shapes = tensors.iter().map(|(name, t)| (name.clone(), t.dims().to_vec())).collect();
        let network = backbone(&shapes, hints).map_err(refuse)?;
        let [missing, unexpected, mismatched] = faults(&expected(&network).map_err(refuse)?, &shapes);
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(Error::Weights { path: source, missing, unexpected, mismatched });
        }
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        for name in names {
            let tensor = &tensors[name];
            if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
                return Err(refuse(format!("`{name}` holds {:?}, not real numbers", tensor.dtype())));
            }
            if let Some(value) = not_finite(tensor)? {
                return Err(refuse(format!("`{name}` holds {value}")));
            }
        }
        let preprocessing = eval(&network, manifest.as_ref(), config.as_ref(), processor.as_ref());
        let preprocessing = preprocessing.map_err(refuse)?;
        preprocessing.check("preprocessing")?;
        let licence = manifest.as_ref().map(|manifest| manifest.licence.clone());
        Ok(Self {
            config: network,
            tensors,
            preprocessing,
            manifest,
            left_out,
            source,
            commit: None,
            licence,
        })
    }

    /// The network with these weights, in f32, and its parameters.
    ///
    /// # Errors
    /// Candle's, for a device without memory.
    pub fn build(&self, device: &Device) -> Result<(Backbone, ParamStore)> {
        let params = ParamStore::new(0, device);
        let backbone = Backbone::new(&params.builder(), &self.config)?;
        params.load(&self.tensors, &self.source)?;
        Ok((backbone, params))
    }
}

/// The licence in the metadata of a model's card.
#[cfg(feature = "hub")]
fn licence_of(card: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(card).ok()?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, 1 << 16), &mut text).ok()?;
    let metadata = text.strip_prefix("---")?.split("\n---").next()?;
    let field = |name: &str| metadata.lines().find_map(|line| line.strip_prefix(name));
    let licence = field("license_name:").or_else(|| field("license:"))?;
    let licence = licence.trim().trim_matches(['"', '\'']);
    (!licence.is_empty()).then(|| licence.to_string())
}

/// Weights of a folder, the first that is there.
const FILES: [&str; 3] = ["encoder.safetensors", "model.safetensors", "pytorch_model.bin"];

fn weights_in(folder: &Path) -> Result<PathBuf> {
    let found = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::format(folder, format!("holds none of {}", FILES.join(", "))))
}

/// All tensors of a file, and our manifest where it has one.
fn read(path: &Path) -> Result<(HashMap<String, Tensor>, Option<Manifest>)> {
    let mut first = [0; 2];
    let begun = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read(&mut file, &mut first))
        .map_err(Error::io(path))?;
    if begun < 2 || !matches!(first, [b'P', b'K'] | [0x80, 1..=5]) {
        return load_encoder(path);
    }
    let mut file = torch::Checkpoint::open(path)?;
    let place = ["", "state_dict", "model"].into_iter().find(|place| file.tables().contains_key(*place));
    let Some(table) = place.and_then(|place| file.tables().get(place)).cloned() else {
        let places: Vec<String> = file.tables().keys().map(|name| name.escape_debug().to_string()).collect();
        let reason =
            format!("has no weights where one network's are (but in {}): convert it", places.join(", "));
        return Err(Error::format(path, reason));
    };
    file.check_size(table.values())?;
    let mut tensors = HashMap::new();
    for (bare, full) in super::published::unwrapped(&table) {
        if !bare.ends_with("num_batches_tracked") {
            tensors.insert(bare.to_string(), file.read(&table[full])?);
        }
    }
    Ok((tensors, None))
}

/// The tensors of the backbone under our names, and the names of those that were left out.
fn backbone_names(
    tensors: HashMap<String, Tensor>,
) -> Result<(HashMap<String, Tensor>, Vec<String>), String> {
    let (kept, mut left_out) = if transformers::is(&tensors) {
        transformers::renamed(tensors)?
    } else {
        // A model with heads has its backbone one level deeper.
        let deeper = ["conv1.weight", "patch_embed.proj.weight"].map(|first| format!("{BACKBONE}.{first}"));
        let prefix = match deeper.iter().any(|name| tensors.contains_key(name)) {
            true => format!("{BACKBONE}."),
            false => String::new(),
        };
        let (mut kept, mut left_out) = (HashMap::new(), Vec::new());
        for (full, tensor) in tensors {
            match full.strip_prefix(&prefix) {
                Some(name) if !["fc.", "head."].iter().any(|head| name.starts_with(head)) => {
                    if name.ends_with("num_batches_tracked") {
                        left_out.push(full);
                    } else {
                        kept.insert(name.to_string(), tensor);
                    }
                }
                _ => left_out.push(full),
            }
        }
        (kept, left_out)
    };
    left_out.sort();
    Ok((kept, left_out))
}

/// What the name of a backbone in our manifests tells: `vit-d384-l12-h6-p16`, `resnet50-same`, `resnet50-pad-same`.
fn own_hints(name: &str) -> Hints {
    let (name, eps) = match name.split_once("-eps") {
        Some((name, eps)) => (name, eps.parse().ok()),
        None => (name, None),
    };
    let heads = name.split('-').find_map(|part| part.strip_prefix('h')?.parse().ok());
    let says = |part: &str| name.split('-').any(|own| own == part);
    Hints {
        heads,
        norm_eps: eps,
        interpolation: None,
        same_padding: says("same"),
        same_convolutions: says("pad"),
    }
}

fn eval(
    network: &BackboneConfig,
    manifest: Option<&Manifest>,
    config: Option<&Value>,
    processor: Option<&Value>,
) -> Result<EvalTransform, String> {
    if let Some(manifest) = manifest {
        return serde_json::from_str(&manifest.preprocessing)
            .map_err(|e| format!("the manifest's preprocessing `{}`: {e}", manifest.preprocessing));
    }
    if let Some(processor) = processor {
        return settings::transformers_eval(processor).map_err(|e| format!("preprocessor_config.json: {e}"));
    }
    let told = config.map(settings::timm_eval).transpose().map_err(|e| format!("config.json: {e}"))?;
    if let Some(eval) = told.flatten() {
        return Ok(eval);
    }
    Ok(match network {
        BackboneConfig::Resnet(ResNetConfig { stem: Stem::Cifar, .. }) => {
            let EvalTransform { mean, std, .. } = imagenet_eval(Interpolation::Bilinear);
            EvalTransform { resize: None, crop: None, mean, std, ..EvalTransform::as_is([0.0; 3], [1.0; 3]) }
        }
        BackboneConfig::Resnet(_) => imagenet_eval(Interpolation::Bilinear),
        BackboneConfig::Vit(vit) => EvalTransform {
            resize: Some(vit.image * 8 / 7),
            crop: Some(vit.image),
            ..imagenet_eval(Interpolation::Bicubic)
        },
        other => return Err(format!("how images are prepared for {other} is not known")),
    })
}
