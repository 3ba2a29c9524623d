//! Where environments are: what a checkpoint keeps of them.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::{Error, Result};

const COLUMNS: [&str; 4] =
    ["environments/seed", "environments/episode", "environments/steps", "environments/actions"];

/// Of each environment the seed, the number of its episode and the actions since that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Its seed.
    pub seeds: Vec<u64>,
    /// Its episode.
    pub episodes: Vec<u64>,
    /// The actions since the episode began.
    pub actions: Vec<Vec<u32>>,
}

impl Places {
    /// As tensors, for a checkpoint.
    ///
    /// # Errors
    /// Candle's.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let column = |values: Vec<i64>| Tensor::from_vec(values, self.seeds.len(), &Device::Cpu);
        // One more, because there is no tensor without elements.
        let actions: Vec<u32> = self.actions.iter().flatten().copied().chain([0]).collect();
        let count = actions.len();
        let tensors = [
            column(self.seeds.iter().map(|&seed| seed as i64).collect())?,
            column(self.episodes.iter().map(|&episode| episode as i64).collect())?,
            column(self.actions.iter().map(|actions| actions.len() as i64).collect())?,
            Tensor::from_vec(actions, count, &Device::Cpu)?,
        ];
        Ok(COLUMNS.map(str::to_string).into_iter().zip(tensors).collect())
    }

    /// Takes back what [`Places::tensors`] gave.
    ///
    /// # Errors
    /// A missing name, columns that do not fit each other.
    pub fn read(state: &HashMap<String, Tensor>) -> Result<Self> {
        let get = |name: &str| -> Result<Vec<i64>> {
            let tensor = state
                .get(name)
                .ok_or_else(|| Error::data("environments", format!("the state lacks `{name}`")))?;
            Ok(tensor.to_dtype(DType::I64)?.to_vec1::<i64>()?)
        };
        let [seeds, episodes, steps, actions] = COLUMNS.map(get);
        let (seeds, episodes, steps, actions) = (seeds?, episodes?, steps?, actions?);
        let played: i128 = steps.iter().map(|s| i128::from(*s)).sum();
        if episodes.len() != seeds.len()
            || steps.len() != seeds.len()
            || steps.iter().any(|s| *s < 0)
            || played + 1 != actions.len() as i128
            || actions.iter().any(|action| u32::try_from(*action).is_err())
            || episodes.iter().any(|e| *e < 0)
        {
            return Err(Error::data("environments", "the state's actions do not fit its episodes"));
        }
        let mut rest = actions.iter().map(|&action| action as u32);
        Ok(Self {
            seeds: seeds.into_iter().map(|seed| seed as u64).collect(),
            episodes: episodes.into_iter().map(|episode| episode as u64).collect(),
            actions: steps.iter().map(|&steps| rest.by_ref().take(steps as usize).collect()).collect(),
        })
    }

    /// Those of all ranks in order; each has as many environments.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn gathered(&self, comm: &Comm) -> Result<Self> {
        let heads = (0..self.seeds.len())
            .flat_map(|i| [self.seeds[i] as i64, self.episodes[i] as i64, self.actions[i].len() as i64]);
        let heads = Tensor::from_iter(heads, &Device::Cpu)?.reshape((self.seeds.len(), 3))?;
        let heads = comm.all_gather(&heads)?.to_vec2::<i64>()?;
        // One more, because there is no tensor without elements.
        let longest = heads.iter().map(|head| head[2] as usize).max().unwrap_or(0) + 1;
        let mut padded = vec![0u32; self.seeds.len() * longest];
        for (row, actions) in padded.chunks_mut(longest).zip(&self.actions) {
            row[..actions.len()].copy_from_slice(actions);
        }
        let padded = Tensor::from_vec(padded, (self.seeds.len(), longest), &Device::Cpu)?;
        let mut actions = comm.all_gather(&padded)?.to_vec2::<u32>()?;
        actions.iter_mut().zip(&heads).for_each(|(actions, head)| actions.truncate(head[2] as usize));
        Ok(Self {
            seeds: heads.iter().map(|head| head[0] as u64).collect(),
            episodes: heads.iter().map(|head| head[1] as u64).collect(),
            actions,
        })
    }

    /// Where the environments of these seeds stand among all.
    ///
    /// # Errors
    /// They are not there side by side.
    pub fn find(&self, seeds: &[u64]) -> Result<usize> {
        self.seeds.windows(seeds.len().max(1)).position(|own| own == seeds).ok_or_else(|| {
            let reason =
                format!("the state is of environments with the seeds {:?}, not {seeds:?}", self.seeds);
            Error::data("environments", reason)
        })
    }
}
