//! `xtask convert` with checkpoints as their authors' code writes them (`core/tests/fixtures/weights/make_weights.py`).

mod common;

use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::{DType, Device};
use common::{Place, refuses, xtask};
use contrastive_core::nn::{Mode, Module};
use contrastive_core::weights::{Hints, Pretrained, load};

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/core/tests/fixtures/weights");
    folder.join(name).to_string_lossy().into_owned()
}

/// Runs the program, which must succeed, and gives its output.
fn convert(file: &str, arguments: &[&str], out: &str) -> Result<String> {
    let output = xtask(&[&["convert", &fixture(file), "--out", out], arguments].concat())?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Features of the encoder in `out` against those of the original network.
fn assert_features(out: &str, name: &str) -> Result<Pretrained> {
    let read = Pretrained::open(Path::new(out), Hints::default())?;
    let (expected, _) = load(&PathBuf::from(fixture("features.safetensors")))?;
    let features = read.build(&Device::Cpu)?.0.forward(&expected["input"], &Mode::eval())?;
    let largest = expected[name].abs()?.max_all()?.to_scalar::<f32>()?;
    let error = (&features - &expected[name])?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(error <= 1e-4 * largest.max(1.0), "{name}: {error} of {largest}");
    Ok(read)
}

fn heads(out: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = load(&Path::new(out).join("heads.safetensors"))?.0.into_keys().collect();
    names.sort();
    Ok(names)
}

#[test]
fn published_layouts_keep_their_features() -> Result<()> {
    let place = Place::new()?;
    let three: &[&str] = &["--heads", "3"];
    for (i, (file, method, more, network)) in [
        ("moco_v2.pth.tar", "moco-v2", &[][..], "resnet18"),
        ("simsiam_legacy.pth.tar", "simsiam", &[], "resnet50"),
        ("swav.pth.tar", "swav", &[], "resnet18"),
        ("instdisc_legacy.pth", "instdisc", &[], "resnet18_cifar"),
        ("dino_full.pth", "dino", three, "vit"),
        ("dino_backbone.pth", "dino", three, "vit"),
        ("moco_v3.pth.tar", "moco-v3", three, "vit"),
        ("resnet_bare.pth", "dino", &[], "resnet18"),
        ("resnet_bare.pth", "torchvision", &[], "resnet18"),
        ("dino_backbone.pth", "timm", three, "vit"),
        ("vissl.torch", "vissl", &[], "resnet18"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = place.path(&format!("out{i}"));
        let said = convert(file, &[&["--method", method], more].concat(), &out)?;
        assert!(said.contains("encoder.safetensors"), "{said}");
        let read = assert_features(&out, network)?;
        let manifest = read.manifest.expect("a manifest");
        assert_eq!(manifest.method, method);
        let origin = manifest.origin.expect("an origin");
        assert_eq!((origin.file.as_str(), origin.blake3.len()), (file, 64));
        assert_eq!(read.preprocessing.crop, Some(224));
    }
    let projector = ["head.0.bias", "head.0.weight", "head.2.bias", "head.2.weight"];
    assert_eq!(heads(&place.path("out0"))?, projector);
    let names = heads(&place.path("out1"))?;
    assert!(names.contains(&"projector.6.weight".into()) && !names.contains(&"projector.6.bias".into()));
    assert!(names.contains(&"predictor.3.weight".into()));
    assert!(heads(&place.path("out2"))?.contains(&"prototypes.weight".into()));
    assert_eq!(heads(&place.path("out3"))?, ["head.0.bias", "head.0.weight"]);
    assert!(heads(&place.path("out4"))?.contains(&"head.last_layer.weight_g".into()));
    let names = ["predictor.0.weight", "predictor.3.weight", "projector.0.weight", "projector.3.weight"];
    assert_eq!(heads(&place.path("out6"))?, names);
    Ok(())
}

#[test]
fn branches_and_classifiers() -> Result<()> {
    let place = Place::new()?;
    let out = place.path("target");
    convert("moco_v2.pth.tar", &["--method", "moco-v2", "--branch", "target"], &out)?;
    let encoder = |out: &str| load(&Path::new(out).join("encoder.safetensors"));
    let target = encoder(&out)?.0;
    let online = place.path("online");
    convert("moco_v2.pth.tar", &["--method", "moco-v2"], &online)?;
    let difference = (&target["conv1.weight"] - &encoder(&online)?.0["conv1.weight"])?;
    assert!((difference.mean_all()?.to_scalar::<f32>()? - 0.125).abs() < 1e-5);
    refuses(
        &[
            "convert",
            &fixture("moco_v2.pth.tar"),
            "--method",
            "moco-v2",
            "--branch",
            "teacher",
            "--out",
            &out,
        ],
        &["branch", "`teacher`", "online, target"],
    )?;
    let linear = place.path("linear");
    let said = convert("dino_linearweights.pth", &["--method", "dino"], &linear)?;
    assert!(said.contains("no backbone"), "{said}");
    assert_eq!(heads(&linear)?, ["linear.bias", "linear.weight"]);
    let listed = xtask(&["convert", &fixture("types.pth"), "--list"])?;
    let text = String::from_utf8(listed.stdout)?;
    assert!(text.contains("values\ttransposed\tF32\t[6, 4]\n"), "{text}");
    // Equal calls give equal bytes.
    let again = place.path("again");
    convert("moco_v2.pth.tar", &["--method", "moco-v2"], &again)?;
    let bytes = |out: &str| std::fs::read(Path::new(out).join("encoder.safetensors"));
    assert_eq!(bytes(&online)?, bytes(&again)?);
    Ok(())
}

#[test]
fn a_wrong_file_is_told_what_it_is() -> Result<()> {
    let place = Place::new()?;
    let out = place.path("out");
    let call = |file: &str, method: &str, words: &[&str]| -> Result<()> {
        refuses(&["convert", &fixture(file), "--method", method, "--out", &out], words)?;
        assert!(!Path::new(&out).exists(), "{file} as {method} left something behind");
        Ok(())
    };
    call("moco_v2.pth.tar", "simsiam", &["moco_v2.pth.tar", "simsiam", "moco-v2 (facebookresearch/moco"])?;
    call("moco_v2.pth.tar", "moco-v1", &["moco-v2"])?;
    call("moco_v3.pth.tar", "moco-v2", &["moco-v3 (facebookresearch/moco-v3"])?;
    call("swav.pth.tar", "dino", &["swav (facebookresearch/swav"])?;
    call("dino_full.pth", "moco-v3", &["dino (facebookresearch/dino, full checkpoint)"])?;
    call("dino_full.pth", "dino", &["heads"])?;
    call("types.pth", "dino", &["no known layout", "values: bf16"])?;
    call("dino_full.pth", "mocov2", &["`mocov2`", "moco-v2"])?;
    call("timm_vit/model.safetensors", "timm", &["safetensors"])?;
    refuses(&["convert", &fixture("dino_full.pth")], &["--method", "--list"])?;
    refuses(&["convert", &place.path("absent"), "--method", "dino", "--out", &out], &["absent"])?;
    Ok(())
}

#[test]
fn weights_that_are_no_numbers_leave_nothing() -> Result<()> {
    let place = Place::new()?;
    // One float of the original becomes no number.
    let mut bytes = std::fs::read(fixture("simsiam_legacy.pth.tar"))?;
    let (tensors, _) = {
        let out = place.path("whole");
        convert("simsiam_legacy.pth.tar", &["--method", "simsiam"], &out)?;
        load(&Path::new(&out).join("encoder.safetensors"))?
    };
    let value = tensors["layer4.2.bn3.running_var"].to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let first: Vec<u8> = value.iter().take(4).flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(16).position(|w| w == first).expect("the values are in the file");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let (file, out) = (place.path("nan.pth.tar"), place.path("nan"));
    std::fs::write(&file, bytes)?;
    let call = ["convert", file.as_str(), "--method", "simsiam", "--out", out.as_str()];
    refuses(&call, &["nan.pth.tar", "layer4.2.bn3.running_var", "NaN"])?;
    assert!(!Path::new(&out).exists());
    // Nor does it touch what is there.
    std::fs::create_dir(&out)?;
    let old = Path::new(&out).join("encoder.safetensors");
    std::fs::write(&old, "old")?;
    refuses(&call, &["NaN"])?;
    assert_eq!(std::fs::read(&old)?, b"old");
    assert_eq!(std::fs::read_dir(&out)?.count(), 1);
    Ok(())
}

#[test]
fn weights_from_elsewhere_are_evaluated() -> Result<()> {
    let weights = fixture("timm_resnet");
    let call = ["eval", "--weights", weights.as_str(), "--data", "sign-digits", "--protocol"];
    let output = xtask(&[&call[..], &["knn-k20-t0.07-v1"]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let top1 = text.lines().find_map(|line| line.strip_prefix("sign-digits knn-k20-t0.07-v1 top1 "));
    let top1: f64 = top1.and_then(|rest| rest.split(' ').next()).expect("top-1").parse()?;
    assert!(output.status.success() && top1 > 0.1, "{output:?}");
    refuses(&[&call[..], &["linear-simclr-v1"]].concat(), &["--out"])?;
    for (place, word) in [
        ("hub:nothing", "hub:OWNER/NAME"),
        ("hub:../x", "hub:OWNER/NAME"),
        ("hub:no/such", "no/such"),
        ("absent", "absent"),
    ] {
        refuses(&["eval", "--weights", place, "--data", "sign-digits"], &[word])?;
    }
    Ok(())
}
