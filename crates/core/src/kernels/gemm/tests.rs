use super::*;

/// Numbers in -1..1 that look random.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(crate) fn assert_close(got: &[f32], want: &[f64], depth: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let tolerance = 4e-7 * (depth as f64).sqrt().max(4.0) * 4.0;
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0),
            "{what}: [{i}] {got} for {want}"
        );
    }
}

/// `a` `[m, k]` times `b` `[k, n]`, both given by element.
fn product_of(
    (m, k, n): Extents,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let b: Vec<f64> = (0..k * n).map(|i| f64::from(b(i / n, i % n))).collect();
    let mut out = vec![0.0; m * n];
    for (i, out) in out.chunks_mut(n).enumerate() {
        for (p, b) in b.chunks(n).enumerate() {
            let a = f64::from(a(i, p));
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

/// A layer's three products.
pub(super) trait Products {
    fn linear(&self, extents: Extents, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]);
    fn data(&self, extents: Extents, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool);
    fn weight(&self, extents: Extents, x: &[f32], dy: &[f32], dw: &mut [f32]);
}

/// They are what plain loops over operands after `rounded` give.
pub(super) fn assert_products(
    (rows, c, o): Extents,
    what: &str,
    rounded: impl Fn(f32) -> f32,
    products: &impl Products,
) {
    let of = |len, seed| -> (Vec<f32>, Vec<f32>) {
        let values = noise(len, seed);
        let seen = values.iter().map(|&v| rounded(v)).collect();
        (values, seen)
    };
    let ((x, x_seen), (w, w_seen)) = (of(rows * c, 1), of(o * c, 2));
    let ((dy, dy_seen), bias) = (of(rows * o, 3), noise(o, 4));
    let mut y = vec![f32::NAN; rows * o];
    let mut want = product_of((rows, c, o), |i, p| x_seen[i * c + p], |p, j| w_seen[j * c + p]);
    products.linear((rows, c, o), &x, &w, None, &mut y);
    assert_close(&y, &want, c, what);
    want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i % o]));
    products.linear((rows, c, o), &x, &w, Some(&bias), &mut y);
    assert_close(&y, &want, c, &format!("{what} with bias"));

    let mut want = product_of((rows, o, c), |i, p| dy_seen[i * o + p], |p, j| w_seen[p * c + j]);
    let mut dx = vec![f32::NAN; rows * c];
    products.data((rows, c, o), &dy, &w, &mut dx, false);
    assert_close(&dx, &want, o, &format!("{what} dx"));
    dx.copy_from_slice(&x);
    want.iter_mut().zip(&x).for_each(|(v, x)| *v += f64::from(*x));
    products.data((rows, c, o), &dy, &w, &mut dx, true);
    assert_close(&dx, &want, o, &format!("{what} dx added"));

    let want = product_of((o, rows, c), |i, p| dy_seen[p * o + i], |p, j| x_seen[p * c + j]);
    let mut dw = vec![f32::NAN; o * c];
    products.weight((rows, c, o), &x, &dy, &mut dw);
    assert_close(&dw, &want, rows, &format!("{what} dw"));
}

impl Products for Level {
    fn linear(&self, extents: Extents, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        linear_at(*self, extents, x, w, bias, y);
    }

    fn data(&self, extents: Extents, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        backward_data_at(*self, extents, dy, w, dx, add);
    }

    fn weight(&self, extents: Extents, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        weight::backward_weight(*self, extents, x, dy, dw);
    }
}

const SHAPES: [Extents; 12] = [
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
];

#[test]
fn products_match_plain_loops() {
    for level in Level::available() {
        for (rows, c, o) in SHAPES {
            assert_products((rows, c, o), &format!("{level:?} {rows} x {c} -> {o}"), |v| v, &level);
        }
    }
}

#[test]
fn column_sums_match_plain_loops() {
    for (rows, _, o) in SHAPES {
        let dy = noise(rows * o, 5);
        let mut got = vec![f32::NAN; o];
        column_sums(rows, o, &dy, &mut got);
        let want = product_of((1, rows, o), |_, _| 1.0, |p, j| dy[p * o + j]);
        assert_close(&got, &want, rows, "column sums");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (rows, c, o) = (3000, 80, 72);
    let (x, w, dy) = (noise(rows * c, 1), noise(o * c, 2), noise(rows * o, 3));
    let results = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut out = [rows * o, rows * c, o * c, o].map(|len| vec![0f32; len]);
            linear(rows, c, o, &x, &w, None, &mut out[0]);
            linear_backward_data(rows, c, o, &dy, &w, &mut out[1], false);
            linear_backward_weight(rows, c, o, &x, &dy, &mut out[2]);
            column_sums(rows, o, &dy, &mut out[3]);
            out
        })
    };
    let one = results(1);
    for threads in [2, 3, 5] {
        assert!(one == results(threads), "{threads} threads");
    }
}
