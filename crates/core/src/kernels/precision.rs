//! How CPU operations round.

use std::cell::Cell;

/// How convolutions and matrix products are computed on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit arithmetic by the fastest algorithm. 3x3 convolutions use Winograd's with 4x4 tiles, whose error is some
    /// 10⁻⁵ of the output's size: ten times that of plain sums, a hundredth of what TF32 loses.
    #[default]
    F32,
    /// 32-bit arithmetic that loses no more than plain sums do.
    F32Exact,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// Calls `f` with this precision in force for the operations that this thread starts, and for their gradients.
pub fn with_precision<T>(precision: Precision, f: impl FnOnce() -> T) -> T {
    /// Puts the former value back, also when `f` panics.
    struct Reset(Precision);
    impl Drop for Reset {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _reset = Reset(CURRENT.replace(precision));
    f()
}

/// The precision in force.
pub(crate) fn precision() -> Precision {
    CURRENT.get()
}
