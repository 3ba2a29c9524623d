//! The parameter store: named, ordered, telling parameters from buffers.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use rayon::prelude::*;

use crate::rng::{Key, Purpose, Stream};
use crate::{Error, Result};

/// What an entry of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Trained by the optimiser.
    Parameter,
    /// Saved and loaded, never trained: running statistics.
    Buffer,
}

/// One named tensor of a [`ParamStore`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// The full dotted name (`layer1.0.conv1.weight`).
    pub name: String,
    /// Parameter or buffer.
    pub kind: Kind,
    /// The tensor. Clones share storage.
    pub var: Var,
}

/// How a parameter begins. Draws come from a stream keyed by the store's seed and the parameter's name, so adding a
/// layer never changes the others.
///
/// `fan_in` and `fan_out` follow PyTorch: for `[out, in, k...]`, `in * prod(k)` and `out * prod(k)`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// One value everywhere.
    Const(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal with this standard deviation, cut at two of them.
    TruncatedNormal(f64),
    /// Uniform in `[-b, b)`.
    Uniform(f64),
    /// `N(0, 2 / fan_out)`: torchvision's ResNet convolutions.
    KaimingNormalFanOut,
    /// `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`: PyTorch's default for linear and conv weights.
    TorchDefault,
    /// TensorFlow's variance scaling with its defaults: truncated normal with variance `1 / fan_in` *after* the cut
    /// (SimCLR's convolutions).
    VarianceScalingFanIn,
    /// `U(-b, b)` with `b = sqrt(6 / (fan_in + fan_out))`.
    XavierUniform,
}

impl Init {
    fn values(self, key: Key, shape: &Shape) -> Vec<f32> {
        let n = shape.elem_count();
        let (fan_in, fan_out) = fans(shape.dims());
        let uniform = |bound: f64| {
            parallel_draws(key, n, 1, |stream, values| {
                values.iter_mut().for_each(|value| *value = stream.uniform(-bound, bound) as f32);
            })
        };
        let normal = |std: f64| parallel_draws(key, n, 2, |stream, values| stream.fill_normal(values, std));
        let truncated = |std: f64| {
            // By one thread: after rejections nobody knows where a later draw begins.
            let mut values = vec![0f32; n];
            key.stream().fill_truncated_normal(&mut values, std);
            values
        };
        match self {
            Self::Const(value) => vec![value as f32; n],
            Self::Normal(std) => normal(std),
            Self::TruncatedNormal(std) => truncated(std),
            Self::Uniform(bound) => uniform(bound),
            Self::KaimingNormalFanOut => {
                let std = (2.0 / fan_out).sqrt();
                normal(std)
            }
            Self::TorchDefault => {
                let bound = 1.0 / fan_in.sqrt();
                uniform(bound)
            }
            Self::VarianceScalingFanIn => {
                // A standard normal cut at two deviations has this deviation left; TensorFlow divides by it.
                const CUT_STD: f64 = 0.879_625_661_034_239_8;
                let std = (1.0 / fan_in).sqrt() / CUT_STD;
                truncated(std)
            }
            Self::XavierUniform => {
                let bound = (6.0 / (fan_in + fan_out)).sqrt();
                uniform(bound)
            }
        }
    }
}

/// Elements of a parameter that are drawn at a time.
const DRAWN: usize = 1 << 15;

/// `n` values of one stream, of which each takes `bits` calls of [`Stream::bits`], by `fill`: the same for any number of
/// threads.
fn parallel_draws(key: Key, n: usize, bits: u64, fill: impl Fn(&mut Stream, &mut [f32]) + Sync) -> Vec<f32> {
    let start = key.stream();
    let mut values = vec![0f32; n];
    values.par_chunks_mut(DRAWN).enumerate().for_each(|(i, values)| {
        let mut stream = start.skip((i * DRAWN) as u64 * bits);
        fill(&mut stream, values);
    });
    values
}

