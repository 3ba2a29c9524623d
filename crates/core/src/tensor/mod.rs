//! Differentiable helpers over Candle and the gradient checker.

mod gradcheck;
mod normalize;
mod products;
mod softplus;
pub(crate) mod storage;

pub use gradcheck::{GradCheck, check_gradients};
pub use normalize::l2_normalize;
pub use products::inner_products;
pub use softplus::softplus;
