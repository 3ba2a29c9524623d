use std::fs;

use super::super::decode::decode;
use super::{error_text, fixture};

#[test]
fn every_kind_of_file_matches_pillow() {
    let index = fs::read_to_string(fixture("decode/index.txt")).expect("index");
    let expected = fs::read(fixture("decode/expected.bin")).expect("pixels");
    let mut at = 0;
    for line in index.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let numbers: Vec<usize> = parts[1..].iter().map(|n| n.parse().expect("number")).collect();
        let (width, height, tolerance) = (numbers[0], numbers[1], numbers[2] as u8);
        let path = fixture("decode").join(parts[0]);
        let image = decode(&fs::read(&path).expect("file"), &path).expect(parts[0]);
        let gray = parts[0].contains("gray") || parts[0] == "one_bit.png";
        assert_eq!(image.channels, if gray { 1 } else { 3 }, "{}", parts[0]);
        let image = image.to_rgb();
        assert_eq!((image.width, image.height), (width, height), "{}", parts[0]);
        let wanted = &expected[at..at + image.data.len()];
        let worst = image.data.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
        assert!(worst <= tolerance, "{}: off by {worst}", parts[0]);
        at += image.data.len();
    }
    assert_eq!(at, expected.len());
}

#[test]
fn every_truncation_is_an_error() {
    for name in ["rgb.png", "sharp.jpg", "progressive.jpg", "lossless.webp"] {
        let path = fixture("decode").join(name);
        let bytes = fs::read(&path).expect("file");
        for len in (0..bytes.len() - 12).step_by(7) {
            let text = error_text(decode(&bytes[..len], &path));
            assert!(text.contains(name), "{text}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    for name in ["rgb.png", "subsampled.jpg", "alpha.webp"] {
        let path = fixture("decode").join(name);
        let bytes = fs::read(&path).expect("file");
        for at in 0..bytes.len() {
            let mut hostile = bytes.clone();
            hostile[at] ^= 0xff;
            // Either a picture or an error.
            let _ = decode(&hostile, &path);
        }
    }
}

#[test]
fn huge_sides_are_refused_before_allocation() {
    let mut bytes = fs::read(fixture("decode/rgb.png")).expect("file");
    // The width in IHDR; the chunk's CRC becomes wrong as well, either is refused.
    bytes[16..20].copy_from_slice(&1_000_000_u32.to_be_bytes());
    error_text(decode(&bytes, &fixture("decode/rgb.png")));
    let mut jpeg = fs::read(fixture("decode/sharp.jpg")).expect("file");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).expect("frame header");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let text = error_text(decode(&jpeg, &fixture("decode/sharp.jpg")));
    assert!(text.contains("sharp.jpg"), "{text}");
}
