//! The networks: encoder, LSTM, policy, value and the maps W_k.
//!
//! Names: `backbone.encoder.conv{0,1}.*` (deep: `backbone.encoder.section{0,1,2}.conv.*` and
//! `….block{0,1}.conv{0,1}.*`), `backbone.encoder.fc.*`, `backbone.context.{weight,bias}_{ih,hh}_l0`, `policy.*`,
//! `value.*`, and with the auxiliary loss `predictor.{k - 1}.weight`.

use candle_core::{Device, Tensor};
use contrastive_core::kernels::{ConvSettings, FeatureMap, relu, residual};
use contrastive_core::nn::{
    BACKBONE, Builder, Carried, Conv2d, Conv2dConfig, Init, Linear, Lstm, MapModule, MaxPool2d, Mode,
    Recurrent,
};
use contrastive_core::{Error, Result};
use contrastive_scenes::Shape;
use rayon::prelude::*;

use super::config::{RlConfig, Torso};
use crate::predictor::Predictor;
use crate::weights::{CONTEXT, ENCODER, PREDICTOR};

/// Frames `[N, H, W, 3]` of bytes as a tensor `[N, 3, H, W]` from 0 to 1.
///
/// # Errors
/// Bytes that are not whole frames.
pub fn pixels(frames: &[u8], shape: Shape, device: &Device) -> Result<Tensor> {
    let (bytes, plane) = (shape.bytes(), shape.height * shape.width);
    if bytes == 0 || !frames.len().is_multiple_of(bytes) {
        return Err(Error::shape("pixels", format!("frames of {bytes} bytes"), &[frames.len()]));
    }
    let mut values = vec![0f32; frames.len()];
    values.par_chunks_mut(bytes).zip(frames.par_chunks(bytes)).for_each(|(values, frame)| {
        for (channel, values) in values.chunks_mut(plane).enumerate() {
            for (value, pixel) in values.iter_mut().zip(frame.chunks(Shape::CHANNELS)) {
                *value = f32::from(pixel[channel]) * (1.0 / 255.0);
            }
        }
    });
    let n = frames.len() / bytes;
    Ok(Tensor::from_vec(values, (n, Shape::CHANNELS, shape.height, shape.width), device)?)
}

fn convolution(
    b: &Builder,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    settings: ConvSettings,
) -> Result<Conv2d> {
    // PyTorch's default; a bias alone does not know its fan.
    let bound = 1.0 / ((inputs * kernel * kernel).max(1) as f64).sqrt();
    let config =
        Conv2dConfig { kernel, settings, weight: Init::TorchDefault, bias: Some(Init::Uniform(bound)) };
    Conv2d::new(b, inputs, outputs, config)
}

/// A convolution, a pool and two residual blocks of the deep torso.
#[derive(Debug)]
struct Section {
    conv: Conv2d,
    blocks: [[Conv2d; 2]; 2],
}

impl Section {
    fn new(b: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let same = ConvSettings::square(1, 1);
        let inner = |block: usize, i: usize| {
            convolution(&b.pp(format!("block{block}")).pp(format!("conv{i}")), outputs, outputs, 3, same)
        };
        Ok(Self {
            conv: convolution(&b.pp("conv"), inputs, outputs, 3, same)?,
            blocks: [[inner(0, 0)?, inner(0, 1)?], [inner(1, 0)?, inner(1, 1)?]],
        })
    }

    fn forward(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let pool = MaxPool2d { kernel: 3, stride: 2, padding: 1 };
        let mut x = pool.forward_map(&self.conv.forward_map(x, mode)?, mode)?;
        for [first, second] in &self.blocks {
            let branch = first.forward_map(&relu(&x)?, mode)?;
            let branch = second.forward_map(&relu(&branch)?, mode)?;
            x = residual(&x, &branch, None)?;
        }
        Ok(x)
    }
}

#[derive(Debug)]
// One network holds one of them.
#[allow(clippy::large_enum_variant)]
enum Convolutions {
    Shallow([Conv2d; 2]),
    Deep([Section; 3]),
}

/// Frames `[N, 3, H, W]` to vectors `[N, Z]`.
#[derive(Debug)]
pub struct Encoder {
    convolutions: Convolutions,
    fc: Linear,
    shape: Shape,
}

impl Encoder {
    /// Fresh layers.
    ///
    /// # Errors
    /// Frames too small for the convolutions; a name that exists with another shape.
    pub fn new(b: &Builder, torso: Torso, width: usize, shape: Shape) -> Result<Self> {
        let sides = [shape.height, shape.width];
        let valid = |side: usize, kernel: usize, stride: usize| Some(side.checked_sub(kernel)? / stride + 1);
        let (convolutions, channels, out) = match torso {
            Torso::Shallow => {
                let first = convolution(&b.pp("conv0"), 3, 16, 8, ConvSettings::square(4, 0))?;
                let second = convolution(&b.pp("conv1"), 16, 32, 4, ConvSettings::square(2, 0))?;
                let out = sides.map(|side| valid(valid(side, 8, 4)?, 4, 2));
                (Convolutions::Shallow([first, second]), 32, out)
            }
            Torso::Deep => {
                let section =
                    |i: usize, inputs, outputs| Section::new(&b.pp(format!("section{i}")), inputs, outputs);
                let sections = [section(0, 3, 16)?, section(1, 16, 32)?, section(2, 32, 32)?];
                let halved = |side: usize| valid(side + 2, 3, 2);
                let out = sides.map(|side| halved(halved(halved(side)?)?));
                (Convolutions::Deep(sections), 32, out)
            }
        };
        let [Some(height), Some(columns)] = out else {
            return Err(Error::shape("encoder", "frames of at least 20 x 20", &sides));
        };
        let fc = Linear::torch_default(&b.pp("fc"), channels * height * columns, width)?;
        Ok(Self { convolutions, fc, shape })
    }

