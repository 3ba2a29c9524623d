use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::*;
use crate::augment::EvalTransform;
use crate::data::{Split, Subset, Unlabelled, embedded};
use crate::eval::linear::train_from;
use crate::eval::{LinearClassifier, LinearConfig, metric};
use crate::experiment::{MethodConfig, features};
use crate::kernels::take_token;
use crate::nn::{Backbone, Interpolation, Mode, Module, ParamStore, ResNetConfig, VitConfig};
use crate::rng::{Key, Purpose};
use crate::train::Method;

/// A ResNet-18 of four channels.
fn tiny_resnet() -> BackboneConfig {
    ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) }.into()
}

fn tiny_vit() -> BackboneConfig {
    let vit =
        VitConfig { image: 32, patch: 8, dim: 16, depth: 5, heads: 2, mlp_ratio: 2, ..VitConfig::tiny(8) };
    VitConfig { interpolation: Interpolation::Dino, ..vit }.into()
}

/// A random encoder with its evaluation.
fn subject(backbone: BackboneConfig, eval: EvalTransform) -> Subject {
    let store = ParamStore::new(7, &Device::Cpu);
    Backbone::new(&store.builder(), &backbone).unwrap();
    Subject { backbone, tensors: store.tensors().into_iter().collect(), path: PathBuf::from("encoder"), eval }
}

fn digits_subject(backbone: BackboneConfig) -> Subject {
    subject(backbone, EvalTransform::as_is([0.5; 3], [0.25; 3]))
}

/// `per_class` images of each of the ten digits.
fn digits(split: Split, per_class: usize) -> Images {
    Arc::new(Subset::class_balanced(embedded::sign_digits(split).unwrap(), per_class, 0).unwrap())
}

fn set(settings: &[&str]) -> Vec<String> {
    settings.iter().map(ToString::to_string).collect()
}

fn measure(protocol: ImageProtocol, subject: &Subject, per_class: usize, settings: &[&str]) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { set: set(settings), ..Options::new(folder.path()) };
    let (train, test) = (digits(Split::Train, per_class), digits(Split::Test, 6));
    protocol.measure(subject, &train, &test, options).unwrap().unwrap()
}

#[test]
fn every_linear_protocol_runs_on_small_images() {
    let (resnet, vit) = (digits_subject(tiny_resnet()), digits_subject(tiny_vit()));
    for protocol in ImageProtocol::all().filter(|p| p.name().starts_with("linear-")) {
        for subject in [&resnet, &vit] {
            if protocol == ImageProtocol::LinearLayersV1 && subject.backbone == tiny_vit() {
                continue;
            }
            let found = measure(protocol, subject, 12, &["train.epochs=1"]);
            assert_eq!(found.run.method.image, 32);
            if protocol == ImageProtocol::LinearLayersV1 {
                assert_eq!(metric(&found.metrics, "top1"), None);
                for layer in ["stem", "layer1", "layer2", "layer3", "layer4"] {
                    assert!(
                        metric(&found.metrics, &format!("{layer}/top1")).is_some(),
                        "{:?}",
                        found.metrics
                    );
                }
                continue;
            }
            assert_eq!(found.metrics[0].name, "top1");
            let swept = matches!(protocol, ImageProtocol::LinearByolV1 | ImageProtocol::LinearDinoV1);
            assert_eq!(metric(&found.metrics, "lr").is_some(), swept, "{protocol}");
            assert_eq!(found.run.method.rates.len(), 1);
        }
    }
}

