//! One step of InstDisc, as the training loop sees it.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::loss::ContrastiveLoss;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::state::{MemoryBank, bank_rows};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::config::{InstDiscConfig, LossForm};
use crate::loss::{estimate_z, full_softmax, nce, proximal, sampled_softmax};
use crate::model::InstDiscModel;
use crate::weights::{BANK, Z};

/// InstDisc. Beside its parameters it has a memory bank, one row for every training sample, and the constant Z.
pub struct InstDisc {
    config: InstDiscConfig,
    params: ParamStore,
    model: InstDiscModel,
    seed: u64,
    /// Made when the number of samples is known.
    bank: Option<MemoryBank>,
    /// Z of the very first batch.
    z: Option<f32>,
    /// What a step brought for the state.
    pending: Option<Pending>,
}

struct Pending {
    samples: Vec<u64>,
    features: Tensor,
    z: Option<f32>,
}

impl InstDisc {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: InstDiscConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = InstDiscModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model, seed, bank: None, z: None, pending: None })
    }

    /// The networks.
    pub fn model(&self) -> &InstDiscModel {
        &self.model
    }

    /// The memory bank, once [`Method::prepare`] has made it.
    pub fn bank(&self) -> Option<&MemoryBank> {
        self.bank.as_ref()
    }

    /// Z, once a step with the loss `nce` has been made.
    pub fn z(&self) -> Option<f32> {
        self.z
    }

    /// The loss of unit features `[B, D]` against the bank, and Z.
    fn loss(
        &self,
        features: &Tensor,
        samples: &[u64],
        comm: &Comm,
        progress: &Progress,
    ) -> Result<(ContrastiveLoss, Option<f32>)> {
        let Some(bank) = &self.bank else {
            return Err(Error::data("instdisc", "there is no memory bank yet: `prepare` makes it"));
        };
        let own = bank.gather(samples)?; // refuses samples beyond the bank
        let InstDiscConfig { temperature, negatives, .. } = self.config;
        let draw = || bank_rows(samples, negatives, bank.len(), progress, features.device());
        let (mut out, z) = match self.config.loss {
            LossForm::Nce => {
                let rows = draw()?;
                let z = match self.z {
                    Some(z) => z,
                    None => estimate_z(features, bank.rows(), &rows, temperature, comm)?,
                };
                (nce(features, bank.rows(), &rows, temperature, z)?, Some(z))
            }
            LossForm::Softmax if negatives == 0 => {
                (full_softmax(features, bank.rows(), samples, temperature)?, None)
            }
            LossForm::Softmax => (sampled_softmax(features, bank.rows(), &draw()?, temperature)?, None),
        };
        if self.config.proximal > 0.0 {
            out.loss = (out.loss + (proximal(features, &own)? * self.config.proximal)?)?;
        }
        Ok((out, z))
    }
}

impl Method for InstDisc {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn prepare(&mut self, samples: u64) -> Result<()> {
        let size = [samples as usize, self.config.output];
        self.bank = Some(MemoryBank::new(BANK, size, self.seed, &self.params.device())?);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("instdisc", "1 view", &[batch.views.len()]));
        };
        let mode = Mode::train(comm);
        let h = self.model.backbone.forward(x, &mode)?; // [B, width]
        let f = self.model.embed(&h, &mode)?; // [B, D]
        let (out, z) = self.loss(&f, &batch.indices, comm, progress)?;
        // Every rank's bank takes the rows of all ranks.
        let samples: Vec<u32> = batch.indices.iter().map(|&sample| sample as u32).collect();
        let samples =
            comm.all_gather(&Tensor::from_vec(samples, batch.len(), f.device())?)?.to_vec1::<u32>()?;
        self.pending = Some(Pending {
            samples: samples.into_iter().map(u64::from).collect(),
            features: comm.all_gather(&f.detach())?,
            z,
        });
        let accuracy = f64::from(out.accuracy.to_scalar::<f32>()?);
        Ok(StepOutput {
            terms: vec![("contrastive_accuracy".into(), accuracy)],
            features: Some(h.detach()),
            ..StepOutput::new(out.loss, vec![f.detach()])
        })
    }

    /// The official code updates the bank within the backward pass; the features are those of the network before the
    /// optimiser's step either way.
    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        if let (Some(pending), Some(bank)) = (self.pending.take(), &mut self.bank) {
            bank.update(&pending.samples, &pending.features, self.config.bank_momentum)?;
            self.z = pending.z;
        }
        Ok(())
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.bank.as_ref().map(MemoryBank::state).unwrap_or_default();
        state.push((Z.to_string(), Tensor::new(&[self.z.unwrap_or(-1.0)], &Device::Cpu)?));
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let z = state.get(Z).ok_or_else(|| Error::data(Z, "missing in the saved state"))?;
        let z = z.reshape(1)?.to_vec1::<f32>()?[0];
        if let Some(bank) = &mut self.bank {
            bank.load_state(state)?;
        }
        self.z = (z > 0.0).then_some(z);
        self.pending = None;
        Ok(())
    }
}
