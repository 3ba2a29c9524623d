//! Frozen features with labels: what every protocol takes.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::data::Batch;
use crate::{Error, Result};

/// Labels from here on are taken for a fault of the data: every protocol keeps one score per class.
const MAX_CLASSES: u32 = 1 << 20;

/// Rows per unit of work. Fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 1024;

/// `n` feature vectors of width `dim` on the host, with a label each.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// The elements, row by row: `[n, dim]`.
    pub data: Vec<f32>,
    /// The number of samples.
    pub n: usize,
    /// The width.
    pub dim: usize,
    /// One class per sample, from 0.
    pub labels: Vec<u32>,
}

impl Features {
    /// Checks sizes, that no element is NaN or infinite, and that labels are there. `name` (`train`, `test`) stands in
    /// errors.
    ///
    /// # Errors
    /// [`Error::Data`] for no sample, no width, missing labels, a label of 2^20 or more, an element that is not
    /// finite (with its place).
    pub fn new(name: &str, data: Vec<f32>, dim: usize, labels: Vec<u32>) -> Result<Self> {
        let n = data.len().checked_div(dim).unwrap_or(0);
        let features = Self { data, n, dim, labels };
        features.check(name)?;
        Ok(features)
    }

    /// The checks of [`Features::new`] on features whose fields were set by hand.
    ///
    /// # Errors
    /// As [`Features::new`].
    pub fn check(&self, name: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::data(format!("{name} features"), reason));
        if self.n == 0 || self.dim == 0 {
            return fail(format!("empty: {} samples of width {}", self.n, self.dim));
        }
        if self.data.len() != self.n * self.dim {
            return fail(format!("{} elements are not {} x {}", self.data.len(), self.n, self.dim));
        }
        if self.labels.is_empty() {
            return fail("labels are missing".to_string());
        }
        if self.labels.len() != self.n {
            return fail(format!("{} labels for {} samples", self.labels.len(), self.n));
        }
        if let Some(i) = self.labels.iter().position(|&label| label >= MAX_CLASSES) {
            return fail(format!("sample {i}: label {} is out of range", self.labels[i]));
        }
        if let Some(i) = self.data.iter().position(|x| !x.is_finite()) {
            let (sample, place) = (i / self.dim, i % self.dim);
            return fail(format!("sample {sample}, dimension {place} is {}", self.data[i]));
        }
        Ok(())
    }

    /// From a tensor `[N, D]` of any float type on any device.
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank; as [`Features::new`].
    pub fn from_tensor(name: &str, features: &Tensor, labels: Vec<u32>) -> Result<Self> {
        let (data, dim) = to_host(features)?;
        Self::new(name, data, dim, labels)
    }

    /// The features as a tensor `[n, dim]`.
    ///
    /// # Errors
    /// A device that cannot hold it.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.data, (self.n, self.dim), device)?)
    }

    /// One feature vector.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    /// The samples at `indices`, in that order. Panics beyond the set.
    pub(super) fn select(&self, indices: &[usize]) -> Self {
        Self {
            data: indices.iter().flat_map(|&i| self.row(i)).copied().collect(),
            n: indices.len(),
            dim: self.dim,
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// The highest label plus one.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |&m| m as usize + 1)
    }

    /// A copy with rows of unit l2 norm: `x / max(|x|, 1e-12)`, as PyTorch's `normalize`; a zero row stays zero.
    pub fn l2_normalized(&self) -> Self {
        let mut copy = self.clone();
        copy.data.par_chunks_mut(self.dim.max(1)).for_each(|row| {
            let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
            for x in row {
                *x = (f64::from(*x) / norm) as f32;
            }
        });
        copy
    }
}

/// A tensor `[N, D]` as host values and D.
pub(super) fn to_host(features: &Tensor) -> Result<(Vec<f32>, usize)> {
    let &[_, dim] = features.dims() else {
        return Err(Error::shape("features", "[N, D]", features.dims()));
    };
    let host = features.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok((host.flatten_all()?.to_vec1::<f32>()?, dim))
}

