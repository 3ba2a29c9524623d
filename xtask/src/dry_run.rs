//! What a tier would take, without training anything.

use anyhow::{Context, Result};

use crate::methods::Plan;

/// Prints one line per preset and its plan: data, steps, arithmetic and memory. `samples` is the size of the training
/// set.
pub fn print(plans: &[(&str, Plan)], data: &str, samples: u64) -> Result<()> {
    println!(
        "{:<11} {:<24} {:<30} {:<10} {:>6} {:>6} {:>8} {:>10} {:>10} {:>10}",
        "method", "preset", "backbone", "data", "epochs", "batch", "steps", "TFLOP/step", "PFLOP", "memory"
    );
    for (preset, plan) in plans {
        let cost = plan.cost(samples).with_context(|| plan.name())?;
        println!(
            "{:<11} {preset:<24} {:<30} {data:<10} {:>6} {:>6} {:>8} {:>10.3} {:>10.1} {:>7.1} GB",
            plan.name(),
            plan.backbone(),
            plan.epochs(),
            plan.batch(),
            cost.steps,
            cost.step_flops / 1e12,
            cost.step_flops * cost.steps as f64 / 1e15,
            cost.bytes / 1e9
        );
    }
    println!("\nBy arithmetic over the backbones; memory is a whole step's, over all ranks together.");
    Ok(())
}
