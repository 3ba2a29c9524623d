use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::nn::{
    AlexNetConfig, Backbone, BackboneConfig, HalfConfig, Mode, Module, ParamStore, ResNetConfig, SplitConfig,
};
use contrastive_core::weights::{Pretrained, save_named};

use super::*;

/// A file with these tensors under `model`, one after the other as arrays of numpy's: the reader asks for no more.
fn write(path: &Path, tensors: &[(String, Tensor)]) -> anyhow::Result<()> {
    let text = |t: &str| [b"X".as_slice(), &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let mut out = [b"\x80\x03}".as_slice(), &text("model"), b"}"].concat();
    for (name, tensor) in tensors {
        out.extend(text(name));
        out.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01(");
        tensor.dims().iter().for_each(|&d| out.extend([b"J".as_slice(), &(d as i32).to_le_bytes()].concat()));
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        out.extend([b"tcnumpy\ndtype\n(".as_slice(), &text("f4"), b"tR\x89B"].concat());
        out.extend((4 * values.len() as u32).to_le_bytes());
        values.iter().for_each(|v| out.extend(v.to_le_bytes()));
        out.extend(b"tbs");
    }
    out.extend(b"s.");
    std::fs::write(path, out)?;
    Ok(())
}

/// The official names of a network here: `encoder.module.l_to_ab.conv1.weight` for `0.conv1.weight`.
fn official(name: &str) -> String {
    let (half, rest) = name.split_once('.').expect("a half");
    format!("encoder.module.{}.{rest}", ["l_to_ab", "ab_to_l"][usize::from(half == "1")])
}

#[test]
fn official_names_make_both_halves() -> anyhow::Result<()> {
    let resnet = ResNetConfig { base_width: 2, stem_width: Some(4), ..ResNetConfig::torchvision(18) };
    let alexnet = AlexNetConfig { widths: [2, 3, 4, 5, 6], hidden: 7, ..AlexNetConfig::half(1) };
    for (half, last, side) in
        [(HalfConfig::Resnet(resnet), "fc", 64), (HalfConfig::Alexnet(alexnet), "fc8.0", 224)]
    {
        let config = BackboneConfig::Split(SplitConfig::brightness_and_colour(half));
        let params = ParamStore::new(5, &Device::Cpu);
        let network = Backbone::new(&params.builder(), &config)?;
        let mut tensors: Vec<(String, Tensor)> =
            params.entries().into_iter().map(|e| (official(&e.name), e.var.as_detached_tensor())).collect();
        let head = Tensor::zeros((3, 7), candle_core::DType::F32, &Device::Cpu)?;
        tensors.push((format!("encoder.module.l_to_ab.{last}.weight"), head));
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("CMC_small.pth");
        write(&file, &tensors)?;
        let named = from_official(&mut Checkpoint::open(&file)?)?;
        assert_eq!((named.heads.len(), named.heads[0].0.as_str()), (1, "head.0.0.weight"));
        let out = folder.path().join("out");
        save_named(&named, &file, &out)?;
        let read = Pretrained::open(&out, Hints::default())?;
        // A first block that has a projection anyway may be called one that has it always.
        assert!(read.config.to_string().starts_with(&config.to_string()), "{}", read.config);
        assert_eq!(read.preprocessing.color, ColorSpace::Lab);
        let x =
            contrastive_testing::formula("input", 3 * side * side).into_iter().map(|u| u as f32).collect();
        let x = Tensor::from_vec::<_, f32>(x, (1, 3, side, side), &Device::Cpu)?;
        let features = |network: &Backbone| -> anyhow::Result<Vec<f32>> {
            Ok(network.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1()?)
        };
        assert_eq!(features(&read.build(&Device::Cpu)?.0)?, features(&network)?, "{config}");
    }
    Ok(())
}

#[test]
fn another_file_is_told_what_it_lacks() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("InsDis.pth");
    let one = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
    write(&file, &[("encoder.module.conv1.weight".to_string(), one)])?;
    let refused = from_official(&mut Checkpoint::open(&file)?);
    assert!(refused.is_err_and(|e| e.to_string().contains("l_to_ab")));
    Ok(())
}
