//! Encoded bytes to [`Image`], as Pillow's `Image.open(..).convert("RGB")` (or `"L"` for gray) gives them.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use crate::augment::Image;
use crate::{Error, Result};

/// Longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 1 << 15;
/// Most bytes a decoder may allocate for one image.
pub const MAX_ALLOC: u64 = 1 << 29;

/// Decodes a JPEG, PNG or WebP file held in memory. The format is read from the bytes, not from a name.
///
/// - Gray stays one channel; everything else becomes RGB (palettes are looked up, CMYK is converted).
/// - Alpha is dropped, not blended, as Pillow's `convert("RGB")` does.
/// - 16-bit channels keep their high byte (`v >> 8`). Pillow does the same for 16-bit RGB; its 16-bit gray clips to
///   255 instead, which turns nearly every such picture white.
/// - The EXIF orientation is not applied, as in torchvision's `ImageFolder`.
/// - Sides above [`MAX_SIDE`] and images above [`MAX_ALLOC`] bytes are refused.
/// - A JPEG without its end marker is refused as truncated (its decoder would fill the missing rows with gray).
///
/// PNG and lossless WebP give Pillow's bytes exactly; JPEG decoders differ by a few levels in their inverse transform
/// and chroma upsampling.
///
/// # Errors
/// [`Error::Format`] with `path` (any name will do) for empty, truncated, corrupt or foreign bytes.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Image> {
    if bytes.is_empty() {
        return Err(Error::format(path, "the file is empty"));
    }
    let format =
        image::guess_format(bytes).map_err(|_| Error::format(path, "not a JPEG, PNG or WebP image"))?;
    if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) {
        return Err(Error::format(
            path,
            format!("{format:?} images are not supported: use JPEG, PNG or WebP"),
        ));
    }
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(Error::format(path, "truncated JPEG: no end-of-image marker"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    // A hostile file may hit a bug in a decoder; one bad sample must not end a run.
    let decoded = catch_unwind(AssertUnwindSafe(|| reader.decode()))
        .map_err(|_| Error::format(path, format!("the {format:?} decoder failed on this file")))?
        .map_err(|e| Error::format(path, e))?;
    to_image(decoded).map_err(|e| Error::format(path, e))
}

fn to_image(decoded: DynamicImage) -> Result<Image> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let high = |v: u16| (v >> 8) as u8;
    let (channels, data) = match decoded {
        DynamicImage::ImageLuma8(b) => (1, b.into_raw()),
        DynamicImage::ImageRgb8(b) => (3, b.into_raw()),
        DynamicImage::ImageLumaA8(b) => (1, keep(&b.into_raw(), 2, 1, |v| v)),
        DynamicImage::ImageRgba8(b) => (3, keep(&b.into_raw(), 4, 3, |v| v)),
        DynamicImage::ImageLuma16(b) => (1, keep(&b.into_raw(), 1, 1, high)),
        DynamicImage::ImageLumaA16(b) => (1, keep(&b.into_raw(), 2, 1, high)),
        DynamicImage::ImageRgb16(b) => (3, keep(&b.into_raw(), 3, 3, high)),
        DynamicImage::ImageRgba16(b) => (3, keep(&b.into_raw(), 4, 3, high)),
        other => (3, other.into_rgb8().into_raw()),
    };
    Image::new(width, height, channels, data)
}

/// The first `wanted` of every `stride` values.
fn keep<V: Copy>(values: &[V], stride: usize, wanted: usize, to_byte: impl Fn(V) -> u8) -> Vec<u8> {
    values.chunks_exact(stride).flat_map(|pixel| pixel[..wanted].iter().map(|&v| to_byte(v))).collect()
}

/// Whether the marker structure of a JPEG runs to its end-of-image marker. Segments are skipped by their length, so
/// that the end marker of a thumbnail inside them does not count.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[lead, marker]) = bytes.get(at..at + 2) {
        match (lead, marker) {
            (0xff, 0xd9) => return true,
            // Fill bytes before a marker.
            (0xff, 0xff) => at += 1,
            // Restart markers, stuffed zeros and the standalone TEM carry no length.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            // Entropy-coded data.
            _ => at += 1,
        }
    }
    false
}
