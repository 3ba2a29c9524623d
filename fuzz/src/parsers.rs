//! Every parser of files from elsewhere, under one name each. The fuzz targets call them, and so does a plain test over
//! the corpus and changed copies of it.

#![allow(clippy::expect_used, clippy::unreachable)]

use std::path::Path;

use contrastive_core::data::decode::decode;
use contrastive_core::data::{ParquetImages, Source, open_parquet};
use contrastive_core::weights::tensorflow::Bundle;
use contrastive_core::weights::torch::Checkpoint;
use contrastive_core::weights::{self, Hints, Pretrained};
use contrastive_cpc::audio;

/// The parsers, which are the folders of the corpus too.
#[allow(dead_code)]
pub const NAMES: [&str; 8] =
    ["safetensors", "torch", "tensorflow", "pretrained", "settings", "image", "parquet", "sound"];

/// Reads bytes as a file of that kind: whether it was one. Whatever they are, the answer is a value or an error of one
/// line that names the file.
pub fn read(parser: &str, bytes: &[u8], folder: &Path) -> bool {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("scratch");
        path
    };
    let told = |result: Result<(), contrastive_core::Error>, name: &str| match result {
        Ok(()) => true,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(name), "the error does not name {name}: {text}");
            assert!(!text.contains('\n'), "more than one line: {text}");
            false
        }
    };
    match parser {
        "safetensors" => {
            let path = file("x.safetensors");
            told(weights::load(&path).map(drop), "x.safetensors")
        }
        "torch" => {
            let path = file("x.pth");
            let all = |mut checkpoint: Checkpoint| {
                let tables: Vec<_> = checkpoint.tables().values().cloned().collect();
                for table in tables {
                    checkpoint.check_size(table.values())?;
                    for stored in table.values() {
                        // Numbers of types that Candle has not are an error of their own.
                        let _ = checkpoint.read(stored);
                    }
                }
                Ok(())
            };
            told(Checkpoint::open(&path).and_then(all), "x.pth")
        }
        "tensorflow" => {
            let path = file("x.index");
            file("x.data-00000-of-00001");
            let all = |bundle: Bundle| {
                // The index stands for the data too: most tensors lie beyond its end.
                bundle.variables().keys().for_each(|name| drop(bundle.read(name)));
            };
            told(Bundle::open(&path).map(all), "x.index")
        }
        "pretrained" => {
            let path = file("model.safetensors");
            let hints = Hints { heads: Some(1), ..Hints::default() };
            let finite = |read: Pretrained| {
                for (name, tensor) in &read.tensors {
                    let sum = tensor.to_dtype(candle_core::DType::F64)?.abs()?.sum_all()?;
                    assert!(sum.to_scalar::<f64>()?.is_finite(), "{name} is not finite");
                }
                Ok(())
            };
            told(Pretrained::open(&path, hints).and_then(finite), "model.safetensors")
        }
        "settings" => {
            // The weights are sound; what stands beside them may be anything.
            let weights = folder.join("model.safetensors");
            std::fs::write(&weights, WEIGHTS).expect("scratch");
            let all = ["config.json", "preprocessor_config.json"].map(file);
            let read = Pretrained::open(folder, Hints::default());
            all.iter().for_each(|path| std::fs::remove_file(path).expect("scratch"));
            told(read.map(drop), ".")
        }
        "image" => told(decode(bytes, Path::new("x.img")).map(drop), "x.img"),
        "parquet" => {
            let path = file("x.parquet");
            let lazy = ParquetImages::open("set", vec![path.clone()], None).map(|images| {
                (0..images.len().min(64)).for_each(|i| drop(images.sample(i)));
            });
            let lazy = lazy.is_ok();
            told(open_parquet("x.parquet", &[path], None).map(drop), "x.parquet") || lazy
        }
        "sound" => {
            let path = file("x.wav");
            told(audio::read_16k(&path).map(drop), "x.wav")
        }
        other => unreachable!("no parser {other}"),
    }
}

/// A vision transformer of one block.
const WEIGHTS: &[u8] = include_bytes!("../corpus/pretrained/vit.safetensors");

/// [`read`] in a folder of its own.
#[allow(dead_code)]
pub fn fuzz(parser: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("scratch");
    read(parser, bytes, folder.path());
}
