//! What goes wrong outside the program: one line that names it, and nothing lost.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use common::{Place, pictures, refuses, says, train, xtask};
use contrastive_core::train::Checkpoint;
use contrastive_core::weights;

const EIGHT: [&str; 8] = ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png", "h.png"];

/// The names in a folder of a run, in order.
fn names(folder: impl AsRef<Path>) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// The newest checkpoint of a run.
fn newest(run: &str) -> Result<PathBuf> {
    let folder = Path::new(run).join("checkpoints");
    let name = names(&folder)?.pop().context("no checkpoint")?;
    Ok(folder.join(name))
}

/// Nothing half written lies about.
fn is_tidy(run: &str) -> Result<bool> {
    let all = [names(run)?, names(Path::new(run).join("checkpoints"))?].concat();
    Ok(!all.iter().any(|name| name.starts_with(".tmp-")))
}

#[test]
fn a_batch_larger_than_the_data_is_refused() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("three"), place.path("run"));
    pictures(Path::new(&data), &EIGHT[..3])?;
    refuses(&train(&data, &run, &[]), &["three", "3 samples", "4"])?;
    assert!(!Path::new(&run).exists());
    Ok(())
}

#[test]
fn a_label_out_of_range_is_named() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    std::fs::create_dir(&data)?;
    // CIFAR-100's records: coarse label, fine label, pixels.
    let mut records = vec![0u8; 4 * 3074];
    records[2 * 3074 + 1] = 200;
    std::fs::write(place.path("data/train.bin"), records)?;
    refuses(&train(&data, &run, &[]), &["train.bin", "label 200 of sample 2", "100 classes"])?;
    assert!(!Path::new(&run).exists());
    Ok(())
}

#[test]
fn pictures_of_which_none_can_be_read_end_the_run() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    std::fs::create_dir(&data)?;
    for name in EIGHT {
        std::fs::write(Path::new(&data).join(name), b"")?;
    }
    refuses(&train(&data, &run, &[]), &["none of the 8 samples", "a.png", "empty"])?;
    assert!(names(Path::new(&run).join("checkpoints"))?.is_empty());
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_keeps_the_last_good_checkpoint() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    pictures(Path::new(&data), &EIGHT)?;
    let steps =
        ["--set", "train.epochs=4", "--set", "train.checkpoint_every_steps=1", "--set", "optim.lr=1e37"];
    refuses(&train(&data, &run, &steps), &["not finite at step", "learning rate", "checkpoint is kept"])?;
    let newest = newest(&run)?;
    let bytes = std::fs::read(&newest)?;
    Checkpoint::load(&newest)?;
    assert!(is_tidy(&run)? && !Path::new(&run).join("encoder.safetensors").exists());
    let again = [&steps[..], &["--resume"]].concat();
    refuses(&train(&data, &run, &again), &["not finite at step"])?;
    assert!(std::fs::read(&newest)? == bytes);
    Ok(())
}

