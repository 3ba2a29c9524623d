//! A whole run from one value.

use contrastive_core::data::{Batch, Batches};
use contrastive_core::dist::Comm;
use contrastive_core::experiment::{RunOptions, RunParts, train_parts};
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::Outcome;
use contrastive_core::{Error, Result};
use contrastive_scenes::{Environment, View, by_name_with_view};

use super::config::RlRun;
use super::environments::VecEnvironment;
use super::gym::{GymEnvironment, PREFIX};
use super::method::ActorCritic;

/// A rank's part of the environments that the settings name.
///
/// # Errors
/// A name that there is none of; a number that does not divide evenly among the ranks; for Gymnasium, whatever Python
/// says.
pub fn environments(run: &RlRun, comm: &Comm) -> Result<VecEnvironment> {
    let (all, ranks) = (run.method.environments, comm.size());
    if !all.is_multiple_of(ranks) {
        let reason = format!("{all} do not divide evenly among {ranks} ranks");
        return Err(Error::config("method.environments", reason));
    }
    let own = all / ranks;
    let shape = run.environment.shape();
    let name = run.environment.name.as_str();
    let one = |_| -> contrastive_scenes::Result<Box<dyn Environment>> {
        match name.strip_prefix(PREFIX) {
            Some(id) => Ok(Box::new(GymEnvironment::start("python3", id, shape)?)),
            None => {
                by_name_with_view(name, View { height: shape.height, width: shape.width, ..View::default() })
            }
        }
    };
    let all: contrastive_scenes::Result<Vec<_>> = (0..own).map(one).collect();
    let all = all.map_err(|error| Error::config("environment.name", error.to_string()))?;
    VecEnvironment::new(all, run.environment.first_seed.wrapping_add((comm.rank() * own) as u64))
}

/// What the loop is told: how many updates there are and how many steps of environments each of them has.
#[derive(Debug, Clone)]
pub struct Updates {
    rows: u64,
    per_epoch: u64,
    name: String,
    fingerprint: String,
}

impl Updates {
    /// The updates of a run on these environments.
    pub fn new(run: &RlRun, environments: &VecEnvironment) -> Self {
        let shape = environments.shape();
        Self {
            rows: run.method.rows() as u64,
            per_epoch: run.method.updates_per_epoch,
            name: run.environment.name.clone(),
            fingerprint: format!(
                "{}x{}x{} seeds {}+{}, {} actions, {} frames a step",
                shape.height,
                shape.width,
                contrastive_scenes::Shape::CHANNELS,
                run.environment.first_seed,
                run.method.environments,
                environments.actions(),
                environments.frames_per_step()
            ),
        }
    }
}

impl Batches for Updates {
    fn samples(&self) -> u64 {
        self.rows
    }

    fn steps_per_epoch(&self) -> u64 {
        self.per_epoch
    }

    /// Batches without a view: the method makes its samples itself.
    fn epoch(&self, _epoch: u64, from_step: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        let batch = |_| Ok(Batch { views: Vec::new(), indices: (0..self.rows).collect(), labels: None });
        Box::new((from_step..self.per_epoch).map(batch))
    }

    fn identity(&self) -> (String, String) {
        (self.name.clone(), self.fingerprint.clone())
    }
}

/// Trains on the environments that the settings name.
///
/// # Errors
/// As [`environments`] and [`fit_in`].
pub fn fit(run: &RlRun, options: RunOptions<'_>) -> Result<(ActorCritic, Outcome)> {
    run.check()?;
    fit_in(run, environments(run, &options.comm)?, options)
}

/// Trains on given environments (of this rank), to the end or until the stop flag is raised. See
/// [`contrastive_core::experiment::train`] for what the run directory holds; its `encoder.safetensors` is the encoder and
/// the LSTM.
///
/// # Errors
/// Settings out of range, environments that do not fit them or refuse, a directory in use, a loss that is not finite.
pub fn fit_in(
    run: &RlRun,
    environments: VecEnvironment,
    options: RunOptions<'_>,
) -> Result<(ActorCritic, Outcome)> {
    run.check()?;
    let (own, shape) = (environments.shape(), run.environment.shape());
    if own != shape {
        let reason = format!(
            "is {} x {}, the environments have {} x {}",
            shape.height, shape.width, own.height, own.width
        );
        return Err(Error::config("environment.height, environment.width", reason));
    }
    let batches = Updates::new(run, &environments);
    let mut method = ActorCritic::new(run.method, environments, run.train.seed, &options.device)?;
    let parts = RunParts {
        config: run,
        train: &run.train,
        optim: &run.optim,
        groups: ParamGroups::new(),
        backbone: run.method.backbone(),
        preprocessing: format!("RGB {} x {} / 255", shape.height, shape.width),
    };
    let outcome = train_parts(parts, &mut method, &batches, options)?;
    Ok((method, outcome))
}
