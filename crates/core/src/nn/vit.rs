//! Vision transformer (Dosovitskiy et al. 2021) with pre-norm blocks; parameter names are timm's.

use candle_core::Tensor;

use super::positions::{Interpolation, interpolate};
use super::{Builder, Conv2d, Conv2dConfig, Encoder, Init, LayerNorm, Linear, MapModule, Mode, Module};
use crate::kernels::{
    ConvSettings, FeatureMap, attention, attention_map, embed_tokens, gelu, residual, take_token,
};
use crate::{Error, Result};

/// Settings of a [`VisionTransformer`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the images that the position embedding is made for, in pixels.
    pub image: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads; they divide `dim`.
    pub heads: usize,
    /// Width of the hidden layer of a block's MLP, in widths of a token.
    pub mlp_ratio: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Largest probability that a sample skips a branch; it grows linearly from 0 over the blocks.
    pub drop_path: f64,
    /// How positions are interpolated for images of another size.
    pub interpolation: Interpolation,
    /// The epsilon of all layer norms: timm's and DINO's 1e-6; weights of `transformers` may have 1e-12.
    #[serde(default = "timm_epsilon", skip_serializing_if = "is_timm_epsilon")]
    pub norm_eps: f64,
}

fn timm_epsilon() -> f64 {
    EPS
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_timm_epsilon(eps: &f64) -> bool {
    *eps == EPS
}

/// `vit-s16`-like: `vit-d384-l12-h6-p16`.
impl std::fmt::Display for VitConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "vit-d{}-l{}-h{}-p{}", self.dim, self.depth, self.heads, self.patch)?;
        if is_timm_epsilon(&self.norm_eps) { Ok(()) } else { write!(f, "-eps{:e}", self.norm_eps) }
    }
}

impl VitConfig {
    /// ViT-Ti: 192 wide, 3 heads.
    pub fn tiny(patch: usize) -> Self {
        Self {
            image: 224,
            patch,
            dim: 192,
            depth: 12,
            heads: 3,
            mlp_ratio: 4,
            in_channels: 3,
            drop_path: 0.0,
            interpolation: Interpolation::Dino,
            norm_eps: EPS,
        }
    }

    /// ViT-S as in DINO: 384 wide, 6 heads (MoCo v3 uses 12).
    pub fn small(patch: usize) -> Self {
        Self { dim: 384, heads: 6, ..Self::tiny(patch) }
    }

    /// ViT-B: 768 wide, 12 heads.
    pub fn base(patch: usize) -> Self {
        Self { dim: 768, heads: 12, ..Self::tiny(patch) }
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let sizes = [
            ("image", self.image),
            ("patch", self.patch),
            ("dim", self.dim),
            ("depth", self.depth),
            ("heads", self.heads),
            ("mlp_ratio", self.mlp_ratio),
            ("in_channels", self.in_channels),
        ];
        if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=8192).contains(size)) {
            return Err(Error::config(format!("{at}.{key}"), format!("{size} is not in 1..=8192")));
        }
        if !self.image.is_multiple_of(self.patch) {
            let reason = format!("{} is no multiple of the patch, {}", self.image, self.patch);
            return Err(Error::config(format!("{at}.image"), reason));
        }
        if !self.dim.is_multiple_of(self.heads) {
            return Err(Error::config(
                format!("{at}.heads"),
                format!("{} do not divide {}", self.heads, self.dim),
            ));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(Error::config(
                format!("{at}.norm_eps"),
                format!("{} is not in (0, 1)", self.norm_eps),
            ));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::config(format!("{at}.drop_path"), "must be in 0..1"));
        }
        Ok(())
    }
}

/// Images `[N, C, H, W]` to the normalised class token `[N, dim]`.
#[derive(Debug)]
pub struct VisionTransformer {
    patches: Conv2d,
    cls: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    config: VitConfig,
}

/// timm's epsilon of all layer norms.
const EPS: f64 = 1e-6;
/// timm's and DINO's standard deviation of linear weights, class token and positions.
const INIT: Init = Init::TruncatedNormal(0.02);

impl VisionTransformer {
    /// A network of this configuration.
    ///
    /// # Errors
    /// What [`VitConfig::check`] refuses; a name that exists with another shape.
    pub fn new(b: &Builder, config: &VitConfig) -> Result<Self> {
        config.check("vit")?;
        let VitConfig { dim, patch, in_channels, .. } = *config;
        let side = config.image / patch;
        let proj = Conv2dConfig {
            kernel: patch,
            settings: ConvSettings::square(patch, 0),
            weight: Init::TorchDefault,
            bias: Some(Init::Uniform(1.0 / ((in_channels * patch * patch) as f64).sqrt())),
        };
        let cls = b.param("cls_token", (1, 1, dim), INIT)?;
        let positions = b.param("pos_embed", (1, 1 + side * side, dim), INIT)?;
        let patches = Conv2d::new(&b.pp("patch_embed").pp("proj"), in_channels, dim, proj)?;
        let blocks =
            (0..config.depth).map(|i| Block::new(&b.pp("blocks").pp(i), config)).collect::<Result<_>>()?;
        Ok(Self {
            patches,
            cls,
            positions,
            blocks,
            norm: LayerNorm::new(&b.pp("norm"), dim, config.norm_eps)?,
            config: *config,
        })
    }