/// The program where no file may grow beyond 32 or 64 kB: with the signal ignored, a write beyond that fails as it does
/// on a full disk.
#[cfg(target_os = "linux")]
fn on_a_full_disk(arguments: &[&str]) -> Result<Output> {
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    Ok(command.args(["-c", script, env!("CARGO_BIN_EXE_xtask")]).args(arguments).output()?)
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_no_file_that_was_there() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    pictures(Path::new(&data), &EIGHT)?;
    let output = on_a_full_disk(&train(&data, &run, &[]))?;
    assert_eq!(output.status.code(), Some(1));
    says(&output, &["checkpoint-00000002.safetensors", "File too large"]);
    assert!(is_tidy(&run)? && names(Path::new(&run).join("checkpoints"))?.is_empty());

    // With room again the run goes on; and a finished one loses nothing when its encoder finds no room.
    assert!(xtask(&train(&data, &run, &["--resume"]))?.status.success());
    let newest = newest(&run)?;
    let bytes = std::fs::read(&newest)?;
    let encoder = Path::new(&run).join("encoder.safetensors");
    let whole = std::fs::read(&encoder)?;
    let output = on_a_full_disk(&train(&data, &run, &["--resume"]))?;
    assert_eq!(output.status.code(), Some(1));
    says(&output, &["encoder.safetensors", "File too large"]);
    assert!(is_tidy(&run)? && std::fs::read(&newest)? == bytes && std::fs::read(&encoder)? == whole);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_folder_that_cannot_be_written_is_named() -> Result<()> {
    let place = Place::new()?;
    let data = place.path("data");
    pictures(Path::new(&data), &EIGHT)?;
    // Not even the administrator can make a folder there.
    refuses(&train(&data, "/proc/runs", &[]), &["/proc/runs"])?;
    refuses(&["reproduce", "--quick", "--out", "/proc/results"], &["/proc/results"])?;
    Ok(())
}

#[test]
fn tensors_that_do_not_fit_are_named() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    let folders = ["train/a/", "train/b/", "test/a/", "test/b/"];
    let files: Vec<String> =
        folders.iter().flat_map(|f| EIGHT[..4].iter().map(move |n| format!("{f}{n}"))).collect();
    pictures(Path::new(&data), &files.iter().map(String::as_str).collect::<Vec<_>>())?;
    assert!(xtask(&train(&data, &run, &[]))?.status.success());
    let resume = train(&data, &run, &["--resume"]);
    let eval = ["eval", "--run", &run, "--data", &data, "--protocol", "knn-k20-t0.07-v1"];

    // Whole files, with their checksums, whose content is wrong.
    let change = |path: &Path, name: &str, tensor: Option<Tensor>| -> Result<()> {
        let (mut tensors, mut header) = weights::load(path)?;
        tensors.remove(name).with_context(|| format!("{name} is not there"))?;
        if let Some(tensor) = tensor {
            tensors.insert(name.into(), tensor);
        }
        if header.get("digest").is_some() {
            header["digest"] = weights::digest(tensors.iter().map(|(n, t)| (n.as_str(), t)))?.into();
        }
        Ok(weights::save(path, &tensors.into_iter().collect::<Vec<_>>(), &header)?)
    };
    let (checkpoint, encoder) = (newest(&run)?, Path::new(&run).join("encoder.safetensors"));
    for (path, call, name) in
        [(&checkpoint, &resume[..], "model/backbone.conv1.weight"), (&encoder, &eval[..], "conv1.weight")]
    {
        let bytes = std::fs::read(path)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        change(path, name, None)?;
        let broken = std::fs::read(path)?;
        refuses(call, &[&file, "missing: ", name])?;
        assert!(std::fs::read(path)? == broken, "{file} was overwritten");
        std::fs::write(path, &bytes)?;
        change(path, name, Some(Tensor::zeros((2, 3, 5), candle_core::DType::F32, &Device::Cpu)?))?;
        refuses(call, &[&file, name, "[4, 3, 3, 3]", "[2, 3, 5]"])?;
        std::fs::write(path, &bytes)?;
    }
    Ok(())
}

#[test]
fn quick_results_stay_away_from_the_real_ones() -> Result<()> {
    let output = xtask(&["reproduce", "--quick"])?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("--out"), "{text}");
    Ok(())
}

#[test]
fn missing_data_leaves_measured_rows_alone() -> Result<()> {
    let place = Place::new()?;
    let (out, absent) = (place.path("out"), place.path("absent"));
    let call = ["reproduce", "--tier", "small", "--data", &absent, "--out", &out];
    refuses(&call, &["absent"])?;
    let path = Path::new(&out).join("small/results.json");
    let text = std::fs::read_to_string(&path)?;
    assert!(text.contains("\"value\": null") && text.contains("does not exist"), "{text}");
    let measured: serde_json::Value = serde_json::from_slice(&std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/small/results.json"),
    )?)?;
    std::fs::write(&path, measured.to_string())?;
    refuses(&call, &["absent"])?;
    let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let kept = after.as_array().context("an array")?;
    for row in measured.as_array().context("an array")? {
        assert!(kept.contains(row), "{row} is gone");
    }
    Ok(())
}
