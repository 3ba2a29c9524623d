//! The program as a person meets it: what it prints, and what it says to bad input.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use common::{Place, pictures, refuses, train, xtask};

#[test]
fn settings_are_checked_by_name() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    pictures(Path::new(&data), &["a.png", "b.png", "c.png", "d.png"])?;
    let cases = [
        ("train.epoch=3", vec!["train.epoch", "train.epochs"]),
        ("method.temperature=0", vec!["method.temperature"]),
        ("optim.lr=-1", vec!["optim.lr"]),
        ("train.epochs=many", vec!["train.epochs"]),
        ("train.epochs=9223372036854775807", vec!["train.epochs"]),
        ("method.backbone.depth=17", vec!["method.backbone.depth"]),
    ];
    for (set, words) in cases {
        refuses(&train(&data, &run, &["--set", set]), &words)?;
    }
    // Another optimiser brings its own keys.
    let adam = ["train", "simclr", "--print-config", "smoke", "--set", "optim.optimizer.kind=adamw"];
    let output = xtask(&[&adam[..], &["--set", "optim.optimizer.eps=1e-6"]].concat())?;
    assert!(String::from_utf8_lossy(&output.stdout).contains("betas"), "{output:?}");
    let file = place.path("settings.toml");
    std::fs::write(&file, "[train]\nepochs = 1\nbatchsize = 2\n")?;
    refuses(&train(&data, &run, &["--config", &file]), &["settings.toml", "train.batchsize"])?;
    refuses(&train(&data, &run, &["--device", "gpu"]), &["`gpu`", "cuda:N"])?;
    refuses(&train(&data, &run, &["--device", "cuda:x"]), &["`cuda:x`"])?;
    refuses(&["train", "nonsense", "--print-config", "smoke"], &["nonsense", "simclr"])?;
    refuses(&["train", "simclr", "--print-config", "nonsense"], &["nonsense", "imagenet"])?;
    assert!(!Path::new(&run).exists(), "a refused run left something behind");
    Ok(())
}

#[test]
fn presets_print_in_full() -> Result<()> {
    let list = xtask(&["train", "simclr", "--print-config"])?;
    assert!(list.status.success());
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let output = xtask(&["train", "simclr", "--print-config", name])?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("temperature"), "{name}: {text}");
    }
    Ok(())
}

#[test]
fn data_that_cannot_be_trained_on_is_named() -> Result<()> {
    let place = Place::new()?;
    let run = place.path("run");
    refuses(&train(&place.path("absent"), &run, &[]), &["absent"])?;
    let empty = place.path("empty");
    std::fs::create_dir(&empty)?;
    refuses(&train(&empty, &run, &[]), &["empty"])?;
    let one = place.path("one");
    pictures(Path::new(&one), &["only.png"])?;
    refuses(&train(&one, &run, &[]), &["one", "4"])?;
    refuses(&["reproduce", "--tier", "paper", "--out", &place.path("out")], &["ImageNet"])?;
    let rows = std::fs::read_to_string(place.path("out") + "/paper/results.json")?;
    assert!(rows.contains("\"value\": null") && rows.contains("ImageNet"), "{rows}");
    Ok(())
}

#[test]
fn damaged_pictures_are_skipped_and_named() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    pictures(Path::new(&data), &["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png", "h.png"])?;
    std::fs::write(place.path("data/zero.png"), b"")?;
    let whole = std::fs::read(place.path("data/a.png"))?;
    std::fs::write(place.path("data/cut.png"), &whole[..whole.len() / 2])?;
    image::RgbImage::new(1, 1).save(place.path("data/dot.png"))?;
    let deep =
        image::ImageBuffer::<image::Luma<u16>, _>::from_fn(8, 8, |x, y| image::Luma([(x * y * 900) as u16]));
    deep.save(place.path("data/deep.png"))?;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/core/tests/fixtures/data/decode");
    std::fs::copy(fixtures.join("palette.png"), place.path("data/palette.png"))?;
    let output = xtask(&train(&data, &run, &[]))?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("zero.png") && text.contains("cut.png"), "{text}");
    assert!(text.contains("(2 so far)") && !text.contains("(3 so far)"), "{text}");
    for good in ["dot.png", "deep.png", "palette.png"] {
        assert!(!text.contains(good), "{text}");
    }
    assert!(Path::new(&place.path("run/encoder.safetensors")).is_file());
    Ok(())
}

