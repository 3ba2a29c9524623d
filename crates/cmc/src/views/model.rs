//! The networks on scenes: an encoder for each view, and the decoder that makes a U of one.

use candle_core::Tensor;
use contrastive_core::kernels::{ConvSettings, FeatureMap, global_avg_pool};
use contrastive_core::nn::{
    BatchNorm, BatchNormConfig, BatchNormKind, Builder, Conv2d, Conv2dConfig, Init, MapModule, Mlp, MlpLayer,
    Mode, Module,
};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::{Error, Result};

/// Convolution 3x3, batch norm, ReLU.
#[derive(Debug)]
struct Layer {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Layer {
    fn new(b: &Builder, [inputs, outputs]: [usize; 2], stride: usize, kind: BatchNormKind) -> Result<Self> {
        let settings = ConvSettings::square(stride, 1);
        let conv = Conv2dConfig { kernel: 3, settings, weight: Init::KaimingNormalFanOut, bias: None };
        Ok(Self {
            conv: Conv2d::new(&b.pp(0), inputs, outputs, conv)?,
            norm: BatchNorm::new(&b.pp(1), outputs, BatchNormConfig { kind, ..BatchNormConfig::default() })?,
        })
    }
}

impl MapModule for Layer {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        self.norm.forward_relu(&self.conv.forward_map(x, mode)?, None, mode)
    }
}

/// How often the encoder halves the side: the window is a multiple of 2 to this power.
pub const HALVINGS: usize = 3;

/// Four stages: `[N, C, H, W]` to maps of w, 2w, 4w, 8w channels and sides H, H/2, H/4, H/8.
#[derive(Debug)]
pub struct Stages {
    stages: Vec<Vec<Layer>>,
    width: usize,
}

impl Stages {
    /// Fresh networks under `stage1.0.*` and so on.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, width: usize, kind: BatchNormKind) -> Result<Self> {
        let layer = |name: &str, place: usize, channels, stride| {
            Layer::new(&b.pp(name).pp(place), channels, stride, kind)
        };
        let w = width;
        let stages = vec![
            vec![layer("stage1", 0, [inputs, w], 1)?],
            vec![layer("stage2", 0, [w, 2 * w], 2)?, layer("stage2", 1, [2 * w, 2 * w], 1)?],
            vec![layer("stage3", 0, [2 * w, 4 * w], 2)?, layer("stage3", 1, [4 * w, 4 * w], 1)?],
            vec![layer("stage4", 0, [4 * w, 8 * w], 2)?],
        ];
        Ok(Self { stages, width })
    }

    /// Channels of each stage.
    pub fn widths(&self) -> [usize; 4] {
        [1, 2, 4, 8].map(|times| times * self.width)
    }

    /// The outputs of all stages.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn maps(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let (_, _, h, w) = x.dims4()?;
        let unit = 1 << HALVINGS;
        if h % unit != 0 || w % unit != 0 || h == 0 || w == 0 {
            return Err(Error::shape("views", format!("sides that {unit} divides"), x.dims()));
        }
        let (mut y, mut maps) = (FeatureMap::new(x)?, Vec::with_capacity(self.stages.len()));
        for stage in &self.stages {
            for layer in stage {
                y = layer.forward_map(&y, mode)?;
            }
            maps.push(y.clone());
        }
        Ok(maps)
    }

    /// The mean of the last stage over places, `[N, 8w]`: a whole window's features.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn pooled(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        match self.maps(x, mode)?.last() {
            Some(last) => global_avg_pool(last),
            None => Err(Error::config("width", "no stage")),
        }
    }
}

/// A view's embeddings: of a whole window, and of its places.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Of unit length, `[N, D]`.
    pub global: Tensor,
    /// One vector for each place of the third stage, `[N, D, H/4, W/4]`, where places are compared.
    pub local: Option<Tensor>,
}

impl Embedded {
    /// Those of places.
    pub(super) fn places(&self) -> Result<&Tensor> {
        self.local
            .as_ref()
            .ok_or_else(|| Error::config("task.between", "a network without a head for places"))
    }
}

/// A view's encoder with a head for whole windows and, where places are compared, one for them.
#[derive(Debug)]
pub struct ViewNet {
    /// The encoder.
    pub stages: Stages,
    global: Mlp,
    local: Option<Conv2d>,
}

impl ViewNet {
    /// Fresh networks under `name.*` of `encoder` and of `head`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(
        [encoder, head]: [&Builder; 2],
        inputs: usize,
        [width, output]: [usize; 2],
        places: bool,
        kind: BatchNormKind,
    ) -> Result<Self> {
        let stages = Stages::new(encoder, inputs, width, kind)?;
        let [_, _, third, last] = stages.widths();
        let torch = Init::TorchDefault;
        let settings = ConvSettings::square(1, 0);
        let local = Conv2dConfig { kernel: 1, settings, weight: torch, bias: Some(torch) };
        let local = places.then(|| Conv2d::new(&head.pp("local"), third, output, local)).transpose()?;
        let global = Mlp::new(&head.pp("global"), last, &[MlpLayer::linear(output)])?;
        Ok(Self { stages, global, local })
    }

    /// Both kinds of embeddings, and the pooled features `[N, 8w]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn embed(&self, x: &Tensor, mode: &Mode) -> Result<(Embedded, Tensor)> {
        let maps = self.stages.maps(x, mode)?;
        let pooled = global_avg_pool(&maps[3])?;
        let global = l2_normalize(&self.global.forward(&pooled, mode)?)?;
        let local = self.local.as_ref().map(|head| head.forward_map(&maps[2], mode)?.tensor()).transpose()?;
        Ok((Embedded { global, local }, pooled))
    }
}

