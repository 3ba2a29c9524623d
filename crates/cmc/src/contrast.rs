//! The objective over any number of views, with its state: a bank for each view and a constant Z for each direction.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::loss::ContrastiveLoss;
use contrastive_core::state::{MemoryBank, bank_rows};
use contrastive_core::train::Progress;
use contrastive_core::{Error, Result};

use crate::config::{ContrastConfig, Form};
use crate::loss::{estimate_z, full_softmax, in_batch, nce, sampled_softmax};
use crate::weights::{Z, bank_name};

/// What views say of a batch.
#[derive(Debug)]
pub struct Compared {
    /// The sum over all pairs and both directions, a scalar to differentiate.
    pub loss: Tensor,
    /// The mean accuracy over pairs and directions.
    pub accuracy: f64,
    /// The loss of each pair.
    pub pairs: Vec<f64>,
    /// Z by direction, as after this step.
    z: Vec<Option<f32>>,
}

/// `Σ L(Vi, Vj)` over the pairs of the graph. The embedding of view i is compared with the bank of view j, and that of j
/// with the bank of i: banks cross.
pub struct Contrast {
    config: ContrastConfig,
    names: Vec<String>,
    output: usize,
    seed: u64,
    pairs: Vec<(usize, usize)>,
    /// One for each view, once the number of samples is known; none where negatives are the batch's.
    banks: Vec<MemoryBank>,
    /// For each pair, from the first view to the second and back.
    z: Vec<Option<f32>>,
    pending: Option<Pending>,
}

struct Pending {
    samples: Vec<u64>,
    features: Vec<Tensor>,
    z: Vec<Option<f32>>,
}

impl Contrast {
    /// The objective between views of these names, with embeddings of width `output`.
    ///
    /// # Errors
    /// Settings out of range, fewer than two views, a name that is there twice.
    pub fn new(config: ContrastConfig, names: &[&str], output: usize, seed: u64) -> Result<Self> {
        config.check("contrast")?;
        let twice = names.iter().enumerate().any(|(i, name)| names[..i].contains(name));
        if names.len() < 2 || twice {
            return Err(Error::config("views", format!("at least 2 of different names, got {names:?}")));
        }
        let pairs = config.graph.pairs(names.len());
        let z = vec![None; 2 * pairs.len()];
        let names = names.iter().map(|name| (*name).to_string()).collect();
        Ok(Self { config, names, output, seed, pairs, banks: Vec::new(), z, pending: None })
    }

    /// Makes the banks.
    ///
    /// # Errors
    /// No samples.
    pub fn prepare(&mut self, samples: u64, device: &Device) -> Result<()> {
        if self.config.form == (Form::InBatch {}) {
            return Ok(());
        }
        let size = [samples as usize, self.output];
        let make = |name: &String| MemoryBank::new(&bank_name(name), size, self.seed, device);
        self.banks = self.names.iter().map(make).collect::<Result<_>>()?;
        Ok(())
    }

    /// The bank of each view, once [`Contrast::prepare`] has made them.
    pub fn banks(&self) -> &[MemoryBank] {
        &self.banks
    }

    /// Z of each pair and direction, once a step with NCE has been made.
    pub fn z(&self) -> &[Option<f32>] {
        &self.z
    }

    /// The pairs that are compared.
    pub fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// The loss of unit embeddings, `[B, D]` for each view. Changes nothing.
    ///
    /// # Errors
    /// Another number of views, shapes that do not fit, samples beyond the banks, a rank that is gone.
    pub fn compare(
        &self,
        views: &[Tensor],
        samples: &[u64],
        comm: &Comm,
        progress: &Progress,
    ) -> Result<Compared> {
        if views.len() != self.names.len() {
            return Err(Error::shape("cmc", format!("{} views", self.names.len()), &[views.len()]));
        }
        let device = views[0].device();
        let draw = |negatives| self.draw(samples, negatives, progress, device);
        let rows = match self.config.form {
            Form::Nce { negatives } => Some(draw(negatives)?),
            Form::Softmax { negatives } if negatives > 0 => Some(draw(negatives)?),
            _ => None,
        };
        let (mut terms, mut z) = (Vec::new(), self.z.clone());
        for (p, &(i, j)) in self.pairs.iter().enumerate() {
            if self.config.form == (Form::InBatch {}) {
                terms.push(in_batch(&views[i], &views[j], self.config.temperature, comm)?);
                continue;
            }
            let there = self.against(&views[i], j, (samples, rows.as_ref()), &mut z[2 * p], comm)?;
            let back = self.against(&views[j], i, (samples, rows.as_ref()), &mut z[2 * p + 1], comm)?;
            let accuracy = ((there.accuracy + back.accuracy)? * 0.5)?;
            terms.push(ContrastiveLoss { loss: (there.loss + back.loss)?, accuracy });
        }
        let losses: Vec<Tensor> = terms.iter().map(|term| term.loss.clone()).collect();
        let (mut pairs, mut accuracy) = (Vec::with_capacity(terms.len()), 0.0);
        for term in &terms {
            pairs.push(f64::from(term.loss.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?));
            accuracy += f64::from(term.accuracy.to_scalar::<f32>()?) / terms.len() as f64;
        }
        Ok(Compared { loss: Tensor::stack(&losses, 0)?.sum_all()?, accuracy, pairs, z })
    }

