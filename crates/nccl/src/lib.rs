//! Ranks of a run as processes with a GPU each: the back end of [`contrastive_core::dist`] over NCCL.
//!
//! Any launcher will do that tells its processes who they are ([`Launch`]): `torchrun`, `mpirun`, `srun`, or a shell that
//! sets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`.
//!
//! **Rendezvous.** NCCL wants 128 bytes of rank 0 on all ranks before it can start. Rank 0 listens at
//! `MASTER_ADDR:MASTER_PORT`, the others connect, and the bytes go there ([`Control`]). That needs no MPI and no file
//! system that all machines see, and works the same below every launcher. No tensor travels that way.
//!
//! **Checks.** The connections stay: before every collective each rank tells rank 0 what it calls and with which shape,
//! and rank 0 answers all of them when all have come and agree, or names the rank that did not come in time, is gone, or
//! came with something else. NCCL itself would hang, or mix up memory.
//!
//! **Data** go from GPU to GPU by NCCL's sends, gathers and broadcasts. Sums are made of an all-to-all, additions in rank
//! order on the GPU and an all-gather, which moves as much as a ring would: NCCL's own all-reduce adds in an order of its
//! choice. So all ranks get the same bytes, and the order does not depend on the machines.
//!
//! **Time-outs.** One thread of each process talks to NCCL. It waits for each collective to be over; one that is not in
//! time is aborted (`ncclCommAbort`), which frees the GPU. A call of NCCL that does not even return is left behind with
//! its thread. Either way the world is broken: all further calls fail, and the process should end with the error, upon
//! which the others find the connection closed.
//!
//! **Streams.** Candle queues its work on the calling thread's own stream. So a collective waits for the GPU to be idle,
//! and the caller waits for the collective: nothing is overlapped.
//!
//! Without the feature `nccl` only [`Launch`] and [`Control`] are here, so that a workspace builds where no CUDA is.
//!
//! ```sh
//! torchrun --nproc-per-node 8 --no-python target/debug/xtask train simclr --data photos --run runs/mine \
//!     --device cuda:0 --nccl
//! ```

#[cfg(feature = "nccl")]
mod collective;
mod control;
mod launch;
mod wire;
#[cfg(feature = "nccl")]
mod world;

pub use control::Control;
pub use launch::Launch;
#[cfg(feature = "nccl")]
pub use world::{World, visible};

use contrastive_core::Error;

/// Why the ranks are no longer in step, in a form that can be told twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The rank at fault, or the one that noticed.
    pub rank: usize,
    /// What happened.
    pub reason: String,
}

impl Failure {
    fn of(rank: usize, reason: impl Into<String>) -> Self {
        Self { rank, reason: reason.into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Rank { rank: failure.rank, reason: failure.reason }
    }
}