    /// The tokens `[N, 1 + P, dim]` after the last `count` blocks, oldest first, before the final norm.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn last_blocks(&self, x: &Tensor, count: usize, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let mut kept = Vec::with_capacity(count);
        self.run(x, mode, |i, tokens| {
            if i + count >= self.blocks.len() {
                kept.push(tokens.clone());
            }
        })?;
        Ok(kept)
    }

    /// Attention of the class token in the last block, `[N, heads, 1 + P]`, outside any graph.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn last_attention(&self, x: &Tensor) -> Result<Tensor> {
        let mode = Mode::eval();
        let mut before = self.embed(x, &mode)?;
        let Some((last, first)) = self.blocks.split_last() else {
            return Err(Error::config("vit.depth", "at least one block is needed"));
        };
        for block in first {
            before = block.forward(&before, None, &mode)?;
        }
        let qkv = last.qkv.forward_rows(&last.norm1.forward_map(&before, &mode)?, &mode)?;
        attention_map(&qkv, self.config.heads, 0)
    }

    /// The final norm of tokens `[N, T, dim]` or `[N, dim]`.
    ///
    /// # Errors
    /// Tokens of another width.
    pub fn final_norm(&self, tokens: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        self.norm.forward_map(tokens, mode)
    }

    fn embed(&self, x: &Tensor, mode: &Mode) -> Result<FeatureMap> {
        let &[_, _, h, w] = x.dims() else { return Err(Error::shape("vit", "[N, C, H, W]", x.dims())) };
        let (patch, dim) = (self.config.patch, self.config.dim);
        if h < patch || w < patch || h % patch != 0 || w % patch != 0 {
            return Err(Error::shape("vit", format!("sides that are multiples of {patch}"), x.dims()));
        }
        let patches = self.patches.forward_map(&FeatureMap::new(x)?, mode)?;
        let side = self.config.image / patch;
        let positions = mode.weight(&self.positions).reshape(((), dim))?;
        let grid = [h / patch, w / patch];
        let positions = interpolate(&positions, side, grid, self.config.interpolation)?;
        embed_tokens(&patches, &mode.weight(&self.cls).reshape(dim)?, &positions)
    }

    /// All blocks; `seen` gets every block's number and output.
    fn run(&self, x: &Tensor, mode: &Mode, mut seen: impl FnMut(usize, &FeatureMap)) -> Result<FeatureMap> {
        let mut tokens = self.embed(x, mode)?;
        let scales = self.branch_scales(x.dim(0)?, mode)?;
        for (i, block) in self.blocks.iter().enumerate() {
            let scales = scales.as_ref().map(|scales| [&scales[2 * i][..], &scales[2 * i + 1][..]]);
            tokens = block.forward(&tokens, scales, mode)?;
            seen(i, &tokens);
        }
        Ok(tokens)
    }

    /// Stochastic depth: for each branch in order, one factor per sample.
    fn branch_scales(&self, n: usize, mode: &Mode) -> Result<Option<Vec<Vec<f32>>>> {
        if !mode.train || self.config.drop_path == 0.0 {
            return Ok(None);
        }
        let branches = 2 * self.blocks.len();
        let draws = mode.uniforms(n, branches)?;
        let last = (self.blocks.len() - 1).max(1) as f64;
        let scale = |branch: usize, draw: f64| {
            let p = self.config.drop_path * (branch / 2) as f64 / last;
            if draw < p { 0.0 } else { (1.0 / (1.0 - p)) as f32 }
        };
        let of = |branch: usize| draws.iter().map(|draws| scale(branch, draws[branch])).collect();
        Ok(Some((0..branches).map(of).collect()))
    }
}

impl Module for VisionTransformer {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let tokens = self.run(x, mode, |_, _| {})?;
        // The norm is by token: that of the class token is all that is needed.
        self.norm.forward_map(&take_token(&tokens, 0)?, mode)?.rows()
    }
}

impl Encoder for VisionTransformer {
    fn width(&self) -> usize {
        self.config.dim
    }
}

/// `x + attention(norm1(x))`, then `x + mlp(norm2(x))`.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Block {
    fn new(b: &Builder, config: &VitConfig) -> Result<Self> {
        let (dim, hidden) = (config.dim, config.dim * config.mlp_ratio);
        let linear = |name: &str, inputs: usize, outputs: usize| {
            let b = name.split('.').fold(b.clone(), |b, part| b.pp(part));
            Linear::new(&b, inputs, outputs, INIT, Some(Init::Const(0.0)))
        };
        Ok(Self {
            norm1: LayerNorm::new(&b.pp("norm1"), dim, config.norm_eps)?,
            qkv: linear("attn.qkv", dim, 3 * dim)?,
            proj: linear("attn.proj", dim, dim)?,
            norm2: LayerNorm::new(&b.pp("norm2"), dim, config.norm_eps)?,
            fc1: linear("mlp.fc1", dim, hidden)?,
            fc2: linear("mlp.fc2", hidden, dim)?,
            heads: config.heads,
        })
    }

    fn forward(&self, x: &FeatureMap, scales: Option<[&[f32]; 2]>, mode: &Mode) -> Result<FeatureMap> {
        let qkv = self.qkv.forward_rows(&self.norm1.forward_map(x, mode)?, mode)?;
        let mixed = self.proj.forward_rows(&attention(&qkv, self.heads)?, mode)?;
        let x = residual(x, &mixed, scales.map(|s| s[0]))?;
        let hidden = gelu(&self.fc1.forward_rows(&self.norm2.forward_map(&x, mode)?, mode)?)?;
        residual(&x, &self.fc2.forward_rows(&hidden, mode)?, scales.map(|s| s[1]))
    }
}

#[cfg(test)]
mod tests;
