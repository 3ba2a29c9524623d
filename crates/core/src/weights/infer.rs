//! Which backbone a set of names and shapes belongs to.

use std::collections::BTreeMap;

use crate::nn::{
    AlexNetConfig, BackboneConfig, HalfConfig, Interpolation, Padding, ResNetConfig, Shortcut, SplitConfig,
    Stem, VitConfig, squeezed,
};

/// Shapes by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// What shapes do not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Hints {
    /// Attention heads of a transformer; those of the paper's widths are known (384: 6 heads).
    pub heads: Option<usize>,
    /// Epsilon of a transformer's layer norms.
    pub norm_eps: Option<f64>,
    /// How a transformer's positions are interpolated.
    pub interpolation: Option<Interpolation>,
    /// Whether a ResNet's pool is padded as TensorFlow's (SimCLR, BYOL).
    pub same_padding: bool,
    /// Whether its convolutions are too (BYOL).
    pub same_convolutions: bool,
}

/// Heads of the usual widths.
const HEADS: [(usize, usize); 6] = [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)];

/// The backbone of these names: torchvision's ResNets of any width, also SimCLR v2's with selective kernels; timm's plain
/// vision transformers; and two networks side by side (CMC).
pub(super) fn backbone(shapes: &Shapes, hints: Hints) -> Result<BackboneConfig, String> {
    if shapes.contains_key("patch_embed.proj.weight") {
        return transformer(shapes, hints).map(BackboneConfig::Vit);
    }
    if shapes.contains_key("conv1.weight") || shapes.contains_key("conv1.0.weight") {
        return resnet(shapes, hints).map(BackboneConfig::Resnet);
    }
    let halves = ["conv1.weight", "conv_block_1.0.weight"].map(|name| format!("0.{name}"));
    if halves.iter().any(|name| shapes.contains_key(name)) {
        return split(shapes, hints).map(BackboneConfig::Split);
    }
    let first: Vec<&str> = shapes.keys().take(4).map(String::as_str).collect();
    Err(format!("neither a ResNet nor a vision transformer: the names begin with {}", first.join(", ")))
}

/// Both halves have one configuration but for their channels.
fn split(shapes: &Shapes, hints: Hints) -> Result<SplitConfig, String> {
    let mut halves = Vec::new();
    for prefix in ["0.", "1."] {
        let own = |(name, shape): (&String, &Vec<usize>)| {
            Some((name.strip_prefix(prefix)?.to_string(), shape.clone()))
        };
        let own: Shapes = shapes.iter().filter_map(own).collect();
        halves.push(if own.contains_key("conv_block_1.0.weight") {
            let config = alexnet(&own)?;
            (HalfConfig::Alexnet(config), config.in_channels)
        } else {
            let config = resnet(&own, hints)?;
            (HalfConfig::Resnet(config), config.in_channels)
        });
    }
    let [(half, first), (_, second)] = halves[..] else { return Err("no two halves".into()) };
    let config = SplitConfig { channels: [first, second], half };
    config.check("backbone").map_err(|e| e.to_string())?;
    Ok(config)
}

fn alexnet(shapes: &Shapes) -> Result<AlexNetConfig, String> {
    let mut widths = [0; 5];
    for (i, width) in widths.iter_mut().enumerate() {
        [*width, ..] = dims::<4>(shapes, &format!("conv_block_{}.0.weight", i + 1))?;
    }
    let [_, in_channels, ..] = dims::<4>(shapes, "conv_block_1.0.weight")?;
    let [hidden, inputs] = dims(shapes, "fc6.0.weight")?;
    let config = AlexNetConfig { widths, hidden, ..AlexNetConfig::half(in_channels) };
    config.check("backbone").map_err(|e| e.to_string())?;
    // Several sides give the same number of inputs; the usual one is meant if it is among them.
    let fits = |image: usize| {
        let last = AlexNetConfig { image, ..config }.sides()[4].1;
        widths[4] * last * last == inputs
    };
    let image = std::iter::once(config.image).chain(63..=1024).find(|&image| fits(image));
    let image =
        image.ok_or_else(|| format!("`fc6.0.weight` has {inputs} inputs, those of no square image"))?;
    Ok(AlexNetConfig { image, ..config })
}

fn dims<const N: usize>(shapes: &Shapes, name: &str) -> Result<[usize; N], String> {
    let dims = shapes.get(name).ok_or_else(|| format!("`{name}` is missing"))?;
    <[usize; N]>::try_from(dims.as_slice()).map_err(|_| format!("`{name}` has shape {dims:?}, not {N} axes"))
}

/// How many of `prefix0.`, `prefix1.` ... there are.
fn count(shapes: &Shapes, prefix: &str, first: &str) -> usize {
    (0..shapes.len()).take_while(|i| shapes.contains_key(&format!("{prefix}{i}.{first}"))).count()
}

