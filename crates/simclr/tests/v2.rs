//! SimCLR v2: head, fine-tuning, distillation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::data::{Batch, Split, Unlabelled, embedded};
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::eval::metric;
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, features, fit};
use contrastive_core::nn::{Encoder, Mode, Module, ResNetConfig};
use contrastive_core::train::{CheckpointFolder, Method};
use contrastive_core::weights;
use contrastive_simclr::loss::distillation_loss;
use contrastive_simclr::{
    Classifier, ClassifierConfig, Distill, DistillConfig, FineTune, FineTuneConfig, SimClr, SimClrConfig,
    classifier, distill, finetune, recipe,
};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<SimClrConfig>> {
    let mut run = recipe::preset("v2-smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head.hidden = Some(16);
    run.method.head.output = 8;
    Ok(run)
}

fn tiny_classifier() -> Result<ClassifierConfig> {
    let SimClrConfig { backbone, head, .. } = tiny()?.method;
    Ok(ClassifierConfig {
        backbone,
        head,
        zero_init_logits: false,
        ..finetune::preset("smoke")?.method.classifier
    })
}

fn tiny_finetune() -> Result<RunConfig<FineTuneConfig>> {
    let mut run = finetune::preset("smoke")?;
    run.method.classifier = tiny_classifier()?;
    Ok(run)
}

/// A student of a random teacher, whose file lies in `folder`.
fn tiny_distill(folder: &Path) -> Result<RunConfig<DistillConfig>> {
    let mut run = distill::preset("smoke")?;
    run.method.student = tiny_classifier()?;
    run.method.teacher = tiny_classifier()?;
    run.method.teacher_checkpoint = folder.join("teacher.safetensors");
    let teacher = Classifier::new(&run.method.teacher, 11, &Device::Cpu)?;
    save(&run.method.teacher_checkpoint, &teacher.params().tensors())?;
    Ok(run)
}

fn save(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    Ok(weights::save(path, tensors, &serde_json::Value::Null)?)
}

fn labelled(n: usize) -> Result<Batch> {
    let labels = Some((0..n).map(|i| (i * 7 % 10) as u32).collect());
    Ok(Batch { labels, ..testing::batch(n, &[16])? })
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?)
}

#[test]
fn presets_are_valid_and_survive_toml() -> Result<()> {
    fn check<M: MethodConfig + PartialEq + std::fmt::Debug>(run: RunConfig<M>) -> Result<()> {
        run.check()?;
        assert_eq!(contrastive_core::train::config::layered(&run, None, &[])?, run);
        Ok(())
    }
    for (name, _) in finetune::PRESETS {
        check(finetune::preset(name)?)?;
    }
    for (name, _) in distill::PRESETS {
        check(distill::preset(name)?)?;
    }
    assert!(finetune::preset("nonsense").is_err() && distill::preset("nonsense").is_err());
    // 0.005 √1024.
    let run = finetune::preset("imagenet-1pct")?;
    assert!((run.lr(&testing::progress(0)) - 0.16).abs() < 1e-9);
    let set = ["method.checkpoint=runs/first/last.safetensors".to_string()];
    let named = contrastive_core::train::config::layered(&run, None, &set)?;
    assert_eq!(named.method.checkpoint, Some(PathBuf::from("runs/first/last.safetensors")));
    let set = ["method.backbone.selective_kernels=0.0625".into(), "method.backbone.depth=50".into()];
    let run = contrastive_core::train::config::layered(&recipe::preset("v2-smoke")?, None, &set)?;
    assert_eq!(run.method.backbone().to_string(), "resnet50-cifar-w16-sk");
    Ok(())
}

