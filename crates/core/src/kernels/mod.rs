//! Fused CPU operations with their own backward, and their plain-Candle twins for other devices.
//!
//! Every operation is one function that looks at the device and element type of its input: `f32` on the CPU goes to
//! an operation of our own, everything else to a composition of Candle's. Both give the same values up to rounding
//! and the same gradients, also at the corners (ReLU at 0, ties in a max pool, maps whose sides leave different
//! remainders).
//!
//! Results on the CPU are identical bits for every number of threads: work is cut by shape alone and partial sums are
//! added in a fixed order.

mod activation;
mod batch_norm;
mod conv;
#[allow(dead_code)]
pub(crate) mod gemm;
#[allow(dead_code)]
pub(crate) mod memory;
pub(crate) mod parallel;
mod pool;
#[allow(dead_code, unused_imports, unused_macros)]
pub(crate) mod simd;
mod storage;

pub use activation::relu;
pub use batch_norm::{BatchNormArgs, BatchStatistics, Statistics, batch_norm_fixed, batch_norm_train};
pub use conv::{ConvSettings, conv2d};
pub use pool::{global_avg_pool, max_pool2d};

use candle_core::{DType, Tensor};

/// Whether `x` goes to our own operation (true) or to the composed twin.
fn is_native(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}
