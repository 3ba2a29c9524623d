use super::*;

/// Numbers in -1..1 that look random.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn assert_close(got: &[f32], want: &[f64], depth: usize, what: &str) {
    let tolerance = 1.6e-6 * (depth as f64).sqrt().max(4.0);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0),
            "{what}: [{i}] {got} for {want}"
        );
    }
}

/// Extents `[n, c, h, w]`, `[o, kh, kw]`, strides, paddings and groups.
type Case = ([usize; 4], [usize; 3], [usize; 2], [usize; 4], usize);

const CASES: &[Case] = &[
    ([1, 1, 1, 1], [1, 1, 1], [1, 1], [0; 4], 1),
    ([2, 3, 1, 1], [17, 3, 3], [1, 1], [1; 4], 1),
    ([3, 3, 9, 11], [33, 7, 7], [2, 2], [3; 4], 1),
    ([2, 3, 8, 8], [64, 3, 3], [1, 1], [1; 4], 1),
    ([2, 17, 7, 9], [33, 3, 3], [1, 1], [1; 4], 1),
    ([2, 33, 8, 7], [17, 3, 3], [2, 2], [1; 4], 1),
    ([9, 64, 4, 4], [64, 3, 3], [1, 1], [1; 4], 1),
    ([11, 40, 8, 8], [64, 3, 3], [2, 2], [1; 4], 1),
    ([25, 16, 2, 2], [16, 3, 3], [1, 1], [1; 4], 1),
    ([9, 5, 1, 3], [6, 2, 5], [1, 1], [1, 0, 3, 1], 1),
    ([2, 64, 12, 14], [3, 5, 4], [3, 2], [2, 1, 0, 3], 1),
    ([1, 20, 10, 10], [35, 2, 2], [3, 3], [0; 4], 1),
    ([2, 6, 11, 10], [9, 1, 1], [2, 3], [0; 4], 1),
    ([2, 6, 11, 10], [9, 1, 1], [2, 1], [1, 0, 2, 1], 1),
    ([2, 70, 5, 6], [40, 1, 1], [1, 1], [0; 4], 1),
    ([3, 20, 1, 40], [33, 1, 7], [1, 2], [0, 0, 3, 2], 1),
    ([2, 12, 9, 9], [18, 3, 3], [2, 2], [1; 4], 3),
    ([2, 48, 7, 8], [72, 3, 3], [1, 1], [1; 4], 2),
    ([9, 36, 4, 5], [8, 3, 2], [1, 1], [1, 0, 1, 1], 2),
    ([2, 33, 9, 10], [33, 3, 3], [1, 1], [1; 4], 33),
    ([2, 16, 9, 10], [16, 5, 4], [2, 3], [2, 1, 0, 3], 16),
    ([2, 6, 7, 7], [12, 3, 3], [2, 2], [1; 4], 6),
    ([1, 2, 70, 66], [5, 3, 3], [1, 1], [1; 4], 1),
    ([1, 128, 12, 40], [64, 3, 3], [2, 2], [1; 4], 1),
    ([4, 257, 3, 9], [130, 3, 3], [1, 1], [1; 4], 1),
];

fn shape(&(x, [o, kh, kw], stride, padding, groups): &Case) -> ConvShape {
    ConvShape::new(x, &[o, x[1] / groups, kh, kw], stride, padding, groups).unwrap()
}

/// Calls `f` with the places in `x`, the weights and `y` of every product.
fn products(shape: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ConvShape { n, h, w, c, o, kh, kw, groups, oh, ow, .. } = *shape;
    let (cg, og) = (c / groups, o / groups);
    for (image, i, j) in (0..n * oh * ow).map(|p| (p / (oh * ow), p / ow % oh, p % ow)) {
        for (k, l) in (0..kh * kw).map(|t| (t / kw, t % kw)) {
            let row = (i * shape.stride[0] + k).wrapping_sub(shape.padding[0]);
            let column = (j * shape.stride[1] + l).wrapping_sub(shape.padding[2]);
            if row >= h || column >= w {
                continue;
            }
            for out in 0..o {
                for channel in 0..cg {
                    f(
                        ((image * h + row) * w + column) * c + out / og * cg + channel,
                        ((out * cg + channel) * kh + k) * kw + l,
                        ((image * oh + i) * ow + j) * o + out,
                    );
                }
            }
        }
    }
}

/// A way to compute all passes.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// What the outer functions choose.
    Chosen(Precision),
    /// The general way at a level.
    General(Level),
}

impl Way {
    fn forward(self, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
        match self {
            Self::Chosen(precision) => forward(precision, shape, x, w, y),
            Self::General(level) => forward_at(level, shape, x, w, y),
        }
    }

    fn backward_data(self, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        match self {
            Self::Chosen(precision) => backward_data(precision, shape, dy, w, dx, add),
            Self::General(level) => backward_data_at(level, shape, dy, w, dx, add),
        }
    }

    fn backward_weight(self, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        match self {
            Self::Chosen(precision) => backward_weight(precision, shape, x, dy, dw),
            Self::General(level) => backward_weight_at(level, shape, x, dy, dw),
        }
    }
}

