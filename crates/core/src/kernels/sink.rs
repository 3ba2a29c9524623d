//! Gradients of parameters beside Candle's store.
//!
//! Candle clears a tensor and makes a sum of it and the gradient for every use of a parameter. While a sink is open,
//! the operations here hand their parameters' gradients to it instead, where the first is kept as it is and others are
//! added in place.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId};

use super::map::add;

thread_local! {
    static SINK: RefCell<Option<HashMap<TensorId, Vec<f32>>>> = const { RefCell::new(None) };
}

/// Parameter gradients that did not go through Candle.
#[derive(Debug, Default)]
pub(crate) struct ParamGradients(HashMap<TensorId, Vec<f32>>);

impl ParamGradients {
    /// Calls `f`, which runs a backward pass on this thread, and returns what operations handed over meanwhile.
    pub(crate) fn collect<T>(f: impl FnOnce() -> T) -> (T, Self) {
        /// Puts the former sink back, also when `f` panics.
        struct Reset(Option<HashMap<TensorId, Vec<f32>>>);
        impl Drop for Reset {
            fn drop(&mut self) {
                SINK.set(self.0.take());
            }
        }
        let _reset = Reset(SINK.replace(Some(HashMap::new())));
        let result = f();
        (result, Self(SINK.take().unwrap_or_default()))
    }

    /// The gradient of a parameter, if operations gave one.
    pub(crate) fn take(&mut self, parameter: &Tensor) -> Result<Option<Tensor>> {
        let values = self.0.remove(&parameter.id());
        values.map(|values| Tensor::from_vec(values, parameter.shape(), parameter.device())).transpose()
    }
}

/// What the backward pass of an operation returns for a parameter with this gradient.
pub(super) fn param_gradient(parameter: &Tensor, gradient: Vec<f32>) -> Result<Option<Tensor>> {
    let left = SINK.with_borrow_mut(|sink| match sink {
        Some(sink) if parameter.is_variable() => {
            match sink.get_mut(&parameter.id()) {
                Some(sum) => add(&gradient, sum),
                None => {
                    sink.insert(parameter.id(), gradient);
                }
            }
            None
        }
        _ => Some(gradient),
    });
    left.map(|gradient| Tensor::from_vec(gradient, parameter.shape(), parameter.device())).transpose()
}
