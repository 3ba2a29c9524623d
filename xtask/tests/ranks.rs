//! Whole runs on several ranks: of one process, and below `mpirun` where that is built in.

mod common;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use common::{Place, pictures, refuses, xtask};

/// Every method with its smallest change that makes a run of seconds.
const METHODS: [&str; 12] = [
    "instdisc",
    "invaspread",
    "moco-v1",
    "moco-v2",
    "moco-v3",
    "simclr",
    "simclr-v2",
    "byol",
    "swav",
    "simsiam",
    "dino",
    "cpc-images",
];

/// 80 pictures: five steps of 16.
fn data(place: &Place) -> Result<String> {
    let folder = place.path("data");
    let names: Vec<String> = (0..80).map(|i| format!("{i:02}.png")).collect();
    pictures(Path::new(&folder), &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(folder)
}

fn arguments(method: &str, data: &str, run: &str) -> Vec<String> {
    let mut all: Vec<String> =
        ["train", method, "--data", data, "--run", run, "--preset", "smoke", "--workers", "1"]
            .map(String::from)
            .to_vec();
    let mut sets = vec![
        "train.epochs=1",
        "train.batch_size=16",
        "train.log_every_steps=1",
        "train.checkpoint_every_steps=2",
        "train.keep_checkpoints=9",
        "optim.lr=1e-3",
    ];
    if method != "cpc-images" {
        sets.push("method.backbone.base_width=4");
    }
    match method {
        "moco-v1" | "moco-v2" => sets.extend(["method.bn_groups=8", "method.queue=64"]),
        _ => {}
    }
    all.extend(sets.iter().flat_map(|set| ["--set".to_string(), (*set).to_string()]));
    all
}

fn call(arguments: &[String], more: &[&str]) -> Result<()> {
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let output = xtask(&all)?;
    ensure!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Loss and norm of the gradient of every step.
fn log(run: &str) -> Result<Vec<[f64; 2]>> {
    let text = std::fs::read_to_string(Path::new(run).join("metrics.jsonl"))?;
    let mut steps = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if line["kind"] == "step" {
            let of = |name: &str| line["values"][name].as_f64().with_context(|| format!("{run}: no {name}"));
            steps.push([of("loss")?, of("grad_norm")?]);
        }
    }
    Ok(steps)
}

/// To rounding and what a network makes of it in a few steps.
fn near(what: &str, own: &[[f64; 2]], other: &[[f64; 2]]) -> Result<()> {
    ensure!(own.len() == 5 && other.len() == 5, "{what}: {} and {} steps", own.len(), other.len());
    for (step, (a, b)) in own.iter().zip(other).enumerate() {
        let off = |a: f64, b: f64| (a - b).abs() / b.abs().max(1e-3);
        ensure!(
            off(a[0], b[0]) < 5e-3 && off(a[1], b[1]) < 5e-2,
            "{what}, step {step}: {a:?}, one rank: {b:?}"
        );
    }
    Ok(())
}

#[test]
fn every_method_learns_the_same_on_one_two_and_four_ranks() -> Result<()> {
    let place = Place::new()?;
    let data = data(&place)?;
    for method in METHODS {
        let run = |ranks: &str| place.path(&format!("{method}-{ranks}"));
        for ranks in ["1", "2", "4"] {
            call(&arguments(method, &data, &run(ranks)), &["--ranks", ranks])?;
        }
        let alone = log(&run("1"))?;
        near(&format!("{method}, two ranks"), &log(&run("2"))?, &alone)?;
        near(&format!("{method}, four ranks"), &log(&run("4"))?, &alone)?;
        #[cfg(feature = "mpi")]
        mpi::equals_ranks_of_one_process(&arguments(method, &data, &run("mpi")), &run("mpi"), &run("4"))?;
    }
    Ok(())
}

#[test]
fn a_run_of_four_ranks_is_resumed_by_one_and_by_two() -> Result<()> {
    let place = Place::new()?;
    let data = data(&place)?;
    // State that depends on the order of samples: a queue, a bank, a centre.
    for method in ["moco-v2", "instdisc", "dino"] {
        let run = |name: &str| place.path(&format!("{method}-{name}"));
        call(&arguments(method, &data, &run("1")), &[])?;
        let alone = log(&run("1"))?;
        for ranks in ["1", "2"] {
            let four = run(&format!("4-{ranks}"));
            call(&arguments(method, &data, &four), &["--ranks", "4"])?;
            // As if it had died after its second step.
            for gone in [
                "checkpoints/checkpoint-00000004.safetensors",
                "checkpoints/checkpoint-00000005.safetensors",
                "encoder.safetensors",
            ] {
                std::fs::remove_file(Path::new(&four).join(gone)).context(gone)?;
            }
            call(&arguments(method, &data, &four), &["--resume", "--ranks", ranks])?;
            near(&format!("{method}, resumed by {ranks}"), &log(&four)?, &alone)?;
        }
    }
    Ok(())
}

#[test]
fn a_batch_in_chunks_trains_on_one_rank_and_on_two() -> Result<()> {
    let place = Place::new()?;
    let data = data(&place)?;
    for method in ["simclr", "simclr-v2", "invaspread", "moco-v3", "byol", "simsiam"] {
        for ranks in ["1", "2"] {
            let run = place.path(&format!("{method}-{ranks}"));
            call(&arguments(method, &data, &run), &["--set", "method.chunk=4", "--ranks", ranks])?;
            ensure!(log(&run)?.len() == 5, "{method}, {ranks} ranks");
        }
    }
    Ok(())
}

#[test]
fn other_data_than_images_trains_on_two_ranks() -> Result<()> {
    let place = Place::new()?;
    let out = place.path("out");
    for part in ["cpc-speech", "cpc-text"] {
        let call = ["reproduce", part, "--out", &out, "--set", "train.epochs=1", "--ranks", "2"];
        let output = xtask(&call)?;
        ensure!(output.status.success(), "{part}: {}", String::from_utf8_lossy(&output.stderr));
    }
    refuses(&["reproduce", "cpc-text", "--ranks", "2"], &["--ranks", "--out"])?;
    refuses(&["reproduce", "cpc-text", "--ranks", "0", "--out", &out], &["--ranks", "at least 1"])?;
    refuses(&["reproduce", "simclr", "--ranks", "2", "--out", &out], &["train simclr --ranks 2"])
}

#[test]
fn ranks_that_cannot_share_a_batch_are_refused() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (data(&place)?, place.path("run"));
    let all = arguments("simclr", &data, &run);
    let with = |more: &[&'static str]| -> Vec<String> {
        all.iter().cloned().chain(more.iter().map(|s| s.to_string())).collect()
    };
    let refused = |more: &[&'static str], words: &[&str]| -> Result<()> {
        let all = with(more);
        refuses(&all.iter().map(String::as_str).collect::<Vec<_>>(), words)
    };
    refused(&["--ranks", "3"], &["16 does not divide evenly among 3 ranks"])?;
    refused(&["--ranks", "0"], &["--ranks"])?;
    refused(&["--rank-timeout=-1"], &["--rank-timeout"])
}

#[cfg(feature = "mpi")]
#[path = "ranks/mpi.rs"]
mod mpi;
