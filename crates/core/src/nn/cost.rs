//! What a network costs, by arithmetic: for plans, not for benchmarks.

use super::resnet::Stem;
use super::{AlexNetConfig, BackboneConfig, HalfConfig, PatchNetConfig, PatchStem, ResNetConfig, VitConfig};
use crate::Result;

/// The forward pass of one image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Two for every multiply-add of convolutions, linear layers and attention.
    pub flops: u64,
    /// Elements that a training step keeps for its backward pass.
    pub kept: u64,
    /// Trained parameters.
    pub parameters: u64,
}

impl Cost {
    /// A convolution with batch norm (or any linear map with a normalisation) that gives `positions` places of
    /// `outputs` channels. Kept are its input to the norm and its output.
    fn layer(&mut self, inputs: usize, outputs: usize, kernel: usize, positions: usize) {
        let weights = (inputs * outputs * kernel * kernel) as u64;
        self.parameters += weights + 2 * outputs as u64;
        self.flops += 2 * weights * positions as u64;
        self.kept += 2 * (outputs * positions) as u64;
    }
}

impl BackboneConfig {
    /// The cost for images of `side` x `side` pixels.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn cost(&self, side: usize) -> Result<Cost> {
        match self {
            Self::Resnet(config) => resnet(config, side),
            Self::Vit(config) => Ok(vit(config, side)),
            Self::Patches(config) => patch_net(config, side),
            Self::Split(config) => config.halves().iter().try_fold(Cost::default(), |sum, half| {
                let cost = match half {
                    HalfConfig::Resnet(config) => resnet(config, side)?,
                    HalfConfig::Alexnet(config) => alexnet(config),
                };
                Ok(Cost {
                    flops: sum.flops + cost.flops,
                    kept: sum.kept + cost.kept,
                    parameters: sum.parameters + cost.parameters,
                })
            }),
        }
    }
}

fn alexnet(config: &AlexNetConfig) -> Cost {
    let (mut cost, mut channels) = (Cost::default(), config.in_channels);
    let sides = config.sides();
    for ((kernel, width), (side, _)) in AlexNetConfig::kernels().into_iter().zip(config.widths).zip(sides) {
        cost.layer(channels, width, kernel, side * side);
        channels = width;
    }
    cost.layer(channels, config.hidden, sides[4].1, 1);
    cost.layer(config.hidden, config.hidden, 1, 1);
    cost
}

fn resnet(config: &ResNetConfig, side: usize) -> Result<Cost> {
    let (counts, bottleneck) = config.blocks()?;
    let (mut cost, base, inputs) = (Cost::default(), config.base(), config.in_channels);
    let half = |side: usize| side.div_ceil(2);
    let mut side = side;
    let stem = config.stem_channels();
    match (config.stem, config.selective_kernels) {
        (Stem::Cifar, _) => cost.layer(inputs, stem, 3, side * side),
        (_, None) => {
            side = half(side);
            cost.layer(inputs, stem, 7, side * side);
        }
        (_, Some(_)) => {
            side = half(side);
            cost.layer(inputs, base.div_ceil(2), 3, side * side);
            cost.layer(base.div_ceil(2), base.div_ceil(2), 3, side * side);
            cost.layer(base.div_ceil(2), base, 3, side * side);
        }
    }
    if config.stem != Stem::Cifar {
        side = half(side);
    }
    let mut channels = stem;
    for (group, count) in counts.into_iter().enumerate() {
        let middle = base << group;
        let outputs = if bottleneck { 4 * middle } else { middle };
        for block in 0..count {
            let before = side * side;
            if block == 0 && group > 0 {
                side = half(side);
            }
            let after = side * side;
            if bottleneck {
                // The first 1x1 convolution comes before the stride; selective kernels have two streams.
                cost.layer(channels, middle, 1, before);
                let streams = if config.selective_kernels.is_some() { 2 } else { 1 };
                cost.layer(middle, streams * middle, 3, after);
                cost.layer(middle, outputs, 1, after);
            } else {
                cost.layer(channels, middle, 3, after);
                cost.layer(middle, outputs, 3, after);
            }
            if block == 0 && (channels != outputs || group > 0) {
                cost.layer(channels, outputs, 1, after);
            }
            channels = outputs;
        }
    }
    Ok(cost)
}

