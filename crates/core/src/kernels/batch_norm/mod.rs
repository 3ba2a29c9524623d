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

use super::map::{FeatureMap, Form};
use crate::dist::Comm;
use crate::{Error, Result};

/// The operands of a batch normalisation.
#[derive(Debug, Clone, Copy)]
pub struct BatchNormArgs<'a> {
    /// `[N, C, H, W]` or `[N, C]`.
    pub x: &'a FeatureMap,
    /// `[2, C]`: gamma above beta.
    pub affine: &'a Tensor,
    /// Added after the normalisation; of the shape of `x`.
    pub residual: Option<&'a FeatureMap>,
    /// Whether a ReLU comes last. Its gradient at 0 is 0.
    pub relu: bool,
    /// Added to the variance.
    pub eps: f64,
}

/// What both implementations need beside their operands.
#[derive(Debug, Clone, Copy)]
struct Settings {
    relu: bool,
    eps: f64,
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
pub fn batch_norm_train(
    args: BatchNormArgs,
    statistics: &Statistics,
) -> Result<(FeatureMap, BatchStatistics)> {
    let extents = Extents::new(&args, statistics.groups())?;
    let single = extents.n / extents.groups * extents.plane < 2;
    if single && !matches!(statistics, Statistics::Sync(_)) {
        return Err(too_few(&args.x.dims()));
    }
    match args.operands()? {
        Operands::Native(operands) => {
            let (y, seen) = op::train(operands, statistics)?;
            Ok((FeatureMap(Form::Native(y)), seen))
        }
        Operands::Plain(operands) => {
            let (y, seen) = composed::train(operands, extents, statistics)?;
            Ok((FeatureMap(Form::Plain(y)), seen))
        }
    }
}

/// Normalises with given statistics `[C]` each, which get no gradient.
///
/// # Errors
/// [`Error::Shape`] where operands do not fit.
pub fn batch_norm_fixed(args: BatchNormArgs, mean: &Tensor, var: &Tensor) -> Result<FeatureMap> {
    let extents = Extents::new(&args, 1)?;
    if mean.dims() != [extents.c] || var.dims() != [extents.c] {
        return Err(Error::shape("batch norm statistics", format!("[{}]", extents.c), mean.dims()));
    }
    Ok(FeatureMap(match args.operands()? {
        Operands::Native(operands) => Form::Native(op::fixed(operands, mean, var)?),
        Operands::Plain(operands) => Form::Plain(composed::fixed(operands, extents, mean, var)?),
    }))
}

fn too_few(dims: &[usize]) -> Error {
    Error::shape("batch norm in training", "more than one value per channel and group", dims)
}

enum Operands<'a> {
    Native(op::Operands<'a>),
    Plain(composed::Operands<'a>),
}

impl<'a> BatchNormArgs<'a> {
    /// The operands in the form that all of them have.
    fn operands(self) -> Result<Operands<'a>> {
        let (affine, settings) = (self.affine, Settings { relu: self.relu, eps: self.eps });
        match (&self.x.0, self.residual.map(|r| &r.0)) {
            (Form::Native(x), None) => {
                Ok(Operands::Native(op::Operands { x, affine, residual: None, settings }))
            }
            (Form::Native(x), Some(Form::Native(residual))) => {
                Ok(Operands::Native(op::Operands { x, affine, residual: Some(residual), settings }))
            }
            (Form::Plain(x), None) => {
                Ok(Operands::Plain(composed::Operands { x, affine, residual: None, settings }))
            }
            (Form::Plain(x), Some(Form::Plain(residual))) => {
                Ok(Operands::Plain(composed::Operands { x, affine, residual: Some(residual), settings }))
            }
            _ => Err(Error::shape("batch norm residual", "the device and type of the input", &self.x.dims())),
        }
    }
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
        let &[n, c, ref spatial @ ..] = dims.as_slice() else {
            return Err(Error::shape("batch norm", "[N, C, H, W] or [N, C]", &dims));
        };
        let plane = spatial.iter().product();
        if n * c * plane == 0 {
            return Err(Error::shape("batch norm", "a batch that is not empty", &dims));
        }
        if groups == 0 || n % groups != 0 {
            return Err(Error::shape("batch norm", format!("N in {groups} equal groups"), &dims));
        }
        if args.affine.dims() != [2, c] {
            return Err(Error::shape("batch norm gamma and beta", format!("[2, {c}]"), args.affine.dims()));
        }
        if let Some(residual) = args.residual
            && residual.dims() != dims
        {
            return Err(Error::shape("batch norm residual", format!("{dims:?}"), &residual.dims()));
        }
        Ok(Self { n, c, plane, groups })
    }
}
