//! What a call would take, without training anything.

use anyhow::Result;
use contrastive_core::data::Source;

use super::{Arguments, REFERENCES, Tier, open};
use crate::dry_run;
use crate::methods::{Plan, presets};

/// What the chosen methods would take, on the tier's data, or on ImageNet where it is not at hand.
pub fn dry_run(arguments: &Arguments, chosen: &[&str]) -> Result<()> {
    const IMAGENET: u64 = 1_281_167;
    let tier = arguments.tier;
    let (name, samples) = if tier == Tier::Paper && arguments.data.is_none() {
        ("imagenet".to_string(), IMAGENET)
    } else {
        let (train, _) = open(arguments)?;
        (train.name().to_string(), train.len() as u64)
    };
    let methods = chosen.iter().filter(|method| **method != REFERENCES);
    let mut plans = Vec::new();
    for method in methods {
        // The papers have several settings for ImageNet.
        let all: Vec<&str> = presets(method)?.into_iter().map(|(preset, _)| preset).collect();
        let chosen = match tier {
            Tier::Paper if all.iter().any(|p| p.starts_with("imagenet")) => all
                .into_iter()
                .filter(|p| p.starts_with("imagenet") && !p.starts_with("imagenette"))
                .collect(),
            Tier::Paper if arguments.data.is_none() => {
                println!("{method}: no recipe for ImageNet; name its data with --data");
                continue;
            }
            _ => vec![tier.preset(method)?],
        };
        for preset in chosen {
            plans.push((preset, Plan::new(method, preset, None, &arguments.set)?));
        }
    }
    dry_run::print(&plans, &name, samples)
}
