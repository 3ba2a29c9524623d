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

/// y, dx and dw by plain loops.
fn plain(s: &ConvShape, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let mut y = vec![0f64; s.outputs()];
    let (mut dx, mut dw) = (vec![0f64; s.inputs()], vec![0f64; s.weights()]);
    for n in 0..s.n {
        for (r, q) in (0..s.oh).flat_map(|r| (0..s.ow).map(move |q| (r, q))) {
            for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
                let (row, column) = ((r + i).wrapping_sub(s.padding[0]), (q + j).wrapping_sub(s.padding[2]));
                if row >= s.h || column >= s.w {
                    continue;
                }
                let from = ((n * s.h + row) * s.w + column) * s.c;
                let to = ((n * s.oh + r) * s.ow + q) * s.o;
                for o in 0..s.o {
                    for c in 0..s.c {
                        let k = (o * s.c + c) * 9 + i * 3 + j;
                        y[to + o] += f64::from(x[from + c]) * f64::from(w[k]);
                        dx[from + c] += f64::from(dy[to + o]) * f64::from(w[k]);
                        dw[k] += f64::from(dy[to + o]) * f64::from(x[from + c]);
                    }
                }
            }
        }
    }
    [y, dx, dw]
}

/// Largest error beside the RMS of what is wanted.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
    got.iter().zip(want).fold(0.0, |worst: f64, (&got, want)| {
        let error = (f64::from(got) - want).abs();
        // A NaN is larger than everything.
        if error <= worst { worst } else { error }
    }) / rms.max(1e-30)
}

fn shape(x: [usize; 4], o: usize, padding: [usize; 4]) -> ConvShape {
    ConvShape::new(x, &[o, x[1], 3, 3], [1, 1], padding, 1).unwrap()
}

/// `[N, C, H, W]`, O and padding.
const SHAPES: [([usize; 4], usize, [usize; 4]); 17] = [
    ([1, 1, 1, 1], 1, [1; 4]),
    ([2, 16, 2, 3], 16, [1; 4]),
    ([1, 5, 3, 3], 7, [0; 4]),
    ([3, 16, 4, 4], 32, [1; 4]),
    ([2, 20, 5, 7], 17, [1; 4]),
    ([1, 32, 6, 9], 48, [0; 4]),
    ([2, 48, 7, 7], 33, [1; 4]),
    ([1, 33, 8, 8], 16, [1, 0, 0, 1]),
    ([1, 16, 9, 6], 40, [0, 2, 1, 0]),
    ([2, 17, 3, 9], 15, [2, 2, 2, 2]),
    ([1, 3, 4, 5], 2, [3, 0, 1, 4]),
    ([7, 32, 9, 9], 64, [1; 4]),
    ([70, 16, 8, 8], 16, [1; 4]),
    ([1, 16, 1, 1], 16, [1; 4]),
    // Few tiles and many channels go by panels and squares.
    ([1, 150, 5, 3], 264, [1; 4]),
    ([3, 264, 3, 2], 230, [1; 4]),
    ([2, 256, 2, 2], 260, [0, 1, 1, 0]),
];

const VARIANTS: [(Variant, f64); 2] = [(Variant::F2, 1e-5), (Variant::F4, 2e-4)];

#[test]
fn all_passes_match_plain_loops() {
    for (x, o, padding) in SHAPES {
        let s = shape(x, o, padding);
        let (x, w, dy) = (noise(s.inputs(), 1), noise(s.weights(), 2), noise(s.outputs(), 3));
        let [y, dx, dw] = plain(&s, &x, &w, &dy);
        let before = noise(s.inputs(), 4);
        let added: Vec<f64> = dx.iter().zip(&before).map(|(v, b)| v + f64::from(*b)).collect();
        for level in Level::available() {
            for (v, tolerance) in VARIANTS {
                let check = |got: &[f32], want: &[f64], what| {
                    let error = error(got, want);
                    assert!(error <= tolerance, "{s:?} {level:?} {v:?} {what}: {error}");
                };
                let mut got = vec![f32::NAN; s.outputs()];
                forward_at(level, v, &s, &x, &w, &mut got);
                check(&got, &y, "y");
                let mut got = vec![f32::NAN; s.inputs()];
                backward_data_at(level, v, &s, &dy, &w, (&mut got, false));
                check(&got, &dx, "dx");
                got.copy_from_slice(&before);
                backward_data_at(level, v, &s, &dy, &w, (&mut got, true));
                check(&got, &added, "dx added");
                let mut got = vec![f32::NAN; s.weights()];
                backward_weight_at(level, v, &s, &x, &dy, &mut got);
                check(&got, &dw, "dw");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (n, c, side, o) in [(9, 48, 13, 40), (40, 16, 15, 16), (4, 272, 4, 256)] {
        let s = shape([n, c, side, side], o, [1; 4]);
        let (x, w, dy) = (noise(s.inputs(), 1), noise(s.weights(), 2), noise(s.outputs(), 3));
        for (v, _) in VARIANTS {
            let results = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut out = [s.outputs(), s.inputs(), s.weights()].map(|len| vec![0f32; len]);
                    forward(v, &s, &x, &w, &mut out[0]);
                    backward_data(v, &s, &dy, &w, &mut out[1], false);
                    backward_weight(v, &s, &x, &dy, &mut out[2]);
                    out
                })
            };
            let one = results(1);
            for threads in [2, 3] {
                assert!(one == results(threads), "{s:?} {v:?} {threads} threads");
            }
        }
    }
}

#[test]
fn errors_stay_within_what_is_known() {
    let s = shape([1, 64, 16, 16], 64, [1; 4]);
    let (x, w, dy) = (noise(s.inputs(), 1), noise(s.weights(), 2), noise(s.outputs(), 3));
    let [y, dx, dw] = plain(&s, &x, &w, &dy);
    for (v, most) in [(Variant::F2, 1e-5), (Variant::F4, 1e-4)] {
        let mut got = [s.outputs(), s.inputs(), s.weights()].map(|len| vec![f32::NAN; len]);
        forward(v, &s, &x, &w, &mut got[0]);
        backward_data(v, &s, &dy, &w, &mut got[1], false);
        backward_weight(v, &s, &x, &dy, &mut got[2]);
        for (got, want) in got.iter().zip([&y, &dx, &dw]) {
            let error = error(got, want);
            assert!(error < most, "{v:?}: {error}");
        }
    }
}

#[test]
fn the_variant_follows_the_map() {
    let preferred = |n, c, side| preferred(&shape([n, c, side, side], c, [1; 4]), Pass::Forward);
    for (n, c, side) in [(128, 64, 32), (128, 512, 4), (8, 512, 7), (8, 256, 14), (1, 64, 56), (16, 64, 9)] {
        assert_eq!(preferred(n, c, side), Some(Variant::F4), "{n}, {c}, {side}");
    }
    for (n, c, side) in [(128, 512, 2), (32, 256, 5), (32, 256, 6)] {
        assert_eq!(preferred(n, c, side), Some(Variant::F2), "{n}, {c}, {side}");
    }
    for (n, c, side) in [(128, 512, 1), (128, 16, 32), (1, 512, 4)] {
        assert_eq!(preferred(n, c, side), None, "{n}, {c}, {side}");
    }
    let mut strided = shape([8, 64, 8, 8], 64, [1; 4]);
    (strided.stride, strided.oh, strided.ow) = ([2, 2], 4, 4);
    assert!(!suits(&strided));
}