#[test]
fn runs_do_not_overwrite_each_other() -> Result<()> {
    let place = Place::new()?;
    let (data, run) = (place.path("data"), place.path("run"));
    let names: Vec<String> = (0..16)
        .map(|i| format!("{}/{}/{i}.png", if i % 2 == 0 { "train" } else { "test" }, i % 4 / 2))
        .collect();
    pictures(Path::new(&data), &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let first = xtask(&train(&data, &run, &[]))?;
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let encoder = place.path("run/encoder.safetensors");
    let bytes = std::fs::read(&encoder)?;
    refuses(&train(&data, &run, &[]), &["run"])?;
    refuses(&train(&data, &run, &["--resume", "--set", "optim.lr=0.5"]), &["optim.lr"])?;
    // A finished run resumed has nothing to do.
    assert!(xtask(&train(&data, &run, &["--resume"]))?.status.success());
    assert!(std::fs::read(&encoder)? == bytes);

    // Photographs of any size, with the preset that a person gets who names none.
    let (photos, own) = (place.path("photos"), place.path("own"));
    pictures(Path::new(&photos), &["train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"])?;
    image::RgbImage::from_fn(50, 70, |x, y| image::Rgb([x as u8, y as u8, 9]))
        .save(place.path("photos/train/a/5.png"))?;
    let thin = ["train.epochs=1", "train.batch_size=2", "method.backbone.base_width=4"];
    let thin = thin.iter().flat_map(|set| ["--set", set]);
    let call: Vec<&str> =
        ["train", "simclr", "--data", &photos, "--run", &own].into_iter().chain(thin).collect();
    for call in [&call[..], &["eval", "--run", &own, "--data", &photos]] {
        let output = xtask(call)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    // Damaged and foreign encoders.
    let eval = ["eval", "--run", &run, "--data", &data, "--protocol", "knn-k20-t0.07-v1"];
    let good = xtask(&eval)?;
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    std::fs::write(&encoder, &bytes[..bytes.len() / 2])?;
    refuses(&eval, &["encoder.safetensors"])?;
    let mut hostile = bytes.clone();
    hostile[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&encoder, &hostile)?;
    refuses(&eval, &["encoder.safetensors"])?;
    let settings = place.path("run/config.toml");
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(&settings, text.replace("base_width = 4", "base_width = 8"))?;
    std::fs::write(&encoder, &bytes)?;
    refuses(&eval, &["encoder.safetensors", "conv1.weight"])?;
    refuses(&["eval", "--run", &run, "--data", &data, "--protocol", "knn"], &["knn-k200-t0.1-v1"])?;

    // A run folder that cannot be made.
    let file = place.path("file");
    std::fs::write(&file, b"")?;
    refuses(&train(&data, &(file.clone() + "/run"), &[]), &["file"])?;
    Ok(())
}

/// The newest checkpoint and the encoder.
fn final_bytes(run: &str) -> Result<[Vec<u8>; 2]> {
    let folder = Path::new(run).join("checkpoints");
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let newest = names.last().ok_or_else(|| anyhow::anyhow!("{run} has no checkpoint"))?;
    Ok([std::fs::read(newest)?, std::fs::read(Path::new(run).join("encoder.safetensors"))?])
}

/// A child that is ended by `signal` once it has written a checkpoint.
fn interrupted(arguments: &[&str], run: &str, signal: &str) -> Result<std::process::ExitStatus> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).spawn()?;
    let folder = Path::new(run).join("checkpoints");
    let started = std::time::Instant::now();
    while started.elapsed().as_secs() < 60 && child.try_wait()?.is_none() {
        let written = std::fs::read_dir(&folder).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "safetensors")))
        });
        if written {
            Command::new("kill").args([signal, &child.id().to_string()]).status()?;
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(child.wait()?)
}