fn fans(dims: &[usize]) -> (f64, f64) {
    let field: usize = dims.iter().skip(2).product();
    let at = |i: usize| dims.get(i).copied().unwrap_or(1).max(1);
    ((at(1) * field) as f64, (at(0) * field) as f64)
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    seed: u64,
    device: Device,
}

/// Named tensors in the order of their creation. Clones share the same tensors.
#[derive(Debug, Clone)]
pub struct ParamStore {
    inner: Arc<RwLock<Inner>>,
}

impl ParamStore {
    /// An empty store whose parameters live on `device` and draw their beginnings from `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        let inner = Inner { entries: Vec::new(), index: HashMap::new(), seed, device: device.clone() };
        Self { inner: Arc::new(RwLock::new(inner)) }
    }

    // A poisoned lock means that a thread died between two map operations that cannot fail: the data is whole.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of all entries.
    pub fn device(&self) -> Device {
        self.read().device.clone()
    }

    /// A builder at the root of the name space.
    pub fn builder(&self) -> Builder {
        Builder { store: self.clone(), prefix: String::new() }
    }

    /// The store as the back end of Candle's `VarBuilder`, for modules written against it. Tensors named
    /// `running_mean` and `running_var` become buffers.
    pub fn var_builder(&self) -> candle_nn::VarBuilder<'static> {
        candle_nn::VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device())
    }

    /// All entries in the order of their creation.
    pub fn entries(&self) -> Vec<Entry> {
        self.read().entries.clone()
    }

    /// The trained entries in the order of their creation.
    pub fn parameters(&self) -> Vec<Entry> {
        self.entries().into_iter().filter(|e| e.kind == Kind::Parameter).collect()
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        let inner = self.read();
        inner.index.get(name).map(|&i| inner.entries[i].clone())
    }

    /// All entries as named tensors (sharing storage, outside any graph).
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.entries().into_iter().map(|e| (e.name, e.var.as_detached_tensor())).collect()
    }

    /// The entries whose names begin with `prefix` and a dot, named without both.
    pub fn tensors_under(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let strip = |name: String| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_string());
        self.tensors().into_iter().filter_map(|(name, t)| strip(name).map(|name| (name, t))).collect()
    }

    /// Overwrites every entry in place. Checks all names and shapes first: on an error nothing has changed.
    /// `source` is named in the error.
    ///
    /// # Errors
    /// [`Error::Weights`] listing every missing, unexpected and mis-shaped name.
    pub fn load(&self, tensors: &HashMap<String, Tensor>, source: impl AsRef<Path>) -> Result<()> {
        let entries = self.entries().into_iter().map(|entry| (entry.name, entry.var)).collect::<Vec<_>>();
        overwrite(&entries, tensors, source.as_ref())
    }

    /// [`ParamStore::load`] for the entries of [`ParamStore::tensors_under`].
    ///
    /// # Errors
    /// As [`ParamStore::load`].
    pub fn load_under(
        &self,
        prefix: &str,
        tensors: &HashMap<String, Tensor>,
        source: impl AsRef<Path>,
    ) -> Result<()> {
        let strip = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_string());
        let part = self.entries().into_iter().filter_map(|e| strip(&e.name).map(|name| (name, e.var)));
        overwrite(&part.collect::<Vec<_>>(), tensors, source.as_ref())
    }

    /// Creates an entry, or returns the existing one of the same name and shape (shared weights).
    fn make(&self, name: String, shape: Shape, kind: Kind, init: Init) -> Result<Var> {
        if let Some(entry) = self.get(&name) {
            if entry.var.shape() != &shape {
                return Err(Error::shape(
                    "parameter store",
                    format!("{shape:?} for `{name}`"),
                    entry.var.dims(),
                ));
            }
            return Ok(entry.var);
        }
        let (seed, device) = {
            let inner = self.read();
            (inner.seed, inner.device.clone())
        };
        let values = init.values(Key::new(seed, Purpose::Init).name(&name), &shape);
        let var = Var::from_vec(values, shape, &device)?;
        let mut inner = self.write();
        let place = inner.entries.len();
        inner.index.insert(name.clone(), place);
        inner.entries.push(Entry { name, kind, var: var.clone() });
        Ok(var)
    }
}

