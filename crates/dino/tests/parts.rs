//! Teacher, centre, crops, and what the protocols look at.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::single;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Backbone, BackboneConfig, Mode, Module, ParamStore, VitConfig};
use contrastive_core::optim::Gradients;
use contrastive_core::train::{Branch, Method};
use contrastive_dino::features::{attention_maps, class_and_patches, last_classes, linear_features};
use contrastive_dino::loss::{dino_loss, entropy, teacher_probabilities};
use contrastive_dino::{Dino, DinoConfig, HeadConfig, TeacherTemperature};
use contrastive_testing::{assert_close, batch, deep, progress, state, value};

use crate::{tiny, tiny_vit};

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

/// One step as the training loop makes it, without weight decay's schedule.
fn update(method: &mut Dino, config: &DinoConfig, sides: &[usize], step: u64) -> Result<()> {
    let run = contrastive_dino::recipe::preset("smoke")?;
    let mut optimizer = run.optim.optimizer.build(method.params(), &config.groups())?;
    let progress = progress(step);
    let out = method.step(&batch(8, sides)?, &single(), &progress)?;
    let mut gradients = Gradients::of(method.params(), &out.loss)?;
    gradients.retain(|name| !method.frozen(name, &progress));
    optimizer.step(&gradients, 0.5)?;
    Ok(method.after_update(&progress)?)
}

fn copy(store: &ParamStore) -> Result<HashMap<String, Tensor>> {
    store.tensors().into_iter().map(|(name, t)| Ok((name, t.copy()?))).collect()
}

#[test]
fn the_teacher_follows_after_the_step_and_keeps_its_own_statistics() -> Result<()> {
    deep(|| {
        let mut config = tiny()?.method;
        (config.local_crops, config.momentum, config.momentum_end) = (0, 0.75, 0.75);
        let mut method = Dino::new(config.clone(), 1, &Device::Cpu)?;
        let before = state(&method)?;
        method.step(&batch(8, &[16, 16])?, &single(), &progress(0))?;
        let stepped = state(&method)?;
        update(&mut method, &config, &[16, 16], 0)?;
        let (after, student) = (state(&method)?, copy(method.params())?);
        for (name, old) in &before {
            let Some(own) = name.strip_prefix("momentum.") else { continue };
            let running = own.contains("running_");
            // A step alone moves the statistics that batch norm gathers, and nothing else.
            let moved = values(&stepped[name])? != values(old)?;
            assert!(!moved || running, "{name}");
            if !running {
                let expected = ((old * 0.75)? + (&student[own] * 0.25)?)?;
                assert_close(name, &after[name], &values(&expected)?, 1e-6)?;
            }
        }
        // The student has seen two batches and so has the teacher, but not with the same weights in both.
        update(&mut method, &config, &[16, 16], 1)?;
        let (after, student) = (state(&method)?, copy(method.params())?);
        let statistics = "backbone.layer4.1.bn2.running_var";
        assert_ne!(values(&after[&format!("momentum.{statistics}")])?, values(&student[statistics])?);
        Ok(())
    })
}

#[test]
fn the_centre_follows_the_teachers_logits_behind_the_loss() -> Result<()> {
    let mut config = tiny()?.method;
    (config.local_crops, config.centre_momentum) = (0, 0.75);
    let batch = batch(8, &[16, 16])?;
    let mut method = Dino::new(config.clone(), 1, &Device::Cpu)?;
    let (_, out) = method.teacher().forward_views(&batch.views, &Mode::train(&single()).without_grad())?;
    let mean = (out.logits.mean_keepdim(0)? * 0.25)?;
    let zeros = vec![0.0; config.head.output];
    method.step(&batch, &single(), &progress(0))?;
    assert_close("centre before the update", method.centre().value(), &zeros, 1e-9)?;
    method.after_update(&progress(0))?;
    assert_close("centre", method.centre().value(), &values(&mean)?, 1e-6)?;
    config.centre = false;
    let mut without = Dino::new(config, 1, &Device::Cpu)?;
    without.step(&batch, &single(), &progress(0))?;
    without.after_update(&progress(0))?;
    assert_close("no centre", without.centre().value(), &zeros, 1e-9)
}

#[test]
fn the_last_layer_stays_at_first() -> Result<()> {
    deep(|| {
        let mut config = tiny()?.method;
        (config.local_crops, config.freeze_last_layer, config.head.norm_last_layer) = (0, 1, false);
        let mut method = Dino::new(config.clone(), 1, &Device::Cpu)?;
        for (step, still) in [(9, true), (10, false)] {
            let before = copy(method.params())?;
            update(&mut method, &config, &[16, 16], step)?;
            let after = copy(method.params())?;
            for name in ["head.last_layer.weight_v", "head.last_layer.weight_g"] {
                assert_eq!(values(&before[name])? == values(&after[name])?, still, "{name} in step {step}");
            }
            assert_ne!(values(&before["head.mlp.3.weight"])?, values(&after["head.mlp.3.weight"])?);
        }
        Ok(())
    })
}

