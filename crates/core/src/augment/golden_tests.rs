//! Every operation against Pillow's and torchvision's own output (`tests/fixtures/augment`).

use serde::Deserialize;

use super::hsv::{BLOCK, Sextants, hsv_to_rgb, rgb_to_hsv};
use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment");

#[derive(Deserialize)]
struct Fixture {
    rgb_to_hsv: String,
    hsv_to_rgb: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    op: String,
    input: String,
    width: usize,
    height: usize,
    channels: usize,
    at: usize,
    #[serde(default)]
    mode: Interpolation,
    #[serde(rename = "box")]
    area: Option<[f32; 4]>,
    crop: Option<[usize; 4]>,
    #[serde(default)]
    side: usize,
    #[serde(default)]
    factor: f64,
    #[serde(default)]
    sigma: f64,
    #[serde(default)]
    taps: usize,
    #[serde(default)]
    threshold: u8,
}

fn fixture() -> (Fixture, Vec<u8>) {
    let text = std::fs::read_to_string(format!("{FIXTURES}/cases.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), std::fs::read(format!("{FIXTURES}/expected.bin")).unwrap())
}

/// The script's formula.
fn pattern() -> Image {
    let mut data = Vec::new();
    for y in 0..29usize {
        for x in 0..37usize {
            data.push((x * 7 + y * 2) as u8);
            data.push(((x * x + 3 * y * y) / 4) as u8);
            data.push(((x ^ y) * 8 + ((x / 5 + y / 5) % 2) * 90) as u8);
        }
    }
    Image::new(37, 29, 3, data).unwrap()
}

impl Case {
    fn expected(&self, blob: &[u8]) -> Image {
        let bytes = blob[self.at..][..self.width * self.height * self.channels].to_vec();
        Image::new(self.width, self.height, self.channels, bytes).unwrap()
    }

    fn run(&self, mut image: Image) -> Image {
        let (w, h) = (self.width, self.height);
        match self.op.as_str() {
            "resize" => resize(&image, w, h, self.mode).unwrap(),
            "resize_box" => resize_box(&image, self.area.unwrap(), w, h, self.mode).unwrap(),
            "resized_crop" => {
                let [x, y, width, height] = self.crop.unwrap();
                let area = CropBox { x, y, width, height };
                let result = resize_crop(&image, area, w, h, self.mode).unwrap();
                let cropped = crop(&image, area).unwrap();
                assert_eq!(resize(&cropped, w, h, self.mode).unwrap(), result);
                result
            }
            "shorter" => resize_shorter(&image, self.side, self.mode).unwrap(),
            "center_crop" => center_crop(&image, self.side).unwrap(),
            other => {
                match other {
                    "flip" => flip_horizontal(&mut image),
                    "brightness" => adjust_brightness(&mut image, self.factor),
                    "contrast" => adjust_contrast(&mut image, self.factor),
                    "saturation" => adjust_saturation(&mut image, self.factor),
                    "hue" => adjust_hue(&mut image, self.factor),
                    "grayscale" => grayscale(&mut image),
                    "solarize" => solarize(&mut image, self.threshold),
                    "pil_blur" => pil_blur(&mut image, self.sigma).unwrap(),
                    "true_blur" => true_blur(&mut image, self.taps, self.sigma).unwrap(),
                    _ => panic!("unknown operation {other}"),
                }
                image
            }
        }
    }
}

#[test]
fn operations_agree_with_pillow_and_torchvision() {
    let (fixture, blob) = fixture();
    let input = |name: &str| match name {
        "pattern" => pattern(),
        _ => fixture.cases.iter().find(|c| c.op == "input" && c.input == name).unwrap().expected(&blob),
    };
    let mut faults = Vec::new();
    let mut seen = 0;
    for case in fixture.cases.iter().filter(|c| c.op != "input" && c.op != "normalize") {
        let (expected, got) = (case.expected(&blob), case.run(input(&case.input)));
        assert_eq!(
            (expected.width, expected.height, expected.channels),
            (got.width, got.height, got.channels),
            "{}",
            case.op
        );
        let pairs = expected.data.iter().zip(&got.data);
        let worst = pairs.clone().map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        let differing = pairs.filter(|(a, b)| a != b).count();
        // torchvision multiplies by the two-dimensional kernel, so sums round differently; all else is exact.
        let allowed = u8::from(case.op == "true_blur");
        if worst > allowed || differing * 200 > expected.data.len() {
            let Case { op, input, mode, .. } = case;
            faults.push(format!("{op} {input} {mode} {}: off by {worst}, {differing} bytes", case.factor));
        }
        seen += 1;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 70, "{seen}");
}

#[test]
fn floats_agree_with_torchvision() {
    let (fixture, blob) = fixture();
    for case in fixture.cases.iter().filter(|c| c.op == "normalize") {
        let image = fixture.cases.iter().find(|c| c.op == "input" && c.input == case.input).unwrap();
        let image = image.expected(&blob);
        let got = if case.channels == 3 {
            to_array(&image, ColorSpace::Rgb, Some((&IMAGENET_MEAN, &IMAGENET_STD))).unwrap()
        } else {
            to_array(&image, ColorSpace::Gray, Some((&[0.4], &[0.3]))).unwrap()
        };
        assert_eq!(got.shape, [case.channels, case.height, case.width]);
        let bytes: Vec<u8> = got.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(bytes == blob[case.at..][..bytes.len()], "{}", case.input);
    }
}

#[test]
fn every_colour_converts_as_in_pillow() {
    let (fixture, _) = fixture();
    // The script's checksum: bytes times multiples of a constant, summed modulo 2^64.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let sextants = Sextants::turned(0);
    let (mut hsv_sum, mut rgb_sum, mut weight) = (0u64, 0u64, 0u64);
    for first in (0..1u32 << 24).step_by(BLOCK) {
        let plane = |c: usize| std::array::from_fn(|i| (first + i as u32).to_be_bytes()[c + 1]);
        let block = [plane(0), plane(1), plane(2)];
        let (hsv, rgb) = (rgb_to_hsv(&block), hsv_to_rgb(&block, &sextants));
        for i in 0..BLOCK {
            for c in 0..3 {
                weight = weight.wrapping_add(STEP);
                hsv_sum = hsv_sum.wrapping_add(weight.wrapping_mul(u64::from(hsv[c][i])));
                rgb_sum = rgb_sum.wrapping_add(weight.wrapping_mul(u64::from(rgb[c][i])));
            }
        }
    }
    assert_eq!(hsv_sum.to_string(), fixture.rgb_to_hsv);
    assert_eq!(rgb_sum.to_string(), fixture.hsv_to_rgb);
}
