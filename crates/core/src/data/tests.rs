//! Tests of the data module, by part.

mod bad_files;
mod decode;
#[cfg(feature = "hub")]
mod hub;
mod loader;
mod sources;

use std::path::PathBuf;

use crate::augment::Image;

/// A file of `tests/fixtures/data`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data").join(name)
}

/// A small RGB image whose pixels name `tag`, row and column.
fn tagged(width: usize, height: usize, tag: u8) -> Image {
    let pixels = (0..width * height).flat_map(|i| [tag, (i / width) as u8, (i % width) as u8]);
    Image::new(width, height, 3, pixels.collect()).expect("sides fit")
}

fn error_text<T>(result: crate::Result<T>) -> String {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "more than one line: {text}");
            text
        }
    }
}
