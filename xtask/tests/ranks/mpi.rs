//! Runs below `mpirun`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::common::Place;

/// The program as `ranks` processes.
fn launch(ranks: usize, arguments: &[String]) -> Command {
    let mut command = Command::new("mpirun");
    command.args([
        "--oversubscribe",
        "-n",
        &ranks.to_string(),
        env!("CARGO_BIN_EXE_xtask"),
        "--threads",
        "1",
    ]);
    command.args(arguments).arg("--mpi");
    command
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("HF_HUB_OFFLINE", "1");
    command
}

fn bytes(run: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(Path::new(run).join("checkpoints/checkpoint-00000005.safetensors"))?)
}

/// Four processes end in the bytes of four ranks of one process, optimiser, queues and all.
pub fn equals_ranks_of_one_process(arguments: &[String], own: &str, other: &str) -> Result<()> {
    let output = launch(4, arguments).output().context("mpirun: scripts/install-mpi.sh installs it")?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(bytes(own)? == bytes(other)?, "{own} and {other} end in different checkpoints");
    Ok(())
}

/// The processes that a launcher started.
fn children(launcher: u32) -> Vec<u32> {
    let path = format!("/proc/{launcher}/task/{launcher}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// One rank of three is killed again and again, another one each time; what was saved is never lost, and the run ends in
/// the bytes of one that nobody disturbed.
#[test]
fn twenty_killed_ranks_lose_nothing() -> Result<()> {
    let place = Place::new()?;
    let data = crate::data(&place)?;
    let run = |name: &str| {
        let mut all = crate::arguments("moco-v2", &data, &place.path(name));
        for set in ["train.epochs=80", "train.batch_size=24", "method.bn_groups=6"] {
            all.extend(["--set".to_string(), set.to_string()]);
        }
        all
    };
    let mut resumed = run("killed");
    resumed.push("--resume".to_string());
    let straight = launch(3, &run("straight")).output()?;
    ensure!(straight.status.success(), "{}", String::from_utf8_lossy(&straight.stderr));
    let newest = || -> Option<String> {
        let folder = std::fs::read_dir(Path::new(&place.path("killed")).join("checkpoints")).ok()?;
        folder.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).max()
    };
    for kill in 0..20 {
        let before = newest();
        let mut job = launch(3, &resumed).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let begun = Instant::now();
        // Somewhere between two checkpoints, or while one is written.
        while newest() == before && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(kill * 13 % 60));
        let ranks = children(job.id());
        let rank = ranks.get(kill as usize % 3).with_context(|| format!("kill {kill}: the run is over"))?;
        Command::new("kill").args(["-9", &rank.to_string()]).status()?;
        let status = job.wait()?;
        ensure!(!status.success(), "kill {kill}: the job went on without a rank");
    }
    let rest = launch(3, &resumed).output()?;
    ensure!(rest.status.success(), "{}", String::from_utf8_lossy(&rest.stderr));
    let last = |name: &str| -> Result<Vec<u8>> {
        Ok(std::fs::read(Path::new(&place.path(name)).join("encoder.safetensors"))?)
    };
    ensure!(last("killed")? == last("straight")?, "the killed run ends in other bytes");
    Ok(())
}