#[test]
fn ranges_are_checked() -> Result<()> {
    let good = tiny_classifier()?;
    for (bad, key) in [
        (ClassifierConfig { kept_layers: 4, ..good.clone() }, "classifier.kept_layers"),
        (ClassifierConfig { classes: 1, ..good.clone() }, "classifier.classes"),
    ] {
        let error = FineTuneConfig { classifier: bad, checkpoint: None }.check("method").unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    let folder = tempfile::tempdir()?;
    let good = tiny_distill(folder.path())?.method;
    let fewer = ClassifierConfig { classes: 3, ..good.teacher.clone() };
    for (bad, key) in [
        (DistillConfig { temperature: 0.0, ..good.clone() }, "method.temperature"),
        (DistillConfig { alpha: 1.5, ..good.clone() }, "method.alpha"),
        (DistillConfig { teacher: fewer, ..good.clone() }, "method.student.classes"),
    ] {
        let error = bad.check("method").unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    assert!(DistillConfig { teacher_checkpoint: PathBuf::new(), ..good }.build(0, &Device::Cpu).is_err());
    Ok(())
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let mut method = SimClr::new(tiny()?.method, 5, &Device::Cpu)?;
    let places = [("head.0.weight", 3), ("head.3.weight", 7), ("head.4.bias", 2), ("head.6.weight", 5)];
    testing::assert_gradients(&mut method, &testing::batch(8, &[16, 16])?, &[], &places)?;

    let batch = labelled(8)?;
    let places = [("head.0.weight", 3), ("head_supervised.weight", 7), ("head_supervised.bias", 2)];
    let mut method = FineTune::new(&tiny_finetune()?.method, 5, &Device::Cpu)?;
    testing::assert_gradients(&mut method, &batch, &[], &places)?;

    let folder = tempfile::tempdir()?;
    let run = tiny_distill(folder.path())?;
    for (alpha, square_temperature) in [(1.0, false), (0.4, true)] {
        let config = DistillConfig { alpha, square_temperature, temperature: 0.5, ..run.method.clone() };
        let teacher = Classifier::open(&config.teacher, &config.teacher_checkpoint, &Device::Cpu)?;
        let mut method = Distill::new(config, teacher, 5, &Device::Cpu)?;
        testing::assert_gradients(&mut method, &batch, &[], &places)?;
    }
    Ok(())
}

/// The parts of the distillation's loss add up as written, from a teacher in evaluation mode.
#[test]
fn alpha_and_temperature_weigh_the_loss() -> Result<()> {
    let (folder, batch) = (tempfile::tempdir()?, labelled(8)?);
    let run = tiny_distill(folder.path())?;
    let loss = |alpha: f64, square_temperature: bool| -> Result<f64> {
        let config = DistillConfig { alpha, square_temperature, temperature: 0.5, ..run.method.clone() };
        let mut method = config.build(5, &Device::Cpu)?;
        testing::value(&method.step(&batch, &single(), &testing::progress(0))?.loss)
    };
    let (soft, hard) = (loss(1.0, false)?, loss(0.0, false)?);
    let teacher = Classifier::open(&run.method.teacher, &run.method.teacher_checkpoint, &Device::Cpu)?;
    let student = Classifier::new(&run.method.student, 5, &Device::Cpu)?;
    let logits = student.classify(&batch.views[0], &Mode::train(&single()))?.logits;
    let expected = distillation_loss(&logits, &teacher.logits(&batch.views[0])?, 0.5)?;
    assert!((testing::value(&expected)? - soft).abs() < 1e-5);
    assert!((loss(1.0, true)? - 0.25 * soft).abs() < 1e-5);
    assert!((loss(0.3, false)? - (0.3 * soft + 0.7 * hard)).abs() < 1e-5);
    let mut method = DistillConfig { alpha: 0.5, ..run.method }.build(5, &Device::Cpu)?;
    assert!(method.step(&testing::batch(8, &[16])?, &single(), &testing::progress(0)).is_err());
    Ok(())
}

#[test]
fn fine_tuning_begins_with_the_backbone_and_the_first_head_layer() -> Result<()> {
    let config = tiny()?.method;
    let method = SimClr::new(config.clone(), 5, &Device::Cpu)?;
    let (x, mode) = (testing::batch(6, &[16])?.views.remove(0), Mode::eval());
    let model = method.model();
    let first = model.encode(&x, 1, &mode)?;
    assert_eq!(first.dims(), [6, 16]);
    assert!(values(&first)?.iter().all(|v| *v >= 0.0), "after the ReLU");
    assert_eq!(values(&model.encode(&x, 0, &mode)?)?, values(&method.features(&x)?)?);
    assert_eq!(values(&model.encode(&x, 3, &mode)?)?, values(&model.forward(&x, &mode)?)?);
    assert!(model.encode(&x, 4, &mode).is_err());

    // Through the files that runs write: a checkpoint, and an exported encoder where no head layer is kept.
    let folder = tempfile::tempdir()?;
    let model = |(name, t): (String, Tensor)| (format!("model/{name}"), t);
    let checkpoint: Vec<_> = method.params().tensors().into_iter().map(model).collect();
    let files = [folder.path().join("checkpoint.safetensors"), folder.path().join("encoder.safetensors")];
    save(&files[0], &checkpoint)?;
    save(&files[1], &method.backbone())?;
    for (kept_layers, file) in [(1, &files[0]), (0, &files[0]), (0, &files[1])] {
        let classifier = ClassifierConfig { kept_layers, zero_init_logits: true, ..tiny_classifier()? };
        let tuned = FineTune::new(
            &FineTuneConfig { classifier: classifier.clone(), checkpoint: None },
            9,
            &Device::Cpu,
        )?;
        let tensors = contrastive_simclr::weights::read(file)?;
        tuned.classifier().load_encoder(&tensors, file)?;
        let encoder = tuned.classifier().encoder();
        let expected = method.model().encode(&x, kept_layers, &mode)?;
        assert_eq!(encoder.width(), expected.dims()[1]);
        assert_eq!(values(&encoder.forward(&x, &mode)?)?, values(&expected)?);
        assert!(values(&tuned.classifier().logits(&x)?)?.iter().all(|v| *v == 0.0));
        let built = FineTuneConfig { classifier, checkpoint: Some(file.clone()) }.build(3, &Device::Cpu)?;
        assert_eq!(values(&built.features(&x)?)?, values(&method.features(&x)?)?);
    }
    // An exported encoder has no head.
    let config = FineTuneConfig { classifier: tiny_classifier()?, checkpoint: Some(files[1].clone()) };
    let error = config.build(0, &Device::Cpu).err().ok_or_else(|| anyhow!("must be refused"))?;
    assert!(error.to_string().contains("head.0.weight"), "{error}");
    Ok(())
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (pretrain, student) = (tiny()?, tiny_distill(folder.path())?);
    testing::assert_ranks(&pretrain, 16, &[16, 16], &[2])?;
    testing::assert_ranks(&student, 8, &[16], &[2, 4])?;

    // Fine-tuning, with labels: the mean of two ranks' losses is that of one.
    let config = tiny_finetune()?.method;
    let batch = labelled(8)?;
    let loss = |batch: &Batch, comm: &Comm| -> Result<f64> {
        let mut method = config.build(1, &Device::Cpu)?;
        testing::value(&method.step(batch, comm, &testing::progress(0))?.loss)
    };
    let whole = loss(&batch, &single())?;
    let halves = std::thread::scope(|scope| {
        let run = |comm: Comm| {
            let (batch, loss) = (&batch, &loss);
            scope.spawn(move || {
                let at = comm.rank() * 4;
                let views = vec![batch.views[0].narrow(0, at, 4)?.contiguous()?];
                let labels = batch.labels.as_ref().map(|labels| labels[at..at + 4].to_vec());
                loss(&Batch { views, indices: batch.indices[at..at + 4].to_vec(), labels }, &comm)
            })
        };
        let threads: Vec<_> = in_process(2).into_iter().map(run).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a rank panicked"))?).sum::<Result<f64>>()
    })?;
    assert!((halves / 2.0 - whole).abs() < 1e-5, "{halves} / 2, one rank: {whole}");
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    testing::assert_resumes(tiny_finetune()?)?;
    let run = tiny_distill(folder.path())?;
    testing::assert_resumes(run.clone())?;
    // Another teacher is noticed.
    let begun = run.method.build(0, &Device::Cpu)?;
    let state: HashMap<String, Tensor> = begun.state()?.into_iter().collect();
    let other = Classifier::new(&run.method.teacher, 12, &Device::Cpu)?;
    save(&run.method.teacher_checkpoint, &other.params().tensors())?;
    let error = run.method.build(0, &Device::Cpu)?.load_state(&state).unwrap_err();
    assert!(error.to_string().contains("another teacher"), "{error}");
    Ok(())
}

#[test]
fn features_get_better_without_warnings() -> Result<()> {
    let mut run = recipe::preset("v2-smoke")?;
    run.method.backbone = ResNetConfig { base_width: 8, ..ResNetConfig::cifar(18) }.into();
    run.train.epochs = 4;
    testing::assert_learns(&run, 0.05)?;
    let mut run = tiny()?;
    run.train.epochs = 3;
    assert!(testing::warnings(&run)?.is_empty());
    Ok(())
}

/// Top-1 of a classifier on the test set.
fn top1<M>(classifier: &Classifier, run: &RunConfig<M>) -> Result<f64> {
    let test = embedded::sign_digits(Split::Test)?;
    let (logits, _) = features(|x| classifier.logits(x), test, &run.eval, &Device::Cpu, 1)?;
    metric(&classifier::metrics(&logits), "top1").ok_or_else(|| anyhow!("no top1"))
}

/// A student that never sees a label is as good as the teacher that did.
#[test]
fn a_student_reaches_its_teacher() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let backbone = ResNetConfig { base_width: 8, ..ResNetConfig::cifar(18) }.into();
    let classifier = ClassifierConfig { backbone, ..finetune::preset("smoke")?.method.classifier };
    let mut run = finetune::preset("smoke")?;
    run.method.classifier = classifier.clone();
    if std::env::var("TLR").is_ok() {
        run.optim.lr = 0.05;
    }
    let dir = folder.path().join("teacher");
    fit(&run, embedded::sign_digits(Split::Train)?, RunOptions::new(&dir))?;
    let (_, last) = CheckpointFolder::new(&dir.join("checkpoints"))
        .list()?
        .pop()
        .ok_or_else(|| anyhow!("no checkpoint"))?;
    let teacher = top1(&Classifier::open(&classifier, &last, &Device::Cpu)?, &run)?;

    let mut run = distill::preset("smoke")?;
    run.method.student = classifier.clone();
    run.method.teacher = classifier.clone();
    run.method.teacher_checkpoint = last;
    run.train.epochs = 8;
    run.train.seed = 1;
    let untrained = top1(&Classifier::new(&classifier, run.train.seed, &Device::Cpu)?, &run)?;
    let source = Unlabelled(embedded::sign_digits(Split::Train)?);
    let (method, _) = fit(&run, source, RunOptions::new(folder.path().join("student")))?;
    let tensors = method.params().tensors().into_iter().collect();
    let student = Classifier::from_tensors(&classifier, &tensors, Path::new("student"), &Device::Cpu)?;
    let student = top1(&student, &run)?;
    println!("teacher {teacher:.3}, untrained student {untrained:.3}, student {student:.3}");
    assert!(teacher > 0.8 && untrained < 0.3 && student > teacher - 0.05);
    Ok(())
}
