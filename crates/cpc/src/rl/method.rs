//! One update of A2C with CPC, as the training loop sees it.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{Carried, Mode, ParamStore};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::actor::{Actor, Rollout};
use super::config::{Reduction, RlConfig};
use super::curve::{self, Curve, Episode};
use super::environments::VecEnvironment;
use super::loss::{Costs, Experience, actor_critic, returns, scalar};
use super::model::{Agent, Outlook, pixels};
use super::places::Places;
use crate::objective::{Contrast, ObjectiveConfig, Sequences, contrast};

const STATE: &str = "context";

/// Batched A2C with the auxiliary loss of CPC. A step acts for one unroll in all environments and learns from it; the
/// batch that the loop brings is not looked at.
///
/// Its state: for each environment the episode's number and its actions so far, the LSTM's states, and the return of
/// every finished episode, all of these of all ranks. A step that ends in an error leaves the environments where they are;
/// the loop saves nothing after it.
pub struct ActorCritic {
    config: RlConfig,
    params: ParamStore,
    agent: Agent,
    actor: Actor,
    episodes: Vec<Episode>,
    /// Where the environments of several ranks are and the LSTM's states over them; one rank asks its own.
    all: Option<(Places, Tensor)>,
}

impl ActorCritic {
    /// Fresh networks drawn from `seed` for these environments: all, or a rank's part of them.
    ///
    /// # Errors
    /// Settings out of range, another number of environments than the settings say or a part of it.
    pub fn new(config: RlConfig, environments: VecEnvironment, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        if !config.environments.is_multiple_of(environments.len()) {
            let reason = format!("is {}, and there are {}", config.environments, environments.len());
            return Err(Error::config("method.environments", reason));
        }
        let params = ParamStore::new(seed, device);
        let agent = Agent::new(&params.builder(), &config, environments.shape(), environments.actions())?;
        let actor = Actor::new(environments, config.reward_clip);
        Ok(Self { config, params, agent, actor, episodes: Vec::new(), all: None })
    }

    /// The settings.
    pub fn config(&self) -> &RlConfig {
        &self.config
    }

    /// The networks.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The environments and what the last unroll saw.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The episodes that have ended on all ranks, in order.
    pub fn episodes(&self) -> &[Episode] {
        &self.episodes
    }

    /// Frames that one update simulates in all environments together.
    pub fn frames_per_update(&self) -> u64 {
        self.config.rows() as u64 * self.actor.environments().frames_per_step()
    }

    /// The learning curve of `updates` updates in so many parts.
    pub fn curve(&self, updates: u64, parts: usize) -> Curve {
        Curve::of(&self.episodes, updates * self.frames_per_update(), parts)
    }

    /// Acts for one unroll; `update` counts the updates made so far in a run of this seed.
    ///
    /// # Errors
    /// As [`Actor::collect`].
    pub fn collect(&mut self, seed: u64, update: u64) -> Result<&Rollout> {
        let unroll = self.config.unroll;
        let device = self.params.device();
        self.actor.collect(&self.agent, unroll, seed, update * unroll as u64, &device)?;
        let per_step = self.config.environments as u64 * self.actor.environments().frames_per_step();
        let before = update * self.frames_per_update();
        let ended = self.actor.rollout().finished.iter();
        let episode = |&(t, total, steps): &(usize, f64, u64)| {
            let frames = before + (t as u64 + 1) * per_step;
            Episode { frames, steps, total }
        };
        self.episodes.extend(ended.map(episode));
        Ok(self.actor.rollout())
    }

    /// What the networks say of the last unroll, in one pass over all its steps.
    ///
    /// # Errors
    /// As [`Agent::forward`].
    pub fn outlook(&self, mode: &Mode) -> Result<Outlook> {
        let rollout = self.actor.rollout();
        let device = self.params.device();
        let frames = pixels(&rollout.frames, self.actor.environments().shape(), &device)?;
        let extents = (self.actor.environments().len(), self.config.unroll, 1 + self.agent.actions());
        let told = Tensor::from_slice(&rollout.previous, extents, &device)?;
        let carried = Carried { state: rollout.start.as_ref(), resets: Some(&rollout.first) };
        self.agent.forward(&frames, &told, carried, mode)
    }

