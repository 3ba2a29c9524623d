//! Backbones from files of torchvision, timm and `transformers` (`fixtures/weights/make_weights.py`): their features, and
//! what is said of files that are none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use contrastive_core::Error;
use contrastive_core::augment::Interpolation;
use contrastive_core::nn::{BackboneConfig, Mode, Module, ParamStore, ResNetConfig, VitConfig};
use contrastive_core::weights::{Hints, Pretrained, load, save};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

/// The features of the fixtures' input are those of `name`, to 1e-4 of the largest.
fn assert_features(pretrained: &Pretrained, name: &str) -> Result<()> {
    let (expected, _) = load(&fixture("features.safetensors"))?;
    let (backbone, _) = pretrained.build(&Device::Cpu)?;
    let features = backbone.forward(&expected["input"], &Mode::eval())?;
    let largest = expected[name].abs()?.max_all()?.to_scalar::<f32>()?;
    let error = (&features - &expected[name])?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(error <= 1e-4 * largest.max(1.0), "{name}: {error} of {largest}");
    Ok(())
}

#[test]
fn timms_resnet() -> Result<()> {
    let read = Pretrained::open(&fixture("timm_resnet"), Hints::default())?;
    let expected = ResNetConfig { base_width: 2, ..ResNetConfig::torchvision(18) };
    assert_eq!(read.config, BackboneConfig::Resnet(expected));
    assert_features(&read, "resnet18")?;
    let eval = &read.preprocessing;
    assert_eq!((eval.resize, eval.crop, eval.interpolation), (Some(36), Some(32), Interpolation::Bicubic));
    assert_eq!((&eval.mean, &eval.std), (&vec![0.5; 3], &vec![0.25; 3]));
    assert!(read.left_out.contains(&"fc.weight".to_string()));
    // Without the settings, torchvision's.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("resnet18.safetensors");
    std::fs::copy(fixture("timm_resnet/model.safetensors"), &file)?;
    let eval = Pretrained::open(&file, Hints::default())?.preprocessing;
    assert_eq!((eval.resize, eval.crop, eval.interpolation), (Some(256), Some(224), Interpolation::Bilinear));
    Ok(())
}

#[test]
fn timms_transformer() -> Result<()> {
    let read = Pretrained::open(&fixture("timm_vit"), Hints::default())?;
    let BackboneConfig::Vit(vit) = read.config else { panic!("{}", read.config) };
    assert_eq!((vit.dim, vit.depth, vit.heads, vit.patch, vit.image), (12, 2, 3, 8, 32));
    assert_features(&read, "vit")?;
    assert_eq!((read.preprocessing.resize, read.preprocessing.crop), (Some(35), Some(32)));
    // A file of PyTorch's says nothing of heads.
    let file = fixture("dino_backbone.pth");
    let error = Pretrained::open(&file, Hints::default()).unwrap_err().to_string();
    assert!(error.contains("dino_backbone.pth") && error.contains("heads"), "{error}");
    assert_features(&Pretrained::open(&file, Hints { heads: Some(3), ..Hints::default() })?, "vit")
}

#[test]
fn transformers_vit() -> Result<()> {
    let read = Pretrained::open(&fixture("transformers_vit"), Hints::default())?;
    let BackboneConfig::Vit(vit) = read.config else { panic!("{}", read.config) };
    assert_eq!((vit.heads, vit.norm_eps), (3, 1e-3));
    assert_features(&read, "vit_transformers")?;
    assert_eq!(read.left_out, ["pooler.dense.bias", "pooler.dense.weight"]);
    let eval = &read.preprocessing;
    assert_eq!((eval.resize, eval.crop, eval.interpolation), (Some(32), Some(32), Interpolation::Bilinear));
    Ok(())
}

/// The names of `transformers` for ResNets, by the ones of torchvision.
#[test]
fn transformers_resnet() -> Result<()> {
    let (tensors, _) = load(&fixture("timm_resnet/model.safetensors"))?;
    let rename = |name: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |text: &str, prefix: &str| -> usize {
            text.strip_prefix(prefix).unwrap().parse::<usize>().unwrap() - 1
        };
        match parts.as_slice() {
            ["conv1", leaf] => format!("resnet.embedder.embedder.convolution.{leaf}"),
            ["bn1", leaf] => format!("resnet.embedder.embedder.normalization.{leaf}"),
            ["fc", leaf] => format!("classifier.1.{leaf}"),
            [group, block, "downsample", place, leaf] => {
                let kind = if *place == "0" { "convolution" } else { "normalization" };
                let group = number(group, "layer");
                format!("resnet.encoder.stages.{group}.layers.{block}.shortcut.{kind}.{leaf}")
            }
            [group, block, part, leaf] => {
                let (kind, place) = match part.strip_prefix("conv") {
                    Some(_) => ("convolution", number(part, "conv")),
                    None => ("normalization", number(part, "bn")),
                };
                let group = number(group, "layer");
                format!("resnet.encoder.stages.{group}.layers.{block}.layer.{place}.{kind}.{leaf}")
            }
            _ => panic!("{name}"),
        }
    };
    let named: Vec<(String, Tensor)> = tensors.iter().map(|(name, t)| (rename(name), t.clone())).collect();
    let folder = tempfile::tempdir()?;
    save(&folder.path().join("model.safetensors"), &named, &Value::Null)?;
    let config = json!({"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": false});
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    let processor = json!({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3});
    std::fs::write(folder.path().join("preprocessor_config.json"), processor.to_string())?;
    let read = Pretrained::open(folder.path(), Hints::default())?;
    assert_features(&read, "resnet18")?;
    assert_eq!((read.preprocessing.resize, read.preprocessing.crop), (Some(256), Some(224)));
    Ok(())
}

