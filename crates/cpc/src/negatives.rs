//! Which targets a prediction is told apart from.
//!
//! A batch holds B sequences of L targets each ("frames"), numbered `b L + t`. The prediction of step `k` made at `(b, t)`
//! has the true target `(b, t + k)`; its negatives are other frames, by a [`Scheme`]: those of the paper's table 2 and
//! two forms of published implementations. What the paper calls a speaker is the group that a sequence belongs to.

use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where negatives come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Every other frame of the batch ("mixed speaker", the paper's 64.6 %).
    MixedSpeaker,
    /// Every other frame of the speaker's sequences ("same speaker", 65.5 %).
    SameSpeaker,
    /// The frames of the batch's other sequences ("mixed speaker, excluding the current sequence", 57.3 %).
    MixedSpeakerExcludingCurrent,
    /// The frames of the speaker's other sequences ("same speaker, excluding the current sequence", 64.6 %).
    SameSpeakerExcludingCurrent,
    /// The other frames of the sequence itself ("current sequence only", 65.2 %).
    CurrentSequence,
    /// The frames at the true target's time in the other sequences (Lai's implementation): B − 1 of them.
    SameTime,
    /// Frames drawn from all B·L blindly, the true target among them (Greedy InfoMax): one draw for every target, which
    /// the prediction of step `k` at `t` shares with that of step `k + 1` at `t − 1`.
    AllFrames,
}

/// Where negatives come from and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NegativesConfig {
    /// The frames that can be negatives.
    pub scheme: Scheme,
    /// How many are drawn for each prediction, with replacement; all of them where absent.
    pub count: Option<usize>,
}

impl NegativesConfig {
    /// Checks the ranges. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str) -> Result<()> {
        match (self.scheme, self.count) {
            (_, Some(0)) => Err(Error::config(format!("{at}.count"), "must be at least 1")),
            (Scheme::AllFrames, None) => {
                Err(Error::config(format!("{at}.count"), "all-frames draws its negatives: how many?"))
            }
            (Scheme::SameTime, Some(_)) => {
                Err(Error::config(format!("{at}.count"), "same-time takes all negatives there are"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the scheme asks for the sequences' groups.
    pub fn needs_groups(&self) -> bool {
        matches!(self.scheme, Scheme::SameSpeaker | Scheme::SameSpeakerExcludingCurrent)
    }
}

/// The frames of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// L, the length of each sequence.
    pub length: usize,
    /// The sample that each sequence is from: the name of its draws, so that they are the same on any rank.
    pub names: &'a [u64],
    /// The group (speaker) of each sequence, where it is known.
    pub groups: Option<&'a [u32]>,
}

impl Frames<'_> {
    fn sequences(&self) -> usize {
        self.names.len()
    }

    /// The number of a frame.
    fn at(&self, sequence: usize, time: usize) -> u32 {
        (sequence * self.length + time) as u32
    }
}

/// Where a prediction is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The sequence.
    pub sequence: usize,
    /// The time of the context.
    pub time: usize,
}

/// The candidates of the predictions of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidates {
    /// Every prediction is held against all frames.
    Pool {
        /// The frame of each true target.
        positive: Vec<u32>,
        /// The frames that are no negatives, `[M, B L]`; none where all are.
        excluded: Option<Vec<bool>>,
    },
    /// Frames `[M, 1 + n]`, the true target first.
    Drawn {
        /// Their numbers, row by row.
        index: Vec<u32>,
        /// n.
        count: usize,
    },
}

impl Candidates {
    /// The candidates of the predictions of step `k` at `anchors`. `key` names the run and the optimiser step.
    ///
    /// # Errors
    /// [`Error::Data`] where a prediction has no negative to take, or the scheme needs groups and there are none.
    pub fn new(
        config: &NegativesConfig,
        frames: &Frames<'_>,
        anchors: &[Anchor],
        k: usize,
        key: Key,
    ) -> Result<Self> {
        match (config.scheme, config.count) {
            (Scheme::SameTime, _) => same_time(frames, anchors, k),
            (Scheme::AllFrames, count) => Ok(blind(frames, anchors, k, count.unwrap_or(1), key)),
            (scheme, None) => Ok(pool(&Allowed::new(scheme, frames)?, frames, anchors, k)),
            (scheme, Some(count)) => drawn(&Allowed::new(scheme, frames)?, frames, anchors, (k, count), key),
        }
    }
}

/// Which sequences' frames are negatives of which sequence's predictions.
struct Allowed {
    /// For each sequence, in order.
    of: Vec<Vec<usize>>,
}