    /// What a rank's sum over its environments is multiplied by: the mean over ranks of the outcome is the sum or mean over
    /// all environments.
    fn scale(&self) -> f64 {
        let own = self.actor.environments().len() as f64;
        match self.config.reduction {
            Reduction::Sum => self.config.environments as f64 / own,
            Reduction::Mean => 1.0 / own,
        }
    }

    /// Brings together what several ranks have seen, from episode `ended` on.
    fn gather(&mut self, ended: usize, comm: &Comm) -> Result<()> {
        if comm.size() == 1 {
            return Ok(());
        }
        let (Some(places), Some(states)) = (self.actor.environments().places(), self.actor.state()) else {
            return Ok(());
        };
        self.all = Some((places.gathered(comm)?, comm.all_gather(states)?));
        let most = self.actor.environments().len() * self.config.unroll;
        let own = self.episodes.split_off(ended);
        self.episodes.extend(curve::gathered(&own, most, comm)?);
        Ok(())
    }

    /// The auxiliary task on the last unroll; nothing where it is off or no two steps lie in one episode.
    fn contrast(&self, outlook: &Outlook, key: Key, mode: &Mode, comm: &Comm) -> Result<Option<Contrast>> {
        let Some(predictor) = &self.agent.predictor else { return Ok(None) };
        let episodes = episode_numbers(&self.actor.rollout().first, self.config.unroll);
        let objective = self.config.cpc.objective;
        let own = reach(&episodes, self.config.unroll, objective.steps);
        // All ranks have gradients of the same maps.
        let all = comm.all_gather(&Tensor::new(&[own as u32], &Device::Cpu)?)?.to_vec1::<u32>()?;
        let steps = all.into_iter().min().unwrap_or(0) as usize;
        if steps == 0 {
            return Ok(None);
        }
        let names = self.actor.environments().seeds();
        let input = Sequences {
            targets: &outlook.codes,
            contexts: &outlook.contexts,
            names: &names,
            groups: None,
            episodes: Some(&episodes),
        };
        contrast(&ObjectiveConfig { steps, ..objective }, predictor, input, key, mode).map(Some)
    }
}

/// The number of each step's episode within its sequence.
pub fn episode_numbers(first: &[bool], length: usize) -> Vec<u32> {
    let number = |(at, episode): (usize, &mut u32)| {
        *episode = if at.is_multiple_of(length) { 0 } else { *episode + u32::from(first[at]) };
        *episode
    };
    let mut episode = 0;
    (0..first.len()).map(|at| number((at, &mut episode))).collect()
}

/// The largest `k` up to `most` for which some sequence has two steps `k` apart in one episode.
fn reach(episodes: &[u32], length: usize, most: usize) -> usize {
    let longest = episodes.chunks(length).flat_map(|s| s.chunk_by(|a, b| a == b)).map(<[u32]>::len).max();
    longest.unwrap_or(0).saturating_sub(1).min(most)
}

impl Method for ActorCritic {
    fn name(&self) -> &str {
        if self.config.cpc.enabled { "a2c-cpc" } else { "a2c" }
    }

