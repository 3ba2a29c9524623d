//! Every kind of bad input gives one line that names it.

use std::fs;

use super::super::{ImageFolder, LoaderOptions, Source, Split, open};
use super::loader::{Pixels, options};
use super::{error_text, fixture};
use crate::data::{Batches, Loader};

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("write");
    }
    folder
}

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture("decode").join(name)).expect("fixture")
}

#[test]
fn folders_without_images() {
    let empty = folder_with(&[]);
    let text = error_text(ImageFolder::open(empty.path()));
    assert!(
        text.ends_with("the folder is empty") && text.contains(&*empty.path().to_string_lossy()),
        "{text}"
    );
    let text = error_text(ImageFolder::open(folder_with(&[("a.txt", b"x"), ("b.gif", b"x")]).path()));
    assert!(text.ends_with("no JPEG, PNG or WebP images in the folder (2 other files)"), "{text}");
    assert!(
        error_text(ImageFolder::open("does/not/exist")).contains("does/not/exist: the folder does not exist")
    );
    assert!(error_text(open("does/not/exist", Split::Train)).contains("does not exist"));
    let file = fixture("decode/rgb.png");
    assert!(error_text(ImageFolder::open(&file)).contains("not a folder"));
    assert!(error_text(open(&file, Split::Train)).contains("not a folder and not a parquet file"));
}

#[test]
fn one_image_is_a_source() {
    let folder = folder_with(&[("only.png", &read("rgb16.png"))]);
    let set = ImageFolder::open(folder.path()).expect("folder");
    assert_eq!((set.len(), set.classes()), (1, 0));
    assert_eq!(set.sample(0).expect("image").channels, 3);
    assert!(error_text(set.sample(1)).contains("index 1 is out of range for 1 samples"));
    let loader = Loader::new(set, Pixels, options(1, 0)).expect("loader");
    assert_eq!(loader.epoch(0, 0).count(), 1);
}

#[test]
fn bad_files_name_themselves() {
    let jpeg = read("sharp.jpg");
    let mut one_pixel = Vec::new();
    image::DynamicImage::new_rgb8(1, 1)
        .write_to(&mut std::io::Cursor::new(&mut one_pixel), image::ImageFormat::Png)
        .expect("encoded");
    let folder = folder_with(&[
        ("cut.jpg", &jpeg[..jpeg.len() / 2]),
        ("good.jpg", &jpeg),
        ("gray16.png", &read("gray16.png")),
        ("one.png", &one_pixel),
        ("palette.png", &read("palette.png")),
        ("text.png", b"this is no image"),
        ("zero.png", b""),
    ]);
    let set = ImageFolder::open(folder.path()).expect("folder");
    for (index, name, reason) in [
        (0, "cut.jpg", "truncated JPEG"),
        (5, "text.png", "not a JPEG, PNG or WebP"),
        (6, "zero.png", "empty"),
    ] {
        let text = error_text(set.sample(index));
        assert!(text.contains(name) && text.contains(reason), "{text}");
    }
    let one = set.sample(3).expect("one pixel");
    assert_eq!((one.width, one.height, one.data.len()), (1, 1, 3));
    for index in [1, 2, 4] {
        assert_eq!(set.sample(index).expect("image").data.len(), 24 * 16 * 3);
    }
}

#[cfg(unix)]
#[test]
fn unreadable_entries_are_io_errors() {
    let folder = folder_with(&[("good.png", &read("rgb.png"))]);
    // A dangling link cannot be read, whoever runs the test.
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.png")).expect("link");
    let set = ImageFolder::open(folder.path()).expect("folder");
    let error = set.sample(0).expect_err("dangling");
    assert!(matches!(error, crate::Error::Io { .. }) && error.to_string().contains("dangling.png"));
    assert_eq!(set.fingerprint(), ImageFolder::open(folder.path()).expect("again").fingerprint());

    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("link");
    let text = error_text(ImageFolder::open(folder.path()));
    assert!(text.contains("deeper than 32 levels"), "{text}");
}

#[test]
fn loaders_replace_and_report_bad_files() {
    let good = read("sharp.jpg");
    let folder = folder_with(&[
        ("a.jpg", &good),
        ("b.jpg", &good[..200]),
        ("c.jpg", b""),
        ("d.jpg", &good),
        ("e.jpg", &good),
    ]);
    let mut seen = Vec::new();
    for workers in [0, 3] {
        let set = ImageFolder::open(folder.path()).expect("folder");
        let options = LoaderOptions { shuffle: false, workers, ..options(5, 0) };
        let loader = Loader::new(set, Pixels, options).expect("loader");
        for epoch in 0..2 {
            let batches: Vec<_> = loader.epoch(epoch, 0).collect::<Result<_, _>>().expect("batches");
            assert_eq!(batches[0].indices, [0, 3, 3, 3, 4]);
        }
        assert_eq!(loader.skipped().count(), 2);
        seen.push(loader.skipped().list());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!((seen[0][0].0.as_str(), seen[0][1].0.as_str()), ("b.jpg", "c.jpg"));
    assert!(seen[0][1].1.contains("c.jpg: the file is empty"), "{:?}", seen[0]);

    let all_bad = folder_with(&[("a.png", b""), ("b.png", b"x")]);
    for workers in [0, 2] {
        let set = ImageFolder::open(all_bad.path()).expect("folder");
        let loader = Loader::new(set, Pixels, LoaderOptions { workers, ..options(1, 0) }).expect("loader");
        let results: Vec<_> = loader.epoch(0, 0).collect();
        assert_eq!(results.len(), 1, "the epoch ends with the error");
        let text = error_text(results.into_iter().next().expect("one"));
        assert!(text.contains("none of the 2 samples can be used; a.png"), "{text}");
    }
}
