//! The policy acting: one unroll after another.

use candle_core::{DType, Device, Tensor};
use contrastive_core::nn::{Carried, Mode};
use contrastive_core::rng::{Key, Purpose, Stream};
use contrastive_core::{Error, Result};

use super::environments::VecEnvironment;
use super::model::{Agent, Outlook, pixels};

/// What one unroll has seen, environment after environment: step `t` of environment `i` is at `i T + t`.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// Frames that actions were chosen from, `[B, T, H, W, 3]`.
    pub frames: Vec<u8>,
    /// The clipped last reward and the last action, one-hot, `[B, T, 1 + A]`; zeros at an episode's first step.
    pub previous: Vec<f32>,
    /// Whether the frame is the first of an episode: the LSTM's states become zero before it.
    pub first: Vec<bool>,
    /// Actions taken.
    pub actions: Vec<u32>,
    /// Clipped rewards.
    pub rewards: Vec<f32>,
    /// Whether the step was an episode's last.
    pub done: Vec<bool>,
    /// The LSTM's states before the first step, `[B, 2 H]`; zeros where absent.
    pub start: Option<Tensor>,
    /// The value of what is seen behind the last step.
    pub bootstrap: Vec<f32>,
    /// Return and steps of each episode that ended, with the step of the unroll in which it did.
    pub finished: Vec<(usize, f64, u64)>,
}

/// Environments, the LSTM's states over them and the memory of one unroll, which is used again and again.
pub struct Actor {
    environments: VecEnvironment,
    state: Option<Tensor>,
    rollout: Rollout,
    reward_clip: f32,
}

impl Actor {
    /// An actor at the beginning of everything.
    pub fn new(environments: VecEnvironment, reward_clip: f64) -> Self {
        Self { environments, state: None, rollout: Rollout::default(), reward_clip: reward_clip as f32 }
    }

    /// The environments.
    pub fn environments(&self) -> &VecEnvironment {
        &self.environments
    }

    /// The environments, to be put back where they were.
    pub fn environments_mut(&mut self) -> &mut VecEnvironment {
        &mut self.environments
    }

    /// The LSTM's states behind the last step.
    pub fn state(&self) -> Option<&Tensor> {
        self.state.as_ref()
    }

    /// Replaces the LSTM's states.
    pub fn set_state(&mut self, state: Option<Tensor>) {
        self.state = state;
    }

    /// What the last unroll has seen.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Acts for `unroll` steps. `step` counts the steps that each environment has made in the run: with the run's seed
    /// and the environment's it names the draw of an action.
    ///
    /// # Errors
    /// Environments that refuse, networks that do not fit them, a policy that is not a number.
    pub fn collect(
        &mut self,
        agent: &Agent,
        unroll: usize,
        seed: u64,
        step: u64,
        device: &Device,
    ) -> Result<()> {
        if !self.environments.begun() {
            self.environments.begin()?;
        }
        let (b, a) = (self.environments.len(), self.environments.actions());
        let (rows, bytes, seeds) = (b * unroll, self.environments.shape().bytes(), self.environments.seeds());
        let rollout = &mut self.rollout;
        rollout.frames.resize(rows * bytes, 0);
        rollout.previous.resize(rows * (1 + a), 0.0);
        rollout.first.resize(rows, false);
        rollout.actions.resize(rows, 0);
        rollout.rewards.resize(rows, 0.0);
        rollout.done.resize(rows, false);
        rollout.finished.clear();
        rollout.start = self.state.clone();
        let key = Key::new(seed, Purpose::Policy);
        let mut actions = vec![0; b];
        for t in 0..unroll {
            let (outlook, seen) = self.look(agent, device)?;
            let logits = outlook.logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            for (i, logits) in logits.iter().enumerate() {
                let mut stream = key.epoch(step + t as u64).sample(seeds[i]).stream();
                actions[i] = sample(logits, &mut stream)
                    .ok_or(Error::NonFinite { what: "the policy".to_string(), step })?;
            }
            let rollout = &mut self.rollout;
            for i in 0..b {
                let at = i * unroll + t;
                let frame = &self.environments.pixels()[i * bytes..(i + 1) * bytes];
                rollout.frames[at * bytes..(at + 1) * bytes].copy_from_slice(frame);
                rollout.previous[at * (1 + a)..(at + 1) * (1 + a)]
                    .copy_from_slice(&seen[i * (1 + a)..(i + 1) * (1 + a)]);
                (rollout.first[at], rollout.actions[at]) = (self.environments.at_start(i), actions[i]);
            }
            for (i, transition) in self.environments.step(&actions)?.iter().enumerate() {
                let at = i * unroll + t;
                rollout.rewards[at] = transition.reward.clamp(-self.reward_clip, self.reward_clip);
                rollout.done[at] = transition.done;
                if let Some((total, steps)) = transition.finished {
                    rollout.finished.push((t, total, steps));
                }
            }
            self.state = Some(outlook.state);
        }
        let values = self.look(agent, device)?.0.values;
        self.rollout.bootstrap = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        Ok(())
    }

    /// What the networks say of what is seen now, and the rewards and actions that they were told, `[B, 1 + A]`.
    fn look(&self, agent: &Agent, device: &Device) -> Result<(Outlook, Vec<f32>)> {
        let (b, a) = (self.environments.len(), self.environments.actions());
        let mut previous = vec![0f32; b * (1 + a)];
        for (i, previous) in previous.chunks_mut(1 + a).enumerate() {
            if let Some((reward, action)) = self.environments.last(i) {
                previous[0] = reward.clamp(-self.reward_clip, self.reward_clip);
                previous[1 + action as usize] = 1.0;
            }
        }
        let first: Vec<bool> = (0..b).map(|i| self.environments.at_start(i)).collect();
        let frames = pixels(self.environments.pixels(), self.environments.shape(), device)?;
        let told = Tensor::from_slice(&previous, (b, 1, 1 + a), device)?;
        let carried = Carried { state: self.state.as_ref(), resets: Some(&first) };
        Ok((agent.forward(&frames, &told, carried, &Mode::eval())?, previous))
    }
}

/// An action of the policy with these logits; none where they are not numbers.
fn sample(logits: &[f32], stream: &mut Stream) -> Option<u32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| f64::from(logit - highest).exp();
    let total: f64 = logits.iter().map(weight).sum();
    if !total.is_finite() {
        return None;
    }
    let mut left = stream.unit() * total;
    let mut chosen = None;
    for (action, logit) in logits.iter().enumerate() {
        let weight = weight(logit);
        if weight > 0.0 {
            chosen = Some(action as u32);
            if left < weight {
                break;
            }
        }
        left -= weight;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_drawn_as_often_as_the_policy_says() {
        let logits = [0.0, 3f32.ln(), f32::NEG_INFINITY, 0.0];
        let mut counts = [0; 4];
        for i in 0..20_000 {
            let mut stream = Key::new(1, Purpose::Policy).epoch(i).stream();
            counts[sample(&logits, &mut stream).expect("an action") as usize] += 1;
        }
        assert!(counts[2] == 0 && (counts[1] - 12_000i32).abs() < 400, "{counts:?}");
        assert!((counts[0] - 4000i32).abs() < 300 && (counts[3] - 4000i32).abs() < 300, "{counts:?}");
        assert_eq!(sample(&[0.0, f32::NAN], &mut Key::new(1, Purpose::Policy).stream()), None);
    }
}
