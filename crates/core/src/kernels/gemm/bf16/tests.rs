use super::super::tests::{Products, assert_products, noise};
use super::*;

/// Every way that this machine can go with operands of one part.
fn ways() -> Vec<Way> {
    let mut ways = vec![Way::Rounded];
    #[cfg(target_arch = "x86_64")]
    ways.extend(
        [Kernel::Avx512, Kernel::Amx].into_iter().filter(|kernel| kernel.available()).map(Way::Native),
    );
    ways
}

impl Products for Way {
    fn linear(&self, extents: Extents, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        linear(*self, extents, x, w, bias, y);
    }

    fn data(&self, extents: Extents, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        backward_data(*self, extents, dy, w, dx, add);
    }

    fn weight(&self, extents: Extents, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        backward_weight(*self, extents, x, dy, dw);
    }
}

const SHAPES: [Extents; 13] = [
    (1, 1, 1),
    (5, 3, 7),
    (13, 16, 32),
    (12, 64, 48),
    (100, 33, 65),
    (197, 70, 130),
    (393, 40, 300),
    (700, 17, 20),
    (1300, 64, 64),
    (2100, 300, 40),
    (40, 1030, 50),
    (530, 600, 7),
    // Two passes over the depth, with panels that a unit packs itself and with shared ones.
    (60, 1201, 260),
];

#[test]
fn products_match_plain_loops_over_rounded_operands() {
    for way in ways() {
        for (rows, c, o) in SHAPES {
            assert_products((rows, c, o), &format!("{way:?} {rows} x {c} -> {o}"), rounded, &way);
        }
    }
}

#[test]
fn rounds_to_the_nearest_even() {
    let one = |bits: u32| f32::from_bits(0x3f80_0000 + bits);
    for (from, to) in [
        (one(0), one(0)),
        (one(0x7fff), one(0)),
        (one(0x8000), one(0)),
        (one(0x8001), one(0x1_0000)),
        (one(0x1_7fff), one(0x1_0000)),
        (one(0x1_8000), one(0x2_0000)),
        (f32::MAX, f32::INFINITY),
        (f32::MIN_POSITIVE / 2.0, 0.0),
        (f32::INFINITY, f32::INFINITY),
    ] {
        assert_eq!(rounded(from).to_bits(), to.to_bits(), "{from}");
        assert_eq!(rounded(-from).to_bits(), (-to).to_bits(), "{}", -from);
    }
    assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(0x7f80_0001)).is_nan());
}

/// Products with the identity show how each operand was rounded.
#[test]
fn every_way_rounds_the_same() {
    const N: usize = 37;
    // Random bits below 2^64 but for the last values.
    let mut values: Vec<f32> = noise(N * N, 6).iter().map(|v| v * 1e4).collect();
    for (i, v) in values.iter_mut().enumerate().filter(|(i, _)| i % 3 == 0) {
        *v = f32::from_bits(v.to_bits() & !0xffff | [0x7fff, 0x8000, 0x8001][i % 9 / 3]);
    }
    let identity: Vec<f32> = (0..N * N).map(|i| f32::from(u8::from(i / N == i % N))).collect();
    let want: Vec<f32> = values.iter().map(|v| rounded(*v)).collect();
    for way in ways() {
        let mut got = [(); 6].map(|()| vec![f32::NAN; N * N]);
        let [left, right, dy, w, x, out] = &mut got;
        linear(way, (N, N, N), &values, &identity, None, left);
        linear(way, (N, N, N), &identity, &values, None, right);
        backward_data(way, (N, N, N), &values, &identity, dy, false);
        backward_data(way, (N, N, N), &identity, &values, w, false);
        backward_weight(way, (N, N, N), &values, &identity, x);
        backward_weight(way, (N, N, N), &identity, &values, out);
        for (i, got) in got.iter().enumerate() {
            let turned = i == 1 || i == 5;
            let want = (0..N * N).map(|j| if turned { want[j % N * N + j / N] } else { want[j] });
            assert!(want.eq(got.iter().copied()), "{way:?}: operand {i}");
        }
    }
}

