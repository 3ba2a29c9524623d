//! Networks that embed: of images, and CPC's of speech.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use contrastive_core::data::{SequentialLoader, Source, Split, Subset};
use contrastive_core::train::Method;
use contrastive_core::train::config::read;
use contrastive_core::weights::{canonical_json, digest, load_encoder};
use contrastive_cpc::audio::read_16k;
use contrastive_cpc::speech::streaming::Stream;
use contrastive_cpc::speech::{SpeechCpc, SpeechRun};

use super::parts::Part;
use super::samples::{self, Files};
use super::table::{About, Rows};
use crate::data::Images;
use crate::eval::Encoder;

/// A network and the samples that it embeds, in their order.
pub trait Embedder {
    /// What the embeddings are of and whose they are.
    fn about(&self) -> Result<About>;
    /// The number of samples.
    fn len(&self) -> usize;
    /// Embeds some of them. `seen` is told how many are done with; it says no to stop, and then there is no part.
    fn embed(&self, range: Range<usize>, seen: &mut dyn FnMut(usize) -> bool) -> Result<Option<Part>>;
}

/// Samples of a forward pass, and threads that prepare them.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Samples of a forward pass.
    pub batch: usize,
    /// Threads.
    pub workers: usize,
}

/// Whether a run's encoder is of recordings.
pub fn hears(run: &Path) -> Result<bool> {
    let (_, manifest) = load_encoder(&run.join("encoder.safetensors"))?;
    Ok(manifest.is_some_and(|manifest| manifest.method == "cpc-speech"))
}

/// Images through an encoder.
pub struct Pictures {
    encoder: Encoder,
    images: Images,
    classes: Vec<String>,
    work: Work,
}

impl Pictures {
    /// The images at `place`.
    pub fn new(encoder: Encoder, place: &str, split: Split, work: Work) -> Result<Self> {
        let (images, classes) = samples::images(place, split)?;
        Ok(Self { encoder, images, classes, work })
    }
}

impl Embedder for Pictures {
    fn about(&self) -> Result<About> {
        let preprocessing = canonical_json(&serde_json::to_value(self.encoder.eval())?);
        let mut about = About::new(self.encoder.method(), self.encoder.digest()?, preprocessing);
        about.data = self.images.name().to_string();
        about.fingerprint = self.images.fingerprint();
        about.classes = self.classes.clone();
        Ok(about)
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn embed(&self, range: Range<usize>, seen: &mut dyn FnMut(usize) -> bool) -> Result<Option<Part>> {
        let start = range.start;
        let subset = Subset::new(self.images.clone(), range.clone().collect())?;
        let transform = self.encoder.eval().clone();
        let loader = SequentialLoader::new(subset, transform, self.work.batch, self.work.workers)?;
        let mut rows = Rows::default();
        for batch in loader.batches() {
            let batch = match batch {
                // Where no sample of a part can be read, the loader has nothing to give; other parts may have.
                Err(_) if loader.skipped().count() == range.len() => break,
                batch => batch?,
            };
            let Some(view) = batch.views.first() else { bail!("a batch without images") };
            let features = self.encoder.encode(view)?;
            let (_, dim) = features.dims2()?;
            let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let places: Vec<usize> = batch.indices.iter().map(|&index| start + index as usize).collect();
            let label = |&place: &usize| self.images.label(place).map_or(-1, i64::from);
            rows.extend(Rows {
                dim,
                data: features.flatten_all()?.to_vec1()?,
                names: places.iter().map(|&place| self.images.sample_name(place)).collect(),
                labels: places.iter().map(label).collect(),
            });
            if !seen(batch.len()) {
                return Ok(None);
            }
        }
        let skipped = loader.skipped().list();
        if !skipped.is_empty() && !seen(skipped.len()) {
            return Ok(None);
        }
        Ok(Some(Part { rows, skipped }))
    }
}

/// Recordings through CPC's networks: the mean of the contexts over a recording.
pub struct Speech {
    method: SpeechCpc,
    run: SpeechRun,
    weights: String,
    files: Files,
    device: Device,
}

/// Samples that the networks take at a time, 30 seconds: memory does not grow with the recording.
const CHUNK: usize = 30 * 16_000;

impl Speech {
    /// The recordings of a folder, a list or a file.
    pub fn new(run: &Path, place: &str, device: &Device) -> Result<Self> {
        let path = run.join("encoder.safetensors");
        let (tensors, _) = load_encoder(&path)?;
        let config: SpeechRun = read(&run.join("config.toml"))?;
        let mut method = SpeechCpc::new(config.method.clone(), 0, device)?;
        method.load_backbone(&tensors, &path)?;
        let place = Path::new(place);
        let listed = place.is_file() && place.extension().is_some_and(|e| e == "txt" || e == "tsv");
        let files = if listed { Files::listed(place)? } else { Files::sounds(place)? };
        let weights = digest(tensors.iter().map(|(name, t)| (name.as_str(), t)))?;
        Ok(Self { method, run: config, weights, files, device: device.clone() })
    }

    /// The mean context of a recording `[H]`.
    fn mean(&self, path: &Path) -> contrastive_core::Result<Vec<f32>> {
        let samples = self.run.windows.scale.apply(&read_16k(path)?);
        let mut stream = Stream::new(self.method.model(), &self.device)?;
        let mut sum = vec![0f64; self.method.model().width()];
        let mut frames = 0usize;
        let mut add = |contexts: &Tensor| -> contrastive_core::Result<()> {
            let (_, count, width) = contexts.dims3()?;
            frames += count;
            for row in contexts.flatten_all()?.to_vec1::<f32>()?.chunks_exact(width) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            Ok(())
        };
        for chunk in samples.chunks(CHUNK) {
            if let Some(codes) = stream.push(chunk)? {
                add(&codes.contexts)?;
            }
        }
        if let Some(codes) = stream.finish()? {
            add(&codes.contexts)?;
        }
        if frames == 0 {
            return Err(contrastive_core::Error::format(path, "too short for one frame"));
        }
        Ok(sum.iter().map(|sum| (sum / frames as f64) as f32).collect())
    }
}

impl Embedder for Speech {
    fn about(&self) -> Result<About> {
        let scale = canonical_json(&serde_json::to_value(self.run.windows.scale)?);
        let mut about = About::new("cpc-speech", self.weights.clone(), scale);
        about.data = self.files.name.clone();
        about.fingerprint = self.files.fingerprint();
        about.classes = self.files.classes.clone();
        Ok(about)
    }

    fn len(&self) -> usize {
        self.files.files.len()
    }

    fn embed(&self, range: Range<usize>, seen: &mut dyn FnMut(usize) -> bool) -> Result<Option<Part>> {
        let mut part = Part::default();
        for place in range {
            let (name, path) = self.files.files.get(place).context("a sample beyond the last")?;
            match self.mean(path) {
                Ok(data) => part.rows.extend(Rows {
                    dim: data.len(),
                    data,
                    names: vec![name.clone()],
                    labels: vec![self.files.label(place).map_or(-1, i64::from)],
                }),
                Err(error @ contrastive_core::Error::Candle(_)) => return Err(error.into()),
                Err(error) => part.skipped.push((name.clone(), error.to_string())),
            }
            if !seen(1) {
                return Ok(None);
            }
        }
        Ok(Some(part))
    }
}