fn resnet(shapes: &Shapes, hints: Hints) -> Result<ResNetConfig, String> {
    let imagenet = if hints.same_padding { Stem::ImagenetSame } else { Stem::Imagenet };
    let deep = shapes.contains_key("conv1.0.weight");
    if deep && !shapes.contains_key("layer1.0.sk.squeeze.weight") {
        return Err(
            "a ResNet with a stem of three convolutions (ResNet-D), which is supported with selective \
                    kernels only"
                .into(),
        );
    }
    let (stem, width, in_channels) = if deep {
        let [_, in_channels, ..] = dims::<4>(shapes, "conv1.0.weight")?;
        let [width, ..] = dims::<4>(shapes, "conv1.6.weight")?;
        (imagenet, width, in_channels)
    } else {
        let [width, in_channels, height, side] = dims(shapes, "conv1.weight")?;
        let stem = match (height, side) {
            (7, 7) => imagenet,
            (3, 3) => Stem::Cifar,
            _ => {
                return Err(format!(
                    "`conv1.weight` is a convolution of {height}x{side}, neither 7x7 nor 3x3"
                ));
            }
        };
        (stem, width, in_channels)
    };
    let blocks = [1, 2, 3, 4].map(|group| count(shapes, &format!("layer{group}."), "conv1.weight"));
    let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
    let same = |depth: &usize| {
        ResNetConfig::torchvision(*depth).blocks().is_ok_and(|known| known == (blocks, bottleneck))
    };
    let Some(depth) = [18, 34, 50, 101, 152, 200].into_iter().find(same) else {
        return Err(format!("a ResNet with {blocks:?} blocks, which is none of the known depths"));
    };
    let [base, ..] = dims::<4>(shapes, "layer1.0.conv1.weight")?;
    // Of another width than the stem's, the first block needs its projection anyway.
    let project = !bottleneck && width == base && shapes.contains_key("layer1.0.downsample.0.weight");
    let multiplier = if base > 64 && base.is_multiple_of(64) { base / 64 } else { 1 };
    let config = ResNetConfig {
        base_width: base / multiplier,
        width_multiplier: multiplier,
        stem,
        in_channels,
        shortcut: if project { Shortcut::ProjectFirst } else { Shortcut::WhereNeeded },
        selective_kernels: if deep { Some(ratio(shapes, base)?) } else { None },
        stem_width: (!deep && width != base).then_some(width),
        padding: if hints.same_convolutions { Padding::Same } else { Padding::Symmetric },
        ..ResNetConfig::torchvision(depth)
    };
    config.check("backbone").map_err(|e| e.to_string())?;
    Ok(config)
}

/// The width of the squeeze as a part of the block's; SimCLR v2's where shapes do not tell it from others.
fn ratio(shapes: &Shapes, base: usize) -> Result<f64, String> {
    let mut widths = Vec::new();
    for group in 0..4 {
        let [squeeze, ..] = dims::<4>(shapes, &format!("layer{}.0.sk.squeeze.weight", group + 1))?;
        widths.push((base << group, squeeze));
    }
    let fits = |ratio: &f64| widths.iter().all(|&(width, squeeze)| squeezed(width, *ratio) == squeeze);
    let own = widths.last().map_or(0.0, |&(width, squeeze)| squeeze as f64 / width.max(1) as f64);
    [0.0625, own].into_iter().find(fits).ok_or_else(|| format!("selective kernels squeeze {widths:?}"))
}

fn transformer(shapes: &Shapes, hints: Hints) -> Result<VitConfig, String> {
    let [dim, in_channels, patch, width] = dims(shapes, "patch_embed.proj.weight")?;
    if patch != width {
        return Err(format!("`patch_embed.proj.weight` has patches of {patch}x{width}"));
    }
    let [_, tokens, _] = dims(shapes, "pos_embed")?;
    let side = tokens.saturating_sub(1).isqrt();
    if side == 0 || side * side + 1 != tokens {
        return Err(format!("`pos_embed` has {tokens} positions, not those of a square and a class token"));
    }
    let [hidden, _] = dims(shapes, "blocks.0.mlp.fc1.weight")?;
    if dim == 0 || !hidden.is_multiple_of(dim) {
        return Err(format!("`blocks.0.mlp.fc1.weight` is {hidden} wide, no multiple of {dim}"));
    }
    let known = HEADS.iter().find(|(width, _)| *width == dim).map(|(_, heads)| *heads);
    let Some(heads) = hints.heads.or(known) else {
        return Err(format!(
            "the heads of a transformer of width {dim} are not in its shapes: name their number"
        ));
    };
    let config = VitConfig {
        image: side * patch,
        patch,
        dim,
        depth: count(shapes, "blocks.", "norm1.weight"),
        heads,
        mlp_ratio: hidden / dim,
        in_channels,
        drop_path: 0.0,
        interpolation: hints.interpolation.unwrap_or_default(),
        norm_eps: hints.norm_eps.unwrap_or(VitConfig::tiny(16).norm_eps),
    };
    config.check("backbone").map_err(|e| e.to_string())?;
    Ok(config)
}

