//! Augmentation recipes: what is done to each view, as data that is stored, checked and printed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::blur::MAX_SIGMA;
use super::{BlurKernel, ColorSpace, Interpolation};
use crate::{Error, Result};

/// One operation of a view. Those with a probability `p` leave the image as it is with probability `1 - p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Op {
    /// A random crop resized to `size` x `size`; see [`super::random_resized_crop_box`].
    RandomResizedCrop {
        /// Side of the output in pixels.
        size: usize,
        /// Least and greatest share of the image's area.
        scale: [f64; 2],
        /// Least and greatest width / height.
        #[serde(default = "default_ratio")]
        ratio: [f64; 2],
        /// The filter.
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// Mirrors left and right.
    RandomFlip {
        /// Probability.
        p: f64,
    },
    /// Brightness, contrast and saturation by factors uniform in `[max(0, 1 - x), 1 + x]` and hue by a shift uniform
    /// in `[-hue, hue]`, in random order. A strength of 0 leaves its operation out.
    ColorJitter {
        /// Strength of the brightness change.
        brightness: f64,
        /// Strength of the contrast change.
        contrast: f64,
        /// Strength of the saturation change.
        saturation: f64,
        /// Greatest hue shift, at most 0.5 of the colour wheel.
        hue: f64,
        /// Probability.
        p: f64,
    },
    /// Replaces the colours by their luma, keeping the channels.
    RandomGrayscale {
        /// Probability.
        p: f64,
    },
    /// Gaussian blur with a standard deviation uniform in `sigma` (pixels).
    RandomBlur {
        /// Probability.
        p: f64,
        /// Least and greatest standard deviation in pixels.
        sigma: [f64; 2],
        /// The kind.
        #[serde(default)]
        kernel: BlurKernel,
    },
    /// Inverts the values from `threshold` up.
    RandomSolarize {
        /// Probability.
        p: f64,
        /// First value that is inverted.
        #[serde(default = "default_threshold")]
        threshold: u8,
    },
    /// Resizes the shorter side to `size` pixels; see [`super::resize_shorter`].
    Resize {
        /// Shorter side of the output in pixels.
        size: usize,
        /// The filter.
        #[serde(default)]
        interpolation: Interpolation,
    },
    /// The central `size` x `size` pixels; see [`super::center_crop`].
    CenterCrop {
        /// Side of the output in pixels.
        size: usize,
    },
    /// Subtracts `mean` and divides by `std`, per channel of values in `[0, 1]` or in the colour space's own units. Only
    /// as the last operation.
    Normalize {
        /// One mean per output channel.
        mean: Vec<f32>,
        /// One standard deviation per output channel.
        std: Vec<f32>,
    },
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

fn default_threshold() -> u8 {
    128
}

fn default_count() -> usize {
    1
}

/// Views that share their operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewRecipe {
    /// What the method calls them (`global`, `local`, `online`).
    pub name: String,
    /// How many such views; 1 where a stored recipe does not say.
    #[serde(default = "default_count")]
    pub count: usize,
    /// The operations in order.
    pub ops: Vec<Op>,
}

/// The views of a sample, in the method's order: all of the first entry, then all of the second. As a
/// [`crate::data::Transform`] it gives one `[C, H, W]` array per view.
///
/// View `v` draws from the stream of `key.view(v)` alone. The i-th word of that stream seeds a stream of its own for the
/// i-th operation, so that what an operation draws depends neither on whether an earlier one was applied nor on how
/// much it drew. Within an operation the draws are, in this order: whether it is applied; then
/// its values (crop: see [`super::random_resized_crop_box`]; jitter: the order of its four parts, then the factors of
/// brightness, contrast, saturation and hue, drawn for a part of strength 0 too; blur: sigma).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the output channels are.
    #[serde(default)]
    pub color: ColorSpace,
    /// The views.
    pub views: Vec<ViewRecipe>,
}

impl Recipe {
    /// The number of views of a sample.
    pub fn view_count(&self) -> usize {
        self.views.iter().map(|view| view.count).sum()
    }

    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// [`Error::Config`] for the first fault; its key starts with `root`, the place of the recipe in the whole
    /// configuration: `augment.views.0.ops.2.p`.
    pub fn check(&self, root: &str) -> Result<()> {
        if self.views.is_empty() {
            return Err(Error::config(format!("{root}.views"), "a recipe needs at least one view"));
        }
        for (v, view) in self.views.iter().enumerate() {
            let key = format!("{root}.views.{v}");
            if !(1..=256).contains(&view.count) {
                return Err(Error::config(
                    format!("{key}.count"),
                    format!("{} is not in 1..=256", view.count),
                ));
            }
            for (i, op) in view.ops.iter().enumerate() {
                let key = format!("{key}.ops.{i}");
                op.check(&key, self.color.channels())?;
                if matches!(op, Op::Normalize { .. }) && i + 1 != view.ops.len() {
                    return Err(Error::config(key, "normalize works on floats and can only come last"));
                }
            }
        }
        Ok(())
    }
}

