use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::checkpoint::Parts;
use super::toy::*;
use super::*;
use crate::optim::{Gradients, Optimizer};
use crate::weights;
use crate::{Error, Result};

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap()
}

/// Raises the stop flag after a step and keeps what it saw.
#[derive(Default)]
struct Watch {
    stop_after: Option<u64>,
    stop: Arc<AtomicBool>,
    losses: Vec<f64>,
    sum: f64,
    epochs: Vec<(u64, u64)>,
    warnings: Vec<String>,
}

impl Observer for Watch {
    fn name(&self) -> &str {
        "watch"
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![("sum".to_string(), Tensor::new(self.sum, &Device::Cpu)?)])
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.sum = state["sum"].to_scalar()?;
        Ok(())
    }

    fn on_step(&mut self, record: &StepRecord<'_>, notes: &mut Notes) -> Result<()> {
        assert_eq!(record.embeddings[0].dims(), [8, OUT]);
        assert!(record.images_per_second > 0.0 && record.grad_norm > 0.0);
        self.losses.push(record.loss);
        self.sum += record.loss;
        if record.progress.step == 2 {
            notes.scalar("probe", 0.5);
            notes.warn("step two");
        }
        if self.stop_after == Some(record.progress.step) {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(&mut self, record: &EpochRecord<'_>, method: &dyn Method, notes: &mut Notes) -> Result<()> {
        assert_eq!(
            method.features(&Tensor::zeros((1, WIDTH), candle_core::DType::F32, &Device::Cpu)?)?.dims(),
            [1, OUT]
        );
        self.epochs.push((record.progress.epoch, record.steps));
        notes.scalar("accuracy", 0.25);
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        self.warnings.push(format!("{step}: {text}"));
    }
}

fn run(folder: &Path, config: &TrainConfig, stop_after: Option<u64>) -> Result<(Outcome, Watch)> {
    let mut watch = Watch { stop_after, ..Watch::default() };
    let flag = watch.stop.clone();
    let mut method = ToyMethod::new(config.seed)?;
    let mut optimizer = ToySgd::new(method.params())?;
    let batches = ToyBatches::default();
    let outcome = Trainer::new(&mut method, &mut optimizer, &batches, &lr, config.clone())
        .manifest(manifest())
        .run_dir(open(folder, config)?)
        .stop_flag(flag)
        .observer(&mut watch)
        .run()?;
    Ok((outcome, watch))
}

#[test]
fn a_run_learns_and_leaves_its_files() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/run");
    let (outcome, watch) = run(&folder, &config(), None)?;
    assert_eq!(outcome, Outcome::Finished);
    assert_eq!(watch.losses.len(), 20);
    assert!(watch.losses[19] < 0.7 * watch.losses[0], "{:?}", watch.losses);
    assert_eq!(watch.epochs, [(0, 5), (1, 5), (2, 5), (3, 5)]);
    assert_eq!(watch.warnings, ["2: step two"]);
    // Steps 3, 6, ... and the epochs' ends 5, 10, ...; the newest three stay.
    let kept = [15, 18, 20].map(|step| format!("checkpoint-{step:08}.safetensors"));
    assert_eq!(names(&folder.join("checkpoints")), kept);
    let files = names(&folder);
    assert_eq!(files[..4], [".lock", "checkpoints", "config.toml", "encoder.safetensors"]);
    assert!(files[4].starts_with("events.out.tfevents.") && files[5] == "metrics.jsonl" && files.len() == 6);

    let lines = metrics(&folder);
    let of_kind = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of_kind("step").len(), of_kind("epoch").len(), of_kind("warning").len()), (20, 4, 1));
    let step = of_kind("step")[2];
    assert_eq!(step["values"]["loss"], watch.losses[2]);
    assert_eq!((&step["values"]["probe"], &step["step"]), (&0.5.into(), &2.into()));
    assert!(step["values"]["alignment"].is_number() && step["time"]["images_per_second"].is_number());
    let mean = watch.losses[5..10].iter().sum::<f64>() / 5.0;
    assert!((of_kind("epoch")[1]["values"]["loss"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert_eq!(of_kind("epoch")[1]["values"]["accuracy"], 0.25);

    let (encoder, read) = weights::load_encoder(&folder.join("encoder.safetensors"))?;
    assert_eq!((read, encoder["weight"].dims()), (Some(manifest()), &[OUT, WIDTH][..]));
    Ok(())
}

#[test]
fn interrupted_and_resumed_runs_end_with_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(&whole, &config(), None)?;
    let strip = |mut line: Value| {
        line.as_object_mut().unwrap().remove("time");
        line
    };
    // Within an epoch, at its end, before the first checkpoint, and twice.
    for stops in [vec![7], vec![4], vec![0], vec![1, 11]] {
        let cut = folder.path().join(format!("cut-{}-{}", stops[0], stops.len()));
        for stop in &stops {
            assert_eq!(run(&cut, &config(), Some(*stop))?.0, Outcome::Interrupted);
            let newest = CheckpointFolder::new(&cut.join("checkpoints")).list()?.pop().unwrap();
            assert_eq!(newest.0, stop + 1);
            assert!(!cut.join("encoder.safetensors").exists());
        }
        assert_eq!(run(&cut, &config(), None)?.0, Outcome::Finished);
        for file in ["checkpoints/checkpoint-00000020.safetensors", "encoder.safetensors"] {
            assert_eq!(bytes(whole.join(file)), bytes(cut.join(file)), "{stops:?} {file}");
        }
        let steps = |folder: &Path| {
            let lines = metrics(folder).into_iter().filter(|l| l["kind"] == "step");
            lines.map(strip).collect::<Vec<_>>()
        };
        assert_eq!(steps(&whole), steps(&cut), "{stops:?}");
    }
    // A finished run resumes to the same end.
    let before = bytes(whole.join("encoder.safetensors"));
    std::fs::remove_file(whole.join("encoder.safetensors")).unwrap();
    assert_eq!(run(&whole, &config(), None)?.0, Outcome::Finished);
    assert_eq!(bytes(whole.join("encoder.safetensors")), before);
    Ok(())
}

#[test]
fn resume_needs_the_whole_state() -> Result<()> {
    // The comparison above would be worth little if the optimiser's and method's state did not matter.
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &config(), Some(7))?;
    let path = CheckpointFolder::new(&folder.path().join("checkpoints")).path(8);
    let (tensors, _) = weights::load(&path)?;
    let mut found: Vec<&str> = tensors.keys().map(String::as_str).collect();
    found.sort_unstable();
    let expected = [
        "model/encoder.mean",
        "model/encoder.weight",
        "observer/watch/sum",
        "optim/momentum/encoder.weight",
        "state/target.weight",
        "state/updates",
    ];
    assert_eq!(found, expected);
    assert_eq!(tensors["state/updates"].to_scalar::<u32>()?, 8);
    let header = Checkpoint::load(&path)?;
    assert_eq!((header.header().progress.step, header.header().progress.epoch), (8, 1));
    assert_eq!(header.header().config["epochs"], 4);
    Ok(())
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(&whole, &config(), None)?;
    for damage in ["truncated", "flipped", "foreign"] {
        let cut = folder.path().join(damage);
        run(&cut, &config(), Some(6))?;
        let newest = CheckpointFolder::new(&cut.join("checkpoints")).path(7);
        let mut content = bytes(&newest);
        match damage {
            "truncated" => content.truncate(content.len() / 2),
            // The last element, which safetensors itself does not check.
            "flipped" => *content.last_mut().unwrap() ^= 1,
            _ => content = b"hello".to_vec(),
        }
        std::fs::write(&newest, content).unwrap();
        let (outcome, watch) = run(&cut, &config(), None)?;
        assert_eq!((outcome, watch.losses.len()), (Outcome::Finished, 20 - 6), "{damage}");
        assert!(watch.warnings[0].contains("checkpoint-00000007"), "{:?}", watch.warnings);
        assert!(
            names(&cut.join("checkpoints")).iter().any(|n| n == "checkpoint-00000007.safetensors.damaged")
        );
        let last = "checkpoints/checkpoint-00000020.safetensors";
        assert_eq!(bytes(whole.join(last)), bytes(cut.join(last)), "{damage}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_that_does_not_fit_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut method = ToyMethod::new(1)?;
    let mut optimizer = ToySgd::new(method.params())?;
    let progress =
        Progress { seed: 1, step: 3, total_steps: 9, epoch: 0, total_epochs: 1, steps_per_epoch: 9 };
    let data = weights::DataIdentity { name: "a".into(), fingerprint: "b".into() };
    let parts = Parts { method: &method, optimizer: &optimizer, observers: vec![] };
    Checkpoint::save(&path, parts, &progress, &Value::Null, &data)?;
    // A wider model, with the rest as it was.
    let (mut tensors, mut header) = weights::load(&path)?;
    tensors
        .insert("model/encoder.weight".into(), Tensor::zeros((9, 9), candle_core::DType::F32, &Device::Cpu)?);
    tensors.insert("state/more".into(), Tensor::new(0f32, &Device::Cpu)?);
    tensors.remove("optim/momentum/encoder.weight");
    tensors.insert("optim/other".into(), Tensor::new(0f32, &Device::Cpu)?);
    header["digest"] = weights::digest(tensors.iter().map(|(n, t)| (n.as_str(), t)))?.into();
    weights::save(&path, &tensors.into_iter().collect::<Vec<_>>(), &header)?;
    let before = method.params().tensors()[0].1.to_vec2::<f32>()?;
    let error = Checkpoint::load(&path)?.restore(&mut method, &mut optimizer).unwrap_err().to_string();
    for part in [
        "missing: optim/momentum/encoder.weight",
        "unexpected: optim/other, state/more",
        "model/encoder.weight: expected F32 [4, 6], got F32 [9, 9]",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(method.params().tensors()[0].1.to_vec2::<f32>()?, before);

    header["version"] = 99.into();
    weights::save(&path, &[], &header)?;
    assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("version 99"));
    weights::save(&path, &[], &Value::Null)?;
    assert!(Checkpoint::load(&path).unwrap_err().to_string().contains("not a checkpoint"));
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let batches = ToyBatches { broken_from: 7, ..ToyBatches::default() };
    let error = train(Some(open(folder.path(), &config())?), &config(), &batches, |t| t).err().unwrap();
    assert!(matches!(&error, Error::NonFinite { what, step: 7 } if what == "loss"), "{error}");
    let checkpoints = CheckpointFolder::new(&folder.path().join("checkpoints"));
    assert_eq!(checkpoints.list()?.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [3, 5, 6]);
    let (newest, warnings) = checkpoints.latest()?;
    assert!(newest.is_some() && warnings.is_empty());
    assert_eq!(metrics(folder.path()).last().unwrap()["step"], 6);
    Ok(())
}

/// The toy with another loss, made from its own and itself.
struct Losing(ToyMethod, fn(Tensor, &ToyMethod) -> Result<Tensor>);

impl Method for Losing {
    fn name(&self) -> &str {
        "losing"
    }

    fn views(&self) -> usize {
        self.0.views()
    }

    fn params(&self) -> &crate::nn::ParamStore {
        self.0.params()
    }

    fn step(
        &mut self,
        batch: &crate::data::Batch,
        comm: &crate::dist::Comm,
        progress: &Progress,
    ) -> Result<StepOutput> {
        let out = self.0.step(batch, comm, progress)?;
        Ok(StepOutput { loss: (self.1)(out.loss, &self.0)?, ..out })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.0.features(x)
    }
}

#[test]
fn a_gradient_that_is_no_number_is_named() -> Result<()> {
    // sqrt(0) has a finite value and an infinite gradient.
    let mut method = Losing(ToyMethod::new(0)?, |_, toy| {
        let weight = toy.params().parameters()[0].var.as_tensor().clone();
        Ok((&weight - weight.detach())?.sqrt()?.sum_all()?)
    });
    let before = method.params().tensors()[0].1.to_vec2::<f32>()?;
    let mut optimizer = ToySgd::new(method.params())?;
    let batches = ToyBatches::default();
    let error = Trainer::new(&mut method, &mut optimizer, &batches, &lr, config()).run().unwrap_err();
    assert!(error.to_string().starts_with("gradient of encoder.weight is not finite at step 0"), "{error}");
    assert_eq!(method.params().tensors()[0].1.to_vec2::<f32>()?, before);
    Ok(())
}

#[test]
fn clipping_scales_to_the_bound() -> Result<()> {
    /// Keeps the norms it is given and changes nothing.
    struct Norms(Vec<f64>);
    impl Optimizer for Norms {
        fn step(&mut self, gradients: &Gradients, _lr: f64) -> Result<()> {
            self.0.push(gradients.norm()?);
            Ok(())
        }
        fn state(&self) -> Result<Vec<(String, Tensor)>> {
            Ok(vec![])
        }
        fn load_state(&mut self, _: &HashMap<String, Tensor>) -> Result<()> {
            Ok(())
        }
    }
    let batches = ToyBatches::default();
    let norms = |grad_clip| -> Result<Vec<f64>> {
        let mut method = ToyMethod::new(0)?;
        let mut optimizer = Norms(Vec::new());
        let config = TrainConfig { epochs: 1, grad_clip, ..config() };
        Trainer::new(&mut method, &mut optimizer, &batches, &lr, config).run()?;
        Ok(optimizer.0)
    };
    let free = norms(None)?;
    let bound = free.iter().sum::<f64>() / free.len() as f64;
    let clipped = norms(Some(bound))?;
    assert!(free[0] != clipped[0] || free[0] <= bound);
    for (free, clipped) in free.iter().zip(&clipped) {
        assert!(*clipped <= bound * (1.0 + 1e-5) && (*free > bound || free == clipped), "{free} {clipped}");
    }
    assert!(clipped.iter().any(|n| (n - bound).abs() < 1e-5 * bound));
    Ok(())
}

#[test]
fn a_folder_takes_one_run_and_one_process() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let text = config::to_toml_string(&config())?;
    let first = RunDir::create(&path, &text)?;
    let error = RunDir::resume(&path, &text).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(first);
    let error = RunDir::create(&path, "epochs = 1").unwrap_err().to_string();
    assert!(error.contains("not empty") && error.contains("run"), "{error}");
    assert_eq!(std::fs::read_to_string(path.join("config.toml")).unwrap(), text);

    let changed = config::to_toml_string(&TrainConfig { seed: 5, epochs: 9, ..config() })?;
    let error = RunDir::resume(&path, &changed).unwrap_err().to_string();
    assert!(error.starts_with("config key `epochs`: differs from the run in"), "{error}");
    let dir = RunDir::resume(&path, &text)?;
    assert!(dir.checkpoint().is_none() && dir.warnings()[0].contains("begins anew"));

    let foreign = folder.path().join("photos");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("cat.jpg"), "x").unwrap();
    assert!(RunDir::create(&foreign, &text).unwrap_err().to_string().contains("cat.jpg"));
    assert_eq!(names(&foreign), ["cat.jpg"]);
    assert!(RunDir::resume(&foreign, &text).unwrap_err().to_string().contains("holds no run"));
    // No folder can be made below a file.
    let below = foreign.join("cat.jpg/run");
    assert!(matches!(RunDir::create(&below, &text), Err(Error::Io { path, .. }) if path == below));
    assert!(matches!(RunDir::create(&folder.path().join("bad"), "= ="), Err(Error::Format { .. })));
    Ok(())
}

