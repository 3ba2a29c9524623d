//! A process killed at any moment resumes to the same bytes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::toy::{ToyBatches, config, open, train};
use super::*;
use crate::Result;
use crate::rng::{Key, Purpose};

const FOLDER: &str = "CONTRASTIVE_TEST_RUN";
const DELAY: &str = "CONTRASTIVE_TEST_DELAY_MS";

fn settings() -> TrainConfig {
    TrainConfig { epochs: 10, keep_checkpoints: 2, ..config() }
}

/// The other half of the test below: begins or resumes the run in the folder that the environment names.
#[test]
fn child() -> Result<()> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Ok(()) };
    let delay = std::env::var(DELAY)
        .ok()
        .and_then(|ms| ms.parse().ok())
        .map_or(Duration::ZERO, Duration::from_millis);
    let batches = ToyBatches { delay, ..ToyBatches::default() };
    let run_dir = open(Path::new(&folder), &settings())?;
    assert_eq!(train(Some(run_dir), &settings(), &batches, |t| t)?.1, Outcome::Finished);
    Ok(())
}

fn spawn(folder: &Path, delay_ms: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "train::kill_tests::child"])
        .env(FOLDER, folder)
        .env(DELAY, delay_ms.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(folder: &Path) {
    let output = spawn(folder, 0).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn newest(folder: &Path) -> Option<u64> {
    CheckpointFolder::new(&folder.join("checkpoints")).list().ok()?.pop().map(|(step, _)| step)
}

/// Waits until the log of `run` has more than `lines` lines.
fn wait_for_lines(run: &Path, lines: u64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        let text = std::fs::read(run.join("metrics.jsonl")).unwrap_or_default();
        if text.iter().filter(|b| **b == b'\n').count() as u64 > lines {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_runs_end_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    finish(&whole);
    let read = |run: &Path, file: &str| std::fs::read(run.join(file)).unwrap();
    let mut stream = Key::new(20, Purpose::Data).stream();
    let mut amid = 0;
    for attempt in 0..20 {
        let run = folder.path().join(format!("killed-{attempt}"));
        // Up to three kills: the resumed run is killed again.
        for _ in 0..1 + attempt % 3 {
            let mut child = spawn(&run, 4);
            // Every fourth attempt at any moment, its start included; otherwise amid the run, however slow the machine.
            if attempt % 4 > 0 {
                wait_for_lines(&run, stream.below(40));
            }
            std::thread::sleep(Duration::from_micros(stream.below(if attempt % 4 > 0 {
                8_000
            } else {
                100_000
            })));
            child.kill().unwrap();
            child.wait().unwrap();
            amid += u32::from(newest(&run).is_some_and(|step| (1..50).contains(&step)));
        }
        finish(&run);
        for file in ["checkpoints/checkpoint-00000050.safetensors", "encoder.safetensors", "config.toml"] {
            assert!(read(&run, file) == read(&whole, file), "attempt {attempt}: {file} differs");
        }
        let left = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp-")).count()
        };
        assert_eq!((left(&run), left(&run.join("checkpoints"))), (0, 0));
        let text = String::from_utf8(read(&run, "metrics.jsonl")).unwrap();
        let steps = text.lines().filter(|l| l.contains("\"kind\":\"step\"")).count();
        assert_eq!(steps, 50, "attempt {attempt}");
    }
    // Most kills must have hit a run between two checkpoints for this test to mean anything.
    assert!(amid >= 8, "only {amid} of 39 kills came amid a run");
}

#[test]
fn a_running_process_keeps_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = spawn(&run, 200);
    let began = Instant::now();
    while newest(&run).is_none() && began.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = open(&run, &settings()).unwrap_err().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(error.contains("another process is running in this folder"), "{error}");
    assert!(open(&run, &settings()).is_ok());
}
