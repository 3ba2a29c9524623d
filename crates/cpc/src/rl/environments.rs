//! A batch of environments that are stepped together.

use contrastive_core::{Error, Result};
use contrastive_scenes::{Environment, Shape};
use rayon::prelude::*;

use super::places::Places;

/// What one action of one environment led to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Transition {
    /// The reward as the environment gave it.
    pub reward: f32,
    /// The episode is over; what is seen now is the first frame of the next one.
    pub done: bool,
    /// It is over because its time is.
    pub truncated: bool,
    /// Where it is over: its return and its steps.
    pub finished: Option<(f64, u64)>,
}

/// One environment and what its episode has seen so far.
struct Lane {
    environment: Box<dyn Environment>,
    seed: u64,
    episode: u64,
    /// Actions since the episode began: with seed and number they are its whole state.
    history: Vec<u32>,
    /// The last reward.
    reward: f32,
    total: f64,
}

impl Lane {
    fn begin(&mut self, episode: u64) -> Result<()> {
        (self.episode, self.reward, self.total) = (episode, 0.0, 0.0);
        self.history.clear();
        self.environment.reset(self.seed, episode).map_err(failed)
    }

    fn act(&mut self, action: u32) -> Result<contrastive_scenes::Step> {
        let step = self.environment.step(action as usize).map_err(failed)?;
        if !step.reward.is_finite() {
            let reason = format!("{} gave the reward {}", self.environment.name(), step.reward);
            return Err(Error::data("environment", reason));
        }
        self.history.push(action);
        self.reward = step.reward;
        self.total += f64::from(step.reward);
        Ok(step)
    }

    /// One step, and the next episode where this one is over.
    fn step(&mut self, action: u32, pixels: &mut [u8]) -> Result<Transition> {
        let step = self.act(action)?;
        let finished = step.done.then_some((self.total, self.history.len() as u64));
        if step.done {
            self.begin(self.episode + 1)?;
        }
        self.environment.observe(pixels).map_err(failed)?;
        Ok(Transition { reward: step.reward, done: step.done, truncated: step.truncated, finished })
    }

    /// The episode of this number up to where these actions lead.
    fn replay(&mut self, episode: u64, actions: &[u32], pixels: &mut [u8]) -> Result<()> {
        self.begin(episode)?;
        for (i, &action) in actions.iter().enumerate() {
            if self.act(action)?.done {
                let reason = format!(
                    "{}: episode {episode} of seed {} ended after {} of the {} saved actions: it is not a function of its seed",
                    self.environment.name(),
                    self.seed,
                    i + 1,
                    actions.len()
                );
                return Err(Error::data("environment", reason));
            }
        }
        self.environment.observe(pixels).map_err(failed)
    }
}

fn failed(error: contrastive_scenes::Error) -> Error {
    Error::data("environment", error.to_string())
}

/// Environments of one kind, stepped in parallel and answering in order. Environment `i` has the first seed plus `i` and
/// counts its episodes from 0; where one ends the next begins by itself. Nothing depends on the number of threads.
pub struct VecEnvironment {
    lanes: Vec<Lane>,
    shape: Shape,
    actions: usize,
    /// `[B, H, W, 3]`: what every environment shows now.
    pixels: Vec<u8>,
    transitions: Vec<Transition>,
    begun: bool,
}

