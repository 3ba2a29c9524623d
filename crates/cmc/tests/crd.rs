//! Distillation.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_cmc::crd::config::{PRESETS, preset, teacher};
use contrastive_cmc::crd::{Classifier, Crd, CrdConfig, Terms};
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{BackboneConfig, BatchNormKind, ParamStore, ResNetConfig};
use contrastive_core::train::Method;
use contrastive_testing as testing;

const CLASSES: usize = 4;

fn network(base_width: usize) -> BackboneConfig {
    BackboneConfig::from(ResNetConfig { base_width, ..ResNetConfig::cifar(8) }).with_norm(BatchNormKind::Sync)
}

fn config(terms: Terms) -> CrdConfig {
    CrdConfig {
        backbone: network(4),
        classes: CLASSES,
        terms,
        output: 8,
        negatives: 12,
        // Rounding of large sums stays below the tolerances.
        temperature: 0.5,
        bank_momentum: 0.5,
    }
}

fn student(terms: Terms) -> Result<Crd> {
    let taught = Arc::new(Classifier::new(&ParamStore::new(9, &Device::Cpu), &network(6), CLASSES)?);
    let labels: Vec<u32> = (0..64).map(|i| i % CLASSES as u32).collect();
    let mut method = Crd::new(config(terms), Some(taught), &labels, 5, &Device::Cpu)?;
    method.prepare(64)?;
    Ok(method)
}

fn batch(step: u64) -> Result<Batch> {
    let batch = testing::batch_at(step, 8, &[16])?;
    let labels = batch.indices.iter().map(|&i| i as u32 % CLASSES as u32).collect();
    Ok(Batch { labels: Some(labels), ..batch })
}

const TERMS: [Terms; 4] = [Terms::LABELS, Terms::LOGITS, Terms::CONTRAST, Terms::BOTH];

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for terms in TERMS {
        let mut method = student(terms)?;
        // Z is a constant from the second step on.
        method.step(&batch(1)?, &single(), &testing::progress(0))?;
        method.after_update(&testing::progress(0))?;
        let mut places = vec![("classifier.weight", 3)];
        if terms.contrast > 0.0 {
            places.extend([("embed.student.weight", 5), ("embed.teacher.bias", 2)]);
        }
        testing::assert_gradients(&mut method, &batch(0)?, &[], &places)?;
    }
    Ok(())
}

#[test]
fn ranks_do_not_change_the_loss() -> Result<()> {
    let loss = |batch: &Batch, comm: &Comm| -> Result<f64> {
        testing::value(&student(Terms::BOTH)?.step(batch, comm, &testing::progress(0))?.loss)
    };
    let whole = batch(0)?;
    let alone = loss(&whole, &single())?;
    let threads: Vec<_> = in_process(2)
        .into_iter()
        .map(|comm| -> Result<_> {
            let first = comm.rank() * 4;
            let views = vec![whole.views[0].narrow(0, first, 4)?.contiguous()?];
            let indices = whole.indices[first..first + 4].to_vec();
            let labels = whole.labels.as_ref().map(|labels| labels[first..first + 4].to_vec());
            Ok(std::thread::spawn(move || loss(&Batch { views, indices, labels }, &comm)))
        })
        .collect::<Result<_>>()?;
    let mut sum = 0.0;
    for thread in threads {
        sum += thread.join().map_err(|_| anyhow!("a rank panicked"))?? / 2.0;
    }
    assert!((sum - alone).abs() < 1e-4 * alone, "{sum}, alone {alone}");
    Ok(())
}

/// Banks and constants come back as they were, and the teacher never moves.
#[test]
fn state_is_saved_and_the_teacher_stays() -> Result<()> {
    let mut method = student(Terms::CONTRAST)?;
    method.step(&batch(0)?, &single(), &testing::progress(0))?;
    method.after_update(&testing::progress(0))?;
    let state: HashMap<String, Tensor> = testing::state(&method)?;
    assert_eq!(state.len(), 3);
    let next = |method: &mut Crd| -> Result<f64> {
        testing::value(&method.step(&batch(1)?, &single(), &testing::progress(1))?.loss)
    };
    let expected = next(&mut method)?;
    let mut other = student(Terms::CONTRAST)?;
    assert_ne!(next(&mut other)?, expected);
    let mut other = student(Terms::CONTRAST)?;
    other.load_state(&state)?;
    // Running statistics do not enter a training step.
    assert_eq!(next(&mut other)?, expected);
    assert!(other.load_state(&HashMap::new()).is_err());
    assert!(method.params().entries().iter().all(|entry| !entry.name.starts_with("teacher")));
    Ok(())
}

#[test]
fn presets_are_valid_and_a_teacher_is_asked_for() -> Result<()> {
    testing::assert_presets(&PRESETS, preset)?;
    for (name, _) in PRESETS {
        teacher(name)?.check("teacher")?;
    }
    let error = config(Terms::BOTH).build(0, &Device::Cpu).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("teacher"), "{error}");
    assert!(config(Terms::LABELS).build(0, &Device::Cpu).is_ok());
    // ResNet-20 has 269,722 parameters with ten classes; two shortcuts are convolutions with batch norm here.
    let store = ParamStore::new(0, &Device::Cpu);
    let small = ResNetConfig { base_width: 16, ..ResNetConfig::cifar(20) };
    Classifier::new(&store, &small.into(), 10)?;
    let count: usize = store.parameters().iter().map(|entry| entry.var.elem_count()).sum();
    assert_eq!(count, 269_722 + (16 * 32 + 64) + (32 * 64 + 128));
    Ok(())
}
