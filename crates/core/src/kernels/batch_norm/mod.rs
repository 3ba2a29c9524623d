//! Batch normalisation with an optional residual and an optional ReLU in one pass each way.
//!
//! `y = act((x - mean) / sqrt(var + eps) * gamma + beta + residual)` (Ioffe and Szegedy 2015, algorithm 1, with the
//! biased batch variance).

mod composed;
mod cpu;
mod op;
#[cfg(test)]
mod tests;

use candle_core::Tensor;

use super::is_native;
use crate::dist::Comm;
use crate::{Error, Result};

/// The operands of a batch normalisation.
#[derive(Debug, Clone, Copy)]
pub struct BatchNormArgs<'a> {
    /// `[N, C, H, W]` or `[N, C]`.
    pub x: &'a Tensor,
    /// `[2, C]`: gamma above beta.
    pub affine: &'a Tensor,
    /// Added after the normalisation; of the shape of `x`.
    pub residual: Option<&'a Tensor>,
    /// Whether a ReLU comes last. Its gradient at 0 is 0.
    pub relu: bool,
    /// Added to the variance.
    pub eps: f64,
}

/// Over which samples batch statistics are taken.
#[derive(Debug, Clone)]
pub enum Statistics {
    /// All samples of this rank.
    Local,
    /// So many equal consecutive groups of the batch, each by itself.
    Split(usize),
    /// All samples of all ranks.
    Sync(Comm),
}

impl Statistics {
    fn groups(&self) -> usize {
        match self {
            Self::Split(groups) => *groups,
            Self::Local | Self::Sync(_) => 1,
        }
    }
}

/// What a training pass has seen, outside any graph.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// `[G, C]`, one row per group.
    pub mean: Tensor,
    /// `[G, C]`, biased.
    pub var: Tensor,
    /// Values per channel and group (over all ranks if synchronised).
    pub count: usize,
}

/// Normalises with the statistics of the batch and returns them.
///
/// # Errors
/// [`Error::Shape`] where operands do not fit or a channel has fewer than two values; a rank that is gone.
pub fn batch_norm_train(args: BatchNormArgs, statistics: &Statistics) -> Result<(Tensor, BatchStatistics)> {
    let extents = Extents::new(&args, statistics.groups())?;
    let single = extents.n / extents.groups * extents.plane < 2;
    if single && !matches!(statistics, Statistics::Sync(_)) {
        return Err(too_few(args.x));
    }
    if is_native(args.x) {
        op::train(args, extents, statistics)
    } else {
        composed::train(args, extents, statistics)
    }
}

/// Normalises with given statistics `[C]` each, which get no gradient.
///
/// # Errors
/// [`Error::Shape`] where operands do not fit.
pub fn batch_norm_fixed(args: BatchNormArgs, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let extents = Extents::new(&args, 1)?;
    if mean.dims() != [extents.c] || var.dims() != [extents.c] {
        return Err(Error::shape("batch norm statistics", format!("[{}]", extents.c), mean.dims()));
    }
    if is_native(args.x) {
        op::fixed(args, extents, mean, var)
    } else {
        composed::fixed(args, extents, mean, var)
    }
}

fn too_few(x: &Tensor) -> Error {
    Error::shape("batch norm in training", "more than one value per channel and group", x.dims())
}

/// The extents of `x`, with height and width as one.
#[derive(Debug, Clone, Copy)]
struct Extents {
    n: usize,
    c: usize,
    plane: usize,
    groups: usize,
}

impl Extents {
    fn new(args: &BatchNormArgs, groups: usize) -> Result<Self> {
        let dims = args.x.dims();
        let (n, c, plane) = match *dims {
            [n, c] => (n, c, 1),
            [n, c, h, w] => (n, c, h * w),
            _ => return Err(Error::shape("batch norm", "[N, C, H, W] or [N, C]", dims)),
        };
        if n * c * plane == 0 {
            return Err(Error::shape("batch norm", "a batch that is not empty", dims));
        }
        if groups == 0 || n % groups != 0 {
            return Err(Error::shape("batch norm", format!("N in {groups} equal groups"), dims));
        }
        if args.affine.dims() != [2, c] {
            return Err(Error::shape("batch norm gamma and beta", format!("[2, {c}]"), args.affine.dims()));
        }
        if let Some(residual) = args.residual
            && residual.dims() != dims
        {
            return Err(Error::shape("batch norm residual", format!("{dims:?}"), residual.dims()));
        }
        Ok(Self { n, c, plane, groups })
    }
}
