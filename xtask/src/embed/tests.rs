//! From files to embeddings and back.

use std::path::Path;

use candle_core::Device;
use contrastive_core::augment::EvalTransform;
use contrastive_core::nn::{ParamStore, ResNet, ResNetConfig};
use contrastive_core::weights::{DataIdentity, MANIFEST_VERSION, Manifest, save_encoder};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use super::table::Rows;
use super::*;

/// A small network of ours in a folder.
pub fn encoder(folder: &Path, seed: u64) -> Result<()> {
    let params = ParamStore::new(seed, &Device::Cpu);
    let config = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
    ResNet::new(&params.builder(), &config)?;
    let eval = EvalTransform::resize_crop(20, 16, [0.5; 3], [0.25; 3]);
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: "simclr".into(),
        branch: "online".into(),
        backbone: "resnet18-cifar".into(),
        preprocessing: serde_json::to_string(&eval)?,
        data: DataIdentity { name: "none".into(), fingerprint: "none".into() },
        licence: "CC0-1.0".into(),
        origin: None,
    };
    std::fs::create_dir_all(folder)?;
    Ok(save_encoder(&folder.join("encoder.safetensors"), &params.tensors(), &manifest)?)
}

/// Images of two kinds, and a broken one.
pub fn photos(folder: &Path) -> Result<()> {
    for i in 0..5u32 {
        let kind = if i % 2 == 0 { "even" } else { "odd" };
        std::fs::create_dir_all(folder.join(kind))?;
        let pixel = |x: u32, y: u32| {
            let value = if i % 2 == 0 { x * 8 } else { y * 8 };
            image::Rgb([value as u8, (value / 2 + 20 * i) as u8, 200])
        };
        image::RgbImage::from_fn(24 + i, 30, pixel).save(folder.join(format!("{kind}/{i}, \"a\".png")))?;
    }
    Ok(std::fs::write(folder.join("odd/broken.jpg"), b"nothing")?)
}

/// The call that embeds them.
pub fn arguments(folder: &Path, out: &[&str]) -> Arguments {
    let text = |name: &str| folder.join(name).to_string_lossy().into_owned();
    Arguments {
        run: None,
        weights: Some(text("net")),
        heads: None,
        data: text("photos"),
        split: Portion::Train,
        out: out.iter().map(|name| folder.join(name)).collect(),
        normalize: false,
        batch: 2,
        part: 4,
        device: "cpu".into(),
        workers: 2,
    }
}

/// Embeds `photos` of the folder by its `net`.
pub fn index(folder: &Path, out: &str) -> Result<()> {
    embed(&arguments(folder, &[out]), &mut || true)
}

const OUT: [&str; 4] = ["a.safetensors", "a.npy", "a.parquet", "a.csv"];

#[test]
fn every_format_holds_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    photos(&folder.path().join("photos"))?;
    embed(&Arguments { normalize: true, ..arguments(folder.path(), &OUT) }, &mut || true)?;
    assert!(!folder.path().join("a.safetensors.parts").exists());
    let (rows, about) = Rows::open(&folder.path().join(OUT[0]))?;
    let names: Vec<String> =
        ["even/0", "even/2", "even/4", "odd/1", "odd/3"].map(|name| format!("{name}, \"a\".png")).into();
    assert_eq!((&rows.names, &rows.labels), (&names, &vec![0, 0, 0, 1, 1]));
    assert_eq!(
        (rows.dim, about.classes.clone(), about.normalized),
        (32, vec!["even".into(), "odd".into()], true)
    );
    let norm = rows.row(2).iter().map(|x| x * x).sum::<f32>();
    assert!((norm - 1.0).abs() < 1e-5 && rows.row(0) != rows.row(1), "{norm}");

    let npy = candle_core::Tensor::read_npy(folder.path().join(OUT[1]))?;
    assert_eq!((npy.dims(), npy.flatten_all()?.to_vec1::<f32>()?), (&[5, 32][..], rows.data.clone()));

    let reader = SerializedFileReader::new(std::fs::File::open(folder.path().join(OUT[2]))?)?;
    for (i, row) in reader.get_row_iter(None)?.enumerate() {
        let row = row?;
        assert_eq!((row.get_string(0)?, row.get_long(1)?), (&names[i], rows.labels[i]));
        let list = row.get_list(2)?;
        let values: Vec<String> = list.elements().iter().map(|field| field.to_string()).collect();
        assert_eq!(values.len(), 32);
        assert_eq!(values[5].parse::<f32>()?, rows.row(i)[5]);
    }

    let text = std::fs::read_to_string(folder.path().join(OUT[3]))?;
    let first = text.lines().nth(1).unwrap_or_default();
    let numbers: Vec<f32> = first.split(',').skip(3).map(|x| Ok(x.parse()?)).collect::<Result<_>>()?;
    assert!(first.starts_with("\"even/0, \"\"a\"\".png\",0,"), "{first}");
    assert_eq!((numbers.as_slice(), text.lines().count()), (rows.row(0), 6));
    Ok(())
}

