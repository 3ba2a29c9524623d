//! Fused CPU operations with their own backward, and their plain-Candle twins for other devices.
//!
//! Operations take and give [`FeatureMap`]s: `f32` on the CPU is kept in a form of our own, which goes to an operation
//! of our own; everything else is a tensor, which goes to a composition of Candle's. Both give the same values up to
//! rounding and the same gradients, also at the corners (ReLU at 0, ties in a max pool, maps whose sides leave
//! different remainders).
//!
//! Results on the CPU are identical bits for every number of threads: work is cut by shape alone and partial sums are
//! added in a fixed order.

mod activation;
mod attention;
mod batch_norm;
mod conv;
mod drawn;
mod exponentials;
mod gelu;
pub(crate) mod gemm;
mod layer_norm;
mod linear;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod parallel;
mod pool;
mod precision;
mod recurrent;
mod residual;
pub(crate) mod simd;
mod sink;
#[cfg(test)]
pub(crate) mod test_support;
mod tokens;
mod weighted;

pub use activation::relu;
pub use attention::{attention, attention_map};
pub use batch_norm::{BatchNormArgs, BatchStatistics, Statistics, batch_norm_fixed, batch_norm_train};
pub use conv::{ConvSettings, conv1d, conv2d};
pub(crate) use drawn::{drawn_scores, drawn_sums};
pub use exponentials::exponentials;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use map::FeatureMap;
pub(crate) use map::lerp;
pub use parallel::set_threads;
pub use pool::{global_avg_pool, max_pool2d};
pub use precision::{Precision, precision, with_precision};
pub use recurrent::{gru, lstm};
pub use residual::residual;
pub use tokens::{embed_tokens, take_token};

pub(crate) use sink::ParamGradients;

use candle_core::{DType, Tensor};

use crate::tensor::storage;

/// Whether `x` goes to our own operation (true) or to the composed twin.
pub(crate) fn is_native(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}