impl VecEnvironment {
    /// A batch; its first episodes begin with [`VecEnvironment::begin`].
    ///
    /// # Errors
    /// No environment; environments that differ in name, shape, actions or frames a step; one without actions.
    pub fn new(environments: Vec<Box<dyn Environment>>, first_seed: u64) -> Result<Self> {
        let Some(first) = environments.first() else {
            return Err(Error::config("environments", "must be at least 1"));
        };
        let kind = |e: &dyn Environment| (e.name().to_string(), e.shape(), e.actions(), e.frames_per_step());
        let (name, shape, actions, frames) = kind(first.as_ref());
        if let Some(other) =
            environments.iter().find(|e| kind(e.as_ref()) != (name.clone(), shape, actions, frames))
        {
            let reason = format!("a batch is of one kind, and `{name}` and `{}` differ", other.name());
            return Err(Error::data("environments", reason));
        }
        if actions == 0 || shape.bytes() == 0 {
            return Err(Error::data("environments", format!("`{name}` has no action or shows nothing")));
        }
        let lane = |(i, environment)| Lane {
            environment,
            seed: first_seed.wrapping_add(i as u64),
            episode: 0,
            history: Vec::new(),
            reward: 0.0,
            total: 0.0,
        };
        let lanes: Vec<Lane> = environments.into_iter().enumerate().map(lane).collect();
        Ok(Self {
            pixels: vec![0; lanes.len() * shape.bytes()],
            transitions: vec![Transition::default(); lanes.len()],
            lanes,
            shape,
            actions,
            begun: false,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The environments' common name.
    pub fn name(&self) -> &str {
        self.lanes.first().map_or("", |lane| lane.environment.name())
    }

    /// Shape of a frame.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many actions there are.
    pub fn actions(&self) -> usize {
        self.actions
    }

    /// Frames that a step of one environment simulates.
    pub fn frames_per_step(&self) -> u64 {
        self.lanes.first().map_or(1, |lane| u64::from(lane.environment.frames_per_step()))
    }

    /// The seed of each environment.
    pub fn seeds(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.seed).collect()
    }

    /// Whether episodes run.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// What every environment shows, `[B, H, W, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Whether environment `i` shows the first frame of an episode.
    pub fn at_start(&self, i: usize) -> bool {
        self.lanes.get(i).is_none_or(|lane| lane.history.is_empty())
    }

    /// The last reward of environment `i` and the action that brought it; nothing at the start of an episode.
    pub fn last(&self, i: usize) -> Option<(f32, u32)> {
        let lane = self.lanes.get(i)?;
        lane.history.last().map(|&action| (lane.reward, action))
    }

    /// Begins episode 0 of every environment.
    ///
    /// # Errors
    /// An environment that refuses.
    pub fn begin(&mut self) -> Result<()> {
        self.each(|lane, pixels, _| {
            lane.begin(0)?;
            lane.environment.observe(pixels).map_err(failed)
        })?;
        self.begun = true;
        Ok(())
    }

    /// One action of each environment, in their order.
    ///
    /// # Errors
    /// Another number of actions, no episodes that run, an environment that refuses; the first of several speaks.
    pub fn step(&mut self, actions: &[u32]) -> Result<&[Transition]> {
        if actions.len() != self.lanes.len() {
            return Err(Error::shape(
                "environment step",
                format!("{} actions", self.lanes.len()),
                &[actions.len()],
            ));
        }
        if !self.begun {
            return Err(Error::data("environments", "no episodes run: begin them first"));
        }
        let bytes = self.shape.bytes();
        let lanes = self.lanes.par_iter_mut().zip(self.pixels.par_chunks_mut(bytes));
        let work = lanes.zip(self.transitions.par_iter_mut()).zip(actions.par_iter()).with_max_len(1);
        let done: Vec<Result<()>> = work
            .map(|(((lane, pixels), transition), &action)| {
                *transition = lane.step(action, pixels)?;
                Ok(())
            })
            .collect();
        done.into_iter().collect::<Result<()>>()?;
        Ok(&self.transitions)
    }

    fn each(&mut self, f: impl Fn(&mut Lane, &mut [u8], usize) -> Result<()> + Sync) -> Result<()> {
        let bytes = self.shape.bytes();
        let lanes = self.lanes.par_iter_mut().zip(self.pixels.par_chunks_mut(bytes)).with_max_len(1);
        let done: Vec<Result<()>> = lanes.enumerate().map(|(i, (lane, pixels))| f(lane, pixels, i)).collect();
        done.into_iter().collect()
    }

    /// Where every environment is; nothing before the beginning.
    pub fn places(&self) -> Option<Places> {
        self.begun.then(|| Places {
            seeds: self.seeds(),
            episodes: self.lanes.iter().map(|lane| lane.episode).collect(),
            actions: self.lanes.iter().map(|lane| lane.history.clone()).collect(),
        })
    }

    /// Goes to where these environments are among others, by playing their actions again.
    ///
    /// # Errors
    /// Other seeds, an action that there is none of, an environment that does not repeat itself.
    pub fn put_back(&mut self, places: &Places) -> Result<()> {
        let at = places.find(&self.seeds())?;
        let known = self.actions;
        if let Some(action) = places.actions.iter().flatten().find(|&&action| action as usize >= known) {
            return Err(Error::data("environments", format!("the state has action {action} of {known}")));
        }
        self.each(|lane, pixels, i| lane.replay(places.episodes[at + i], &places.actions[at + i], pixels))?;
        self.begun = true;
        Ok(())
    }
}
