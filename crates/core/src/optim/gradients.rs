//! Gradients by parameter name.

use candle_core::backprop::GradStore;
use candle_core::{DType, Storage, Tensor};

use super::fused;
use crate::Result;
use crate::dist::{Comm, all_reduce_mean};
use crate::kernels::ParamGradients;
use crate::nn::ParamStore;

/// The gradients of one step, in the order of the store's parameters. Parameters without a gradient are absent.
#[derive(Debug, Clone)]
pub struct Gradients {
    by_name: Vec<(String, Tensor)>,
}

impl Gradients {
    /// Takes the gradients of the store's parameters out of a backward pass. They are cut from the graph: a gradient
    /// may otherwise hold the whole forward pass in memory.
    pub fn new(params: &ParamStore, mut grads: GradStore) -> Self {
        let by_name = params
            .parameters()
            .into_iter()
            .filter_map(|entry| grads.remove(entry.var.as_tensor()).map(|g| (entry.name, g.detach())))
            .collect();
        Self { by_name }
    }

    /// Runs the backward pass of `loss` and takes the gradients of the store's parameters out of it. Less work than
    /// [`Gradients::new`]: the layers' gradients of their parameters do not pass through Candle's sums.
    ///
    /// # Errors
    /// An operation without a backward pass, a rank that is gone.
    pub fn of(params: &ParamStore, loss: &Tensor) -> Result<Self> {
        let (store, mut direct) = ParamGradients::collect(|| loss.backward());
        let mut store = store?;
        let mut by_name = Vec::new();
        for entry in params.parameters() {
            let parameter = entry.var.as_tensor();
            let gradient = match (store.remove(parameter), direct.take(parameter)?) {
                (Some(a), Some(b)) => (a + b)?,
                (Some(gradient), None) | (None, Some(gradient)) => gradient,
                (None, None) => continue,
            };
            by_name.push((entry.name, gradient.detach()));
        }
        Ok(Self { by_name })
    }

    /// From names and tensors.
    pub fn from_named(by_name: Vec<(String, Tensor)>) -> Self {
        Self { by_name }
    }

    /// The gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.iter().find(|(n, _)| n == name).map(|(_, g)| g)
    }

    /// All names and gradients.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(n, g)| (n.as_str(), g))
    }

    /// The sum with another step's gradients of the same parameters; one that only `other` has is its own.
    ///
    /// # Errors
    /// Gradients of different shapes.
    pub fn plus(mut self, other: Self) -> Result<Self> {
        for (name, gradient) in other.by_name {
            match self.by_name.iter_mut().find(|(own, _)| *own == name) {
                Some((_, own)) => *own = (&*own + gradient)?,
                None => self.by_name.push((name, gradient)),
            }
        }
        Ok(self)
    }

    /// The mean over ranks; see [`crate::dist`] for why it is the mean.
    ///
    /// # Errors
    /// A rank that is gone or has gradients of other parameters.
    pub fn average(self, comm: &Comm) -> Result<Self> {
        if comm.size() == 1 {
            return Ok(self);
        }
        let (names, tensors): (Vec<_>, Vec<_>) = self.by_name.into_iter().unzip();
        Ok(Self { by_name: names.into_iter().zip(all_reduce_mean(&tensors, comm)?).collect() })
    }

    /// Drops the gradients that do not match: their parameters are not updated, and their moments and step counts stay
    /// (DINO's last layer and SwAV's prototypes at the start of training).
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.by_name.retain(|(name, _)| keep(name));
    }

    /// The l2 norm over all gradients, accumulated in f64 on the CPU. Not finite as soon as one element is not.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn norm(&self) -> Result<f64> {
        let mut square = 0f64;
        for (_, gradient) in &self.by_name {
            square += sum_squares(gradient)?;
        }
        Ok(square.sqrt())
    }

    /// The first parameter whose gradient holds an element that is not finite.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn non_finite(&self) -> Result<Option<&str>> {
        for (name, gradient) in &self.by_name {
            if !sum_squares(gradient)?.is_finite() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Scales all gradients by `max / (norm + 1e-6)` where their common norm exceeds `max`
    /// (`torch.nn.utils.clip_grad_norm_`), and returns the norm before. A norm that is not finite changes nothing.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn clip_norm(&mut self, max: f64) -> Result<f64> {
        let norm = self.norm()?;
        for (_, gradient) in &mut self.by_name {
            clip(gradient, norm, max)?;
        }
        Ok(norm)
    }

    /// Scales each gradient by `max / (norm + 1e-6)` where its own norm exceeds `max` (DINO's `clip_gradients`), and
    /// returns the common norm before.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn clip_norm_each(&mut self, max: f64) -> Result<f64> {
        let mut total = 0f64;
        for (_, gradient) in &mut self.by_name {
            let square = sum_squares(gradient)?;
            clip(gradient, square.sqrt(), max)?;
            total += square;
        }
        Ok(total.sqrt())
    }
}

