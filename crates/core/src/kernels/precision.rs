//! How operations round.

use std::cell::Cell;

/// How convolutions and matrix products of `f32` are computed on the CPU, and convolutions by cuDNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit arithmetic by the fastest algorithm. 3x3 convolutions use Winograd's with 4x4 tiles, whose error is some
    /// 10⁻⁵ of the output's size: ten times that of plain sums, a hundredth of what TF32 loses. cuDNN may use TF32, as
    /// it does under PyTorch's defaults.
    #[default]
    F32,
    /// 32-bit arithmetic that loses no more than plain sums do; cuDNN may not use TF32.
    F32Exact,
    /// Products of linear layers and convolutions take operands rounded to bf16 and sum in 32 bits, forward and backward.
    /// With AMX these are convolutions of one tap, and of more where both channel counts are multiples of 32; elsewhere
    /// those of one tap, for AVX512-BF16 is no faster than Winograd's algorithm in 32 bits. Weights, activations and all
    /// else stay 32-bit.
    Bf16,
    /// As `F32`, but with AMX the operands of linear layers and convolutions of one tap are sums of two numbers in bf16,
    /// which are multiplied three times instead of four: the error is some 10⁻⁵ of the output's size or less, as that of
    /// Winograd's algorithm. Infinite where an operand is beyond 3.39 × 10³⁸. Without AMX the same as `F32`.
    Bf16x3,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 4] = [Self::F32, Self::F32Exact, Self::Bf16, Self::Bf16x3];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F32Exact => "f32-exact",
            Self::Bf16 => "bf16",
            Self::Bf16x3 => "bf16x3",
        }
    }

    /// Whether this machine's processor multiplies so by itself. Elsewhere `Bf16` rounds operands for 32-bit products,
    /// which takes longer than `F32`, and `Bf16x3` is `F32`.
    pub fn is_native(self) -> bool {
        match self {
            Self::F32 | Self::F32Exact => true,
            Self::Bf16 | Self::Bf16x3 => super::gemm::bf16::Way::of(self).is_some_and(|way| way.is_native()),
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| crate::Error::config("precision", format!("`{name}` is not one of {known}")))
    }
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

/// The precision in force on this thread.
pub fn precision() -> Precision {
    CURRENT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        assert_eq!(precision(), Precision::F32);
        with_precision(Precision::F32Exact, || {
            assert_eq!(precision(), Precision::F32Exact);
            with_precision(Precision::F32, || assert_eq!(precision(), Precision::F32));
            assert_eq!(precision(), Precision::F32Exact);
        });
        assert_eq!(precision(), Precision::F32);
    }

    #[test]
    fn names_are_those_of_the_settings() -> crate::Result<()> {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>()?, precision);
            assert_eq!(serde_json::to_value(precision).ok(), Some(precision.name().into()));
        }
        assert!("f16".parse::<Precision>().is_err());
        Ok(())
    }
}
