//! `cargo xtask ci`: what must hold besides the tests, cheapest first.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A build of one method crate may hold at most this many crates (Candle itself brings most of them).
const MOST_DEPENDENCIES: usize = 150;

/// Crates that must not be in the default build of a method crate, each with what it would bring in.
const FORBIDDEN: [(&str, &str); 8] = [
    ("hf-hub", "HTTP client"),
    ("reqwest", "HTTP client"),
    ("tokio", "async runtime"),
    ("clap", "command line"),
    ("image", "decoder"),
    ("parquet", "decoder"),
    ("indicatif", "progress bar"),
    ("plotters", "plotting"),
];

/// Crates of the workspace that are no methods.
const OTHERS: [&str; 6] = [
    "contrastive-core",
    "contrastive-mpi",
    "contrastive-nccl",
    "contrastive-scenes",
    "contrastive-testing",
    "contrastive-benches",
];

/// The features that every crate passes on to Candle under its own name.
const DEVICES: [&str; 6] = ["cuda", "cudnn", "nccl", "metal", "mkl", "accelerate"];

/// Runs every check and stops at the first that fails.
pub fn run() -> Result<()> {
    step("formatting", cargo(&["fmt", "--all", "--check"]))?;
    features_and_dependencies()?;
    step("lints", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", docs)?;
    let mut smoke = Command::new(std::env::current_exe()?);
    let scratch = std::env::temp_dir().join(format!("contrastive-ci-{}", std::process::id()));
    smoke.args(["reproduce", "--tier", "smoke", "--quick", "--out"]).arg(&scratch);
    let outcome = step("short end-to-end run", smoke);
    let _ = std::fs::remove_dir_all(&scratch);
    outcome?;
    println!("all checks passed");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

fn step(name: &str, mut command: Command) -> Result<()> {
    println!("== {name}");
    let status = command.status().with_context(|| format!("{name}: could not start"))?;
    if !status.success() {
        bail!("{name}: failed ({status})");
    }
    Ok(())
}

/// Checks that the library crates and this program pass every device's feature on to the crate below, one to one, and
/// that a method crate builds little.
fn features_and_dependencies() -> Result<()> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.context("cargo metadata: could not start")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata: no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let method = name.starts_with("contrastive-") && !OTHERS.contains(&name);
        let below = match name {
            "contrastive-core" => "candle-core",
            _ if name == "xtask" || method => "contrastive-core",
            _ => continue,
        };
        for device in DEVICES {
            let passed = package["features"][device].as_array();
            if !passed.is_some_and(|to| to.contains(&format!("{below}/{device}").into())) {
                bail!("{name}: feature `{device}` does not pass on `{below}/{device}`");
            }
        }
        println!("== features of {name}");
        if method {
            dependencies(name)?;
        }
    }
    Ok(())
}

/// Holds the dependency tree of a method crate to its limits.
fn dependencies(package: &str) -> Result<()> {
    let mut tree = cargo(&[
        "tree",
        "--package",
        package,
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let output = tree.output().context("cargo tree: could not start")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let versions: BTreeSet<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    println!("== dependencies of {package}: {}", versions.len());
    for (name, what) in FORBIDDEN {
        if names.contains(name) {
            bail!("{package} depends on `{name}` ({what}) with default features");
        }
    }
    if versions.len() > MOST_DEPENDENCIES {
        bail!("{package} builds {} crates, at most {MOST_DEPENDENCIES} are allowed", versions.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_and_dependencies_hold() -> Result<()> {
        features_and_dependencies()
    }
}
