//! Videos without labels: a frame contrasted with a later one, or with the motion around it (section 4.3 of the paper).
//!
//! Both views stand one above the other in one array, the frame's three channels first, and [`crate::Cmc`] splits them
//! by channels as it splits L from ab: the method, its banks and losses are the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use contrastive_core::augment::{Interpolation, resize_shorter};
use contrastive_core::data::{Array, Loader, LoaderOptions, Source, Transform};
use contrastive_core::eval::Features;
use contrastive_core::experiment::{OptimConfig, RunOptions, RunParts, config_hash, train_parts};
use contrastive_core::nn::BackboneConfig;
use contrastive_core::optim::ParamGroups;
use contrastive_core::rng::Key;
use contrastive_core::train::{Method, Outcome, TrainConfig};
use contrastive_core::weights::{load, save};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::clips::{Clip, clips, columns, moment};
use super::stack::FIELDS;
use super::tvl1::TvL1;
use crate::config::CmcConfig;
use crate::method::Cmc;
use crate::views::{Scene, View, Window};

/// What a frame is contrasted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Other {
    /// The frame some time later (the paper's V).
    Later,
    /// The stack of ten fields of flow around it (the paper's D).
    Motion,
}

impl Other {
    /// The channels of both views.
    pub fn channels(self) -> [usize; 2] {
        [3, if self == Self::Motion { 2 * FIELDS } else { 3 }]
    }
}

/// Which moments of a clip are samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentConfig {
    /// So many in each clip, at equal distances.
    pub per_clip: usize,
    /// Frames from a frame to its later one.
    pub later: usize,
    /// Side that the shorter side of a frame is resized to, in pixels, before flow is computed.
    pub shorter: usize,
}

/// Moments of the clips of a folder, read and computed when they are asked for. Flow takes longer than everything else of
/// a step: with a folder to keep them in, each moment is computed once.
pub struct Moments {
    name: String,
    clips: Vec<Clip>,
    classes: Vec<String>,
    config: MomentConfig,
    flow: TvL1,
    kept: Option<PathBuf>,
}

impl Moments {
    /// The moments of `DIR/CLASS/CLIP/FRAME.jpg`; `keep` is the folder of those that have been computed.
    ///
    /// # Errors
    /// As [`clips`]; [`Error::Config`] for no moment in a clip.
    pub fn open(root: &Path, config: MomentConfig, keep: Option<&Path>) -> Result<Self> {
        if config.per_clip == 0 || config.shorter < 8 {
            let reason = "at least 1 moment in a clip, and frames of 8 pixels";
            return Err(Error::config("moments", reason));
        }
        let (clips, classes) = clips(root)?;
        let name =
            root.file_name().map_or_else(|| "clips".to_string(), |name| name.to_string_lossy().into_owned());
        let kept = keep.map(Path::to_path_buf);
        if let Some(folder) = &kept {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        Ok(Self { name, clips, classes, config, flow: TvL1::default(), kept })
    }

    /// The clip of a sample, and which of its frames.
    fn place(&self, index: usize) -> Option<(&Clip, usize)> {
        let clip = self.clips.get(index / self.config.per_clip)?;
        let part = 2 * (index % self.config.per_clip) + 1;
        Some((clip, clip.frames.len() * part / (2 * self.config.per_clip)))
    }

    /// Only the frames that a moment needs are read.
    fn compute(&self, clip: &Clip, at: usize) -> Result<Scene> {
        let reach = FIELDS / 2;
        let (first, then) = (at.saturating_sub(reach), at + self.config.later);
        let last = (at + reach).max(then).min(clip.frames.len() - 1);
        let part = Clip { frames: clip.frames[first..=last].to_vec(), ..clip.clone() };
        let scaled = part
            .read()?
            .into_iter()
            .map(|frame| resize_shorter(&frame, self.config.shorter, Interpolation::Bilinear));
        moment(&scaled.collect::<Result<Vec<_>>>()?, at - first, self.config.later, &self.flow)
    }

    /// Frames as the bytes they were, flow in half precision.
    fn packed(scene: &Scene) -> Result<Vec<(String, Tensor)>> {
        let pack = |(column, view): (View, &Array)| -> Result<(String, Tensor)> {
            let x = Tensor::from_slice(&view.data, view.shape.as_slice(), &Device::Cpu)?;
            let x = match column.channels {
                3 => ((x + 1.0)? * 127.5)?.round()?.to_dtype(DType::U8)?,
                _ => x.to_dtype(DType::F16)?,
            };
            Ok((column.name, x))
        };
        columns().into_iter().zip(&scene.views).map(pack).collect()
    }

    fn unpacked(tensors: &HashMap<String, Tensor>, from: &str) -> Result<Scene> {
        let view = |column: View| -> Result<Array> {
            let missing = || Error::data(from, format!("no `{}`", column.name));
            let x = tensors.get(&column.name).ok_or_else(missing)?;
            let bytes = x.dtype() == DType::U8;
            let data = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let value = |v: f32| if bytes { v / 127.5 - 1.0 } else { v };
            Ok(Array { shape: x.dims().to_vec(), data: data.into_iter().map(value).collect() })
        };
        Ok(Scene { views: columns().into_iter().map(view).collect::<Result<_>>()?, labels: None })
    }
}

impl Source for Moments {
    type Sample = Scene;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.clips.len() * self.config.per_clip
    }

