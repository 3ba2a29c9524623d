use std::path::{Path, PathBuf};

use contrastive_core::Result;
use contrastive_core::data::Source;

use super::*;
use crate::speech::phones::Folding;

fn ramp(count: usize) -> Vec<i16> {
    (0..count).map(|i| ((i as f64 * 0.05).sin() * 12_000.0) as i16).collect()
}

fn write_wav(path: &Path, rate: u32, channels: u16, samples: &[i16]) {
    std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).expect("writer");
    samples.iter().for_each(|x| writer.write_sample(*x).expect("sample"));
    writer.finalize().expect("file");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

#[test]
fn wav_channels_are_averaged() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.wav");
    let mono = ramp(500);
    let stereo: Vec<i16> = mono.iter().flat_map(|x| [*x, -x / 2]).collect();
    write_wav(&path, 16_000, 2, &stereo);
    let sound = read(&path)?;
    assert_eq!((sound.rate, sound.samples.len()), (16_000, 500));
    for (got, x) in sound.samples.iter().zip(&mono) {
        let expected = (f32::from(*x) + f32::from(-x / 2)) / 65_536.0;
        assert!((got - expected).abs() < 1e-6);
    }
    assert_eq!(read_16k(&path)?, sound.samples);
    Ok(())
}

/// 4096 samples at 16 kHz, by the reference encoder (`fixtures/make_flac.py`).
const FLAC: &[u8] = include_bytes!("../../tests/fixtures/ramp.flac");

#[test]
fn flac_is_lossless() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.flac");
    std::fs::write(&path, FLAC).expect("file");
    let sound = read(&path)?;
    assert_eq!((sound.rate, sound.samples.len()), (16_000, 4096));
    for (i, x) in sound.samples.iter().enumerate() {
        let expected = (i as i32 * 37 % 2000 - 1000) as f32 / 32_768.0;
        assert!((x - expected).abs() < 1e-7, "{i}: {x}, {expected}");
    }
    std::fs::write(&path, &FLAC[..FLAC.len() / 2]).expect("file");
    let broken = read(&path).map(|sound| sound.samples.len());
    assert!(broken.is_err() || broken.is_ok_and(|n| n < 4096));
    Ok(())
}

#[test]
fn sphere_has_both_byte_orders() -> Result<()> {
    let folder = folder();
    for (order, bytes) in [("01", i16::to_le_bytes as fn(i16) -> [u8; 2]), ("10", i16::to_be_bytes)] {
        let mut file = format!(
            "NIST_1A\n   1024\nchannel_count -i 1\nsample_rate -i 16000\nsample_n_bytes -i 2\n\
             sample_byte_format -s2 {order}\nsample_coding -s3 pcm\nend_head\n"
        )
        .into_bytes();
        file.resize(1024, b' ');
        ramp(300).iter().for_each(|x| file.extend(bytes(*x)));
        let path = folder.path().join(format!("{order}.wav"));
        std::fs::write(&path, &file).expect("file");
        let sound = read(&path)?;
        assert_eq!((sound.rate, sound.samples.len()), (16_000, 300));
        assert_eq!(sound.samples[7], f32::from(ramp(8)[7]) / 32_768.0);
        let shortened = String::from_utf8_lossy(&file[..1024]).replace("pcm", "ulaw").into_bytes();
        std::fs::write(&path, shortened).expect("file");
        assert!(read(&path).expect_err("refused").to_string().contains("ulaw"));
    }
    Ok(())
}

