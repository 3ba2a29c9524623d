//! A thread with room for Candle's recursion.

use crate::kernels::{precision, with_precision};
use crate::{Error, Result};

/// 256 MiB: address space that costs memory only as far as it is used.
const STACK_BYTES: usize = 256 << 20;

/// Runs `f` on a thread of its own with a stack of 256 MiB and gives back its result; a panic goes on in the caller.
/// The caller's [`crate::kernels::Precision`] goes with it.
///
/// Candle sorts the graph of a backward pass and drops it by recursion. In the 2 MiB of a spawned thread (a test, for
/// example) that overflows between 5 000 and 10 000 chained operations, and a ResNet-50 has some thousands. [`super::Trainer::run`]
/// does this by itself; wrap your own backward passes over deep networks.
///
/// # Errors
/// That of `f`; [`Error::Data`] where the system refuses the thread.
pub fn with_big_stack<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let precision = precision();
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("trainer".to_string()).stack_size(STACK_BYTES);
        let thread = builder
            .spawn_scoped(scope, move || with_precision(precision, f))
            .map_err(|e| Error::data("training thread", format!("a stack of {STACK_BYTES} bytes: {e}")))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor, Var};

    #[test]
    fn deep_graphs_fit() -> Result<()> {
        let x = Var::from_tensor(&Tensor::new(1f32, &Device::Cpu)?)?;
        let gradient = with_big_stack(|| {
            let mut y = x.as_tensor().clone();
            for _ in 0..50_000 {
                y = (y + 1.0)?;
            }
            let grads = y.backward()?;
            Ok(grads.get(x.as_tensor()).map(|g| g.to_scalar::<f32>()).transpose()?)
        })?;
        assert_eq!(gradient, Some(1.0));
        Ok(())
    }

    #[test]
    fn errors_and_panics_come_through() {
        assert!(with_big_stack(|| Err::<(), _>(Error::data("x", "y"))).is_err());
        let caught = std::panic::catch_unwind(|| with_big_stack::<()>(|| panic!("inside")));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
    }
}