#[test]
fn every_fine_tuning_runs_on_small_images() {
    let subject = digits_subject(tiny_resnet());
    for protocol in ImageProtocol::all().filter(|p| p.name().starts_with("finetune-")) {
        let byol = protocol.name().contains("byol");
        // Of BYOL's ten runs each makes its own epochs; one is enough here.
        let found = measure(protocol, &subject, 20, &["train.epochs=1"]);
        assert_eq!(found.metrics[0].name, "top1");
        assert_eq!(metric(&found.metrics, "lr").is_some(), byol, "{protocol}");
        let samples = protocol.per_class("digits", 200, 10).unwrap().map_or(200, |n| n * 10);
        let batch = found.run.train.batch_size;
        assert!(samples / batch >= 3 && samples / (2 * batch) < 3, "{protocol}: {batch} of {samples}");
    }
    let vit = digits_subject(tiny_vit());
    let drop = match vit.backbone {
        BackboneConfig::Vit(c) => Subject { backbone: VitConfig { drop_path: 0.2, ..c }.into(), ..vit },
        _ => vit,
    };
    measure(ImageProtocol::FinetuneSwav10V1, &drop, 20, &["train.epochs=1"]);
}

#[test]
fn fine_tuning_learns_and_a_probe_sees_it() {
    let random = digits_subject(tiny_resnet());
    let folder = tempfile::tempdir().unwrap();
    let (train, test) = (digits(Split::Train, 60), digits(Split::Test, 20));
    let top1 = |protocol: ImageProtocol, subject: &Subject, settings: &[&str]| {
        let options = Options { set: set(settings), ..Options::new(folder.path()) };
        let found = protocol.measure(subject, &train, &test, options).unwrap().unwrap();
        metric(&found.metrics, "top1").unwrap()
    };
    let tuning = ["train.epochs=10", "train.batch_size=32", "optim.lr=0.4"];
    let tuned = top1(ImageProtocol::FinetuneSimclr100V1, &random, &tuning);
    // What it exported is an encoder like any other.
    let run = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let (tensors, manifest) = crate::weights::load_encoder(&run.join("encoder.safetensors")).unwrap();
    assert_eq!(manifest.unwrap().method, "finetune-simclr-100pct-v1");
    let better = Subject { tensors, ..random.clone() };
    let probe = ["train.epochs=8", "train.batch_size=32", "optim.lr=4.0"];
    let [low, high] = [&random, &better].map(|s| top1(ImageProtocol::LinearSwavV1, s, &probe));
    assert!(tuned > 0.3 && high > 0.3 && high > low + 0.1, "tuned {tuned}, probes {low} {high}");
}