#[test]
fn other_data_and_other_seeds_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &config(), Some(7))?;
    let other = ToyBatches { fingerprint: "beef", ..ToyBatches::default() };
    let error = train(Some(open(folder.path(), &config())?), &config(), &other, |t| t).err().unwrap();
    assert!(error.to_string().contains("`noise` (f00d), not on `noise` (beef)"), "{error}");
    let fewer = ToyBatches { steps: 4, ..ToyBatches::default() };
    let error = train(Some(open(folder.path(), &config())?), &config(), &fewer, |t| t).err().unwrap();
    assert!(error.to_string().contains("gives 4, but 5"), "{error}");
    let none = ToyBatches { steps: 0, ..ToyBatches::default() };
    assert!(matches!(train(None, &config(), &none, |t| t), Err(Error::Data { .. })));
    Ok(())
}

#[test]
fn logs_of_a_killed_run_are_cut_at_the_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &config(), Some(7))?;
    let path = folder.path().join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    // What a killed process may leave: steps beyond its last checkpoint and half a line.
    text.push_str("{\"kind\":\"step\",\"step\":8}\n{\"kind\":\"step\",\"st");
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("checkpoints/.tmp-abc"), "x").unwrap();
    run(folder.path(), &config(), None)?;
    let lines = metrics(folder.path()).into_iter().filter(|l| l["kind"] == "step");
    let steps: Vec<u64> = lines.map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (0..20).collect::<Vec<_>>());
    assert!(!names(&folder.path().join("checkpoints")).contains(&".tmp-abc".to_string()));
    Ok(())
}

#[test]
fn a_loss_out_of_reach_is_refused() -> Result<()> {
    let mut method = Losing(ToyMethod::new(0)?, |loss, _| Ok(loss.detach()));
    let mut optimizer = ToySgd::new(method.params())?;
    let batches = ToyBatches::default();
    let mut trainer = Trainer::new(&mut method, &mut optimizer, &batches, &lr, config());
    assert!(trainer.run().unwrap_err().to_string().contains("gradient for no parameter"));
    Ok(())
}

#[test]
fn an_encoder_needs_its_own_manifest() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let other = weights::Manifest { method: "simclr".into(), ..manifest() };
    let error = export_encoder(&path, &ToyMethod::new(0)?, &other).unwrap_err().to_string();
    assert!(error.contains("`simclr`") && error.contains("`toy`"), "{error}");
    export_encoder(&path, &ToyMethod::new(0)?, &manifest())?;
    assert_eq!(names(folder.path()), ["encoder.safetensors"]);
    Ok(())
}
