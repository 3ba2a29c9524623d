//! Ranks of a run as processes of MPI: the back end of [`contrastive_core::dist`] for several machines.
//!
//! One thread of each process talks to MPI and does nothing else, so the library need not be thread-safe and no call
//! of the training loop can hang in it for ever. Every collective has two halves:
//!
//! 1. Each rank tells rank 0 what it calls and with which shape; rank 0 answers all of them when all have come and
//!    agree, or names the rank that did not come in time or came with something else.
//! 2. The data go by MPI's own non-blocking collectives. Sums are made of an all-to-all, additions in rank order and an
//!    all-gather, which moves as much as a ring would and gives all ranks the same bytes as ranks of one process get.
//!
//! After a failure the world is broken: all further calls fail, MPI is not finalised, and the launcher ends the other
//! processes as soon as this one has ended with its error.
//!
//! Without the feature `mpi` this crate is empty, so that a workspace builds where no MPI library is.
//!
//! ```sh
//! mpirun -n 4 target/debug/xtask train simclr --data photos --run runs/mine --mpi
//! ```

#[cfg(feature = "mpi")]
mod world;

#[cfg(feature = "mpi")]
pub use world::World;

/// Whether a launcher of Open MPI, MPICH or Slurm started this process together with others.
pub fn launched() -> bool {
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|n| n.parse::<usize>().is_ok_and(|n| n > 1)))
}
