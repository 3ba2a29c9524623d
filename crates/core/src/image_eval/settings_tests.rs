use std::collections::HashMap;
use std::path::PathBuf;

use super::*;
use crate::augment::{EvalTransform, IMAGENET_MEAN, IMAGENET_STD};
use crate::experiment::RunConfig;
use crate::nn::{ResNetConfig, VitConfig};
use crate::optim::OptimizerConfig;
use crate::train::Progress;
use crate::train::config::to_toml_string;

#[test]
fn names_are_known_both_ways() {
    for protocol in ImageProtocol::all() {
        assert_eq!(ImageProtocol::parse(protocol.name()).unwrap(), protocol);
        let text = serde_json::to_string(&protocol).unwrap();
        assert_eq!(text, format!("\"{protocol}\""));
        assert_eq!(serde_json::from_str::<ImageProtocol>(&text).unwrap(), protocol);
        assert!(crate::eval::Protocol::parse(protocol.name()).is_err());
    }
    let error = ImageProtocol::parse("linear").unwrap_err().to_string();
    assert!(error.contains("`linear`") && error.contains("finetune-swav-10pct-v1"), "{error}");
    assert!(serde_json::from_str::<ImageProtocol>("\"linear\"").is_err());
}

/// The only run on ImageNet, or the first.
fn imagenet(protocol: ImageProtocol, backbone: BackboneConfig) -> RunConfig<ClassifierConfig> {
    let eval = EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD);
    let subject = Subject { backbone, tensors: HashMap::new(), path: PathBuf::new(), eval };
    let samples = protocol.per_class("imagenet", 1_281_167, 1000).unwrap().map_or(1_281_167, |n| n * 1000);
    protocol.runs(&subject, 1, samples, 1000).unwrap().swap_remove(0)
}

/// The rate of the `head`-th classifier at the beginning of an epoch.
fn rate(run: &RunConfig<ClassifierConfig>, epoch: u64, head: usize) -> f64 {
    let (steps, epochs) = (10, run.train.epochs);
    let progress = Progress {
        seed: 0,
        step: epoch * steps,
        total_steps: epochs * steps,
        epoch,
        total_epochs: epochs,
        steps_per_epoch: steps,
    };
    run.lr(&progress) * run.method.rates[head]
}

/// Protocol, backbone, batch, epochs, classifier, and its rates at epochs.
type Case<'a> = (ImageProtocol, BackboneConfig, usize, u64, usize, &'a [(u64, f64)]);

#[test]
fn rates_on_imagenet_are_the_papers() {
    use ImageProtocol as P;
    let resnet: BackboneConfig = ResNetConfig::torchvision(50).into();
    let vit: BackboneConfig = VitConfig::base(16).into();
    let cases: [Case; 14] = [
        (P::LinearMocoV1, resnet, 256, 100, 0, &[(0, 30.0), (59, 30.0), (60, 3.0), (80, 0.3)]),
        (P::LinearSimclrV1, resnet, 4096, 90, 0, &[(0, 1.6), (45, 0.8)]),
        (P::LinearMocoV3V1, resnet, 1024, 90, 0, &[(0, 0.4), (45, 0.2)]),
        (P::LinearMocoV3V1, vit, 1024, 90, 0, &[(0, 12.0)]),
        (P::LinearByolV1, resnet, 1024, 80, 2, &[(0, 0.8), (40, 0.4)]),
        (P::LinearSwavV1, resnet, 256, 100, 0, &[(0, 0.3), (50, 0.15)]),
        (P::LinearSimsiamV1, resnet, 4096, 90, 0, &[(0, 1.6)]),
        (P::LinearDinoV1, vit, 1024, 100, 2, &[(0, 0.004)]),
        (P::LinearLightlyV1, resnet, 256, 90, 0, &[(0, 0.1)]),
        (P::LinearLayersV1, resnet, 256, 60, 0, &[(29, 0.1), (30, 0.02), (40, 0.004), (50, 0.0008)]),
        (P::FinetuneSimclr1V1, resnet, 4096, 60, 0, &[(0, 0.8)]),
        (P::FinetuneSimclr10V1, resnet, 4096, 30, 0, &[(0, 0.8), (15, 0.4)]),
        (P::FinetuneSwav1V1, resnet, 256, 20, 0, &[(0, 5.0), (12, 1.0), (16, 0.2)]),
        (P::FinetuneSwav10V1, resnet, 256, 20, 0, &[(0, 0.2)]),
    ];
    for (protocol, backbone, batch, epochs, head, rates) in cases {
        let run = imagenet(protocol, backbone);
        assert_eq!((run.train.batch_size, run.train.epochs), (batch, epochs), "{protocol}");
        for &(epoch, expected) in rates {
            let got = rate(&run, epoch, head);
            assert!((got / expected - 1.0).abs() < 1e-9, "{protocol}, epoch {epoch}: {got}");
        }
        assert_eq!(run.method.image, 224);
        let text = to_toml_string(&run).unwrap();
        assert_eq!(toml::from_str::<RunConfig<ClassifierConfig>>(&text).unwrap(), run, "{text}");
    }
    let trunk = imagenet(P::FinetuneSwav1V1, resnet);
    assert_eq!((trunk.optim.lr, trunk.optim.lr_scaling.scale(trunk.optim.lr, 256)), (0.02, 0.02));
    assert_eq!(imagenet(P::FinetuneByol1V1, resnet).train.batch_size, 1024);
    for (protocol, nesterov, decay) in
        [(P::LinearSimclrV1, true, 0.0), (P::LinearByolV1, true, 0.0), (P::LinearSwavV1, false, 1e-6)]
    {
        let run = imagenet(protocol, resnet);
        let OptimizerConfig::Sgd(sgd) = run.optim.optimizer else { panic!("{protocol}") };
        assert_eq!((sgd.nesterov, sgd.weight_decay, sgd.momentum), (nesterov, decay, 0.9));
    }
    let of = |backbone| imagenet(P::LinearDinoV1, backbone).method.features;
    assert_eq!(of(vit), FeatureKind::ClassMean {});
    assert_eq!(of(VitConfig::small(16).into()), FeatureKind::LastBlocks { count: 4 });
    assert_eq!(of(resnet), FeatureKind::Pooled {});
}