/// Checks that `tensors` holds exactly the `entries`, then overwrites them.
fn overwrite(entries: &[(String, Var)], tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
    let (mut missing, mut mismatched) = (Vec::new(), Vec::new());
    for (name, var) in entries {
        match tensors.get(name) {
            None => missing.push(name.clone()),
            Some(t) if t.dims() != var.dims() => {
                mismatched.push(format!("{name}: expected {:?}, got {:?}", var.dims(), t.dims()));
            }
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    let mut unexpected: Vec<String> =
        tensors.keys().filter(|name| !known.contains(name.as_str())).cloned().collect();
    unexpected.sort();
    if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
        return Err(Error::Weights { path: source.to_path_buf(), missing, unexpected, mismatched });
    }
    for (name, var) in entries {
        if let Some(t) = tensors.get(name) {
            let t = t.to_device(var.device())?.to_dtype(var.dtype())?;
            var.set(&t.contiguous()?)?;
        }
    }
    Ok(())
}

/// A place in the name space of a [`ParamStore`].
#[derive(Debug, Clone)]
pub struct Builder {
    store: ParamStore,
    prefix: String,
}

impl Builder {
    /// One level deeper.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Self { store: self.store.clone(), prefix: self.full(&name.to_string()) }
    }

    /// The store behind this builder.
    pub fn store(&self) -> &ParamStore {
        &self.store
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// A trained tensor.
    ///
    /// # Errors
    /// The name exists with another shape.
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        let var = self.store.make(self.full(name), shape.into(), Kind::Parameter, init)?;
        Ok(var.as_tensor().clone())
    }

    /// A saved but untrained tensor that its layer updates in place.
    ///
    /// # Errors
    /// The name exists with another shape.
    pub fn buffer(&self, name: &str, shape: impl Into<Shape>, value: f64) -> Result<Var> {
        self.store.make(self.full(name), shape.into(), Kind::Buffer, Init::Const(value))
    }
}