    fn sample(&self, index: usize) -> Result<Scene> {
        let missing = || Error::data(&self.name, format!("moment {index} of {}", self.len()));
        let (clip, at) = self.place(index).ok_or_else(missing)?;
        // Packed or not, kept or not: the values are the same.
        let Some(folder) = &self.kept else {
            return Self::unpacked(
                &Self::packed(&self.compute(clip, at)?)?.into_iter().collect(),
                &clip.name,
            );
        };
        let key = format!("{}/{}/{at}/{:?}/{:?}", self.fingerprint(), clip.name, self.config, self.flow);
        let path = folder.join(format!("{}.safetensors", blake3::hash(key.as_bytes()).to_hex()));
        if !path.is_file() {
            save(&path, &Self::packed(&self.compute(clip, at)?)?, &Default::default())?;
        }
        Self::unpacked(&load(&path)?.0, &path.display().to_string())
    }

    fn sample_name(&self, index: usize) -> String {
        self.place(index).map_or_else(String::new, |(clip, at)| format!("{}, frame {at}", clip.name))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.place(index).map(|(clip, _)| clip.class)
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Over names and numbers of frames: their content is not read for it.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for clip in &self.clips {
            hasher.update(format!("{}\0{}\0", clip.name, clip.frames.len()).as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A random window of the frame and of its other view, above each other: `[3 + C, side, side]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stacked {
    /// The other view.
    pub other: Other,
    /// Side of the window in pixels.
    pub side: usize,
    /// The window in the middle instead of a random one, for evaluation.
    pub middle: bool,
}

impl Transform<Scene> for Stacked {
    fn apply(&self, scene: &Scene, key: Key) -> Result<Vec<Array>> {
        let columns = vec![0, if self.other == Other::Motion { 2 } else { 1 }];
        let window = Window { columns, side: self.side, labels: false };
        let parts = if self.middle {
            let shape = scene.views.first().map(|view| view.shape.clone()).unwrap_or_default();
            let middle = |axis: usize| shape.get(axis).unwrap_or(&0).saturating_sub(self.side) / 2;
            window.cut(scene, [middle(1), middle(2)])?
        } else {
            window.apply(scene, key)?
        };
        Ok(vec![Array::stacked(parts)?])
    }
}

/// Everything that decides the result of a run on videos.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoRun {
    /// Networks (of kind `split`, with the channels of [`Other::channels`]) and objective.
    pub method: CmcConfig,
    /// The loop.
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// What a frame is contrasted with.
    pub other: Other,
    /// Which moments are samples.
    pub moments: MomentConfig,
    /// Side of the windows in pixels.
    pub side: usize,
}

impl VideoRun {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        use contrastive_core::experiment::MethodConfig;
        self.method.check("method")?;
        self.train.check("train")?;
        self.optim.check("optim")?;
        let channels = self.other.channels();
        match self.method.backbone {
            BackboneConfig::Split(split) if split.channels == channels => {}
            _ => {
                let reason = format!("must split {channels:?} channels");
                return Err(Error::config("method.backbone.channels", reason));
            }
        }
        if self.side == 0 || self.side > self.moments.shorter {
            let reason = format!("{} is not in 1..={}, the shorter side", self.side, self.moments.shorter);
            return Err(Error::config("side", reason));
        }
        Ok(())
    }

    /// A hash of the configuration.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        config_hash(self)
    }

    /// Moments in, trained networks out. See [`contrastive_core::experiment::train`] for what the run directory holds.
    ///
    /// # Errors
    /// Settings out of range, a directory in use, a loss that is not finite.
    pub fn fit(&self, moments: Arc<Moments>, options: RunOptions<'_>) -> Result<(Cmc, Outcome)> {
        self.check()?;
        let loader = LoaderOptions {
            workers: options.workers,
            ..LoaderOptions::new(self.train.batch_size, self.train.seed)
        };
        let stacked = Stacked { other: self.other, side: self.side, middle: false };
        let batches = Loader::new(moments, stacked, loader.on(&options.comm))?;
        let mut method = Cmc::new(self.method.clone(), self.train.seed, &options.device)?;
        let parts = RunParts {
            config: self,
            train: &self.train,
            optim: &self.optim,
            groups: ParamGroups::new(),
            backbone: self.method.backbone.to_string(),
            preprocessing: format!("windows of {} pixels of frames of {}", self.side, self.moments.shorter),
        };
        let outcome = train_parts(parts, &mut method, &batches, options)?;
        Ok((method, outcome))
    }

    /// Both networks' features of each clip, the mean over its moments, with its class.
    ///
    /// # Errors
    /// A frame that cannot be read, shapes that do not fit.
    pub fn features(&self, method: &Cmc, moments: &Moments) -> Result<Features> {
        let stacked = Stacked { other: self.other, side: self.side, middle: true };
        let (mut data, mut labels) = (Vec::new(), Vec::with_capacity(moments.clips.len()));
        let per_clip = moments.config.per_clip;
        for (i, clip) in moments.clips.iter().enumerate() {
            let mut arrays = Vec::with_capacity(per_clip);
            for index in i * per_clip..(i + 1) * per_clip {
                let key = Key::new(self.train.seed, contrastive_core::rng::Purpose::Eval);
                for array in stacked.apply(&moments.sample(index)?, key)? {
                    arrays.push(Tensor::from_vec(array.data, array.shape, &Device::Cpu)?);
                }
            }
            let x = Tensor::stack(&arrays, 0)?.to_device(&method.params().device())?;
            data.extend(method.features(&x)?.mean(0)?.to_vec1::<f32>()?);
            labels.push(clip.class);
        }
        let n = labels.len();
        Ok(Features { dim: data.len() / n.max(1), data, n, labels })
    }
}
