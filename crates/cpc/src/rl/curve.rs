//! Returns over frames: what the paper's figure 6 plots.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A finished episode.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Frames that all environments together had simulated when it ended.
    pub frames: u64,
    /// Steps of the agent in it.
    pub steps: u64,
    /// The sum of its rewards, as the environment gave them.
    pub total: f64,
}

/// The episodes that ended in one part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Frames at the end of the part.
    pub frames: u64,
    /// Mean return.
    pub mean: f64,
    /// Standard deviation of the returns (divided by their number).
    pub spread: f64,
    /// How many episodes ended.
    pub episodes: usize,
}

/// A learning curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// From the beginning to the end of the run; parts without a finished episode are left out.
    pub points: Vec<CurvePoint>,
}

impl Curve {
    /// The curve of a run of `frames` frames, cut into `parts` parts of the same length.
    pub fn of(episodes: &[Episode], frames: u64, parts: usize) -> Self {
        let parts = parts.max(1) as u64;
        let end = |part: u64| (u128::from(frames) * u128::from(part + 1) / u128::from(parts)) as u64;
        let mut points = Vec::new();
        let mut start = 0;
        for part in 0..parts {
            let (after, until) = (start, end(part));
            start = until;
            let within =
                |e: &&Episode| (e.frames > after || part == 0) && (e.frames <= until || part + 1 == parts);
            let totals: Vec<f64> = episodes.iter().filter(within).map(|e| e.total).collect();
            if totals.is_empty() {
                continue;
            }
            let n = totals.len() as f64;
            let mean = totals.iter().sum::<f64>() / n;
            let spread = (totals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            points.push(CurvePoint { frames: until, mean, spread, episodes: totals.len() });
        }
        Self { points }
    }
}

const COLUMNS: [&str; 3] = ["episodes/frames", "episodes/steps", "episodes/return"];

/// Episodes as tensors; nothing where there are none.
pub(super) fn save(episodes: &[Episode]) -> Result<Vec<(String, Tensor)>> {
    if episodes.is_empty() {
        return Ok(Vec::new());
    }
    let integers = |f: fn(&Episode) -> u64| {
        Tensor::from_vec(
            episodes.iter().map(|e| f(e) as i64).collect::<Vec<_>>(),
            episodes.len(),
            &Device::Cpu,
        )
    };
    let totals: Vec<f64> = episodes.iter().map(|e| e.total).collect();
    let columns = [
        integers(|e| e.frames)?,
        integers(|e| e.steps)?,
        Tensor::from_vec(totals, episodes.len(), &Device::Cpu)?,
    ];
    Ok(COLUMNS.iter().map(|name| (*name).to_string()).zip(columns).collect())
}

/// The episodes of all ranks in the order in which they ended, environment by environment; of a rank there are at most
/// `most`.
pub(super) fn gathered(own: &[Episode], most: usize, comm: &Comm) -> Result<Vec<Episode>> {
    // No episode ends before the first frame: rows of zeros are none.
    let rows = own.iter().flat_map(|e| [e.frames as f64, e.steps as f64, e.total]);
    let rows: Vec<f64> = rows.chain(std::iter::repeat(0.0)).take(3 * most).collect();
    let all = comm.all_gather(&Tensor::from_vec(rows, (most, 3), &Device::Cpu)?)?.to_vec2::<f64>()?;
    let episode = |row: Vec<f64>| Episode { frames: row[0] as u64, steps: row[1] as u64, total: row[2] };
    let mut all: Vec<Episode> = all.into_iter().map(episode).filter(|e| e.frames > 0).collect();
    all.sort_by_key(|e| e.frames);
    Ok(all)
}

/// Takes back what [`save`] gave.
pub(super) fn load(state: &HashMap<String, Tensor>) -> Result<Vec<Episode>> {
    let columns = COLUMNS.map(|name| state.get(name));
    let [Some(frames), Some(steps), Some(totals)] = columns else {
        return match columns.iter().position(Option::is_some) {
            None => Ok(Vec::new()),
            Some(_) => Err(Error::data("episodes", "the state names only some of their columns")),
        };
    };
    let integers = |x: &Tensor| x.to_dtype(DType::I64)?.to_vec1::<i64>();
    let (frames, steps) = (integers(frames)?, integers(steps)?);
    let totals = totals.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if frames.len() != totals.len() || steps.len() != totals.len() {
        return Err(Error::data("episodes", "the columns of the state differ in length"));
    }
    let episode = |((frames, steps), total): ((i64, i64), f64)| Episode {
        frames: frames.max(0) as u64,
        steps: steps.max(0) as u64,
        total,
    };
    Ok(frames.into_iter().zip(steps).zip(totals).map(episode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_what_ended_in_them() -> Result<()> {
        let episode = |frames, total| Episode { frames, steps: 3, total };
        let episodes = [episode(10, 1.0), episode(50, 3.0), episode(51, 5.0), episode(100, 9.0)];
        let curve = Curve::of(&episodes, 100, 4);
        let rows: Vec<_> = curve.points.iter().map(|p| (p.frames, p.mean, p.spread, p.episodes)).collect();
        assert_eq!(rows, [(25, 1.0, 0.0, 1), (50, 3.0, 0.0, 1), (75, 5.0, 0.0, 1), (100, 9.0, 0.0, 1)]);
        let whole = Curve::of(&episodes, 100, 1);
        assert_eq!((whole.points[0].mean, whole.points[0].episodes), (4.5, 4));
        assert!((whole.points[0].spread - 8.75f64.sqrt()).abs() < 1e-12);
        assert_eq!(load(&save(&episodes)?.into_iter().collect())?, episodes);
        assert!(
            save(&[])?.is_empty()
                && load(&HashMap::new())?.is_empty()
                && Curve::of(&[], 9, 3).points.is_empty()
        );
        Ok(())
    }
}
