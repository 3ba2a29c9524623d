//! What the tests of several losses share.

use candle_core::{DType, Device, Tensor};

use crate::rng::{Key, Purpose};

pub(super) fn embeddings(seed: u64, n: usize, d: usize) -> Tensor {
    let mut stream = Key::new(seed, Purpose::Data).stream();
    let data: Vec<f32> = (0..n * d).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(data, (n, d), &Device::Cpu).unwrap()
}

pub(super) fn scalar(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

/// The rows in an order that `seed` and the number of rows determine.
pub(super) fn permuted(x: &Tensor, seed: u64) -> Tensor {
    let n = x.dim(0).unwrap();
    let order = Key::new(seed, Purpose::Data).name("order").stream().permutation(n);
    let order: Vec<u32> = order.into_iter().map(|i| i as u32).collect();
    x.index_select(&Tensor::new(order, &Device::Cpu).unwrap(), 0).unwrap()
}

pub(super) fn fixture(name: &str) -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/loss/");
    serde_json::from_slice(&std::fs::read(format!("{path}{name}")).unwrap()).unwrap()
}

pub(super) fn matrix(value: &serde_json::Value, dtype: DType) -> Tensor {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    let (n, d) = (rows.len(), rows[0].len());
    Tensor::from_vec(rows.concat(), (n, d), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The largest difference relative to the largest true element.
pub(super) fn difference(got: &Tensor, truth: &Tensor) -> f64 {
    let values =
        |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (got, truth) = (values(got), values(truth));
    assert_eq!(got.len(), truth.len());
    let scale = truth.iter().fold(1e-9f64, |m, t| m.max(t.abs()));
    // NaN must not pass as the smallest.
    got.iter().zip(&truth).map(|(g, t)| (g - t).abs() / scale).fold(0.0, |m, e| if e <= m { m } else { e })
}

pub(super) fn assert_close(what: &str, got: &Tensor, truth: &Tensor, tolerance: f64) {
    let difference = difference(got, truth);
    assert!(difference <= tolerance, "{what}: {difference:e}");
}
