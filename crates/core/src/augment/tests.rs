use proptest::prelude::*;

use super::*;
use crate::Error;
use crate::data::Transform;
use crate::rng::{Key, Purpose};

fn jitter(p: f64) -> Op {
    Op::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, p }
}

fn crop_to(size: usize, interpolation: Interpolation) -> Op {
    Op::RandomResizedCrop { size, scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0], interpolation }
}

/// CIFAR recipe of SimCLR: crop, flip, jitter, grayscale.
fn cifar() -> Recipe {
    let ops = vec![
        crop_to(32, Interpolation::Bilinear),
        Op::RandomFlip { p: 0.5 },
        jitter(0.8),
        Op::RandomGrayscale { p: 0.2 },
        Op::Normalize { mean: CIFAR_MEAN.to_vec(), std: CIFAR_STD.to_vec() },
    ];
    Recipe { color: ColorSpace::Rgb, views: vec![ViewRecipe { name: "view".into(), count: 2, ops }] }
}

/// Every operation, asymmetric views and multi-crop; no normalisation, so that values stay in [0, 1].
fn everything(color: ColorSpace) -> Recipe {
    let view = |name: &str, count, ops| ViewRecipe { name: name.into(), count, ops };
    let blur = |p, kernel| Op::RandomBlur { p, sigma: [0.1, 2.0], kernel };
    let global = vec![
        crop_to(24, Interpolation::Bicubic),
        jitter(0.8),
        Op::RandomGrayscale { p: 0.2 },
        blur(1.0, BlurKernel::Pil),
        Op::RandomFlip { p: 0.5 },
    ];
    let solarized = vec![
        Op::Resize { size: 16, interpolation: Interpolation::Bicubic },
        Op::CenterCrop { size: 24 },
        blur(0.5, BlurKernel::True),
        Op::RandomSolarize { p: 0.5, threshold: 128 },
        jitter(1.0),
    ];
    let local = vec![crop_to(7, Interpolation::Bilinear), blur(0.5, BlurKernel::Pil)];
    Recipe {
        color,
        views: vec![view("global", 1, global), view("other", 1, solarized), view("local", 3, local)],
    }
}

fn noise(width: usize, height: usize, channels: usize, seed: u64) -> Image {
    let mut stream = Key::new(seed, Purpose::Data).stream();
    let data = (0..width * height * channels).map(|_| stream.bits() as u8).collect();
    Image::new(width, height, channels, data).unwrap()
}