/// That of one patch, times the patches.
fn patch_net(config: &PatchNetConfig, side: usize) -> Result<Cost> {
    let [rows, columns] = config.grid(side, side)?;
    let (mut cost, mut channels, mut side) = (Cost::default(), config.channels, config.patch);
    let half = |side: usize| side.div_ceil(2);
    match config.stem {
        PatchStem::Imagenet => {
            side = half(side);
            cost.layer(config.in_channels, channels, 7, side * side);
            side = half(side);
        }
        PatchStem::Conv5 => cost.layer(config.in_channels, channels, 5, side * side),
        PatchStem::Conv3 => cost.layer(config.in_channels, channels, 3, side * side),
    }
    for (stage, &count) in config.blocks.iter().enumerate() {
        let middle = config.channels << stage;
        for block in 0..count {
            let before = side * side;
            if block == 0 && stage > 0 {
                side = half(side);
            }
            cost.layer(channels, middle, 1, before);
            cost.layer(middle, middle, 3, side * side);
            cost.layer(middle, 4 * middle, 1, side * side);
            if block == 0 {
                cost.layer(channels, 4 * middle, 1, side * side);
            }
            channels = 4 * middle;
        }
    }
    let patches = (rows * columns) as u64;
    Ok(Cost { flops: cost.flops * patches, kept: cost.kept * patches, ..cost })
}

fn vit(config: &VitConfig, side: usize) -> Cost {
    let (dim, patches) = (config.dim, (side / config.patch).pow(2));
    let tokens = patches + 1;
    let linear = |cost: &mut Cost, inputs: usize, outputs: usize| {
        cost.parameters += (inputs * outputs + outputs) as u64;
        cost.flops += 2 * (inputs * outputs * tokens) as u64;
    };
    let mut cost = Cost::default();
    cost.layer(config.in_channels * config.patch.pow(2), dim, 1, patches);
    cost.parameters += (dim * (1 + (config.image / config.patch).pow(2)) + dim) as u64;
    for _ in 0..config.depth {
        let hidden = config.mlp_ratio * dim;
        linear(&mut cost, dim, 3 * dim);
        linear(&mut cost, dim, dim);
        linear(&mut cost, dim, hidden);
        linear(&mut cost, hidden, dim);
        cost.flops += 4 * (tokens * tokens * dim) as u64;
        cost.parameters += 4 * dim as u64;
        // Both norms' inputs and outputs, queries, keys and values, what attention gives, and the hidden layer before
        // and after GELU.
        cost.kept += (tokens * (8 * dim + 2 * hidden)) as u64;
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Backbone, ParamStore};
    use candle_core::Device;

    /// Forward FLOPs per image that PyTorch's counter gives: 1.111 G, 8.17 G and 9.20 G.
    #[test]
    fn flops_are_those_of_public_counters() -> Result<()> {
        for (config, side, expected) in [
            (BackboneConfig::from(ResNetConfig::cifar(18)), 32, 1.111e9),
            (ResNetConfig::torchvision(50).into(), 224, 8.17e9),
            (VitConfig::small(16).into(), 224, 9.20e9),
        ] {
            let flops = config.cost(side)?.flops as f64;
            assert!((flops / expected - 1.0).abs() < 0.01, "{config}: {flops}");
        }
        Ok(())
    }

    #[test]
    fn parameters_are_those_of_the_network() -> Result<()> {
        let narrow = ResNetConfig { base_width: 8, ..ResNetConfig::torchvision(50) };
        let vit = VitConfig { dim: 24, depth: 2, ..VitConfig::tiny(16) };
        for config in [
            BackboneConfig::from(narrow),
            ResNetConfig { base_width: 8, ..ResNetConfig::cifar(18) }.into(),
            vit.into(),
            PatchNetConfig { channels: 32, ..PatchNetConfig::paper() }.into(),
        ] {
            let store = ParamStore::new(0, &Device::Cpu);
            Backbone::new(&store.builder(), &config)?;
            let real: usize = store.parameters().iter().map(|entry| entry.var.elem_count()).sum();
            let counted = config.cost(224)?.parameters;
            // Final norm, and what each kind counts in round numbers.
            assert!((counted as f64 / real as f64 - 1.0).abs() < 0.01, "{config}: {counted}, really {real}");
        }
        Ok(())
    }
}
