//! Momentum encoders: exponential moving averages of parameters.

use candle_core::{CpuStorage, InplaceOp2, Layout, bail};

use crate::kernels::{is_native, lerp};
use crate::nn::{Kind, ParamStore};
use crate::{Error, Result};

/// What becomes of the buffers (running statistics) of a momentum encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// They stay: the momentum encoder gathers its own (MoCo, BYOL, DINO).
    Keep,
    /// They are averaged like parameters.
    Average,
    /// They are copied.
    Copy,
}

/// `target = momentum * target + (1 - momentum) * source` for every parameter, in place (He et al. 2020, eq. 2).
///
/// # Errors
/// [`Error::Config`] for a momentum outside `[0, 1]`, [`Error::Shape`] for a parameter of `target` that `source` lacks or
/// has in another shape; nothing is changed then.
pub fn ema_update(target: &ParamStore, source: &ParamStore, momentum: f64, buffers: Buffers) -> Result<()> {
    if !(0.0..=1.0).contains(&momentum) {
        return Err(Error::config("momentum", format!("{momentum} is not in 0..=1")));
    }
    let mut pairs = Vec::new();
    for entry in target.entries() {
        let momentum = match (entry.kind, buffers) {
            (Kind::Parameter, _) | (Kind::Buffer, Buffers::Average) => momentum,
            (Kind::Buffer, Buffers::Copy) => 0.0,
            (Kind::Buffer, Buffers::Keep) => continue,
        };
        let Some(from) = source.get(&entry.name) else {
            return Err(Error::shape("momentum copy", format!("a source with {}", entry.name), &[]));
        };
        if from.var.dims() != entry.var.dims() {
            let expected = format!("{} {:?}", entry.name, entry.var.dims());
            return Err(Error::shape("momentum copy", expected, from.var.dims()));
        }
        pairs.push((entry.var, from.var, momentum));
    }
    for (target, source, momentum) in pairs {
        let (old, new) = (target.as_detached_tensor(), source.as_detached_tensor());
        if is_native(&old) {
            old.inplace_op2(&new, &Lerp { momentum: momentum as f32 })?;
        } else {
            target.set(&((old * momentum)? + (new * (1.0 - momentum))?)?)?;
        }
    }
    Ok(())
}

/// Candle hands out a mutable slice of a tensor only inside such an operation.
struct Lerp {
    momentum: f32,
}

impl InplaceOp2 for Lerp {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        source: &CpuStorage,
        source_layout: &Layout,
    ) -> candle_core::Result<()> {
        let CpuStorage::F32(target) = target else { bail!("ema: the target is not f32") };
        let source = source.as_slice::<f32>()?;
        match (target_layout.contiguous_offsets(), source_layout.contiguous_offsets()) {
            (Some((start, end)), Some((from, to))) if end - start == to - from => {
                lerp(&mut target[start..end], &source[from..to], self.momentum);
                Ok(())
            }
            _ => bail!("ema: both sides must be contiguous and alike"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::nn::Init;

    fn store(seed: u64, width: usize) -> Result<ParamStore> {
        let store = ParamStore::new(seed, &Device::Cpu);
        store.builder().param("weight", (3, width), Init::Normal(1.0))?;
        store.builder().buffer("running_mean", 3, seed as f64)?;
        Ok(store)
    }

    fn values(store: &ParamStore, name: &str) -> Result<Vec<f32>> {
        let tensor: Tensor = store.get(name).expect("entry").var.as_detached_tensor();
        Ok(tensor.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn averages_parameters_and_treats_buffers_as_told() -> Result<()> {
        let width = 7000;
        for (buffers, mean) in [(Buffers::Keep, 1.0), (Buffers::Average, 1.25), (Buffers::Copy, 2.0)] {
            let (target, source) = (store(1, width)?, store(2, width)?);
            let (old, new) = (values(&target, "weight")?, values(&source, "weight")?);
            ema_update(&target, &source, 0.75, buffers)?;
            for ((got, old), new) in values(&target, "weight")?.iter().zip(&old).zip(&new) {
                assert!((got - (0.75 * old + 0.25 * new)).abs() < 1e-6);
            }
            assert_eq!(values(&target, "running_mean")?, [mean; 3]);
            assert_eq!(values(&source, "weight")?, new);
        }
        Ok(())
    }

    #[test]
    fn refuses_what_does_not_fit() -> Result<()> {
        let (target, other) = (store(1, 4)?, store(2, 5)?);
        let before = values(&target, "weight")?;
        assert!(ema_update(&target, &other, 0.9, Buffers::Keep).is_err());
        assert!(ema_update(&target, &store(2, 4)?, 1.5, Buffers::Keep).is_err());
        assert!(ema_update(&target, &ParamStore::new(0, &Device::Cpu), 0.9, Buffers::Keep).is_err());
        assert_eq!(values(&target, "weight")?, before);
        Ok(())
    }
}
