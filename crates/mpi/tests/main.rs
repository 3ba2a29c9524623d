//! Worlds of several processes on this machine. Each test starts this program again below `mpirun`.
#![cfg(feature = "mpi")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use contrastive_core::Error;
use contrastive_core::dist::{Comm, all_gather_with_grad, run_in_process};
use contrastive_mpi::World;

/// What the processes below `mpirun` are to do.
const PART: &str = "CONTRASTIVE_MPI_PART";

/// How long ranks wait for each other in tests of failures.
const WAIT: Duration = Duration::from_secs(2);

/// Starts `ranks` processes that run [`part`].
fn launch(ranks: usize, part: &str) -> Result<(Output, f64)> {
    let began = Instant::now();
    let output = Command::new("mpirun")
        .args(["--oversubscribe", "-n", &ranks.to_string()])
        .arg(std::env::current_exe()?)
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .output()
        .context("mpirun: scripts/install-mpi.sh installs it")?;
    Ok((output, began.elapsed().as_secs_f64()))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn succeeds(ranks: usize, part: &str) -> Result<()> {
    let (output, _) = launch(ranks, part)?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(text(&output).matches("left in order").count() == ranks, "{}", text(&output));
    Ok(())
}

/// The job ends soon, with an error that holds `says`.
fn fails(ranks: usize, part: &str, says: &str) -> Result<()> {
    let (output, seconds) = launch(ranks, part)?;
    ensure!(!output.status.success(), "{}", text(&output));
    ensure!(text(&output).contains(says), "no `{says}` in {}", text(&output));
    ensure!(seconds < 30.0, "took {seconds} s");
    Ok(())
}

#[test]
fn two_and_four_ranks_compute_what_ranks_of_one_process_do() -> Result<()> {
    succeeds(2, "collectives")?;
    succeeds(4, "collectives")
}

#[test]
fn another_shape_ends_all_ranks_and_is_named() -> Result<()> {
    fails(3, "shape", "called all_reduce_sum F32 [3] where rank 0 called all_reduce_sum F32 [2]")
}

#[test]
fn a_rank_that_hangs_is_named() -> Result<()> {
    fails(3, "hang", "rank 2: did not come to barrier within 2 s")
}

#[test]
fn rank_0_that_hangs_is_named() -> Result<()> {
    fails(2, "hang-0", "rank 0: did not come to barrier within 4 s")
}

#[test]
fn a_rank_that_dies_ends_the_others() -> Result<()> {
    fails(3, "die", "signal 9")
}

#[test]
fn a_rank_that_fails_ends_the_others() -> Result<()> {
    fails(3, "fail", "rank 1 has no disk")
}

/// Runs in each process below `mpirun`; does nothing otherwise.
#[test]
fn part() -> Result<()> {
    let Ok(part) = std::env::var(PART) else { return Ok(()) };
    let world = World::join(WAIT)?;
    let comm = world.comm();
    match part.as_str() {
        "collectives" => collectives(&comm)?,
        "shape" => {
            let n = if comm.rank() == 1 { 3 } else { 2 };
            comm.all_reduce_sum(&Tensor::zeros(n, DType::F32, &Device::Cpu)?)?;
        }
        "hang" if comm.rank() == 2 => std::thread::sleep(WAIT * 20),
        "hang-0" if comm.rank() == 0 => std::thread::sleep(WAIT * 20),
        "hang" | "hang-0" => comm.barrier()?,
        "die" if comm.rank() == 1 => {
            let own = std::process::id().to_string();
            Command::new("kill").args(["-9", &own]).status()?;
        }
        "die" => comm.barrier()?,
        "fail" if comm.rank() == 1 => bail!("rank 1 has no disk"),
        "fail" => {
            // Longer than the others' failure takes to arrive.
            let waited = comm.barrier();
            ensure!(waited.is_err(), "rank 1 came");
            waited?;
        }
        other => bail!("no part `{other}`"),
    }
    drop(comm);
    world.finish()?;
    println!("left in order");
    Ok(())
}

/// A rank's numbers: different on all ranks, and not exact in sums.
fn numbers(rank: usize, dims: &[usize]) -> Result<Tensor> {
    let n: usize = dims.iter().product();
    let x: Vec<f32> = (0..n).map(|i| ((i * 37 + rank * 101) % 89) as f32 / 7.3 - 5.0).collect();
    Ok(Tensor::from_vec(x, dims, &Device::Cpu)?)
}

/// Everything that [`collectives`] compares, as bytes.
fn outcomes(comm: &Comm) -> contrastive_core::Result<Vec<Vec<f32>>> {
    let flat = |x: Tensor| -> contrastive_core::Result<Vec<f32>> {
        Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
    };
    let of = |dims: &[usize]| numbers(comm.rank(), dims).map_err(|e| Error::data("numbers", e.to_string()));
    let mut all = Vec::new();
    // One number, fewer than ranks, no multiple of them, none at all, and enough for a rendezvous protocol.
    for dims in [&[1][..], &[3], &[5, 7], &[0, 4], &[300, 401]] {
        all.push(flat(comm.all_reduce_sum(&of(dims)?)?)?);
        all.push(flat(comm.all_gather(&of(dims)?)?)?);
        all.push(flat(comm.broadcast(&of(dims)?, comm.size() - 1)?)?);
    }
    for dtype in [DType::F64, DType::I64, DType::U32, DType::U8, DType::BF16] {
        let x = of(&[6])?.abs()?.to_dtype(dtype)?;
        let sum = comm.all_reduce_sum(&x)?;
        assert_eq!(sum.dtype(), dtype);
        all.push(flat(comm.all_gather(&x)?)?);
        // Sums of half precision are made in f32 here, number by number in theirs.
        if dtype != DType::BF16 {
            all.push(flat(sum)?);
        }
    }
    comm.barrier()?;
    let x = candle_core::Var::from_tensor(&of(&[2, 3])?)?;
    let loss = all_gather_with_grad(x.as_tensor(), comm)?.sqr()?.sum_all()?;
    let gradient = loss.backward()?.get(&x).cloned();
    all.extend(gradient.map(flat).transpose()?);
    Ok(all)
}

fn collectives(comm: &Comm) -> Result<()> {
    let own = outcomes(comm)?;
    let expected = run_in_process(comm.size(), |comm| outcomes(&comm))?;
    let bits = |all: &[Vec<f32>]| -> Vec<Vec<u32>> {
        all.iter().map(|x| x.iter().map(|v| v.to_bits()).collect()).collect()
    };
    ensure!(bits(&own) == bits(&expected[comm.rank()]), "rank {} differs", comm.rank());
    ensure!(comm.broadcast(&numbers(0, &[1])?, 99).is_err());
    ensure!(comm.all_gather(&numbers(0, &[1])?.squeeze(0)?).is_err());
    Ok(())
}