#[test]
fn nan_and_infinities_stay_and_do_not_spread() {
    let (rows, c, o) = (30, 35, 41);
    let mut x = noise(rows * c, 1);
    let (mut w, dy) = (noise(o * c, 2), noise(rows * o, 3));
    w.iter_mut().for_each(|w| *w = w.abs() + 0.5);
    // In the last column, whose partner in the pair is padding.
    x[3 * c + c - 1] = f32::NAN;
    x[7 * c + c - 1] = f32::INFINITY;
    x[8 * c + 2] = f32::NEG_INFINITY;
    for way in ways() {
        let mut y = vec![0.0; rows * o];
        linear(way, (rows, c, o), &x, &w, None, &mut y);
        for (row, y) in y.chunks(o).enumerate() {
            assert!(
                y.iter().all(|y| match row {
                    3 => y.is_nan(),
                    7 => *y == f32::INFINITY,
                    8 => *y == f32::NEG_INFINITY,
                    _ => y.is_finite(),
                }),
                "{way:?}: row {row}"
            );
        }
        let mut dw = vec![0.0; o * c];
        backward_weight(way, (rows, c, o), &x, &dy, &mut dw);
        for (i, dw) in dw.iter().enumerate() {
            assert_eq!(dw.is_nan(), i % c == c - 1, "{way:?}: dw {i}");
            assert_eq!(dw.is_infinite(), i % c == 2, "{way:?}: dw {i}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, c, o) = (3001, 80, 72);
    let (x, w, dy) = (noise(rows * c, 1), noise(o * c, 2), noise(rows * o, 3));
    for way in ways() {
        let results = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut out = [rows * o, rows * c, o * c].map(|len| vec![0f32; len]);
                linear(way, (rows, c, o), &x, &w, None, &mut out[0]);
                backward_data(way, (rows, c, o), &dy, &w, &mut out[1], false);
                backward_weight(way, (rows, c, o), &x, &dy, &mut out[2]);
                out
            })
        };
        let one = results(1);
        for threads in [2, 3, 5] {
            assert!(one == results(threads), "{way:?}: {threads} threads");
        }
    }
}

/// Operands of two parts lose at most 2^-18 of themselves, and so does their product; many of random signs lose less.
#[test]
fn two_parts_are_nearly_exact() {
    let Some(way) = Way::of(Precision::Bf16x3) else { return };
    for (rows, c, o) in SHAPES {
        let (x, w, dy) = (noise(rows * c, 1), noise(o * c, 2), noise(rows * o, 3));
        let old = noise(rows * c, 4);
        let mut ours =
            [vec![f32::NAN; rows * o], vec![f32::NAN; rows * c], old.clone(), vec![f32::NAN; o * c]];
        let mut theirs = ours.clone();
        theirs[2].copy_from_slice(&old);
        let bias = noise(o, 5);
        linear(way, (rows, c, o), &x, &w, Some(&bias), &mut ours[0]);
        backward_data(way, (rows, c, o), &dy, &w, &mut ours[1], false);
        backward_data(way, (rows, c, o), &dy, &w, &mut ours[2], true);
        backward_weight(way, (rows, c, o), &x, &dy, &mut ours[3]);
        super::super::linear(rows, c, o, &x, &w, Some(&bias), &mut theirs[0]);
        super::super::linear_backward_data(rows, c, o, &dy, &w, &mut theirs[1], false);
        super::super::linear_backward_data(rows, c, o, &dy, &w, &mut theirs[2], true);
        super::super::linear_backward_weight(rows, c, o, &x, &dy, &mut theirs[3]);
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let size = |values: &mut dyn Iterator<Item = f32>| {
                values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
            };
            let error =
                size(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / size(&mut theirs.iter().copied());
            let most = if rows * c * o < 1000 { 1.2e-5 } else { 5e-6 };
            assert!(error < most, "{rows} x {c} -> {o}, result {i}: {error}");
        }
    }
}