fn key(seed: u64) -> Key {
    Key::new(seed, Purpose::Augment).epoch(1).sample(seed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_image_gives_views_of_the_right_shape_and_range(
        width in 1usize..40, height in 1usize..40, gray: bool, to_gray: bool, seed: u64,
    ) {
        let image = noise(width, height, if gray { 1 } else { 3 }, seed);
        let recipe = everything(if to_gray { ColorSpace::Gray } else { ColorSpace::Rgb });
        recipe.check("augment").unwrap();
        let views = recipe.apply(&image, key(seed)).unwrap();
        let channels = if to_gray { 1 } else { 3 };
        prop_assert_eq!(views.len(), recipe.view_count());
        for (view, side) in views.iter().zip([24, 24, 7, 7, 7]) {
            prop_assert_eq!(&view.shape, &[channels, side, side]);
            prop_assert_eq!(view.data.len(), channels * side * side);
            prop_assert!(view.data.iter().all(|v| (0.0..=1.0).contains(v)));
        }
        prop_assert_eq!(&views, &recipe.apply(&image, key(seed)).unwrap());
        // Views of equal operations draw differently (a thin image has only one crop).
        prop_assert!(views[2] != views[3] || views[3] != views[4] || width.min(height) < 12);
    }

    #[test]
    fn gray_images_give_what_their_rgb_copies_give(width in 1usize..30, height in 1usize..30, seed: u64) {
        let image = noise(width, height, 1, seed);
        let recipe = everything(ColorSpace::Rgb);
        let (gray, rgb) = (recipe.apply(&image, key(seed)), recipe.apply(&image.to_rgb(), key(seed)));
        prop_assert_eq!(gray.unwrap(), rgb.unwrap());
    }

    #[test]
    fn crop_boxes_lie_inside(
        width in 1usize..200, height in 1usize..200, low in 0.01f64..1.0, r in 0.05f64..20.0, seed: u64,
    ) {
        let mut stream = key(seed).stream();
        let area = random_resized_crop_box(width, height, [low, 1.0], [r, r * 1.5], &mut stream);
        prop_assert!(area.width >= 1 && area.height >= 1);
        prop_assert!(area.x + area.width <= width && area.y + area.height <= height);
    }

    #[test]
    fn flips_undo_themselves_and_flat_images_stay_flat(width in 1usize..40, height in 1usize..40, v: u8, seed: u64) {
        let image = noise(width, height, 3, seed);
        let mut flipped = image.clone();
        flip_horizontal(&mut flipped);
        prop_assert_eq!(&flipped.data[..3], &image.data[(width - 1) * 3..width * 3]);
        flip_horizontal(&mut flipped);
        prop_assert_eq!(&flipped, &image);
        let mut flat = Image::new(width, height, 3, vec![v; width * height * 3]).unwrap();
        pil_blur(&mut flat, 0.1 + f64::from(v) / 10.0).unwrap();
        true_blur(&mut flat, 2 * (usize::from(v) % 40) + 1, 1.0 + f64::from(v) / 10.0).unwrap();
        let flat = resize(&flat, 13, 5, Interpolation::Bicubic).unwrap();
        prop_assert!(flat.data.iter().all(|&x| x == v));
    }
}

#[test]
fn crop_areas_and_ratios_follow_their_ranges() {
    let mut stream = key(5).stream();
    let n = 4000;
    let (mut area, mut log_ratio) = (0.0, 0.0);
    for _ in 0..n {
        let b = random_resized_crop_box(400, 400, [0.08, 0.5], [0.75, 4.0 / 3.0], &mut stream);
        let (w, h) = (b.width as f64, b.height as f64);
        assert!((0.078..0.503).contains(&(w * h / 160_000.0)) && (0.73..1.36).contains(&(w / h)), "{b:?}");
        area += w * h / 160_000.0 / f64::from(n);
        log_ratio += (w / h).ln() / f64::from(n);
    }
    // Uniform in area and log-uniform in ratio, both accepted nearly always.
    assert!((area - 0.29).abs() < 0.01 && log_ratio.abs() < 0.01, "{area} {log_ratio}");
    // Nothing fits: the largest central crop.
    let b = random_resized_crop_box(40, 4, [1.0, 1.0], [0.75, 4.0 / 3.0], &mut stream);
    assert_eq!(b, CropBox { x: 17, y: 0, width: 5, height: 4 });
    let b = random_resized_crop_box(3, 40, [1.0, 1.0], [0.75, 4.0 / 3.0], &mut stream);
    assert_eq!(b, CropBox { x: 0, y: 18, width: 3, height: 4 });
}

#[test]
fn an_operation_draws_the_same_whatever_came_before() {
    let image = noise(32, 32, 3, 1);
    let recipe = |ops: Vec<Op>| Recipe {
        color: ColorSpace::Rgb,
        views: vec![ViewRecipe { name: "v".into(), count: 1, ops }],
    };
    // p = 0 and a crop of everything leave the image as it is, so the jitter at place 1 must come out the same.
    let whole = |size| Op::RandomResizedCrop {
        size,
        scale: [1.0, 1.0],
        ratio: [1.0, 1.0],
        interpolation: Interpolation::Bilinear,
    };
    let a = recipe(vec![Op::RandomFlip { p: 0.0 }, jitter(1.0)]).apply(&image, key(3)).unwrap();
    let b = recipe(vec![whole(32), jitter(1.0)]).apply(&image, key(3)).unwrap();
    let c = recipe(vec![jitter(1.0)]).apply(&image, key(3)).unwrap();
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert_ne!(a, recipe(vec![whole(32), jitter(1.0)]).apply(&image, key(4)).unwrap());
}

#[test]
fn faults_name_their_key() {
    let wrong = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = cifar();
        recipe.check("augment").unwrap();
        change(&mut recipe);
        match recipe.check("augment").unwrap_err() {
            Error::Config { key, .. } => key,
            other => panic!("{other}"),
        }
    };
    let op = |i: usize, op: Op| wrong(&move |r| r.views[0].ops[i] = op.clone());
    assert_eq!(wrong(&|r| r.views.clear()), "augment.views");
    assert_eq!(wrong(&|r| r.views[0].count = 0), "augment.views.0.count");
    assert_eq!(wrong(&|r| r.views[0].ops.swap(3, 4)), "augment.views.0.ops.3");
    assert_eq!(op(1, Op::RandomFlip { p: 1.1 }), "augment.views.0.ops.1.p");
    assert_eq!(op(1, Op::RandomFlip { p: f64::NAN }), "augment.views.0.ops.1.p");
    assert_eq!(op(0, crop_to(0, Interpolation::Bicubic)), "augment.views.0.ops.0.size");
    assert_eq!(op(2, Op::CenterCrop { size: 1 << 40 }), "augment.views.0.ops.2.size");
    let blur = Op::RandomBlur { p: 0.5, sigma: [2.0, 0.1], kernel: BlurKernel::True };
    assert_eq!(op(3, blur), "augment.views.0.ops.3.sigma");
    let hue = Op::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.6, p: 0.8 };
    assert_eq!(op(2, hue), "augment.views.0.ops.2.hue");
    let normalize = |mean: &[f32], std: &[f32]| Op::Normalize { mean: mean.to_vec(), std: std.to_vec() };
    assert_eq!(op(4, normalize(&[0.5], &[0.5])), "augment.views.0.ops.4.mean");
    assert_eq!(op(4, normalize(&CIFAR_MEAN, &[0.2, 0.0, 0.2])), "augment.views.0.ops.4.std");
    let mut eval = EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD);
    eval.check("eval").unwrap();
    eval.crop = Some(0);
    assert!(eval.check("eval").unwrap_err().to_string().contains("`eval.crop`"));
}