    /// Which rows of the banks stand against each sample; the same for all views and both directions.
    fn draw(
        &self,
        samples: &[u64],
        negatives: usize,
        progress: &Progress,
        device: &Device,
    ) -> Result<Tensor> {
        let Some(bank) = self.banks.first() else { return Err(no_bank()) };
        bank_rows(samples, negatives, bank.len(), progress, device)
    }

    /// Embeddings against the bank of another view.
    fn against(
        &self,
        embeddings: &Tensor,
        view: usize,
        (samples, rows): (&[u64], Option<&Tensor>),
        z: &mut Option<f32>,
        comm: &Comm,
    ) -> Result<ContrastiveLoss> {
        let Some(bank) = self.banks.get(view) else { return Err(no_bank()) };
        bank.gather(samples)?; // refuses samples beyond the bank
        let (bank, t) = (bank.rows(), self.config.temperature);
        match (self.config.form, rows) {
            (Form::Nce { .. }, Some(rows)) => {
                let constant = match *z {
                    Some(z) => z,
                    None => estimate_z(embeddings, bank, rows, t, comm)?,
                };
                *z = Some(constant);
                nce(embeddings, bank, rows, t, constant)
            }
            (_, Some(rows)) => sampled_softmax(embeddings, bank, rows, t),
            (_, None) => full_softmax(embeddings, bank, samples, t),
        }
    }

    /// Remembers what a step brings for the banks, of all ranks, until [`Contrast::update`].
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn remember(
        &mut self,
        compared: &Compared,
        views: &[Tensor],
        samples: &[u64],
        comm: &Comm,
    ) -> Result<()> {
        if self.banks.is_empty() {
            return Ok(());
        }
        let own: Vec<u32> = samples.iter().map(|&sample| sample as u32).collect();
        let own = Tensor::from_vec(own, samples.len(), views[0].device())?;
        let samples = comm.all_gather(&own)?.to_vec1::<u32>()?.into_iter().map(u64::from).collect();
        let features =
            views.iter().map(|view| comm.all_gather(&view.detach())).collect::<Result<Vec<Tensor>>>()?;
        self.pending = Some(Pending { samples, features, z: compared.z.clone() });
        Ok(())
    }

    /// Each view's bank takes its own embeddings: after the optimiser's update, of the networks before it, as in the
    /// official code.
    ///
    /// # Errors
    /// Samples beyond the banks.
    pub fn update(&mut self) -> Result<()> {
        if let Some(Pending { samples, features, z }) = self.pending.take() {
            for (bank, features) in self.banks.iter_mut().zip(&features) {
                bank.update(&samples, features, self.config.bank_momentum)?;
            }
            self.z = z;
        }
        Ok(())
    }

    /// For [`contrastive_core::train::Method::state`]: the banks, and Z by direction, -1 where there is none.
    ///
    /// # Errors
    /// A device without room.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state: Vec<(String, Tensor)> = self.banks.iter().flat_map(MemoryBank::state).collect();
        let z: Vec<f32> = self.z.iter().map(|z| z.unwrap_or(-1.0)).collect();
        let count = z.len();
        state.push((Z.to_string(), Tensor::from_vec(z, count, &Device::Cpu)?));
        Ok(state)
    }

    /// Takes back what [`Contrast::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let z = state.get(Z).ok_or_else(|| Error::data(Z, "missing in the saved state"))?;
        if z.dims() != [self.z.len()] {
            return Err(Error::shape("saved state", format!("[{}] for `{Z}`", self.z.len()), z.dims()));
        }
        let z = z.to_vec1::<f32>()?;
        for bank in &mut self.banks {
            bank.load_state(state)?;
        }
        self.z = z.into_iter().map(|z| (z > 0.0).then_some(z)).collect();
        self.pending = None;
        Ok(())
    }
}

fn no_bank() -> Error {
    Error::data("cmc", "there are no memory banks yet: `prepare` makes them")
}
