//! The networks on a stream: chunks of any size in, the frames and contexts that are complete out.

use candle_core::{DType, Device, Tensor};
use contrastive_core::Result;
use contrastive_core::kernels::FeatureMap;
use contrastive_core::nn::Mode;

use super::model::{Codes, SpeechModel};

/// A stream through encoder and context network. What it gives, one part after another and at the end
/// [`Stream::finish`], is what [`SpeechModel::codes`] gives for the whole in evaluation, up to rounding.
///
/// A frame comes out as soon as the last sample that it sees has come in: 312 samples (19.5 ms) after the beginning of
/// its 10 ms with the paper's layers.
#[derive(Debug)]
pub struct Stream<'a> {
    model: &'a SpeechModel,
    /// What each layer has not done with yet: its input from the next window on, `[1, C, T]`.
    rests: Vec<Tensor>,
    states: Option<Vec<Tensor>>,
    mode: Mode,
    device: Device,
}

impl<'a> Stream<'a> {
    /// A stream at its beginning. `device` is that of the networks.
    ///
    /// # Errors
    /// A device that cannot hold it.
    pub fn new(model: &'a SpeechModel, device: &Device) -> Result<Self> {
        let channels = model.encoder.config().channels;
        let rest = |(i, padding): (usize, usize)| {
            Tensor::zeros((1, if i == 0 { 1 } else { channels }, padding), DType::F32, device)
        };
        let paddings = model.encoder.layers.iter().map(|layer| layer.padding);
        let rests = paddings.enumerate().map(rest).collect::<candle_core::Result<_>>()?;
        Ok(Self { model, rests, states: None, mode: Mode::eval(), device: device.clone() })
    }

    /// Takes samples (scaled as in training) and gives the frames and contexts that became complete; none where no frame
    /// did.
    ///
    /// # Errors
    /// Candle's.
    pub fn push(&mut self, samples: &[f32]) -> Result<Option<Codes>> {
        if samples.is_empty() {
            return Ok(None);
        }
        let x = Tensor::from_slice(samples, (1, 1, samples.len()), &self.device)?;
        self.advance(Some(x), false)
    }

    /// The frames that see beyond the end, as the padding of the layers lets them.
    ///
    /// # Errors
    /// Candle's.
    pub fn finish(mut self) -> Result<Option<Codes>> {
        self.advance(None, true)
    }

    fn advance(&mut self, samples: Option<Tensor>, last: bool) -> Result<Option<Codes>> {
        let mut new = samples;
        let count = self.rests.len();
        for (i, layer) in self.model.encoder.layers.iter().enumerate() {
            let mut parts = vec![self.rests[i].clone()];
            parts.extend(new.take());
            if last {
                let channels = self.rests[i].dim(1)?;
                parts.push(Tensor::zeros((1, channels, layer.padding), DType::F32, &self.device)?);
            }
            let x = Tensor::cat(&parts, 2)?;
            let length = x.dim(2)?;
            let windows = (length + layer.stride).saturating_sub(layer.kernel) / layer.stride;
            if windows > 0 {
                let map = layer.forward(&FeatureMap::new(&x)?, [0, 0], &self.mode)?;
                if i + 1 < count {
                    new = Some(map.tensor()?);
                } else {
                    new = Some(map.sequence()?.rows()?);
                }
            }
            // No stride is beyond its kernel, so this is within the input.
            let used = windows * layer.stride;
            self.rests[i] = x.narrow(2, used, length - used)?.contiguous()?;
            if new.is_none() && !last {
                return Ok(None);
            }
        }
        let Some(frames) = new else { return Ok(None) };
        let states = self.states.take();
        let rows = FeatureMap::from_rows(&frames)?;
        let (contexts, states) = self.model.context.forward(&rows, states.as_deref(), &self.mode)?;
        self.states = Some(states);
        Ok(Some(Codes { frames, contexts: contexts.rows()? }))
    }
}
