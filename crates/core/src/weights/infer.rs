//! Which backbone a set of names and shapes belongs to, and what that backbone should have.

use std::collections::BTreeMap;

use crate::nn::{BackboneConfig, Interpolation, ResNetConfig, Shortcut, Stem, VitConfig};

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
}

/// Heads of the usual widths.
const HEADS: [(usize, usize); 6] = [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)];

/// The backbone of these names: torchvision's ResNets of any width, timm's plain vision transformers.
pub(super) fn backbone(shapes: &Shapes, hints: Hints) -> Result<BackboneConfig, String> {
    if shapes.contains_key("patch_embed.proj.weight") {
        return transformer(shapes, hints).map(BackboneConfig::Vit);
    }
    if shapes.contains_key("conv1.weight") {
        return resnet(shapes, hints).map(BackboneConfig::Resnet);
    }
    let stem = shapes.contains_key("conv1.0.weight");
    let first: Vec<&str> = shapes.keys().take(4).map(String::as_str).collect();
    Err(if stem {
        "a ResNet with a stem of three convolutions (ResNet-D), which is not supported here".into()
    } else {
        format!("neither a ResNet nor a vision transformer: the names begin with {}", first.join(", "))
    })
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
    let [width, in_channels, height, side] = dims(shapes, "conv1.weight")?;
    let stem = match (height, side) {
        (7, 7) if hints.same_padding => Stem::ImagenetSame,
        (7, 7) => Stem::Imagenet,
        (3, 3) => Stem::Cifar,
        _ => return Err(format!("`conv1.weight` is a convolution of {height}x{side}, neither 7x7 nor 3x3")),
    };
    let blocks = [1, 2, 3, 4].map(|group| count(shapes, &format!("layer{group}."), "conv1.weight"));
    let bottleneck = shapes.contains_key("layer1.0.conv3.weight");
    let same = |depth: &usize| {
        ResNetConfig::torchvision(*depth).blocks().is_ok_and(|known| known == (blocks, bottleneck))
    };
    let Some(depth) = [18, 34, 50, 101, 152, 200].into_iter().find(same) else {
        return Err(format!("a ResNet with {blocks:?} blocks, which is none of the known depths"));
    };
    let project = !bottleneck && shapes.contains_key("layer1.0.downsample.0.weight");
    let multiplier = if width > 64 && width.is_multiple_of(64) { width / 64 } else { 1 };
    let config = ResNetConfig {
        base_width: width / multiplier,
        width_multiplier: multiplier,
        stem,
        in_channels,
        shortcut: if project { Shortcut::ProjectFirst } else { Shortcut::WhereNeeded },
        ..ResNetConfig::torchvision(depth)
    };
    config.check("backbone").map_err(|e| e.to_string())?;
    Ok(config)
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

/// Names and shapes of a backbone's tensors, without making any: what a file claims must not cost memory.
pub(super) fn expected(config: &BackboneConfig) -> Result<Shapes, String> {
    let mut shapes = Shapes::new();
    match config {
        BackboneConfig::Resnet(config) => expected_resnet(config, &mut shapes)?,
        BackboneConfig::Vit(config) => expected_transformer(config, &mut shapes),
        other => return Err(format!("no layout that is read is of {other}")),
    }
    Ok(shapes)
}

fn expected_resnet(config: &ResNetConfig, shapes: &mut Shapes) -> Result<(), String> {
    let (counts, bottleneck) = config.blocks().map_err(|e| e.to_string())?;
    if config.selective_kernels.is_some() {
        return Err("selective kernels are not among the layouts that are read".into());
    }
    let mut conv = |conv: String, norm: String, [inputs, outputs]: [usize; 2], kernel: usize| {
        shapes.insert(format!("{conv}.weight"), vec![outputs, inputs, kernel, kernel]);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{norm}.{part}"), vec![outputs]);
        }
    };
    let stem = if config.stem == Stem::Cifar { 3 } else { 7 };
    conv("conv1".into(), "bn1".into(), [config.in_channels, config.base()], stem);
    let mut channels = config.base();
    for (group, &blocks) in counts.iter().enumerate() {
        let middle = config.base() << group;
        let outputs = if bottleneck { 4 * middle } else { middle };
        for block in 0..blocks {
            let at = format!("layer{}.{block}", group + 1);
            let inner: &[(usize, [usize; 2])] = if bottleneck {
                &[(1, [channels, middle]), (3, [middle, middle]), (1, [middle, outputs])]
            } else {
                &[(3, [channels, middle]), (3, [middle, outputs])]
            };
            for (place, (kernel, widths)) in (1..).zip(inner) {
                conv(format!("{at}.conv{place}"), format!("{at}.bn{place}"), *widths, *kernel);
            }
            let changes = block == 0 && (group > 0 || channels != outputs);
            if changes || (block == 0 && config.shortcut == Shortcut::ProjectFirst) {
                let (conv_at, norm_at) = (format!("{at}.downsample.0"), format!("{at}.downsample.1"));
                conv(conv_at, norm_at, [channels, outputs], 1);
            }
            channels = outputs;
        }
    }
    Ok(())
}

fn expected_transformer(config: &VitConfig, shapes: &mut Shapes) {
    let (dim, hidden, side) = (config.dim, config.dim * config.mlp_ratio, config.image / config.patch);
    let mut put = |name: String, shape: &[usize]| {
        shapes.insert(name, shape.to_vec());
    };
    put("cls_token".into(), &[1, 1, dim]);
    put("pos_embed".into(), &[1, 1 + side * side, dim]);
    put("patch_embed.proj.weight".into(), &[dim, config.in_channels, config.patch, config.patch]);
    put("patch_embed.proj.bias".into(), &[dim]);
    for part in ["weight", "bias"] {
        put(format!("norm.{part}"), &[dim]);
    }
    for block in 0..config.depth {
        let linear = [
            ("attn.qkv", [3 * dim, dim]),
            ("attn.proj", [dim, dim]),
            ("mlp.fc1", [hidden, dim]),
            ("mlp.fc2", [dim, hidden]),
        ];
        for (name, shape) in linear {
            put(format!("blocks.{block}.{name}.weight"), &shape);
            put(format!("blocks.{block}.{name}.bias"), &shape[..1]);
        }
        for name in ["norm1", "norm2"] {
            for part in ["weight", "bias"] {
                put(format!("blocks.{block}.{name}.{part}"), &[dim]);
            }
        }
    }
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
        ];
        for config in networks {
            let shapes = expected(&config).unwrap();
            assert_eq!(backbone(&shapes, Hints::default()), Ok(config));
        }
        // 53 convolutions and 53 batch norms.
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