impl SimpleBackend for ParamStore {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: candle_nn::Init,
        dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
        let leaf = name.rsplit('.').next().unwrap_or(name);
        let kind =
            if matches!(leaf, "running_mean" | "running_var") { Kind::Buffer } else { Kind::Parameter };
        let init = match hint {
            candle_nn::Init::Const(value) => Init::Const(value),
            candle_nn::Init::Randn { mean: 0.0, stdev } => Init::Normal(stdev),
            candle_nn::Init::Uniform { lo, up } if lo == -up => Init::Uniform(up),
            candle_nn::Init::Kaiming { dist, fan, non_linearity } => {
                let (fan_in, fan_out) = fans(shape.dims());
                let fan = if matches!(fan, FanInOut::FanIn) { fan_in } else { fan_out };
                let gain = match non_linearity {
                    NonLinearity::ReLU => 2f64.sqrt(),
                    NonLinearity::Tanh => 5.0 / 3.0,
                    NonLinearity::SELU => 0.75,
                    _ => 1.0,
                };
                let std = gain / fan.sqrt();
                match dist {
                    NormalOrUniform::Normal => Init::Normal(std),
                    NormalOrUniform::Uniform => Init::Uniform(3f64.sqrt() * std),
                }
            }
            other => candle_core::bail!("`{name}`: initialiser {other:?} has no keyed form"),
        };
        let var = self.make(name.to_string(), shape, kind, init).map_err(candle_core::Error::wrap)?;
        if dtype == var.dtype() { Ok(var.as_tensor().clone()) } else { var.as_tensor().to_dtype(dtype) }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _device: &Device) -> candle_core::Result<Tensor> {
        match ParamStore::get(self, name) {
            Some(entry) if entry.var.dtype() == dtype => Ok(entry.var.as_tensor().clone()),
            Some(entry) => entry.var.as_tensor().to_dtype(dtype),
            None => candle_core::bail!("`{name}` is not in the parameter store"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        ParamStore::get(self, name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn values(store: &ParamStore, name: &str) -> Vec<f32> {
        store.get(name).unwrap().var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn beginnings_depend_on_seed_and_name_alone() -> Result<()> {
        let (a, b) = (ParamStore::new(1, &Device::Cpu), ParamStore::new(1, &Device::Cpu));
        a.builder().pp("x").param("weight", (4, 3), Init::TorchDefault)?;
        b.builder().param("other", 5, Init::Normal(1.0))?;
        b.builder().pp("x").param("weight", (4, 3), Init::TorchDefault)?;
        assert_eq!(values(&a, "x.weight"), values(&b, "x.weight"));
        let c = ParamStore::new(2, &Device::Cpu);
        c.builder().pp("x").param("weight", (4, 3), Init::TorchDefault)?;
        assert_ne!(values(&a, "x.weight"), values(&c, "x.weight"));
        assert!(values(&a, "x.weight").iter().all(|v| v.abs() <= 1.0 / 3f32.sqrt()));
        Ok(())
    }

    #[test]
    fn deviations_are_those_of_the_papers() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let b = store.builder();
        let shape = (64, 32, 3, 3);
        let expected = [
            ("he", Init::KaimingNormalFanOut, (2.0f64 / (64.0 * 9.0)).sqrt()),
            ("tf", Init::VarianceScalingFanIn, (1.0f64 / (32.0 * 9.0)).sqrt()),
            ("torch", Init::TorchDefault, (1.0f64 / (3.0 * 32.0 * 9.0)).sqrt()),
            ("xavier", Init::XavierUniform, (2.0f64 / (96.0 * 9.0)).sqrt()),
        ];
        for (name, init, deviation) in expected {
            b.param(name, shape, init)?;
            let v = values(&store, name);
            let mean_square = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64;
            assert!((mean_square.sqrt() / deviation - 1.0).abs() < 0.02, "{name}: {}", mean_square.sqrt());
        }
        Ok(())
    }

    #[test]
    fn a_wrong_set_changes_nothing_and_names_every_fault() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        store.builder().param("a", 2, Init::Const(1.0))?;
        store.builder().param("b", 2, Init::Const(1.0))?;
        let two = Tensor::new(&[5f32, 5.0], &Device::Cpu)?;
        let wrong = HashMap::from([
            ("a".to_string(), two.clone()),
            ("b".to_string(), Tensor::new(&[5f32], &Device::Cpu)?),
            ("c".to_string(), two.clone()),
        ]);
        let error = store.load(&wrong, "weights.safetensors").unwrap_err();
        assert!(error.source().is_none());
        let text = error.to_string();
        assert!(text.contains("weights.safetensors") && text.contains("unexpected: c"), "{text}");
        assert!(text.contains("b: expected [2], got [1]"), "{text}");
        assert_eq!(values(&store, "a"), [1.0, 1.0]);
        Ok(())
    }

    #[test]
    fn works_behind_candles_var_builder() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let vb = store.var_builder();
        let linear = candle_nn::linear(3, 2, vb.pp("fc"))?;
        let bn = candle_nn::batch_norm(2, 1e-5, vb.pp("bn"))?;
        let x = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?;
        let y = candle_nn::Module::forward(&linear, &x)?;
        candle_nn::ModuleT::forward_t(&bn, &y, true)?.sum_all()?.backward()?;
        let kinds: Vec<(String, Kind)> = store.entries().into_iter().map(|e| (e.name, e.kind)).collect();
        assert!(kinds.contains(&("fc.weight".into(), Kind::Parameter)), "{kinds:?}");
        assert!(kinds.contains(&("bn.running_mean".into(), Kind::Buffer)), "{kinds:?}");
        assert_eq!(store.parameters().len(), 4);
        Ok(())
    }
}