/// Every backbone's names and shapes are told without making it, and told back.
#[test]
fn shapes_name_their_backbone() -> Result<()> {
    let narrow = |depth| ResNetConfig { base_width: 2, ..ResNetConfig::torchvision(depth) };
    let mut configs: Vec<BackboneConfig> =
        [18, 34, 50, 101, 152, 200].map(|depth| narrow(depth).into()).to_vec();
    configs.push(ResNetConfig { base_width: 4, in_channels: 1, ..ResNetConfig::cifar(34) }.into());
    configs
        .push(ResNetConfig { shortcut: contrastive_core::nn::Shortcut::ProjectFirst, ..narrow(18) }.into());
    configs
        .push(VitConfig { dim: 8, heads: 2, depth: 3, image: 12, mlp_ratio: 2, ..VitConfig::tiny(4) }.into());
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.safetensors");
    for config in configs {
        let store = ParamStore::new(0, &Device::Cpu);
        contrastive_core::nn::Backbone::new(&store.builder(), &config)?;
        save(&file, &store.tensors(), &Value::Null)?;
        let read = Pretrained::open(&file, Hints { heads: Some(2), ..Hints::default() })?;
        assert_eq!(read.config, config);
        read.build(&Device::Cpu)?;
    }
    Ok(())
}