    /// z of frames `[N, 3, H, W]`: `[N, Z]`.
    ///
    /// # Errors
    /// Frames of another size.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let Shape { height, width } = self.shape;
        if x.dims().get(1..) != Some(&[Shape::CHANNELS, height, width]) {
            return Err(Error::shape("encoder", format!("[N, 3, {height}, {width}]"), x.dims()));
        }
        let n = x.dim(0)?;
        let mut map = FeatureMap::new(x)?;
        match &self.convolutions {
            Convolutions::Shallow(layers) => {
                for layer in layers {
                    map = relu(&layer.forward_map(&map, mode)?)?;
                }
            }
            Convolutions::Deep(sections) => {
                for section in sections {
                    map = section.forward(&map, mode)?;
                }
                map = relu(&map)?;
            }
        }
        let flat = FeatureMap::from_rows(&map.tensor()?.reshape((n, ()))?)?;
        relu(&self.fc.forward_rows(&flat, mode)?)?.rows()
    }
}

/// What the networks say of `B` sequences of `T` steps.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// z, `[B, T, Z]`.
    pub codes: Tensor,
    /// c, `[B, T, H]`.
    pub contexts: Tensor,
    /// Of the policy, `[B T, A]`.
    pub logits: Tensor,
    /// `[B T]`.
    pub values: Tensor,
    /// The LSTM's states behind the last step, `[B, 2 H]`, cut from the graph.
    pub state: Tensor,
}

/// All networks.
#[derive(Debug)]
pub struct Agent {
    /// Frames to z.
    pub encoder: Encoder,
    /// z, last reward and last action to c.
    pub context: Lstm,
    /// c to the logits of actions.
    pub policy: Linear,
    /// c to the value.
    pub value: Linear,
    /// W_1 … W_K, where the auxiliary loss is on.
    pub predictor: Option<Predictor>,
    actions: usize,
}

impl Agent {
    /// Fresh networks for frames of `shape` and so many actions; the module's documentation has the names.
    ///
    /// # Errors
    /// Settings or frames that no network has.
    pub fn new(b: &Builder, config: &RlConfig, shape: Shape, actions: usize) -> Result<Self> {
        config.check("method")?;
        let backbone = b.pp(BACKBONE);
        let RlConfig { codes, contexts, cpc, .. } = *config;
        let predictor = || Predictor::new(&b.pp(PREDICTOR), contexts, codes, cpc.objective.steps);
        Ok(Self {
            encoder: Encoder::new(&backbone.pp(ENCODER), config.torso, codes, shape)?,
            context: Lstm::new(&backbone.pp(CONTEXT), codes + 1 + actions, contexts, 0)?,
            policy: Linear::torch_default(&b.pp("policy"), contexts, actions)?,
            value: Linear::torch_default(&b.pp("value"), contexts, 1)?,
            predictor: cpc.enabled.then(predictor).transpose()?,
            actions,
        })
    }

    /// How many actions there are.
    pub fn actions(&self) -> usize {
        self.actions
    }

    /// Frames `[B T, 3, H, W]`, sequence after sequence, with what the LSTM also sees: `previous` `[B, T, 1 + A]`, the
    /// clipped last reward and the last action as one-hot vector.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        frames: &Tensor,
        previous: &Tensor,
        carried: Carried<'_>,
        mode: &Mode,
    ) -> Result<Outlook> {
        let &[b, t, extra] = previous.dims() else {
            return Err(Error::shape("agent", "[B, T, 1 + A] of rewards and actions", previous.dims()));
        };
        if extra != 1 + self.actions || frames.dims().first() != Some(&(b * t)) {
            let expected = format!("{b} x {t} frames with rewards and {} actions each", self.actions);
            return Err(Error::shape("agent", expected, previous.dims()));
        }
        let codes = self.encoder.forward(frames, mode)?.reshape((b, t, ()))?;
        let inputs = FeatureMap::from_rows(&Tensor::cat(&[&codes, previous], 2)?)?;
        let (contexts, state) = self.context.run(&inputs, carried, mode)?;
        let logits = self.policy.forward_rows(&contexts, mode)?.rows()?.reshape((b * t, self.actions))?;
        let values = self.value.forward_rows(&contexts, mode)?.rows()?.reshape(b * t)?;
        Ok(Outlook { codes, contexts: contexts.rows()?, logits, values, state })
    }
}