    fn views(&self) -> usize {
        0
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, _batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let own = self.actor.environments().len();
        if own * comm.size() != self.config.environments {
            let reason =
                format!("{own} of {} environments on {} ranks", self.config.environments, comm.size());
            return Err(Error::Rank { rank: comm.rank(), reason });
        }
        let ended = self.episodes.len();
        self.collect(progress.seed, progress.step)?;
        self.gather(ended, comm)?;
        let mode = Mode::train(comm);
        let outlook = self.outlook(&mode)?;
        let rollout = self.actor.rollout();
        let RlConfig { discount, unroll, .. } = self.config;
        let returns = returns(&rollout.rewards, &rollout.done, &rollout.bootstrap, unroll, discount)?;
        let values =
            outlook.values.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let advantages: Vec<f32> = returns.iter().zip(&values).map(|(r, v)| r - v).collect();
        let experience = Experience { actions: &rollout.actions, returns: &returns, advantages: &advantages };
        let (baseline, entropy, scale) = (self.config.baseline_cost, self.config.entropy_cost, self.scale());
        let scores =
            actor_critic(&outlook.logits, &outlook.values, experience, Costs { baseline, entropy, scale })?;
        let mut terms = vec![
            ("policy".to_string(), scores.policy),
            ("baseline".to_string(), scores.baseline),
            ("entropy".to_string(), scores.entropy),
        ];
        let totals: Vec<f64> = self.episodes[ended..].iter().map(|e| e.total).collect();
        terms.push(("episodes".to_string(), totals.len() as f64));
        if !totals.is_empty() {
            terms.push(("return".to_string(), totals.iter().sum::<f64>() / totals.len() as f64));
        }
        let mut loss = scores.loss;
        let key = Key::new(progress.seed, Purpose::Negatives).epoch(progress.step);
        if let Some(contrast) = self.contrast(&outlook, key, &mode, comm)? {
            let value = scalar(&contrast.loss)?;
            let steps = contrast.steps.len() as f64;
            let accuracy = contrast.steps.iter().map(|s| s.accuracy).sum::<f64>() / steps;
            terms.push(("cpc".to_string(), value));
            terms.push(("cpc/accuracy".to_string(), accuracy));
            let rows = (own * unroll) as f64;
            // Only with all other encodings as negatives is this the bound on the information between c_t and z_{t+k}.
            terms.push(("cpc/information".to_string(), rows.ln() - value));
            let weight = self.config.cpc.weight * rows * self.scale();
            loss = (loss + (contrast.loss * weight)?)?;
        }
        Ok(StepOutput { terms, ..StepOutput::new(loss, Vec::new()) })
    }

    /// z of frames `[N, 3, H, W]` from 0 to 1: `[N, Z]`.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.agent.encoder.forward(x, &Mode::eval())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let own = || self.actor.environments().places().zip(self.actor.state().cloned());
        let Some((places, states)) = self.all.clone().or_else(own) else { return Ok(Vec::new()) };
        let mut state = places.tensors()?;
        state.push((STATE.to_string(), states.to_device(&Device::Cpu)?));
        state.extend(curve::save(&self.episodes)?);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(states) = state.get(STATE) else { return Ok(()) };
        let expected = [self.config.environments, 2 * self.config.contexts];
        if states.dims() != expected {
            let mismatched = vec![format!("{STATE}: expected {expected:?}, got {:?}", states.dims())];
            let (missing, unexpected) = (Vec::new(), Vec::new());
            return Err(Error::Weights {
                path: "actor-critic state".into(),
                missing,
                unexpected,
                mismatched,
            });
        }
        let (places, episodes) = (Places::read(state)?, curve::load(state)?);
        let environments = self.actor.environments_mut();
        let (at, own) = (places.find(&environments.seeds())?, environments.len());
        environments.put_back(&places)?;
        let states = states.to_device(&self.params.device())?;
        self.actor.set_state(Some(states.narrow(0, at, own)?));
        (self.episodes, self.all) = (episodes, (own < places.seeds.len()).then_some((places, states)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn episodes_are_numbered_and_measured() {
        let first = [true, false, false, true, false, true, false, true, false, false];
        let numbers = episode_numbers(&first, 5);
        assert_eq!(numbers, [0, 0, 0, 1, 1, 0, 0, 1, 1, 1]);
        assert_eq!((reach(&numbers, 5, 30), reach(&numbers, 5, 1), reach(&[0, 1, 2], 3, 4)), (2, 1, 0));
    }
}