#[test]
fn every_fault_is_listed_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("wrong.safetensors");
    let (mut tensors, _) = load(&fixture("timm_resnet/model.safetensors"))?;
    tensors.remove("layer3.1.bn2.bias");
    tensors.insert("se.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?);
    tensors.insert("bn1.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?);
    let write = |tensors: &HashMap<String, Tensor>| {
        save(&file, &tensors.clone().into_iter().collect::<Vec<_>>(), &Value::Null)
    };
    write(&tensors)?;
    let error = Pretrained::open(&file, Hints::default()).unwrap_err();
    assert!(matches!(error, Error::Weights { .. }));
    let error = error.to_string();
    for word in [
        "wrong.safetensors",
        "missing: layer3.1.bn2.bias",
        "unexpected: se.weight",
        "bn1.weight: expected [2], got [3]",
    ] {
        assert!(error.contains(word), "`{word}` is not in `{error}`");
    }

    let (whole, _) = load(&fixture("timm_resnet/model.safetensors"))?;
    let refused = |name: &str, tensor: Tensor| -> Result<String> {
        let mut tensors = whole.clone();
        tensors.insert(name.into(), tensor);
        write(&tensors)?;
        Ok(Pretrained::open(&file, Hints::default()).unwrap_err().to_string())
    };
    let error = refused("bn1.bias", Tensor::new(&[0f32, f32::NAN], &Device::Cpu)?)?;
    assert!(error.contains("`bn1.bias` holds NaN"), "{error}");
    let error = refused("bn1.bias", Tensor::new(&[0i64, 1], &Device::Cpu)?)?;
    assert!(error.contains("`bn1.bias` holds I64"), "{error}");
    // A large network that is only claimed costs nothing.
    let error = refused("conv1.weight", Tensor::zeros((4096, 3, 7, 7), DType::F32, &Device::Cpu)?)?;
    assert!(error.contains("bn1.bias: expected [4096], got [2]"), "{error}");
    let error = refused("conv1.weight", Tensor::zeros((2, 3, 5, 5), DType::F32, &Device::Cpu)?)?;
    assert!(error.contains("5x5"), "{error}");
    Ok(())
}

#[test]
fn settings_are_checked() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = Pretrained::open(folder.path(), Hints::default()).unwrap_err().to_string();
    assert!(error.contains("holds none of encoder.safetensors, model.safetensors"), "{error}");
    std::fs::copy(fixture("timm_resnet/model.safetensors"), folder.path().join("model.safetensors"))?;
    let settings = folder.path().join("config.json");
    let cases = [
        ("{", "config.json"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 99999]}}"#, "99999"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 7}}"#, "crop_pct"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "crop_mode": "squash"}}"#, "squash"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "lanczos"}}"#, "lanczos"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "mean": [1]}}"#, "mean"),
        (r#"{"pretrained_cfg": {"input_size": [3, 224, 224], "std": [0, 1, 1]}}"#, "std"),
        (r#"{"model_type": "dinov2"}"#, "dinov2"),
        (r#"{"model_type": "vit", "hidden_act": "quick_gelu"}"#, "quick_gelu"),
        (r#"{"model_type": "vit", "layer_norm_eps": -1}"#, "layer_norm_eps"),
        (r#"{"model_type": "resnet", "downsample_in_bottleneck": true}"#, "downsample_in_bottleneck"),
    ];
    for (text, word) in cases {
        std::fs::write(&settings, text)?;
        let error = Pretrained::open(folder.path(), Hints::default()).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{text}: {error}");
    }
    Ok(())
}

/// The layout of `nyu-visionx/moco-v3-vit-b` and `-l`: timm's names with a classifier, and nothing beside them.
#[cfg(feature = "hub")]
#[test]
fn moco_v3s_copies_on_the_hub() -> Result<()> {
    use contrastive_core::data::hub::HubSettings;

    let (cache, commit) = (tempfile::tempdir()?, "0123456789abcdef0123456789abcdef01234567");
    let (mut tensors, _) = load(&fixture("timm_vit/model.safetensors"))?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    tensors.insert("head.weight".into(), zeros(&[1000, 12])?);
    tensors.insert("head.bias".into(), zeros(&[1000])?);
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    for name in ["moco-v3-vit-b", "moco-v3-vit-l"] {
        let root = cache.path().join(format!("models--nyu-visionx--{name}"));
        let snapshot = root.join("snapshots").join(commit);
        std::fs::create_dir_all(root.join("refs"))?;
        std::fs::create_dir_all(&snapshot)?;
        std::fs::write(root.join("refs/main"), commit)?;
        save(&snapshot.join("model.safetensors"), &tensors, &Value::Null)?;
        let place = cache.path().to_string_lossy().into_owned();
        let settings = HubSettings::from_lookup(|name| match name {
            "HF_HUB_CACHE" => Some(place.clone()),
            "HF_HUB_OFFLINE" => Some("1".to_string()),
            _ => None,
        });
        // At their own widths the heads are known; the stand-in's are not.
        let hints = Hints { heads: Some(3), ..Hints::default() };
        let read = Pretrained::from_hub(&format!("nyu-visionx/{name}"), "main", &settings, hints)?;
        assert_features(&read, "vit")?;
        assert_eq!(read.left_out, ["head.bias", "head.weight"]);
        // timm's usual preprocessing at the side of its positions, with ImageNet's mean.
        assert_eq!((read.preprocessing.resize, read.preprocessing.crop), (Some(36), Some(32)));
        assert_eq!(read.preprocessing.mean, [0.485, 0.456, 0.406]);
        assert_eq!(read.commit.as_deref(), Some(commit));
    }
    Ok(())
}

/// A repository in the Hub's cache, as `huggingface_hub` lays it out.
#[cfg(feature = "hub")]
#[test]
fn the_hubs_cache_is_enough() -> Result<()> {
    use contrastive_core::data::hub::HubSettings;

    let cache = tempfile::tempdir()?;
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for (repo, folder) in
        [("facebook/dino-vits16", "transformers_vit"), ("timm/vit_small_patch16_224.dino", "timm_vit")]
    {
        let root = cache.path().join(format!("models--{}", repo.replace('/', "--")));
        std::fs::create_dir_all(root.join("refs"))?;
        std::fs::write(root.join("refs/main"), commit)?;
        let snapshot = root.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot)?;
        for entry in std::fs::read_dir(fixture(folder))? {
            let entry = entry?;
            std::fs::copy(entry.path(), snapshot.join(entry.file_name()))?;
        }
    }
    let place = cache.path().to_string_lossy().into_owned();
    let settings = HubSettings::from_lookup(|name| match name {
        "HF_HUB_CACHE" => Some(place.clone()),
        "HF_HUB_OFFLINE" => Some("1".to_string()),
        _ => None,
    });
    let of = |repo: &str| Pretrained::from_hub(repo, "main", &settings, Hints::default());
    let read = of("facebook/dino-vits16")?;
    assert_features(&read, "vit_transformers")?;
    assert_eq!(read.preprocessing.resize, Some(32));
    assert_features(&of("timm/vit_small_patch16_224.dino")?, "vit")?;
    let error = of("timm/absent").unwrap_err().to_string();
    assert!(error.contains("timm/absent") && error.contains("hf download timm/absent"), "{error}");
    Ok(())
}
