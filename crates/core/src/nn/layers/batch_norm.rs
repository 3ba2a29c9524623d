//! Batch normalisation.

use candle_core::{Tensor, Var};

use crate::kernels::{
    BatchNormArgs, BatchStatistics, FeatureMap, Statistics, batch_norm_fixed, batch_norm_train,
};
use crate::nn::{Builder, Init, MapModule, Mode};
use crate::{Error, Result};

/// Over which samples a [`BatchNorm`] takes its statistics in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNormKind {
    /// All samples of this rank.
    #[default]
    Local,
    /// So many equal consecutive groups of all ranks' batch, each by itself: many small devices on one (MoCo's CIFAR
    /// notebook calls it SplitBatchNorm). Each of R ranks has an R-th of the groups, so R must divide their number.
    /// Running statistics take the mean over a rank's groups.
    Split(usize),
    /// All samples of all ranks of [`Mode::comm`].
    Sync,
}

/// Settings of a [`BatchNorm`]. The default is PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the new value in the running statistics (PyTorch's sense: 1 - decay).
    pub momentum: f64,
    /// How `weight` (gamma) begins; none for a layer without.
    pub gamma: Option<Init>,
    /// How `bias` (beta) begins; none for a layer without.
    pub beta: Option<Init>,
    /// Over which samples statistics are taken.
    pub kind: BatchNormKind,
}

impl Default for BatchNormConfig {
    fn default() -> Self {
        Self {
            eps: 1e-5,
            momentum: 0.1,
            gamma: Some(Init::Const(1.0)),
            beta: Some(Init::Const(0.0)),
            kind: BatchNormKind::Local,
        }
    }
}

impl BatchNormConfig {
    /// Neither gamma nor beta (PyTorch's `affine=False`).
    pub fn without_affine(self) -> Self {
        Self { gamma: None, beta: None, ..self }
    }
}

/// Normalises each channel of `[N, C]` or `[N, C, H, W]`.
///
/// In train mode it uses the (biased) statistics of the batch and moves `running_mean` and `running_var` (unbiased)
/// towards them, also in a pass without gradients; otherwise it uses the running ones.
#[derive(Debug)]
pub struct BatchNorm {
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
    running_mean: Var,
    running_var: Var,
    config: BatchNormConfig,
}

impl BatchNorm {
    /// A layer over `channels`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, channels: usize, config: BatchNormConfig) -> Result<Self> {
        let make = |name, init: Option<Init>| init.map(|init| b.param(name, channels, init)).transpose();
        Ok(Self {
            gamma: make("weight", config.gamma)?,
            beta: make("bias", config.beta)?,
            running_mean: b.buffer("running_mean", channels, 0.0)?,
            running_var: b.buffer("running_var", channels, 1.0)?,
            config,
        })
    }

    /// `relu(bn(x) + residual)` in one pass.
    ///
    /// # Errors
    /// As [`MapModule::forward_map`]; a residual of another shape.
    pub fn forward_relu(
        &self,
        x: &FeatureMap,
        residual: Option<&FeatureMap>,
        mode: &Mode,
    ) -> Result<FeatureMap> {
        self.apply(x, residual, true, mode)
    }

    fn apply(
        &self,
        x: &FeatureMap,
        residual: Option<&FeatureMap>,
        relu: bool,
        mode: &Mode,
    ) -> Result<FeatureMap> {
        let affine = self.affine(mode)?;
        let args = BatchNormArgs { x, affine: &affine, residual, relu, eps: self.config.eps };
        if !mode.train {
            return batch_norm_fixed(args, &self.running_mean, &self.running_var);
        }
        let statistics = match self.config.kind {
            BatchNormKind::Local => Statistics::Local,
            BatchNormKind::Split(groups) => share(groups, mode.comm.size())?,
            BatchNormKind::Sync => Statistics::Sync(mode.comm.clone()),
        };
        let (y, seen) = batch_norm_train(args, &statistics)?;
        if mode.track {
            self.track(&seen)?;
        }
        Ok(y)
    }

    /// Gamma above beta, `[2, C]`.
    fn affine(&self, mode: &Mode) -> Result<Tensor> {
        let row = |parameter: &Option<Tensor>, neutral: f64| -> Result<Tensor> {
            Ok(match parameter {
                Some(parameter) => mode.weight(parameter),
                None => self.running_mean.as_detached_tensor().zeros_like()?.affine(1.0, neutral)?,
            })
        };
        Ok(Tensor::stack(&[row(&self.gamma, 1.0)?, row(&self.beta, 0.0)?], 0)?)
    }

    fn track(&self, seen: &BatchStatistics) -> Result<()> {
        let unbiased = seen.count as f64 / (seen.count as f64 - 1.0);
        let move_towards = |running: &Var, batch: Tensor| -> Result<()> {
            let m = self.config.momentum;
            let old = (running.as_detached_tensor() * (1.0 - m))?;
            let batch = batch.to_dtype(running.dtype())?;
            Ok(running.set(&(old + (batch * m)?)?)?)
        };
        move_towards(&self.running_mean, seen.mean.mean(0)?)?;
        move_towards(&self.running_var, (seen.var.mean(0)? * unbiased)?)
    }
}

impl MapModule for BatchNorm {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        self.apply(x, None, false, mode)
    }
}

/// The groups of one of `ranks` ranks.
fn share(groups: usize, ranks: usize) -> Result<Statistics> {
    match (groups.is_multiple_of(ranks), groups / ranks) {
        (false, _) => Err(Error::config(
            "bn_groups",
            format!("{groups} groups do not divide evenly among {ranks} ranks"),
        )),
        (true, 1) => Ok(Statistics::Local),
        (true, own) => Ok(Statistics::Split(own)),
    }
}
