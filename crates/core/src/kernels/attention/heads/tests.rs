use super::*;
use crate::kernels::gemm::tests::noise;

const SHAPES: [Attention; 6] = [
    Attention { n: 1, tokens: 1, heads: 1, width: 1 },
    Attention { n: 2, tokens: 5, heads: 3, width: 7 },
    Attention { n: 2, tokens: 37, heads: 2, width: 32 },
    Attention { n: 1, tokens: 197, heads: 2, width: 64 },
    Attention { n: 1, tokens: 130, heads: 1, width: 48 },
    Attention { n: 1, tokens: 17, heads: 2, width: 90 },
];

struct Plain {
    p: Vec<f64>,
    y: Vec<f64>,
    lse: Vec<f64>,
    d_qkv: Vec<f64>,
}

/// All products written out.
fn plain(e: Attention, qkv: &[f32], dy: &[f32]) -> Plain {
    let (t, d) = (e.tokens, e.width);
    let scale = 1.0 / (d as f64).sqrt();
    let at = |s: usize, token: usize, part: usize, h: usize, i: usize| {
        (((s * t + token) * 3 + part) * e.heads + h) * d + i
    };
    let x = |i: usize| f64::from(qkv[i]);
    let mut out = Plain {
        p: vec![0.0; e.n * e.heads * t * t],
        y: vec![0.0; dy.len()],
        lse: vec![0.0; e.n * e.heads * t],
        d_qkv: vec![0.0; qkv.len()],
    };
    for (s, h) in (0..e.n).flat_map(|s| (0..e.heads).map(move |h| (s, h))) {
        let g = |token: usize, i: usize| ((s * t + token) * e.heads + h) * d + i;
        for row in 0..t {
            let score = |key: usize| {
                (0..d).map(|i| x(at(s, row, 0, h, i)) * x(at(s, key, 1, h, i))).sum::<f64>() * scale
            };
            let scores: Vec<f64> = (0..t).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = most + scores.iter().map(|s| (s - most).exp()).sum::<f64>().ln();
            out.lse[(s * e.heads + h) * t + row] = lse;
            let p: Vec<f64> = scores.iter().map(|s| (s - lse).exp()).collect();
            out.p[((s * e.heads + h) * t + row) * t..][..t].copy_from_slice(&p);
            let dp: Vec<f64> = (0..t)
                .map(|key| (0..d).map(|i| f64::from(dy[g(row, i)]) * x(at(s, key, 2, h, i))).sum())
                .collect();
            let total: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for key in 0..t {
                let ds = p[key] * (dp[key] - total) * scale;
                for i in 0..d {
                    out.y[g(row, i)] += p[key] * x(at(s, key, 2, h, i));
                    out.d_qkv[at(s, row, 0, h, i)] += ds * x(at(s, key, 1, h, i));
                    out.d_qkv[at(s, key, 1, h, i)] += ds * x(at(s, row, 0, h, i));
                    out.d_qkv[at(s, key, 2, h, i)] += p[key] * f64::from(dy[g(row, i)]);
                }
            }
        }
    }
    out
}

fn assert_close(got: &[f32], want: &[f64], what: &str) {
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= 3e-6 * scale, "{what}: [{i}] {got} for {want}");
    }
}

#[test]
fn both_passes_match_plain_loops() {
    for e in SHAPES {
        let tokens = e.n * e.tokens;
        let qkv: Vec<f32> = noise(tokens * e.pitch(), 1).iter().map(|v| v * 2.0).collect();
        let dy = noise(tokens * e.heads * e.width, 2);
        let want = plain(e, &qkv, &dy);
        for level in Level::available() {
            let what = format!("{level:?} {e:?}");
            let (mut y, mut lse) = (vec![f32::NAN; dy.len()], vec![f32::NAN; tokens * e.heads]);
            e.forward_at(level, &qkv, &mut y, &mut lse);
            assert_close(&y, &want.y, &what);
            assert_close(&lse, &want.lse, &what);
            let mut d_qkv = vec![f32::NAN; qkv.len()];
            e.backward_at(level, &qkv, &lse, &dy, &mut d_qkv);
            assert_close(&d_qkv, &want.d_qkv, &what);
        }
        let query = e.tokens / 2;
        let mut p = vec![f32::NAN; tokens * e.heads];
        e.probabilities(&qkv, query, &mut p);
        let rows = want.p.chunks(e.tokens * e.tokens).map(|p| &p[query * e.tokens..][..e.tokens]);
        assert_close(&p, &rows.flatten().copied().collect::<Vec<_>>(), "probabilities");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let e = Attention { n: 1, tokens: 20, heads: 1, width: 16 };
    let qkv: Vec<f32> = noise(20 * e.pitch(), 1).iter().map(|v| v * 20.0).collect();
    let dy = noise(20 * 16, 2);
    let want = plain(e, &qkv, &dy);
    let (mut y, mut lse, mut d_qkv) = (vec![0f32; 20 * 16], vec![0f32; 20], vec![0f32; qkv.len()]);
    e.forward(&qkv, &mut y, &mut lse);
    e.backward(&qkv, &lse, &dy, &mut d_qkv);
    let close = |got: &[f32], want: &[f64]| {
        let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        got.iter().zip(want).all(|(&got, want)| (f64::from(got) - want).abs() <= 1e-3 * scale)
    };
    assert!(close(&y, &want.y) && close(&d_qkv, &want.d_qkv));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let e = Attention { n: 3, tokens: 197, heads: 3, width: 32 };
    let (qkv, dy) = (noise(3 * 197 * e.pitch(), 1), noise(3 * 197 * 96, 2));
    let results = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut y, mut lse) = (vec![0f32; dy.len()], vec![0f32; 3 * 197 * 3]);
            let mut d_qkv = vec![0f32; qkv.len()];
            e.forward(&qkv, &mut y, &mut lse);
            e.backward(&qkv, &lse, &dy, &mut d_qkv);
            [y, lse, d_qkv]
        })
    };
    let one = results(1);
    assert!(one == results(2) && one == results(5));
}