#[test]
fn impossible_images_are_errors() {
    let broken = Image { width: 9, height: 9, channels: 3, data: vec![0; 5] };
    assert!(cifar().apply(&broken, key(0)).is_err());
    assert!(EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD).apply(&broken, key(0)).is_err());
    let image = noise(4, 4, 3, 0);
    assert!(resize(&image, 0, 4, Interpolation::Bilinear).is_err());
    assert!(resize(&image, 1 << 40, 1 << 40, Interpolation::Bilinear).is_err());
    assert!(resize_box(&image, [1.0, 0.0, 1.0, 4.0], 2, 2, Interpolation::Bilinear).is_err());
    assert!(resize_box(&image, [0.0, f32::NAN, 4.0, 4.0], 2, 2, Interpolation::Bilinear).is_err());
    assert!(crop(&image, CropBox { x: 2, y: 0, width: 3, height: 1 }).is_err());
    assert!(crop(&image, CropBox { x: usize::MAX, y: 0, width: 3, height: 1 }).is_err());
    assert!(center_crop(&image, 0).is_err());
    assert!(pil_blur(&mut image.clone(), f64::NAN).is_err());
    assert!(true_blur(&mut image.clone(), 4, 1.0).is_err());
    assert!(to_array(&image, ColorSpace::Gray, Some((&IMAGENET_MEAN, &IMAGENET_STD))).is_err());
}

#[test]
fn evaluation_resizes_crops_and_normalises() {
    let image = noise(50, 37, 3, 2);
    let key = key(0);
    let view =
        &EvalTransform::resize_crop(32, 28, IMAGENET_MEAN, IMAGENET_STD).apply(&image, key).unwrap()[0];
    assert_eq!(view.shape, [3, 28, 28]);
    let expected = center_crop(&resize_shorter(&image, 32, Interpolation::Bilinear).unwrap(), 28).unwrap();
    let green = (f32::from(expected.data[1]) / 255.0 - IMAGENET_MEAN[1]) / IMAGENET_STD[1];
    assert_eq!(view.data[28 * 28], green);
    let as_is = &EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD).apply(&image, key).unwrap()[0];
    assert_eq!(as_is.shape, [3, 37, 50]);
}

#[test]
fn recipes_are_stored_and_printed() {
    let recipe = cifar();
    let text = toml::to_string(&recipe).unwrap();
    assert_eq!(toml::from_str::<Recipe>(&text).unwrap(), recipe);
    assert_eq!(
        recipe.to_string(),
        "2 x view: random resized crop 32 (area 0.08-1, ratio 0.75-1.3333, bilinear), flip (p 0.5), \
         color jitter 0.4 0.4 0.4 0.1 (p 0.8), grayscale (p 0.2), \
         normalize mean [0.4914, 0.4822, 0.4465] std [0.247, 0.2435, 0.2616]"
    );
    let short = r#"
        [[views]]
        name = "v"
        ops = [
            { op = "random_resized_crop", size = 8, scale = [0.2, 1.0] },
            { op = "random_solarize", p = 0.2 },
        ]
    "#;
    let recipe: Recipe = toml::from_str(short).unwrap();
    assert_eq!(recipe.views[0].ops[1], Op::RandomSolarize { p: 0.2, threshold: 128 });
    assert_eq!(recipe.view_count(), 1);
    assert!(toml::from_str::<Recipe>(&short.replace("p = 0.2", "prob = 0.2")).is_err());
    assert!(toml::from_str::<Recipe>(&short.replace("size = 8", "size = 8, side = 8")).is_err());
}