#[test]
fn the_forms_of_the_last_layer() -> Result<()> {
    let base = tiny()?.method;
    let names = |head: HeadConfig| -> Result<Vec<String>> {
        let method = Dino::new(DinoConfig { head, ..base.clone() }, 1, &Device::Cpu)?;
        let parameters = method.params().parameters().into_iter().map(|entry| entry.name);
        Ok(parameters.filter(|name| name.contains("last_layer")).collect())
    };
    let head = HeadConfig { norm_last_layer: true, ..base.head.clone() };
    assert_eq!(names(head.clone())?, ["head.last_layer.weight_v"]);
    let trained = HeadConfig { norm_last_layer: false, ..head.clone() };
    assert_eq!(names(trained)?, ["head.last_layer.weight_g", "head.last_layer.weight_v"]);
    let plain = HeadConfig { norm_last_layer: false, weight_norm: false, ..head.clone() };
    assert_eq!(names(plain)?, ["head.last_layer.weight"]);
    assert!(names(HeadConfig { weight_norm: false, ..head }).is_err());
    Ok(())
}

#[test]
fn uniform_outputs_cost_ln_k_for_any_number_of_views() -> Result<()> {
    let (n, k) = (3, 16);
    let teacher = Tensor::arange(0f32, (2 * n * k) as f32, &Device::Cpu)?.sin()?.reshape((2 * n, k))?;
    let centre = Tensor::zeros((1, k), DType::F32, &Device::Cpu)?;
    let p = teacher_probabilities(&teacher, &centre, 0.1)?;
    for views in [2, 4, 12] {
        let student = Tensor::ones((views * n, k), DType::F32, &Device::Cpu)?;
        assert!((value(&dino_loss(&student, &p, 0.1)?)? - (k as f64).ln()).abs() < 1e-5, "{views} views");
    }
    // A student that knows the teacher's distribution of the same view gains nothing from it: that pair is left out.
    let (first, second) = (teacher.narrow(0, 0, n)?, teacher.narrow(0, n, n)?);
    let crossed = dino_loss(&Tensor::cat(&[second, first], 0)?, &p, 0.1)?;
    assert!((value(&crossed)? - value(&entropy(&p)?)?).abs() < 1e-5);
    assert!(value(&dino_loss(&teacher, &p, 0.1)?)? > value(&crossed)? + 0.1);
    for wrong in [(n, k), (2 * n + 1, k), (4 * n, k + 1)] {
        assert!(dino_loss(&Tensor::ones(wrong, DType::F32, &Device::Cpu)?, &p, 0.1).is_err(), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn views_of_one_size_share_a_batch_and_others_do_not() -> Result<()> {
    let config = DinoConfig { local_crops: 2, ..tiny()?.method };
    let method = Dino::new(config, 1, &Device::Cpu)?;
    let views = batch(4, &[16, 16, 12, 12])?.views;
    let mode = Mode::train(&single()).without_grad();
    let network = method.student();
    let (features, out) = network.forward_views(&views, &mode)?;
    let big = network.backbone.forward(&Tensor::cat(&views[..2], 0)?, &mode)?;
    let small = network.backbone.forward(&Tensor::cat(&views[2..], 0)?, &mode)?;
    let expected = Tensor::cat(&[big, small], 0)?;
    assert_close("features", &features, &values(&expected)?, 1e-5)?;
    let logits = network.head.forward(&expected, &mode)?;
    assert_close("logits", &out.logits, &values(&logits)?, 1e-5)
}

#[test]
fn the_teacher_is_evaluated_and_exported() -> Result<()> {
    deep(|| {
        let config = DinoConfig { local_crops: 0, momentum: 0.5, ..tiny()?.method };
        let mut method = Dino::new(config.clone(), 1, &Device::Cpu)?;
        assert_eq!(method.branch(), Branch::Teacher);
        update(&mut method, &config, &[16, 16], 0)?;
        let x = batch(4, &[16])?.views.remove(0);
        let features = method.features(&x)?;
        let teacher = method.teacher().backbone.forward(&x, &Mode::eval())?;
        assert_eq!(values(&features)?, values(&teacher)?);
        assert_ne!(values(&features)?, values(&method.student().backbone.forward(&x, &Mode::eval())?)?);
        let exported = method.backbone().into_iter().collect();
        let mut other = Dino::new(config, 2, &Device::Cpu)?;
        other.load_backbone(&exported, Path::new("exported"))?;
        assert_eq!(values(&features)?, values(&other.features(&x)?)?);
        Ok(())
    })
}

#[test]
fn only_the_student_drops_paths() -> Result<()> {
    let config = DinoConfig { local_crops: 0, ..tiny_vit()?.method };
    let BackboneConfig::Vit(VitConfig { drop_path, .. }) = config.teacher_backbone() else {
        return Err(anyhow!("not a vision transformer"));
    };
    assert!(drop_path == 0.0 && config.backbone.is_stochastic());
    let mut method = Dino::new(config, 1, &Device::Cpu)?;
    let batch = batch(8, &[20, 20])?;
    let mut step = |step| -> Result<[Vec<f64>; 2]> {
        let out = method.step(&batch, &single(), &progress(step))?;
        let teacher = out.features.ok_or_else(|| anyhow!("no features"))?;
        Ok([values(&out.embeddings[0])?, values(&teacher)?])
    };
    let ([student, teacher], [later, same]) = (step(0)?, step(1)?);
    assert_ne!(student, later);
    assert_eq!(teacher, same);
    Ok(())
}

#[test]
fn features_of_the_linear_probe() -> Result<()> {
    let method = Dino::new(tiny_vit()?.method, 1, &Device::Cpu)?;
    let x = batch(3, &[20])?.views.remove(0);
    let Backbone::Vit(vit) = &method.teacher().backbone else { return Err(anyhow!("not a transformer")) };
    let features = method.features(&x)?;
    // Two blocks are all there are; the last is the features'.
    let classes = method.linear_features(&x)?;
    assert_eq!(classes.dims(), [3, 24]);
    assert_close("last block", &classes.narrow(1, 12, 12)?, &values(&features)?, 1e-6)?;
    assert_eq!(last_classes(vit, &x, 1)?.dims(), [3, 12]);
    // cls_0, mean_0, cls_1, mean_1, ...
    let both = class_and_patches(vit, &x)?.reshape((3, 12, 2))?;
    assert_close("class", &both.narrow(2, 0, 1)?, &values(&features)?, 1e-6)?;
    let last = vit.last_blocks(&x, 1, &Mode::eval())?.remove(0);
    let tokens = vit.final_norm(&last, &Mode::eval())?.rows()?;
    let mean = tokens.narrow(1, 1, 25)?.mean(1)?;
    assert_close("mean", &both.narrow(2, 1, 1)?, &values(&mean)?, 1e-6)?;
    // A residual network has its pooled features.
    let resnet = Dino::new(tiny()?.method, 1, &Device::Cpu)?;
    assert_eq!(values(&resnet.linear_features(&x)?)?, values(&resnet.features(&x)?)?);
    let wide = VitConfig { dim: 768, depth: 1, heads: 12, image: 20, ..VitConfig::tiny(4) };
    let wide = Backbone::new(&ParamStore::new(0, &Device::Cpu).builder(), &wide.into())?;
    assert_eq!(linear_features(&wide, &x)?.dims(), [3, 2 * 768]);
    Ok(())
}

#[test]
fn attention_comes_as_a_grid() -> Result<()> {
    let method = Dino::new(tiny_vit()?.method, 1, &Device::Cpu)?;
    let x = Tensor::arange(0f32, 2.0 * 3.0 * 12.0 * 28.0, &Device::Cpu)?.sin()?.reshape((2, 3, 12, 28))?;
    let maps = method.attention_maps(&x)?;
    assert_eq!(maps.dims(), [2, 3, 3, 7]);
    let Backbone::Vit(vit) = &method.teacher().backbone else { return Err(anyhow!("not a transformer")) };
    let flat = vit.last_attention(&x)?;
    assert_close("row by row", &maps, &values(&flat.narrow(2, 1, 21)?)?, 1e-9)?;
    for sum in values(&maps.flatten_from(2)?.sum(2)?)? {
        assert!(sum > 0.0 && sum < 1.0, "{sum}");
    }
    let resnet = Dino::new(tiny()?.method, 1, &Device::Cpu)?;
    assert!(resnet.attention_maps(&x).is_err() && attention_maps(&resnet.student().backbone, &x).is_err());
    Ok(())
}

#[test]
fn temperatures_of_short_warm_ups() {
    let at = |warmup_epochs, epoch| TeacherTemperature { start: 0.04, end: 0.07, warmup_epochs }.at(epoch);
    assert_eq!([at(0, 0), at(1, 0), at(1, 1), at(2, 0), at(2, 1)], [0.07, 0.04, 0.07, 0.04, 0.07]);
}

#[test]
fn wrong_settings_are_named() -> Result<()> {
    let good = tiny()?.method;
    let mut wrong = vec![
        (DinoConfig { student_temperature: 0.0, ..good.clone() }, "method.student_temperature"),
        (DinoConfig { centre_momentum: 1.0, ..good.clone() }, "method.centre_momentum"),
        (DinoConfig { momentum: 1.1, ..good.clone() }, "method.momentum"),
        (DinoConfig { momentum_end: f64::NAN, ..good.clone() }, "method.momentum_end"),
        (DinoConfig { local_crops: 255, ..good.clone() }, "method.local_crops"),
    ];
    for temperature in [0.0, -0.1, f64::INFINITY] {
        let teacher_temperature = TeacherTemperature::constant(temperature);
        wrong.push((DinoConfig { teacher_temperature, ..good.clone() }, "method.teacher_temperature.start"));
    }
    let head = HeadConfig { bottleneck: 0, ..good.head.clone() };
    wrong.push((DinoConfig { head, ..good.clone() }, "method.head.bottleneck"));
    for (config, key) in wrong {
        let message = config.check("method").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(key), "{key}: {message}");
    }
    let mut method = Dino::new(DinoConfig { local_crops: 1, ..good }, 1, &Device::Cpu)?;
    assert!(method.step(&batch(4, &[16, 16])?, &single(), &progress(0)).is_err());
    Ok(())
}
