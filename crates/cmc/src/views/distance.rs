//! Two patches of one picture as views: how much they share is set by how far apart they are (the paper's experiments on
//! mutual information, after Tian et al. 2020, *What makes for good views*).
//!
//! Near patches share everything down to the texture, far ones hardly more than the room; what they share is bounded
//! from below by the loss on pictures that were not trained on ([`DistanceRun::bound`]).

use std::sync::Arc;

use candle_core::{Device, Tensor};
use contrastive_core::data::{Array, Source, Transform};
use contrastive_core::dist::single;
use contrastive_core::experiment::RunOptions;
use contrastive_core::nn::Mode;
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::Outcome;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::ViewsRun;
use super::method::ViewsCmc;
use super::run::fit_views;
use super::scene::{Scene, Scenes, View, Window};
use crate::loss::in_batch;

/// Two patches of all columns of a scene, whose corners are `distance` pixels apart both down and across: the second is
/// below and to the right of the first, which lies anywhere where both fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// How many columns a scene has.
    pub columns: usize,
    /// Side of a patch in pixels.
    pub side: usize,
    /// Between both corners, in pixels along each axis.
    pub distance: usize,
}

impl Transform<Scene> for Pair {
    fn apply(&self, scene: &Scene, key: Key) -> Result<Vec<Array>> {
        let shape = scene.views.first().map(|view| view.shape.clone()).unwrap_or_default();
        let reach = self.side + self.distance;
        let &[_, height, width] = shape.as_slice() else {
            return Err(Error::shape("pair of patches", "[C, H, W]", &shape));
        };
        if height < reach || width < reach {
            return Err(Error::shape(
                "pair of patches",
                format!("at least {reach} x {reach} pixels"),
                &shape,
            ));
        }
        let mut stream = key.stream();
        let mut place = |length: usize| stream.below((length - reach + 1) as u64) as usize;
        let corner = [place(height), place(width)];
        let window = Window { columns: (0..self.columns).collect(), side: self.side, labels: false };
        let patch = |corner| Array::stacked(window.cut(scene, corner)?);
        Ok(vec![patch(corner)?, patch(corner.map(|place| place + self.distance))?])
    }
}

/// A run on pairs of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistanceRun {
    /// Networks, loop and optimiser; its window is the patch, and its views are [`views`].
    pub run: ViewsRun,
    /// Between the corners of both patches, in pixels along each axis.
    pub distance: usize,
}

/// Both patches as views of so many channels.
pub fn views(channels: usize) -> Vec<View> {
    vec![View::new("here", channels), View::new("there", channels)]
}

impl DistanceRun {
    fn pair(&self, scenes: &Scenes) -> Result<Pair> {
        let channels = scenes.views().iter().map(|view| view.channels).sum();
        if self.run.method.views != views(channels) {
            return Err(Error::config("run.method.views", format!("must be {:?}", views(channels))));
        }
        Ok(Pair { columns: scenes.views().len(), side: self.run.window, distance: self.distance })
    }

    /// Scenes in, a trained encoder for either patch out. See [`contrastive_core::experiment::train`] for what the run
    /// directory holds.
    ///
    /// # Errors
    /// As [`super::run::fit`].
    pub fn fit(&self, scenes: Arc<Scenes>, options: RunOptions<'_>) -> Result<(ViewsCmc, Outcome)> {
        self.run.check()?;
        let pair = self.pair(&scenes)?;
        let preprocessing = format!("patches of {} pixels", self.run.window);
        fit_views(self, &self.run, (scenes, pair), preprocessing, options)
    }

    /// `I_NCE = ln N − L` in nats of the method's pairs over all scenes, which were not trained on: a lower bound on what
    /// both patches share, no more than `ln N`. L is the mean over both directions and `rounds` places in each scene; N is
    /// the number of scenes, so that no other patch of the same scene is a negative.
    ///
    /// # Errors
    /// A method of another task, scenes that do not fit.
    pub fn bound(&self, method: &ViewsCmc, scenes: &Scenes, rounds: usize) -> Result<f64> {
        let pair = self.pair(scenes)?;
        let super::config::Task::Contrast { temperature, .. } = self.run.method.task else {
            return Err(Error::config("run.method.task", "a bound is known of contrast only"));
        };
        let [here, there] = method.nets() else {
            return Err(Error::shape("bound", "2 views", &[method.nets().len()]));
        };
        let mut sum = 0.0;
        for round in 0..rounds {
            let mut patches = [Vec::new(), Vec::new()];
            for (i, scene) in scenes.scenes().iter().enumerate() {
                let key = Key::new(self.run.train.seed, Purpose::Eval).epoch(round as u64).sample(i as u64);
                for (all, one) in patches.iter_mut().zip(pair.apply(scene, key)?) {
                    all.push(Tensor::from_vec(one.data, one.shape, &Device::Cpu)?);
                }
            }
            let embed = |net: &super::model::ViewNet, patches: &[Tensor]| -> Result<Tensor> {
                Ok(net.embed(&Tensor::stack(patches, 0)?, &Mode::eval())?.0.global)
            };
            let [a, b] = [embed(here, &patches[0])?, embed(there, &patches[1])?];
            let loss = in_batch(&a, &b, temperature, &single())?.loss;
            sum += f64::from(loss.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?) / 2.0;
        }
        Ok((scenes.len() as f64).ln() - sum / rounds.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_apart_by_the_distance() -> Result<()> {
        // Every pixel says where it is.
        let place = |f: fn(usize) -> usize| Array {
            shape: vec![1, 20, 30],
            data: (0..600).map(|i| f(i) as f32).collect(),
        };
        let scene = Scene { views: vec![place(|i| i / 30), place(|i| i % 30)], labels: None };
        let key = |epoch| Key::new(1, Purpose::Augment).epoch(epoch);
        let mut corners = Vec::new();
        for epoch in 0..20 {
            let pair = Pair { columns: 2, side: 8, distance: 5 };
            let views = pair.apply(&scene, key(epoch))?;
            assert_eq!([&views[0].shape, &views[1].shape], [&vec![2, 8, 8]; 2]);
            assert!(views[0].data.iter().zip(&views[1].data).all(|(a, b)| a + 5.0 == *b));
            corners.push((views[0].data[0], views[0].data[64]));
        }
        corners.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        corners.dedup();
        assert!(corners.len() > 10, "{corners:?}");
        assert!(Pair { columns: 2, side: 8, distance: 13 }.apply(&scene, key(0)).is_err());
        Ok(())
    }
}
