//! Ranks of `cargo xtask train`: threads of one process, or processes that a launcher started.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use contrastive_core::dist::{Comm, run_in_process_with_timeout, single};

use crate::train::device;

/// How a run is divided.
#[derive(clap::Args)]
pub struct Ranks {
    /// Train as so many ranks of this process, each on its part of every batch.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// Train as one of the ranks that `mpirun` or `srun` started (built with the feature `mpi`).
    #[arg(long, conflicts_with = "ranks")]
    mpi: bool,
    /// Train as one of the ranks, each with a GPU of its own, that `torchrun`, `mpirun` or `srun` started (built with the
    /// feature `nccl`).
    #[arg(long, conflicts_with_all = ["ranks", "mpi"])]
    nccl: bool,
    /// Seconds that a rank waits for the others in one call before it ends the run.
    #[arg(long, default_value_t = 600.0)]
    rank_timeout: f64,
}

impl Ranks {
    /// Runs `body` once for each rank that belongs to this process and gives the first one's outcome. Ranks on GPUs
    /// take the devices from `device_name`'s on, one each.
    pub fn run<T: Send>(
        &self,
        device_name: &str,
        body: impl Fn(Comm, Device) -> contrastive_core::Result<T> + Sync,
    ) -> Result<T> {
        let timeout = Duration::try_from_secs_f64(self.rank_timeout).context("--rank-timeout")?;
        if self.mpi {
            return with_mpi(timeout, device_name, body);
        }
        if self.nccl {
            return with_nccl(timeout, device_name, body);
        }
        #[cfg(feature = "mpi")]
        if contrastive_mpi::launched() {
            bail!("several processes were started together: pass --mpi to train as their ranks");
        }
        #[cfg(feature = "nccl")]
        if contrastive_nccl::Launch::is_one_of_many() {
            bail!("several processes were started together: pass --nccl to train as their ranks");
        }
        if self.ranks == 0 {
            bail!("--ranks must be at least 1");
        }
        if self.ranks == 1 {
            return Ok(body(single(), device(device_name)?)?);
        }
        let devices: Vec<Device> = (0..self.ranks).map(|r| shifted(device_name, r)).collect::<Result<_>>()?;
        let all = run_in_process_with_timeout(self.ranks, timeout, |comm| {
            body(comm.clone(), devices[comm.rank()].clone())
        })?;
        all.into_iter().next().context("no rank")
    }
}

/// `cuda:1` for the second rank of `cuda:0`.
fn shifted(name: &str, by: usize) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", _) => device(name),
        (kind, first) => {
            let first: usize = first.parse().with_context(|| format!("device `{name}`"))?;
            device(&format!("{kind}:{}", first + by))
        }
    }
}

#[cfg(feature = "mpi")]
fn with_mpi<T>(
    timeout: Duration,
    device_name: &str,
    body: impl Fn(Comm, Device) -> contrastive_core::Result<T>,
) -> Result<T> {
    let world = contrastive_mpi::World::join(timeout)?;
    let comm = world.comm();
    // The rank on this machine, as launchers say it.
    let local = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .unwrap_or(comm.rank());
    let rank = comm.rank();
    let outcome = body(comm, shifted(device_name, local)?).with_context(|| format!("rank {rank}"))?;
    world.finish()?;
    Ok(outcome)
}

#[cfg(not(feature = "mpi"))]
fn with_mpi<T>(_: Duration, _: &str, _: impl Fn(Comm, Device) -> contrastive_core::Result<T>) -> Result<T> {
    bail!("--mpi: built without the feature `mpi`")
}

#[cfg(feature = "nccl")]
fn with_nccl<T>(
    timeout: Duration,
    device_name: &str,
    body: impl Fn(Comm, Device) -> contrastive_core::Result<T>,
) -> Result<T> {
    let launch = contrastive_nccl::Launch::from_env()?;
    let rank = launch.rank;
    // Some launchers show each rank its own GPU only, as the first.
    let local = if contrastive_nccl::visible()? == 1 { 0 } else { launch.local_rank };
    let device = shifted(device_name, local)?;
    let world = contrastive_nccl::World::join(&launch, &device, timeout)?;
    let outcome = body(world.comm(), device).with_context(|| format!("rank {rank}"))?;
    world.finish()?;
    Ok(outcome)
}

#[cfg(not(feature = "nccl"))]
fn with_nccl<T>(_: Duration, _: &str, _: impl Fn(Comm, Device) -> contrastive_core::Result<T>) -> Result<T> {
    bail!("--nccl: built without the feature `nccl`")
}
