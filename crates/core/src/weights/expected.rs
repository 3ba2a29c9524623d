//! What a backbone's file should have.

use super::infer::Shapes;
use crate::nn::{
    AlexNetConfig, BackboneConfig, HalfConfig, ResNetConfig, Shortcut, Stem, VitConfig, squeezed,
};

/// Names and shapes of a backbone's tensors, without making any: what a file claims must not cost memory.
pub(super) fn expected(config: &BackboneConfig) -> Result<Shapes, String> {
    let mut shapes = Shapes::new();
    match config {
        BackboneConfig::Resnet(config) => resnet(config, &mut shapes)?,
        BackboneConfig::Vit(config) => transformer(config, &mut shapes),
        BackboneConfig::Split(config) => {
            for (i, half) in config.halves().iter().enumerate() {
                let mut own = Shapes::new();
                match half {
                    HalfConfig::Resnet(config) => resnet(config, &mut own)?,
                    HalfConfig::Alexnet(config) => alexnet(config, &mut own),
                }
                shapes.extend(own.into_iter().map(|(name, shape)| (format!("{i}.{name}"), shape)));
            }
        }
        other => return Err(format!("no layout that is read is of {other}")),
    }
    Ok(shapes)
}

/// The four tensors of a batch norm.
fn norm(shapes: &mut Shapes, name: &str, width: usize) {
    for part in ["weight", "bias", "running_mean", "running_var"] {
        shapes.insert(format!("{name}.{part}"), vec![width]);
    }
}

fn resnet(config: &ResNetConfig, shapes: &mut Shapes) -> Result<(), String> {
    let (counts, bottleneck) = config.blocks().map_err(|e| e.to_string())?;
    let ratio = config.selective_kernels;
    let mut conv = |conv: String, bn: String, [inputs, outputs]: [usize; 2], kernel: usize| {
        shapes.insert(format!("{conv}.weight"), vec![outputs, inputs, kernel, kernel]);
        if !bn.is_empty() {
            norm(shapes, &bn, outputs);
        }
    };
    let (inputs, mut channels) = (config.in_channels, config.stem_channels());
    if ratio.is_some() && config.stem != Stem::Cifar {
        let half = channels.div_ceil(2);
        conv("conv1.0".into(), "conv1.1".into(), [inputs, half], 3);
        conv("conv1.3".into(), "conv1.4".into(), [half, half], 3);
        conv("conv1.6".into(), "bn1".into(), [half, channels], 3);
    } else {
        let kernel = if config.stem == Stem::Cifar { 3 } else { 7 };
        conv("conv1".into(), "bn1".into(), [inputs, channels], kernel);
    }
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
            for (place, (kernel, [from, to])) in (1..).zip(inner) {
                // Two streams, one behind the other.
                let to = if *kernel == 3 && ratio.is_some() { 2 * to } else { *to };
                conv(format!("{at}.conv{place}"), format!("{at}.bn{place}"), [*from, to], *kernel);
            }
            if let Some(ratio) = ratio {
                let squeezed = squeezed(middle, ratio);
                conv(format!("{at}.sk.squeeze"), format!("{at}.sk.bn"), [middle, squeezed], 1);
                conv(format!("{at}.sk.expand"), String::new(), [squeezed, 2 * middle], 1);
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

fn transformer(config: &VitConfig, shapes: &mut Shapes) {
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

fn alexnet(config: &AlexNetConfig, shapes: &mut Shapes) {
    let mut channels = config.in_channels;
    for (i, (width, kernel)) in config.widths.into_iter().zip(AlexNetConfig::kernels()).enumerate() {
        let at = format!("conv_block_{}", i + 1);
        shapes.insert(format!("{at}.0.weight"), vec![width, channels, kernel, kernel]);
        norm(shapes, &format!("{at}.1"), width);
        channels = width;
    }
    let last = config.sides()[4].1;
    for (name, inputs) in [("fc6", channels * last * last), ("fc7", config.hidden)] {
        shapes.insert(format!("{name}.0.weight"), vec![config.hidden, inputs]);
        shapes.insert(format!("{name}.0.bias"), vec![config.hidden]);
        norm(shapes, &format!("{name}.1"), config.hidden);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::{Backbone, ParamStore, SplitConfig};

    /// What is expected of a file is what the network has.
    #[test]
    fn networks_have_these_names_and_shapes() -> crate::Result<()> {
        let narrow = |depth| ResNetConfig { base_width: 4, ..ResNetConfig::torchvision(depth) };
        let selective =
            ResNetConfig { selective_kernels: Some(0.0625), stem: Stem::ImagenetSame, ..narrow(50) };
        let half = ResNetConfig { base_width: 2, stem_width: Some(4), ..narrow(18) };
        let alexnet = AlexNetConfig { widths: [2, 3, 4, 5, 6], hidden: 7, ..AlexNetConfig::half(1) };
        let split = |half| BackboneConfig::Split(SplitConfig::brightness_and_colour(half));
        let networks: [BackboneConfig; 8] = [
            narrow(18).into(),
            narrow(50).into(),
            ResNetConfig { shortcut: Shortcut::ProjectFirst, ..narrow(18) }.into(),
            selective.into(),
            half.into(),
            VitConfig { dim: 12, heads: 3, depth: 2, ..VitConfig::tiny(16) }.into(),
            split(HalfConfig::Resnet(half)),
            split(HalfConfig::Alexnet(alexnet)),
        ];
        for config in networks {
            let params = ParamStore::new(0, &Device::Cpu);
            let _network = Backbone::new(&params.builder(), &config)?;
            let found: Shapes =
                params.entries().into_iter().map(|e| (e.name.clone(), e.var.dims().to_vec())).collect();
            assert_eq!(Ok(found), expected(&config), "{config}");
        }
        Ok(())
    }
}