#[test]
#[cfg(unix)]
fn a_killed_run_resumes_to_the_same_bytes_with_any_number_of_workers() -> Result<()> {
    let place = Place::new()?;
    let data = place.path("data");
    let names: Vec<String> = (0..24).map(|i| format!("{i}.png")).collect();
    pictures(Path::new(&data), &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let each = ["--set", "train.epochs=10", "--set", "train.checkpoint_every_steps=1"];
    let straight = place.path("straight");
    assert!(xtask(&train(&data, &straight, &each))?.status.success());
    let expected = final_bytes(&straight)?;
    for (workers, signal) in [("1", "-KILL"), ("2", "-KILL"), ("4", "-KILL"), ("2", "-TERM")] {
        let run = place.path(&format!("run{workers}{signal}"));
        let more = [&each[..], &["--workers", workers]].concat();
        let status = interrupted(&train(&data, &run, &more), &run, signal)?;
        assert!(!status.success(), "{signal} came too late");
        if signal == "-TERM" {
            assert_eq!(status.code(), Some(130));
        }
        let resumed = xtask(&train(&data, &run, &[&more[..], &["--resume"]].concat()))?;
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        assert!(final_bytes(&run)? == expected, "{workers} workers, {signal}");
    }
    Ok(())
}

#[test]
fn what_cpc_cannot_run_is_named() -> Result<()> {
    let place = Place::new()?;
    let out = place.path("out");
    let small = |part, data: &str| -> Vec<String> {
        ["reproduce", part, "--tier", "small", "--out", &out, "--data", data].map(String::from).into()
    };
    let refused = |call: Vec<String>, words: &[&str]| {
        refuses(&call.iter().map(String::as_str).collect::<Vec<_>>(), words)
    };
    refused(small("cpc-speech", &place.path("absent")), &["absent"])?;
    let data = place.path("data");
    std::fs::create_dir_all(place.path("data/digits"))?;
    refused(small("cpc", &data), &["data", "labels.csv", "books_sentences.txt"])?;
    std::fs::write(place.path("data/digits/labels.csv"), "path,speaker\nd/a.wav,one\n")?;
    refused(small("cpc-speech", &data), &["labels.csv", "line 2", "d/a.wav"])?;
    std::fs::create_dir_all(place.path("data/digits/d"))?;
    std::fs::write(place.path("data/digits/d/a.wav"), "RIFF and nothing else")?;
    refused(small("cpc-speech", &data), &["a.wav"])?;
    refused(small("cpc-negatives", &data), &["data", "TIMIT"])?;
    refused(small("cpc-text", &data), &["data", "books_sentences.txt", "MR.tsv"])?;
    std::fs::write(place.path("data/books_sentences.txt"), "One sentence.\n")?;
    std::fs::write(place.path("data/CR.tsv"), "nothing")?;
    refused(small("cpc-text", &data), &["CR.tsv", "line 1"])?;
    refuses(&["reproduce", "cpc-text", "--data", &data], &["--tier small"])?;
    refuses(&["reproduce", "cpc-negatives"], &["TIMIT"])?;
    refuses(&["reproduce", "cpc-speech", "--tier", "paper"], &["paper", "LibriSpeech"])?;
    refuses(&["reproduce", "cpc", "simclr", "--tier", "small", "--data", &data], &["simclr", "cpc-speech"])?;
    refuses(&["reproduce", "cpc-sounds"], &["cpc-sounds", "cpc-speech"])?;
    let set = ["reproduce", "cpc-text", "--out", &out, "--set", "method.steps=9"];
    refuses(&set, &["method.steps"])?;
    assert!(!Path::new(&out).join("small/cpc.json").exists(), "a refused call left rows behind");
    Ok(())
}

#[test]
fn cpc_leaves_rows_and_figures() -> Result<()> {
    let place = Place::new()?;
    let out = place.path("out");
    let one = ["--out", &out, "--set", "train.epochs=1"];
    for (part, words) in [
        ("cpc-speech", vec!["librispeech-6", "mfcc", "supervised", "speakers-linear-v1"]),
        ("cpc-text", vec!["dialogue", "bag of words", "sentences-logistic-v1"]),
    ] {
        let output = xtask(&[&["reproduce", part][..], &one].concat())?;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = std::fs::read_to_string(Path::new(&out).join("smoke/cpc.json"))?;
        for word in words {
            assert!(text.contains(word) && rows.contains(word), "{word}: {text}");
        }
    }
    let figure = std::fs::read_to_string(Path::new(&out).join("smoke/cpc-speakers-smoke.svg"))?;
    assert!(figure.contains("librispeech-6"), "{figure}");
    Ok(())
}