/// Runs `f`, from a batch `[N, C, H, W]` to features `[N, D]` (see [`crate::train::Method::features`]), over all
/// batches and gathers the results on the host. `f` moves its input to the device of its parameters.
///
/// # Errors
/// Those of `f` and of the batches; [`Error::Data`] for batches of unequal width, or labels that do not fit; as
/// [`Features::new`].
pub fn extract(
    name: &str,
    f: impl Fn(&Tensor) -> Result<Tensor>,
    batches: impl IntoIterator<Item = Result<(Tensor, Vec<u32>)>>,
) -> Result<Features> {
    let (mut data, mut all_labels, mut width) = (Vec::new(), Vec::new(), None);
    for (i, batch) in batches.into_iter().enumerate() {
        let (x, labels) = batch?;
        let (values, dim) = to_host(&f(&x)?)?;
        if *width.get_or_insert(dim) != dim || values.len() != labels.len() * dim {
            let got = format!("batch {i}: {} values of width {dim}, {} labels", values.len(), labels.len());
            return Err(Error::data(format!("{name} features"), got));
        }
        data.extend_from_slice(&values);
        all_labels.extend_from_slice(&labels);
    }
    Features::new(name, data, width.unwrap_or(0), all_labels)
}

/// The first view and the labels of a batch, as [`extract`] takes them.
///
/// # Errors
/// [`Error::Data`] for a batch without views or without labels.
pub fn labelled(batch: Batch) -> Result<(Tensor, Vec<u32>)> {
    let first = batch.views.into_iter().next();
    let view = first.ok_or_else(|| Error::data("evaluation batch", "has no view"))?;
    let labels = batch.labels.ok_or_else(|| Error::data("evaluation batch", "labels are missing"))?;
    Ok((view, labels))
}

/// Mean and standard deviation of every dimension of a training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer {
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Standardizer {
    /// Mean and unbiased standard deviation (PyTorch's `std`) per dimension, in f64.
    ///
    /// # Errors
    /// [`Error::Data`] for fewer than two samples, which have no deviation.
    pub fn fit(train: &Features) -> Result<Self> {
        if train.n < 2 || train.dim == 0 {
            return Err(Error::data("train features", "standardising needs two samples or more"));
        }
        let sum = |term: &(dyn Fn(usize, f32) -> f64 + Sync)| -> Vec<f64> {
            let parts: Vec<Vec<f64>> = train
                .data
                .par_chunks(ROWS * train.dim)
                .map(|rows| {
                    let mut part = vec![0f64; train.dim];
                    for row in rows.chunks_exact(train.dim) {
                        for (d, (p, &x)) in part.iter_mut().zip(row).enumerate() {
                            *p += term(d, x);
                        }
                    }
                    part
                })
                .collect();
            let mut total = vec![0f64; train.dim];
            for part in parts {
                total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
            }
            total
        };
        let n = train.n as f64;
        let mean: Vec<f64> = sum(&|_, x| f64::from(x)).iter().map(|s| s / n).collect();
        let square = sum(&|d, x| (f64::from(x) - mean[d]).powi(2));
        let std = square.iter().map(|s| (s / (n - 1.0)).sqrt()).collect();
        Ok(Self { mean, std })
    }

    /// `(x - mean) / (std + 1e-6)`.
    ///
    /// # Errors
    /// [`Error::Data`] for another width.
    pub fn apply(&self, features: &Features) -> Result<Features> {
        if features.dim != self.mean.len() {
            let reason = format!("width {} where the training set has {}", features.dim, self.mean.len());
            return Err(Error::data("features", reason));
        }
        let mut copy = features.clone();
        let scale: Vec<f64> = self.std.iter().map(|s| 1.0 / (s + 1e-6)).collect();
        copy.data.par_chunks_mut(ROWS * features.dim).for_each(|rows| {
            for row in rows.chunks_exact_mut(features.dim) {
                for ((x, mean), scale) in row.iter_mut().zip(&self.mean).zip(&scale) {
                    *x = ((f64::from(*x) - mean) * scale) as f32;
                }
            }
        });
        Ok(copy)
    }
}