/// Bits of the backbone and its running statistics.
fn bits(tensors: &[(String, Tensor)]) -> Vec<Vec<u32>> {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    tensors.iter().map(|(_, t)| flat(t).iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn a_frozen_backbone_stays_to_the_bit_and_a_tuned_one_moves() {
    let subject = digits_subject(tiny_resnet());
    let train = digits(Split::Train, 6);
    for (protocol, moves) in
        [(ImageProtocol::LinearMocoV1, false), (ImageProtocol::FinetuneSimclr100V1, true)]
    {
        let run = protocol.runs_on(&subject, &train, &set(&["train.epochs=1"])).unwrap().remove(0);
        let mut classifier = Classifier::new(run.method.clone(), 0, &Device::Cpu).unwrap();
        classifier.load_backbone(&subject.tensors, &subject.path).unwrap();
        let before = bits(&classifier.backbone());
        let head = bits(&classifier.params().tensors_under("classifier"));
        let folder = tempfile::tempdir().unwrap();
        let batches = crate::experiment::loader(&run, train.clone(), 1, &crate::dist::single()).unwrap();
        let options = crate::experiment::RunOptions::new(folder.path().join("run"));
        crate::experiment::train(&run, &mut classifier, &batches, options).unwrap();
        let after = bits(&classifier.backbone());
        assert_eq!(before != after, moves, "{protocol}");
        if moves {
            assert!(before.iter().zip(&after).all(|(a, b)| a != b), "statistics move too");
        }
        assert_ne!(head, bits(&classifier.params().tensors_under("classifier")));
        assert_eq!(classifier.params().get("backbone.conv1.weight").is_some(), moves);
    }
}

#[test]
fn without_augmentation_it_is_the_probe_on_features() {
    let subject = digits_subject(tiny_resnet());
    let train = digits(Split::Train, 16);
    let plain = "augment.views=[{name='plain', count=1, ops=[{op='normalize', mean=[0.5,0.5,0.5], std=[0.25,0.25,0.25]}]}]";
    let settings = set(&["train.epochs=4", "train.batch_size=32", plain]);
    let run = ImageProtocol::LinearMocoV3V1.runs_on(&subject, &train, &settings).unwrap().remove(0);
    let mut classifier = Classifier::new(run.method.clone(), 0, &Device::Cpu).unwrap();
    classifier.load_backbone(&subject.tensors, &subject.path).unwrap();
    let weights = |classifier: &Classifier| -> (Vec<f32>, Vec<f32>) {
        let tensors: HashMap<String, Tensor> = classifier.params().tensors().into_iter().collect();
        let of = |name: &str| tensors[name].copy().unwrap();
        // The probe keeps its weight transposed.
        let weight = of("classifier.0.weight").t().unwrap().contiguous().unwrap();
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (flat(weight), flat(of("classifier.0.bias")))
    };
    let (weight, bias) = weights(&classifier);
    let start = LinearClassifier { dim: 32, classes: 10, weight, bias };
    let encode = |x: &Tensor| classifier.features(x);
    let (set, _) = features(encode, train.clone(), &subject.eval, &Device::Cpu, 1).unwrap();
    let config = LinearConfig { epochs: 4, batch: 32, lr: 0.1 * 32.0 / 256.0, ..LinearConfig::v1() };
    let order = |epoch: usize| Key::new(0, Purpose::Shuffle).epoch(epoch as u64).stream().permutation(160);
    let expected = train_from(&set, start, &config, order).unwrap().classifier;
    let folder = tempfile::tempdir().unwrap();
    let batches = crate::experiment::loader(&run, train, 1, &crate::dist::single()).unwrap();
    let options = crate::experiment::RunOptions::new(folder.path().join("run"));
    crate::experiment::train(&run, &mut classifier, &batches, options).unwrap();
    let (weight, bias) = weights(&classifier);
    for (got, want) in weight.iter().chain(&bias).zip(expected.weight.iter().chain(&expected.bias)) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn a_sweep_in_one_pass_is_a_sweep() {
    // Two rates side by side, and the second by itself: from the same start they end alike.
    let subject = digits_subject(tiny_resnet());
    let train = digits(Split::Train, 6);
    let run = |rates: &str, lr: &str| {
        let settings = set(&["train.epochs=2", rates, lr, "method.init.normal=0"]);
        let run = ImageProtocol::LinearSimsiamV1.runs_on(&subject, &train, &settings).unwrap().remove(0);
        let mut classifier = Classifier::new(run.method.clone(), 0, &Device::Cpu).unwrap();
        classifier.load_backbone(&subject.tensors, &subject.path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let batches = crate::experiment::loader(&run, train.clone(), 1, &crate::dist::single()).unwrap();
        let options = crate::experiment::RunOptions::new(folder.path().join("run"));
        crate::experiment::train(&run, &mut classifier, &batches, options).unwrap();
        bits(&classifier.params().tensors())
    };
    let both = run("method.rates=[1.0, 4.0]", "optim.lr=0.5");
    let alone = run("method.rates=[1.0]", "optim.lr=2.0");
    assert_eq!(both[2..], alone[..]);
    assert_ne!(both[..2], alone[..]);
    // The test set has no say: of other test images the same choice.
    let folder = tempfile::tempdir().unwrap();
    let chosen = [digits(Split::Test, 6), digits(Split::Train, 9)].map(|test| {
        let options = Options { set: set(&["train.epochs=1"]), ..Options::new(folder.path()) };
        let found = ImageProtocol::LinearByolV1.measure(&subject, &train, &test, options).unwrap().unwrap();
        (metric(&found.metrics, "lr").unwrap(), metric(&found.metrics, "held-out-top1").unwrap())
    });
    assert_eq!(chosen[0], chosen[1]);
}

#[test]
fn tokens_are_dinos() {
    let store = ParamStore::new(1, &Device::Cpu);
    let backbone = Backbone::new(&store.builder(), &tiny_vit()).unwrap();
    let mut stream = Key::new(2, Purpose::Data).stream();
    let pixels: Vec<f32> = (0..2 * 3 * 32 * 32).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(pixels, (2, 3, 32, 32), &Device::Cpu).unwrap();
    let mode = Mode::eval();
    let of = |kind: FeatureKind| kind.of(&backbone, &x, &mode).unwrap().remove(0).to_vec2::<f32>().unwrap();
    let class = backbone.forward(&x, &mode).unwrap().to_vec2::<f32>().unwrap();
    let Backbone::Vit(vit) = &backbone else { panic!() };
    let blocks = of(FeatureKind::LastBlocks { count: 3 });
    let mixed = of(FeatureKind::ClassMean {});
    let third = vit.last_blocks(&x, 3, &mode).unwrap().remove(0);
    let third = vit.final_norm(&take_token(&third, 0).unwrap(), &mode).unwrap().rows().unwrap();
    let last = vit.last_blocks(&x, 1, &mode).unwrap().remove(0);
    let patches = vit.final_norm(&last, &mode).unwrap().rows().unwrap().to_vec3::<f32>().unwrap();
    for (n, class) in class.iter().enumerate() {
        assert_eq!((blocks[n].len(), mixed[n].len()), (48, 32));
        assert_eq!(blocks[n][..16], third.to_vec2::<f32>().unwrap()[n]);
        assert_eq!(blocks[n][32..], *class, "the newest comes last");
        for d in 0..16 {
            let mean = patches[n][1..].iter().map(|t| t[d]).sum::<f32>() / 16.0;
            assert!((mixed[n][2 * d] - class[d]).abs() < 1e-6 && (mixed[n][2 * d + 1] - mean).abs() < 1e-5);
        }
    }
}

#[test]
fn stages_are_the_networks_own() {
    for depth in [18, 50] {
        let config = ResNetConfig { base_width: 4, ..ResNetConfig::torchvision(depth) };
        let store = ParamStore::new(1, &Device::Cpu);
        let backbone = Backbone::new(&store.builder(), &config.into()).unwrap();
        let mut stream = Key::new(2, Purpose::Data).stream();
        let pixels: Vec<f32> = (0..2 * 3 * 64 * 64).map(|_| stream.normal() as f32).collect();
        let x = Tensor::from_vec(pixels, (2, 3, 64, 64), &Device::Cpu).unwrap();
        let Backbone::Resnet(resnet) = &backbone else { panic!() };
        let stages = resnet.stages(&x, &Mode::eval()).unwrap();
        let wide = if depth == 50 { 4 } else { 1 };
        let shapes: Vec<Vec<usize>> = stages.iter().map(crate::kernels::FeatureMap::dims).collect();
        let expected = [(4, 16), (4 * wide, 16), (8 * wide, 8), (16 * wide, 4), (32 * wide, 2)];
        assert_eq!(shapes, expected.map(|(c, side)| vec![2, c, side, side]));
        let last = stages[4].tensor().unwrap().mean((2, 3)).unwrap().to_vec2::<f32>().unwrap();
        let pooled = backbone.forward(&x, &Mode::eval()).unwrap().to_vec2::<f32>().unwrap();
        for (a, b) in last.concat().iter().zip(pooled.concat()) {
            assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
    }
    // ResNet-50 at 224 pixels: five squares of about 9,000 values.
    let widths = [(64, 56), (256, 56), (512, 28), (1024, 14), (2048, 7)].map(|(c, side): (usize, usize)| {
        let x = Tensor::zeros((1, c, side, side), candle_core::DType::F32, &Device::Cpu).unwrap();
        let pooled = (9000.0 / c as f64).sqrt().round() as usize;
        adaptive_max_pool(&x, pooled).unwrap().dims()[1]
    });
    assert_eq!(widths, [9216, 9216, 8192, 9216, 8192]);
}

#[test]
fn an_interrupted_protocol_goes_on_and_a_finished_one_is_only_measured() {
    use crate::train::{Notes, Observer, StepRecord};
    use std::sync::atomic::{AtomicBool, Ordering};
    struct Stop(Arc<AtomicBool>, u64);
    impl Observer for Stop {
        fn on_step(&mut self, record: &StepRecord<'_>, _: &mut Notes) -> Result<()> {
            self.1 += 1;
            if record.progress.step == 3 {
                self.0.store(true, Ordering::Relaxed);
            }
            Ok(())
        }
    }
    let subject = digits_subject(tiny_resnet());
    let (train, test) = (digits(Split::Train, 6), digits(Split::Test, 6));
    let straight = measure(ImageProtocol::LinearSwavV1, &subject, 6, &["train.epochs=2"]);
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut observer = Stop(stop.clone(), 0);
    let options = Options {
        set: set(&["train.epochs=2"]),
        stop,
        observer: Some(&mut observer),
        ..Options::new(folder.path())
    };
    assert!(ImageProtocol::LinearSwavV1.measure(&subject, &train, &test, options).unwrap().is_none());
    for expected in [2, 0] {
        let mut observer = Stop(Arc::default(), 0);
        let options = Options {
            set: set(&["train.epochs=2"]),
            observer: Some(&mut observer),
            ..Options::new(folder.path())
        };
        let found = ImageProtocol::LinearSwavV1.measure(&subject, &train, &test, options).unwrap().unwrap();
        assert_eq!(found.metrics, straight.metrics);
        assert_eq!(observer.1, expected);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn bad_input_is_named() {
    let subject = digits_subject(tiny_resnet());
    let (train, test) = (digits(Split::Train, 6), digits(Split::Test, 6));
    let folder = tempfile::tempdir().unwrap();
    let refuse =
        |protocol: ImageProtocol, subject: &Subject, train: &Images, settings: &[&str], words: &[&str]| {
            let options = Options { set: set(settings), ..Options::new(folder.path()) };
            let error = protocol.measure(subject, train, &test, options).map(|_| ()).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "`{word}` is not in `{error}`");
            }
        };
    let moco = ImageProtocol::LinearMocoV1;
    let hidden: Images = Arc::new(Unlabelled(digits(Split::Train, 6)));
    refuse(moco, &subject, &hidden, &[], &["sign-digits", "needs labels"]);
    refuse(moco, &subject, &train, &["train.epoch=1"], &["train.epoch", "train.epochs"]);
    refuse(moco, &subject, &train, &["method.rates=[]"], &["method.rates"]);
    refuse(moco, &subject, &train, &["method.rates=[1.0, -1.0]"], &["method.rates"]);
    refuse(moco, &subject, &train, &["method.frozen=false", "method.rates=[1.0, 2.0]"], &["method.frozen"]);
    refuse(moco, &subject, &train, &["method.classes=1"], &["method.classes"]);
    refuse(moco, &subject, &train, &["method.features.kind=class-mean"], &["method.features", "resnet18"]);
    refuse(
        ImageProtocol::LinearLayersV1,
        &digits_subject(tiny_vit()),
        &train,
        &[],
        &["method.features", "vit"],
    );
    let mut broken = subject.clone();
    broken.tensors.remove("conv1.weight");
    refuse(moco, &broken, &train, &[], &["encoder", "conv1.weight"]);
    let unlabelled: Images = Arc::new(Unlabelled(digits(Split::Test, 6)));
    let error = moco.measure(&subject, &train, &unlabelled, Options::new(folder.path())).unwrap_err();
    assert!(error.to_string().contains("needs labels"), "{error}");
    let config = moco.runs_on(&subject, &train, &[]).unwrap().remove(0).method;
    let many = FeatureKind::LastBlocks { count: 9 };
    let config = ClassifierConfig { backbone: tiny_vit(), features: many, ..config };
    let error = config.check("method").unwrap_err().to_string();
    assert!(error.contains("method.features") && error.contains("9 blocks of 5"), "{error}");
    // Twenty samples a class: one in a hundred is less than one.
    assert_eq!(ImageProtocol::FinetuneByol1V1.per_class("x", 200, 10).unwrap(), Some(1));
    assert_eq!(ImageProtocol::FinetuneByol1V1.per_class("x", 1_281_167, 1000).unwrap(), Some(13));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