#[test]
fn an_interrupted_call_goes_on_to_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    photos(&folder.path().join("photos"))?;
    let whole = Arguments { workers: 0, ..arguments(folder.path(), &["whole.safetensors"]) };
    embed(&whole, &mut || true)?;
    // Stops within the second part.
    let again = arguments(folder.path(), &["again.safetensors"]);
    let mut left = 3;
    let stopped = embed(&again, &mut || {
        left -= 1;
        left > 0
    });
    let error = stopped.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("4 of 6 samples are kept"), "{error}");
    assert!(!folder.path().join("again.safetensors").exists());
    let mut calls = 0;
    embed(&again, &mut || {
        calls += 1;
        true
    })?;
    assert_eq!(calls, 2, "one batch and one unreadable image were left");
    let [whole, again] =
        ["whole.safetensors", "again.safetensors"].map(|name| std::fs::read(folder.path().join(name)));
    let whole = whole?;
    assert!(whole == again?, "not the same bytes");
    // Other weights do not take up parts of these.
    let mut left = 3;
    let other = arguments(folder.path(), &["other.safetensors"]);
    let _ = embed(&other, &mut || {
        left -= 1;
        left > 0
    });
    encoder(&folder.path().join("net"), 4)?;
    embed(&other, &mut || true)?;
    assert!(whole != std::fs::read(folder.path().join("other.safetensors"))?);
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    std::fs::create_dir(folder.path().join("photos"))?;
    std::fs::write(folder.path().join("photos/broken.jpg"), b"nothing")?;
    let message = |arguments: &Arguments| {
        embed(arguments, &mut || true).err().map(|e| format!("{e:#}")).unwrap_or_default()
    };
    let refused = message(&arguments(folder.path(), &["a.txt"]));
    assert!(refused.contains("a.txt") && refused.contains(".parquet"), "{refused}");
    let refused = message(&arguments(folder.path(), &["a.csv"]));
    assert!(refused.contains("no sample could be read"), "{refused}");
    let nowhere = Arguments { data: "no-such-set".into(), ..arguments(folder.path(), &["a.csv"]) };
    assert!(message(&nowhere).contains("no-such-set"), "{}", message(&nowhere));
    Ok(())
}

/// The embeddings of speech are the means of what the networks say of whole recordings.
#[test]
fn recordings_are_means_of_contexts() -> Result<()> {
    use contrastive_core::nn::Mode;
    use contrastive_core::train::Method;
    use contrastive_core::train::config::to_toml_string;
    use contrastive_cpc::audio::read_16k;
    use contrastive_cpc::speech::{SpeechCpc, recipe};

    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    std::fs::create_dir(&run)?;
    let config = recipe::preset("smoke")?;
    std::fs::write(run.join("config.toml"), to_toml_string(&config)?)?;
    let method = SpeechCpc::new(config.method.clone(), 5, &Device::Cpu)?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: method.name().into(),
        branch: "online".into(),
        backbone: config.method.backbone(),
        preprocessing: "none".into(),
        data: DataIdentity { name: "none".into(), fingerprint: "none".into() },
        licence: "CC0-1.0".into(),
        origin: None,
    };
    save_encoder(&run.join("encoder.safetensors"), &method.backbone(), &manifest)?;
    // A second of a tone, 16 bits in a WAV file, and one that is no sound.
    let samples: Vec<u8> =
        (0..16_000).flat_map(|i| ((8000.0 * (f64::from(i) * 0.1).sin()) as i16).to_le_bytes()).collect();
    let size = samples.len() as u32;
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + size).to_le_bytes());
    wav.extend(
        b"WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data",
    );
    wav.extend(size.to_le_bytes());
    wav.extend(samples);
    let sounds = folder.path().join("sounds");
    std::fs::create_dir(&sounds)?;
    std::fs::write(sounds.join("tone.wav"), wav)?;
    std::fs::write(sounds.join("broken.flac"), b"fLaC")?;
    let arguments = Arguments {
        run: Some(run),
        weights: None,
        data: sounds.to_string_lossy().into_owned(),
        ..arguments(folder.path(), &["a.safetensors"])
    };
    embed(&arguments, &mut || true)?;
    let (rows, about) = Rows::open(&folder.path().join("a.safetensors"))?;
    assert_eq!((rows.names.as_slice(), about.model.as_str()), (&["tone.wav".to_string()][..], "cpc-speech"));
    let samples = config.windows.scale.apply(&read_16k(&sounds.join("tone.wav"))?);
    let x = candle_core::Tensor::from_slice(&samples, (1, 1, samples.len()), &Device::Cpu)?;
    let mean = method.model().codes(&x, &Mode::eval())?.contexts.mean(1)?.flatten_all()?.to_vec1::<f32>()?;
    let error = mean.iter().zip(rows.row(0)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(mean.len() == rows.dim && error < 1e-5, "{error}");
    Ok(())
}