/// A tone stays the same tone, in time to one sample: rubato knows its delay in whole samples only.
#[test]
fn other_rates_are_resampled() -> Result<()> {
    let angle = |i: usize, rate: u32| std::f64::consts::TAU * 440.0 * i as f64 / f64::from(rate);
    for from in [8_000u32, 22_050, 44_100, 48_000] {
        let tone: Vec<f32> = (0..from as usize / 2).map(|i| (0.5 * angle(i, from).sin()) as f32).collect();
        let got = resample(&tone, from, 16_000)?;
        assert!((got.len() as i64 - 8_000).abs() <= 2, "{from}: {}", got.len());
        // Sine and cosine parts over whole periods.
        let inner = 800..7_200;
        let part = |f: fn(f64) -> f64| {
            let sum: f64 = inner.clone().map(|i| f64::from(got[i]) * f(angle(i, 16_000))).sum();
            2.0 * sum / inner.len() as f64
        };
        let (sine, cosine) = (part(f64::sin), part(f64::cos));
        let late = cosine.atan2(sine) / angle(1, 16_000);
        assert!((sine.hypot(cosine) - 0.5).abs() < 1e-3 && late.abs() < 1.1, "{from}: {sine} {cosine}");
        let rest = |i: usize| {
            let fitted = sine * angle(i, 16_000).sin() + cosine * angle(i, 16_000).cos();
            (f64::from(got[i]) - fitted).abs()
        };
        let worst = inner.clone().map(rest).fold(0f64, f64::max);
        assert!(worst < 2e-3, "{from}: {worst}");
        assert_eq!(got, resample(&tone, from, 16_000)?);
    }
    Ok(())
}

#[test]
fn files_that_are_no_sound_are_named() {
    let folder = folder();
    for (name, bytes) in
        [("text.wav", &b"hello world"[..]), ("empty.flac", b""), ("cut.wav", b"RIFF\0\0\0\0WAVE")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("file");
        let error = read(&path).expect_err("refused").to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
    }
}

fn at(folder: &tempfile::TempDir, path: &str) -> PathBuf {
    folder.path().join(path)
}

#[test]
fn layouts_are_found() -> Result<()> {
    let libri = folder();
    for path in
        ["train/84/121123/84-121123-0000.wav", "train/84/121550/84-121550-0000.wav", "train/26/5/26-5-0.wav"]
    {
        write_wav(&at(&libri, path), 16_000, 1, &ramp(400));
    }
    let corpus = Corpus::open(libri.path())?;
    assert_eq!((corpus.layout(), corpus.len()), (Layout::LibriSpeech, 3));
    assert_eq!(corpus.speakers(), ["26", "84"]);
    let loaded = corpus.load(LoadOptions::default())?;
    assert_eq!(loaded.speaker_of_each(), [0, 1, 1]);
    assert_eq!(corpus.load(LoadOptions { most: Some(2), ..LoadOptions::default() })?.len(), 2);

    let timit = folder();
    for path in ["TRAIN/DR1/FCJF0/SA1.WAV", "dr2-mabc0/sx3.wav"] {
        write_wav(&at(&timit, path), 16_000, 1, &ramp(400));
        let alignment = at(&timit, path).with_extension(if path.starts_with('T') { "PHN" } else { "phn" });
        std::fs::write(alignment, "0 100 h#\n100 400 iy\n").expect("file");
    }
    let corpus = Corpus::open(timit.path());
    // One of the two has its alignment in lower case, which is enough to know the layout.
    let loaded = corpus?.load(LoadOptions { folding: Folding::LeeHon39, most: None })?;
    assert_eq!(loaded.speakers(), ["dr1-fcjf0", "dr2-mabc0"]);
    assert!(loaded.all().iter().all(|r| r.phone(50) == Some(30) && r.phone(200) == Some(17)));

    let digits = folder();
    write_wav(&at(&digits, "set/01/a.wav"), 8_000, 1, &ramp(4000));
    let header = "path,digit,speaker\n";
    std::fs::write(at(&digits, "set/labels.csv"), format!("{header}set/01/a.wav,7,01\n")).expect("file");
    let loaded = Corpus::open(at(&digits, "set"))?.load(LoadOptions::default())?;
    assert_eq!((loaded.all()[0].word, loaded.speakers()), (Some(7), &["01".to_string()][..]));
    assert!((loaded.all()[0].samples.len() as i64 - 8_000).abs() <= 2);
    for (row, expected) in [
        ("x.wav,7,01", "no file `x.wav`"),
        ("set/01/a.wav,7", "2 fields for 3"),
        ("set/01/a.wav,z,1", "`z` is no digit"),
    ] {
        std::fs::write(at(&digits, "set/labels.csv"), format!("{header}{row}\n")).expect("file");
        let error = Corpus::open(at(&digits, "set")).expect_err("refused").to_string();
        assert!(error.contains("line 2") && error.contains(expected), "{error}");
    }
    assert!(Corpus::open(at(&digits, "set/01")).is_err());
    Ok(())
}
