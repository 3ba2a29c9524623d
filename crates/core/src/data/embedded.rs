//! Two small data sets compiled into the library, for demos and tests without a download.
//!
//! Sources, licences and the changes made to them stand in `assets/README.md` of this crate.

use std::path::Path;

use crate::augment::Image;
use crate::{Error, Result};

use super::decode::decode;
use super::{InMemory, Split};

struct Sprite {
    name: &'static str,
    file: &'static str,
    bytes: &'static [u8],
    labels: &'static str,
    side: usize,
    columns: usize,
    train: usize,
}

const SIGN_DIGITS: Sprite = Sprite {
    name: "sign-digits",
    file: "sign_digits_32px_sprite.jpg",
    bytes: include_bytes!("../../assets/sign_digits_32px_sprite.jpg"),
    labels: include_str!("../../assets/sign_digits_labels.txt"),
    side: 32,
    columns: 48,
    train: 1649,
};

const FASHION_MNIST: Sprite = Sprite {
    name: "fashion-mnist-2500",
    file: "fashion_mnist_2500_sprite.png",
    bytes: include_bytes!("../../assets/fashion_mnist_2500_sprite.png"),
    labels: include_str!("../../assets/fashion_mnist_2500_labels.txt"),
    side: 28,
    columns: 50,
    train: 2000,
};

/// Sign Language Digits: photographs of hands showing the digits 0 to 9, 32x32 RGB; 1,649 for training, 413 for test
/// (Apache License 2.0). An easy set: plain backgrounds, and the JPEG tiles are lossy.
///
/// # Errors
/// None that the shipped asset can cause.
pub fn sign_digits(split: Split) -> Result<InMemory> {
    SIGN_DIGITS.part(split)
}

/// 2,500 images of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 28x28 gray, 10 classes; 2,000 for training, 500 for
/// test, class-balanced (MIT licence, Copyright (c) 2017 Zalando SE). The pixels are the original's.
///
/// # Errors
/// None that the shipped asset can cause.
pub fn fashion_mnist(split: Split) -> Result<InMemory> {
    FASHION_MNIST.part(split)
}

impl Sprite {
    fn part(&self, split: Split) -> Result<InMemory> {
        let sheet = decode(self.bytes, Path::new(self.file))?;
        let labels = self
            .labels
            .trim()
            .chars()
            .map(|c| c.to_digit(10).ok_or_else(|| Error::data(self.name, format!("label {c:?} is no digit"))))
            .collect::<Result<Vec<u32>>>()?;
        let range = match split {
            Split::Train => 0..self.train,
            Split::Test => self.train..labels.len(),
        };
        let images = range.clone().map(|tile| self.tile(&sheet, tile)).collect::<Result<Vec<Image>>>()?;
        InMemory::labelled(format!("{}-{}", self.name, split.name()), images, labels[range].to_vec(), 10)
    }

    fn tile(&self, sheet: &Image, tile: usize) -> Result<Image> {
        let (left, top) = ((tile % self.columns) * self.side, (tile / self.columns) * self.side);
        if left + self.side > sheet.width || top + self.side > sheet.height {
            return Err(Error::data(self.name, format!("tile {tile} lies outside the sprite")));
        }
        let mut data = Vec::with_capacity(self.side * self.side * sheet.channels);
        for row in top..top + self.side {
            let start = (row * sheet.width + left) * sheet.channels;
            data.extend_from_slice(&sheet.data[start..start + self.side * sheet.channels]);
        }
        Image::new(self.side, self.side, sheet.channels, data)
    }
}