/// Asserts that all passes of a case are those of plain loops. Operands are bf16 numbers, so that all ways round alike.
fn assert_passes(case: &Case, ways: &[Way]) {
    let shape = shape(case);
    let noise = |len, seed| -> Vec<f32> {
        noise(len, seed).iter().map(|v| f32::from_bits(v.to_bits() & 0xffff_0000)).collect()
    };
    let (x, w) = (noise(shape.inputs(), 1), noise(shape.weights(), 2));
    let (dy, old) = (noise(shape.outputs(), 3), noise(shape.inputs(), 4));
    let mut want_y = vec![0f64; shape.outputs()];
    let mut want_dx = vec![0f64; x.len()];
    let mut want_dw = vec![0f64; w.len()];
    products(&shape, |i, j, k| {
        want_y[k] += f64::from(x[i]) * f64::from(w[j]);
        want_dx[i] += f64::from(dy[k]) * f64::from(w[j]);
        want_dw[j] += f64::from(dy[k]) * f64::from(x[i]);
    });
    let sum: Vec<f64> = want_dx.iter().zip(&old).map(|(a, &b)| a + f64::from(b)).collect();
    let taps = shape.kh * shape.kw;
    let depth = (taps * shape.c / shape.groups, taps * shape.o / shape.groups, shape.outputs() / shape.o);
    for way in ways {
        let what = format!("{way:?} {case:?}");
        let mut y = vec![f32::NAN; want_y.len()];
        let mut dx = vec![f32::NAN; x.len()];
        let mut added = old.clone();
        let mut dw = vec![f32::NAN; w.len()];
        way.forward(&shape, &x, &w, &mut y);
        way.backward_data(&shape, &dy, &w, &mut dx, false);
        way.backward_data(&shape, &dy, &w, &mut added, true);
        way.backward_weight(&shape, &x, &dy, &mut dw);
        assert_close(&y, &want_y, depth.0, &format!("{what} y"));
        assert_close(&dx, &want_dx, depth.1, &format!("{what} dx"));
        assert_close(&added, &sum, depth.1, &format!("{what} dx added"));
        assert_close(&dw, &want_dw, depth.2, &format!("{what} dw"));
    }
}

#[test]
fn all_passes_match_plain_loops() {
    let mut ways = [Precision::F32, Precision::Bf16].map(Way::Chosen).to_vec();
    ways.extend(Level::available().into_iter().map(Way::General));
    for case in CASES {
        assert_passes(case, &ways);
    }
}

/// Channels in groups of 32: all strides, uneven paddings, a stride beyond the kernel, rows longer than a tile, and maps
/// of which several images make a unit.
const ROUNDED: &[Case] = &[
    ([2, 32, 8, 7], [32, 3, 3], [1, 1], [1; 4], 1),
    ([3, 64, 9, 40], [96, 3, 3], [1, 1], [1; 4], 1),
    ([2, 32, 40, 41], [64, 3, 3], [1, 1], [1, 0, 2, 1], 1),
    ([2, 64, 12, 14], [32, 5, 4], [3, 2], [2, 1, 0, 3], 1),
    ([5, 32, 9, 9], [64, 3, 3], [2, 2], [1; 4], 1),
    ([1, 32, 10, 10], [32, 2, 2], [3, 3], [0; 4], 1),
    ([2, 32, 1, 50], [32, 1, 8], [1, 4], [0, 0, 2, 2], 1),
    ([2, 32, 6, 6], [32, 1, 1], [2, 1], [1, 0, 2, 1], 1),
    ([1, 32, 1, 1], [32, 3, 3], [1, 1], [1; 4], 1),
];

#[test]
fn rounded_passes_match_plain_loops() {
    for case in ROUNDED {
        assert_passes(case, &[Way::Chosen(Precision::Bf16)]);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let cases = [
        ([6, 24, 17, 19], [40, 3, 3], [2, 2], [1; 4], 1),
        ([30, 40, 4, 4], [72, 3, 3], [1, 1], [1; 4], 1),
        ([5, 3, 20, 21], [33, 7, 7], [2, 2], [3; 4], 1),
        ([5, 32, 14, 13], [32, 3, 3], [1, 1], [1; 4], 32),
        ([5, 24, 14, 13], [40, 1, 1], [2, 2], [0; 4], 1),
        ([5, 32, 14, 13], [64, 3, 3], [1, 1], [1; 4], 1),
    ];
    for (case, precision) in cases.into_iter().flat_map(|c| [(c, Precision::F32), (c, Precision::Bf16)]) {
        let shape = shape(&case);
        let (x, w, dy) = (noise(shape.inputs(), 1), noise(shape.weights(), 2), noise(shape.outputs(), 3));
        let results = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut out = [shape.outputs(), shape.inputs(), shape.weights()].map(|len| vec![0f32; len]);
                forward(precision, &shape, &x, &w, &mut out[0]);
                backward_data(precision, &shape, &dy, &w, &mut out[1], false);
                backward_weight(precision, &shape, &x, &dy, &mut out[2]);
                out
            })
        };
        let one = results(1);
        for threads in [2, 3] {
            assert!(one == results(threads), "{case:?}: {threads} threads");
        }
    }
}