/// Largest accepted side of an output, in pixels.
const MAX_SIDE: usize = 8192;

impl Op {
    fn check(&self, key: &str, channels: usize) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(format!("{key}.{field}"), reason));
        // NaN is in no range, so it fails every one of these.
        let within = |field: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            fail(field, format!("{value} is not in [{low}, {high}]"))
        };
        let span = |field: &str, [a, b]: [f64; 2], high: f64| {
            if a > 0.0 && a <= b && b <= high {
                return Ok(());
            }
            fail(field, format!("[{a}, {b}] is not an ascending pair in (0, {high}]"))
        };
        let side = |size: usize| {
            if (1..=MAX_SIDE).contains(&size) {
                return Ok(());
            }
            fail("size", format!("{size} is not in 1..={MAX_SIDE}"))
        };
        match self {
            Self::RandomResizedCrop { size, scale, ratio, .. } => {
                side(*size)?;
                span("scale", *scale, 1.0)?;
                span("ratio", *ratio, 1000.0)
            }
            Self::RandomFlip { p } | Self::RandomGrayscale { p } | Self::RandomSolarize { p, .. } => {
                within("p", *p, 0.0, 1.0)
            }
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                within("brightness", *brightness, 0.0, 100.0)?;
                within("contrast", *contrast, 0.0, 100.0)?;
                within("saturation", *saturation, 0.0, 100.0)?;
                within("hue", *hue, 0.0, 0.5)?;
                within("p", *p, 0.0, 1.0)
            }
            Self::RandomBlur { p, sigma, .. } => {
                span("sigma", *sigma, MAX_SIGMA)?;
                within("p", *p, 0.0, 1.0)
            }
            Self::Resize { size, .. } | Self::CenterCrop { size } => side(*size),
            Self::Normalize { mean, std } => check_normalization(key, mean, std, channels),
        }
    }
}

pub(super) fn check_normalization(key: &str, mean: &[f32], std: &[f32], channels: usize) -> Result<()> {
    if mean.len() != channels || !mean.iter().all(|m| m.is_finite()) {
        return Err(Error::config(
            format!("{key}.mean"),
            format!("{mean:?} is not {channels} finite numbers"),
        ));
    }
    if std.len() != channels || !std.iter().all(|s| s.is_finite() && *s > 0.0) {
        return Err(Error::config(
            format!("{key}.std"),
            format!("{std:?} is not {channels} positive numbers"),
        ));
    }
    Ok(())
}

/// At most four decimals: nobody reads 1.3333333333333333.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.0 * 1e4).round() / 1e4)
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chance = |f: &mut fmt::Formatter<'_>, p: f64| {
            if p == 1.0 { Ok(()) } else { write!(f, " (p {})", Short(p)) }
        };
        match self {
            Self::RandomResizedCrop { size, scale: [a, b], ratio: [c, d], interpolation } => {
                let (a, b, c, d) = (Short(*a), Short(*b), Short(*c), Short(*d));
                write!(f, "random resized crop {size} (area {a}-{b}, ratio {c}-{d}, {interpolation})")
            }
            Self::RandomFlip { p } => f.write_str("flip").and_then(|()| chance(f, *p)),
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                let (b, c, s, h) = (Short(*brightness), Short(*contrast), Short(*saturation), Short(*hue));
                write!(f, "color jitter {b} {c} {s} {h}").and_then(|()| chance(f, *p))
            }
            Self::RandomGrayscale { p } => f.write_str("grayscale").and_then(|()| chance(f, *p)),
            Self::RandomBlur { p, sigma: [a, b], kernel } => {
                let kernel = match kernel {
                    BlurKernel::Pil => "box-approximated",
                    BlurKernel::True => "true",
                };
                write!(f, "{kernel} blur sigma {}-{}", Short(*a), Short(*b)).and_then(|()| chance(f, *p))
            }
            Self::RandomSolarize { p, threshold } => {
                write!(f, "solarize from {threshold}").and_then(|()| chance(f, *p))
            }
            Self::Resize { size, interpolation } => {
                write!(f, "resize shorter side to {size} ({interpolation})")
            }
            Self::CenterCrop { size } => write!(f, "center crop {size}"),
            Self::Normalize { mean, std } => write!(f, "normalize mean {mean:?} std {std:?}"),
        }
    }
}

/// One line per entry: `2 x global: random resized crop 224 (...), flip (p 0.5), ...`.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, view) in self.views.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            let ops: Vec<String> = view.ops.iter().map(Op::to_string).collect();
            let ops = if ops.is_empty() { "as it is".to_string() } else { ops.join(", ") };
            write!(f, "{separator}{} x {}: {ops}", view.count, view.name)?;
        }
        match self.color {
            ColorSpace::Rgb => Ok(()),
            ColorSpace::Gray => f.write_str("\nconverted to gray"),
            ColorSpace::Lab => f.write_str("\nconverted to Lab"),
            ColorSpace::YCbCr => f.write_str("\nconverted to YCbCr"),
            ColorSpace::YDbDr => f.write_str("\nconverted to YDbDr"),
        }
    }
}