/// The way up of a U-Net (Ronneberger, Fischer, Brox 2015), slim: from the deepest map, three times doubled, joined with
/// the encoder's map of that side and convolved, to scores for each pixel.
#[derive(Debug)]
pub struct Decoder {
    layers: Vec<Layer>,
    last: Conv2d,
}

impl Decoder {
    /// A decoder over maps of these widths to `outputs` channels, under `up1.*` to `up3.*` and `out.*`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(
        b: &Builder,
        [w1, w2, w3, w4]: [usize; 4],
        outputs: usize,
        kind: BatchNormKind,
    ) -> Result<Self> {
        let torch = Init::TorchDefault;
        let settings = ConvSettings::square(1, 0);
        let last = Conv2dConfig { kernel: 1, settings, weight: torch, bias: Some(torch) };
        Ok(Self {
            layers: vec![
                Layer::new(&b.pp("up1"), [w4 + w3, w2], 1, kind)?,
                Layer::new(&b.pp("up2"), [w2 + w2, w1], 1, kind)?,
                Layer::new(&b.pp("up3"), [w1 + w1, w1], 1, kind)?,
            ],
            last: Conv2d::new(&b.pp("out"), w1, outputs, last)?,
        })
    }

    /// Maps of an encoder to `[N, outputs, H, W]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, maps: &[FeatureMap], mode: &Mode) -> Result<Tensor> {
        let [first, second, third, last] = maps else {
            return Err(Error::shape("decoder", "4 maps", &[maps.len()]));
        };
        let mut y = last.clone();
        for (layer, skip) in self.layers.iter().zip([third, second, first]) {
            let joined = Tensor::cat(&[doubled(&y.tensor()?)?, skip.tensor()?], 1)?;
            y = layer.forward_map(&FeatureMap::new(&joined)?, mode)?;
        }
        self.last.forward_map(&y, mode)?.tensor()
    }
}

/// Each pixel four times: `[N, C, H, W]` to `[N, C, 2H, 2W]`. Not Candle's upsampling, which overwrites gradients.
///
/// # Errors
/// Another rank.
pub fn doubled(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let wide = x.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, 2, w, 2))?;
    Ok(wide.contiguous()?.reshape((n, c, 2 * h, 2 * w))?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use contrastive_core::dist::single;
    use contrastive_core::nn::ParamStore;
    use contrastive_core::tensor::{GradCheck, check_gradients};

    use super::*;

    fn input(shape: [usize; 4]) -> Result<Tensor> {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| ((i * i % 7919) as f32 * 0.37).sin()).collect();
        Ok(Tensor::from_vec(values, &shape, &Device::Cpu)?)
    }

    #[test]
    fn doubling_has_the_gradient_of_a_sum() -> Result<()> {
        let x = input([1, 2, 2, 3])?;
        check_gradients(std::slice::from_ref(&x), GradCheck::default(), |x| doubled(&x[0]))?;
        let rows = doubled(&x)?.get(0)?.get(0)?.to_vec2::<f32>()?;
        assert_eq!((rows[0][0], rows[1][1], rows[3][5]), (rows[0][1], rows[0][0], rows[2][4]));
        Ok(())
    }

    #[test]
    fn a_u_net_has_the_sides_of_its_input() -> Result<()> {
        let store = ParamStore::new(1, &Device::Cpu);
        let b = store.builder();
        let kind = BatchNormKind::Local;
        let stages = Stages::new(&b.pp("e"), 2, 4, kind)?;
        let decoder = Decoder::new(&b.pp("d"), stages.widths(), 5, kind)?;
        let mode = Mode::train(&single());
        let maps = stages.maps(&input([2, 2, 16, 24])?, &mode)?;
        let sides: Vec<Vec<usize>> = maps.iter().map(FeatureMap::dims).collect();
        assert_eq!(sides, [[2, 4, 16, 24], [2, 8, 8, 12], [2, 16, 4, 6], [2, 32, 2, 3]]);
        let out = decoder.forward(&maps, &mode)?;
        assert_eq!(out.dims(), [2, 5, 16, 24]);
        let gradients = contrastive_core::optim::Gradients::of(&store, &out.sqr()?.mean_all()?)?;
        for entry in store.parameters() {
            assert!(gradients.get(&entry.name).is_some(), "{}", entry.name);
        }
        assert!(stages.maps(&input([1, 2, 12, 16])?, &mode).is_err());
        Ok(())
    }
}