/// The faults of `found` against `expected`: missing, unexpected and of another shape.
pub(super) fn faults(expected: &Shapes, found: &Shapes) -> [Vec<String>; 3] {
    let missing = expected.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
    let unexpected = found.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
    let wrong = |(name, shape): (&String, &Vec<usize>)| {
        let found = found.get(name).filter(|found| *found != shape)?;
        Some(format!("{name}: expected {shape:?}, got {found:?}"))
    };
    [missing, unexpected, expected.iter().filter_map(wrong).collect()]
}

#[cfg(test)]
mod tests {
    use super::super::expected::expected;
    use super::*;

    /// Published sizes, which are too large to be made in a test.
    #[test]
    fn published_sizes_are_told_by_their_shapes() {
        let wide = |depth, multiplier| ResNetConfig {
            width_multiplier: multiplier,
            ..ResNetConfig::torchvision(depth)
        };
        let networks: Vec<BackboneConfig> = vec![
            wide(50, 1).into(),
            // SwAV's.
            wide(50, 2).into(),
            wide(50, 4).into(),
            wide(50, 5).into(),
            wide(200, 2).into(),
            VitConfig::tiny(16).into(),
            VitConfig::small(8).into(),
            VitConfig::base(16).into(),
            // MoCo v3's ViT-L.
            VitConfig { dim: 1024, depth: 24, heads: 16, ..VitConfig::base(16) }.into(),
        ];
        for config in networks {
            let shapes = expected(&config).unwrap();
            assert_eq!(backbone(&shapes, Hints::default()), Ok(config));
        }
        // Its first block has a projection because of the stem.
        let narrow = ResNetConfig { base_width: 32, stem_width: Some(64), ..wide(18, 1) };
        assert_eq!(backbone(&expected(&narrow.into()).unwrap(), Hints::default()), Ok(narrow.into()));
        // 53 convolutions and 53 batch norms.
        let selective =
            |depth, multiplier| ResNetConfig { selective_kernels: Some(0.0625), ..wide(depth, multiplier) };
        for config in [
            selective(50, 1),
            selective(152, 3),
            ResNetConfig { selective_kernels: Some(0.25), ..wide(50, 1) },
        ] {
            assert_eq!(backbone(&expected(&config.into()).unwrap(), Hints::default()), Ok(config.into()));
        }
        let half = ResNetConfig { base_width: 32, stem_width: Some(64), ..wide(50, 1) };
        for half in [HalfConfig::Resnet(half), HalfConfig::Alexnet(AlexNetConfig::half(1))] {
            let split = SplitConfig::brightness_and_colour(half);
            let Ok(BackboneConfig::Split(found)) =
                backbone(&expected(&split.into()).unwrap(), Hints::default())
            else {
                panic!("{split}");
            };
            assert_eq!(found.halves(), split.halves());
        }
        assert_eq!(expected(&wide(50, 1).into()).unwrap().len(), 53 + 53 * 4);
        let twelve = Hints { heads: Some(12), ..Hints::default() };
        let small = expected(&VitConfig::small(16).into()).unwrap();
        let config = VitConfig { heads: 12, ..VitConfig::small(16) };
        assert_eq!(backbone(&small, twelve), Ok(config.into()));
    }

    #[test]
    fn other_networks_are_refused_in_words() {
        let shapes = |names: &[(&str, &[usize])]| -> Shapes {
            names.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
        };
        let stem: (&str, &[usize]) = ("conv1.weight", &[64, 3, 7, 7]);
        let patches: (&str, &[usize]) = ("patch_embed.proj.weight", &[384, 3, 16, 16]);
        for (names, word) in [
            (vec![], "neither"),
            (vec![("conv1.0.weight", &[32, 3, 3, 3][..])], "ResNet-D"),
            (vec![stem], "blocks"),
            (vec![("conv1.weight", &[64, 3][..])], "4 axes"),
            (vec![patches], "`pos_embed` is missing"),
            (vec![patches, ("pos_embed", &[1, 196, 384])], "square"),
            (vec![("patch_embed.proj.weight", &[384, 3, 16, 8][..])], "16x8"),
        ] {
            let error = backbone(&shapes(&names), Hints::default()).unwrap_err();
            assert!(error.contains(word), "`{word}` is not in `{error}`");
        }
    }
}
