use super::*;
use crate::rng::{Key, Purpose};
use candle_core::{DType, Device, Var};
use proptest::prelude::*;

fn embeddings(seed: u64, n: usize, d: usize, size: f64) -> Tensor {
    let mut stream = Key::new(seed, Purpose::Data).stream();
    let data: Vec<f32> = (0..n * d).map(|_| (stream.normal() * size) as f32).collect();
    Tensor::from_vec(data, (n, d), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(what: &str, got: &Tensor, truth: &Tensor, tolerance: f64) {
    let (got, truth) = (values(got), values(truth));
    let scale = truth.iter().fold(1e-6f64, |m, t| m.max(t.abs()));
    for (i, (g, t)) in got.iter().zip(&truth).enumerate() {
        assert!((g - t).abs() <= tolerance * scale, "{what}, element {i}: {g}, expected {t}");
    }
}

/// Values and gradients of both forms against the plain twin in f64.
fn compare(rows: &Tensor, columns: Option<&Tensor>, scale: f64, excluded: Excluded) {
    let run = |dtype: DType, twin: bool| {
        let rows = Var::from_tensor(&rows.to_dtype(dtype).unwrap()).unwrap();
        let columns = columns.map(|c| Var::from_tensor(&c.to_dtype(dtype).unwrap()).unwrap());
        let other = columns.as_ref().map_or(rows.as_tensor(), |c| c.as_tensor());
        let out = match (twin, &columns) {
            (true, _) => plain(rows.as_tensor(), other, scale, excluded),
            (false, Some(_)) => negatives(rows.as_tensor(), other, scale, excluded),
            (false, None) => symmetric_negatives(rows.as_tensor(), scale, excluded),
        }
        .unwrap();
        let m = rows.dim(0).unwrap();
        // Weights of both signs; rows without negatives get none, as in the losses.
        let weights: Vec<f64> = values(&out.lse)
            .iter()
            .enumerate()
            .map(|(i, &lse)| if lse < -1e29 { 0.0 } else { (i as f64 * 0.7).sin() / m as f64 })
            .collect();
        let weights = Tensor::from_vec(weights, m, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let grads = (&out.lse * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = vec![out.lse.clone(), out.max.clone(), grads.get(rows.as_tensor()).unwrap().clone()];
        all.extend(columns.map(|c| grads.get(c.as_tensor()).unwrap().clone()));
        all
    };
    let (got, truth) = (run(DType::F32, false), run(DType::F64, true));
    // Rounding of the logits themselves goes into the exponent; excluded ones are not logits.
    let largest = values(&truth[1]).into_iter().filter(|&x| x > -1e29).fold(1f64, |m, x| m.max(x.abs()));
    let tolerance = 2e-5f64.max(1e-6 * largest);
    for (i, what) in ["lse", "max", "row gradient", "column gradient"].iter().take(got.len()).enumerate() {
        let [got, truth] = [&got[i], &truth[i]].map(|x| x.clamp(-1e9, f64::MAX).unwrap());
        assert_close(what, &got, &truth, tolerance);
    }
}

#[test]
fn tiles_match_the_plain_twin() {
    // Small and large logits (the bounded and the shifted path), sizes around the tiles' sides, several groups; from 1025
    // rows on the symmetric form goes tile by tile too.
    for (batch, d, size) in [
        (1, 1, 1.0),
        (2, 3, 1.0),
        (16, 8, 1.0),
        (33, 5, 4.0),
        (100, 16, 0.3),
        (130, 4, 1.0),
        (512, 7, 0.3),
        (513, 6, 0.3),
        (700, 3, 1.0),
    ] {
        let z = embeddings(batch as u64, 2 * batch, d, size);
        for scale in [0.5, 2.0, 30.0] {
            compare(&z, None, scale, Excluded::Views { offset: 0, batch });
            compare(&z, None, scale, Excluded::Diagonal { offset: 0 });
        }
    }
    for (m, n, d, offset) in [
        (1, 1, 1, 0),
        (3, 10, 4, 5),
        (40, 200, 7, 160),
        (90, 90, 3, 0),
        (150, 33, 2, 0),
        (530, 140, 4, 0),
        (513, 1100, 3, 400),
    ] {
        let (rows, columns) = (embeddings(1, m, d, 1.0), embeddings(2, n, d, 1.0));
        for scale in [1.0, 30.0] {
            compare(&rows, Some(&columns), scale, Excluded::None);
            if n >= m + offset {
                compare(&rows, Some(&columns), scale, Excluded::Diagonal { offset });
            }
        }
    }
    // Rows of one rank of four.
    let all = embeddings(3, 4 * 24, 6, 1.0);
    let own = all.narrow(0, 48, 24).unwrap();
    compare(&own, Some(&all), 3.0, Excluded::Views { offset: 48, batch: 12 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_size_matches_the_plain_twin(m in 1usize..200, n in 1usize..200, d in 1usize..20, scale in 0.1f64..20.0) {
        compare(&embeddings(5, m, d, 1.0), Some(&embeddings(6, n, d, 1.0)), scale, Excluded::None);
        compare(&embeddings(7, 2 * m, d, 0.5), None, scale, Excluded::Views { offset: 0, batch: m });
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let z = embeddings(11, 1100, 24, 0.2);
    let columns = embeddings(12, 300, 24, 0.2);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let z = Var::from_tensor(&z).unwrap();
            let c = Var::from_tensor(&columns).unwrap();
            let symmetric = |rows: usize| {
                let z = z.narrow(0, 0, rows).unwrap();
                symmetric_negatives(&z, 2.0, Excluded::Views { offset: 0, batch: rows / 2 }).unwrap().lse
            };
            // The first tile by tile, the second with the whole matrix.
            let (one, two) = (symmetric(1100), symmetric(700));
            let three = negatives(z.as_tensor(), c.as_tensor(), 2.0, Excluded::None).unwrap().lse;
            let sums = [one, two, three].map(|lse| lse.sum_all().unwrap());
            let grads = sums
                .iter()
                .fold(Tensor::zeros((), DType::F32, &Device::Cpu).unwrap(), |sum, x| (sum + x).unwrap());
            let grads = grads.backward().unwrap();
            [z.as_tensor(), c.as_tensor()].map(|x| {
                let g: Vec<f32> = grads.get(x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                g.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            })
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn a_nan_reaches_the_result() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut data = vec![0.25f32; 80 * 4];
        data[37] = bad;
        let z = Tensor::from_vec(data, (80, 4), &Device::Cpu).unwrap();
        let out = symmetric_negatives(&z, 2.0, Excluded::Views { offset: 0, batch: 40 }).unwrap();
        let other = negatives(&z, &z, 2.0, Excluded::None).unwrap();
        for lse in [out.lse, other.lse] {
            assert!(!lse.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
        }
    }
}