impl Allowed {
    fn new(scheme: Scheme, frames: &Frames<'_>) -> Result<Self> {
        let b = frames.sequences();
        let groups = match (scheme, frames.groups) {
            (Scheme::SameSpeaker | Scheme::SameSpeakerExcludingCurrent, None) => {
                return Err(Error::data(
                    "CPC negatives",
                    "the scheme needs to know the speaker of every sequence",
                ));
            }
            (_, Some(groups)) if groups.len() != b => {
                return Err(Error::shape("CPC negatives", format!("{b} groups"), &[groups.len()]));
            }
            (_, groups) => groups,
        };
        let same = |i: usize, j: usize| groups.is_some_and(|groups| groups[i] == groups[j]);
        let allowed = |i: usize, j: usize| match scheme {
            Scheme::MixedSpeaker | Scheme::SameTime | Scheme::AllFrames => true,
            Scheme::SameSpeaker => same(i, j),
            Scheme::MixedSpeakerExcludingCurrent => i != j,
            Scheme::SameSpeakerExcludingCurrent => i != j && same(i, j),
            Scheme::CurrentSequence => i == j,
        };
        let of: Vec<Vec<usize>> = (0..b).map(|i| (0..b).filter(|&j| allowed(i, j)).collect()).collect();
        let fewest = |i: usize| of[i].len() * frames.length - usize::from(of[i].contains(&i));
        if let Some(lonely) = (0..b).find(|&i| fewest(i) == 0) {
            let reason = format!(
                "sequence {lonely} of a batch of {b} has no negatives under this scheme; batches of one speaker each have"
            );
            return Err(Error::data("CPC negatives", reason));
        }
        Ok(Self { of })
    }
}

fn pool(allowed: &Allowed, frames: &Frames<'_>, anchors: &[Anchor], k: usize) -> Candidates {
    let (b, l) = (frames.sequences(), frames.length);
    let positive = anchors.iter().map(|a| frames.at(a.sequence, a.time + k)).collect();
    if allowed.of.iter().all(|of| of.len() == b) {
        return Candidates::Pool { positive, excluded: None };
    }
    let mut excluded = vec![true; anchors.len() * b * l];
    for (row, anchor) in excluded.chunks_exact_mut(b * l).zip(anchors) {
        for &sequence in &allowed.of[anchor.sequence] {
            row[sequence * l..(sequence + 1) * l].fill(false);
        }
    }
    Candidates::Pool { positive, excluded: Some(excluded) }
}

/// The draws of a sequence's predictions of one step, in the order of its anchors.
fn drawn(
    allowed: &Allowed,
    frames: &Frames<'_>,
    anchors: &[Anchor],
    (k, count): (usize, usize),
    key: Key,
) -> Result<Candidates> {
    let l = frames.length;
    let mut index = Vec::with_capacity(anchors.len() * (1 + count));
    let mut current = None;
    for anchor in anchors {
        let stream = match &mut current {
            Some((sequence, stream)) if *sequence == anchor.sequence => stream,
            other => {
                let stream = key.sample(frames.names[anchor.sequence]).view(k as u64).stream();
                &mut other.insert((anchor.sequence, stream)).1
            }
        };
        let of = &allowed.of[anchor.sequence];
        // The true target's place among the allowed frames, which no draw may hit.
        let own = of.iter().position(|&s| s == anchor.sequence).map(|place| place * l + anchor.time + k);
        let total = of.len() * l - usize::from(own.is_some());
        index.push(frames.at(anchor.sequence, anchor.time + k));
        for _ in 0..count {
            let draw = stream.below(total as u64) as usize;
            let draw = draw + usize::from(own.is_some_and(|own| draw >= own));
            index.push(frames.at(of[draw / l], draw % l));
        }
    }
    Ok(Candidates::Drawn { index, count })
}

fn same_time(frames: &Frames<'_>, anchors: &[Anchor], k: usize) -> Result<Candidates> {
    let b = frames.sequences();
    if b < 2 {
        return Err(Error::data("CPC negatives", "same-time needs two sequences or more in a batch"));
    }
    let mut index = Vec::with_capacity(anchors.len() * b);
    for anchor in anchors {
        index.push(frames.at(anchor.sequence, anchor.time + k));
        let others = (0..b).filter(|&sequence| sequence != anchor.sequence);
        index.extend(others.map(|sequence| frames.at(sequence, anchor.time + k)));
    }
    Ok(Candidates::Drawn { index, count: b - 1 })
}

fn blind(frames: &Frames<'_>, anchors: &[Anchor], k: usize, count: usize, key: Key) -> Candidates {
    let total = (frames.sequences() * frames.length) as u64;
    let tables: Vec<Vec<u32>> = frames
        .names
        .iter()
        .map(|&name| {
            let mut stream = key.sample(name).stream();
            (0..frames.length * count).map(|_| stream.below(total) as u32).collect()
        })
        .collect();
    let mut index = Vec::with_capacity(anchors.len() * (1 + count));
    for anchor in anchors {
        let target = anchor.time + k;
        index.push(frames.at(anchor.sequence, target));
        index.extend(&tables[anchor.sequence][target * count..(target + 1) * count]);
    }
    Candidates::Drawn { index, count }
}

#[cfg(test)]
mod tests;