fn clip(gradient: &mut Tensor, norm: f64, max: f64) -> Result<()> {
    let scale = max / (norm + 1e-6);
    if norm.is_finite() && scale < 1.0 {
        *gradient = (&*gradient * scale)?;
    }
    Ok(())
}

fn sum_squares(x: &Tensor) -> Result<f64> {
    if x.device().is_cpu() && x.dtype() == DType::F32 && x.is_contiguous() {
        let (storage, layout) = x.storage_and_layout();
        if let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            return Ok(fused::sum_squares(&storage.as_slice::<f32>()?[start..end]));
        }
    }
    let square = x.to_dtype(DType::F32)?.contiguous()?.sqr()?.flatten_all()?.sum(0)?;
    Ok(f64::from(square.to_scalar::<f32>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn gradients() -> Result<Gradients> {
        let a = Tensor::new(&[[3f32, 0.0], [0.0, 4.0]], &Device::Cpu)?;
        let b = Tensor::new(&[12f32], &Device::Cpu)?;
        Ok(Gradients::from_named(vec![("a".into(), a), ("b".into(), b)]))
    }

    #[test]
    fn norm_is_exact_where_f32_sums_stop() -> Result<()> {
        assert_eq!(gradients()?.norm()?, 13.0);
        // One large square and many small ones that an f32 sum would lose altogether; also a transposed view.
        let mut values = vec![1f32; 300 * 400];
        values[0] = 1e4;
        let x = Tensor::from_vec(values, (300, 400), &Device::Cpu)?;
        let expected = (1e8 + 119_999.0f64).sqrt();
        for x in [x.clone(), x.t()?.contiguous()?] {
            let norm = Gradients::from_named(vec![("x".into(), x)]).norm()?;
            assert!((norm - expected).abs() < 1e-9 * expected, "{norm} {expected}");
        }
        let t = Gradients::from_named(vec![("x".into(), x.t()?)]).norm()?;
        assert!((t - expected).abs() < 1e-3 * expected);
        Ok(())
    }

    #[test]
    fn clipping_global_and_per_parameter() -> Result<()> {
        let mut global = gradients()?;
        assert_eq!(global.clip_norm(1.3)?, 13.0);
        assert!((global.norm()? - 1.3).abs() < 1e-6);
        let mut untouched = gradients()?;
        untouched.clip_norm(14.0)?;
        assert_eq!(untouched.norm()?, 13.0);
        let mut each = gradients()?;
        assert_eq!(each.clip_norm_each(6.0)?, 13.0);
        let norms: Vec<f64> = each
            .iter()
            .map(|(n, g)| Gradients::from_named(vec![(n.into(), g.clone())]).norm())
            .collect::<Result<_>>()?;
        assert!(norms[0] == 5.0 && (norms[1] - 6.0).abs() < 1e-5, "{norms:?}");
        Ok(())
    }

    #[test]
    fn non_finite_gradients_are_named_and_left_alone() -> Result<()> {
        let bad = Tensor::new(&[f32::INFINITY, 1.0], &Device::Cpu)?;
        let good = Tensor::new(&[2f32], &Device::Cpu)?;
        let mut gradients = Gradients::from_named(vec![("good".into(), good), ("bad".into(), bad)]);
        assert_eq!(gradients.non_finite()?, Some("bad"));
        assert!(!gradients.clip_norm(1.0)?.is_finite());
        assert_eq!(gradients.get("good").map(Tensor::to_vec1::<f32>).transpose()?, Some(vec![2.0]));
        gradients.retain(|name| name != "bad");
        assert_eq!((gradients.non_finite()?, gradients.norm()?), (None, 2.0));
        Ok(())
    }
}
