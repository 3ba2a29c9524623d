//! The image every operation works on.

use crate::{Error, Result};

/// An 8-bit image, interleaved rows (`[H, W, C]`), as Pillow holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// `height * width * channels` bytes.
    pub data: Vec<u8>,
}

impl Image {
    /// Wraps a buffer.
    ///
    /// # Errors
    /// A side of 0, a channel count other than 1 or 3, or a buffer of another length.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let fits =
            width > 0 && height > 0 && matches!(channels, 1 | 3) && data.len() == width * height * channels;
        if !fits {
            return Err(Error::shape(
                "image",
                format!("[H, W, 1 or 3] with {} bytes", data.len()),
                &[height, width, channels],
            ));
        }
        Ok(Self { width, height, channels, data })
    }

    /// The image with three channels (gray is copied to all).
    pub fn to_rgb(&self) -> Self {
        if self.channels == 3 {
            return self.clone();
        }
        let data = self.data.iter().flat_map(|&v| [v, v, v]).collect();
        Self { channels: 3, data, ..*self }
    }
}
