//! Ranks that meet and agree, as threads over real connections; and NCCL's collectives where a GPU is.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use contrastive_nccl::{Control, Failure, Launch};

#[cfg(feature = "nccl")]
mod gpu;

/// How long ranks wait for each other.
const WAIT: Duration = Duration::from_secs(1);

fn launch(rank: usize, size: usize, port: u16) -> Launch {
    Launch { rank, size, local_rank: rank, address: "127.0.0.1".to_string(), port }
}

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What each rank's `part` gave, in rank order.
fn ranks<T: Send>(size: usize, part: impl Fn(usize, u16) -> T + Sync) -> Result<Vec<T>> {
    let port = free_port()?;
    let part = &part;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size).map(|rank| scope.spawn(move || part(rank, port))).collect();
        threads.into_iter().map(|thread| thread.join().ok().context("a rank panicked")).collect()
    })
}

fn joined(rank: usize, size: usize, port: u16) -> contrastive_core::Result<Control> {
    Control::join(&launch(rank, size, port), WAIT)
}

fn said<T>(outcome: contrastive_core::Result<T>) -> String {
    outcome.map_or_else(|e| e.to_string(), |_| "all went well".to_string())
}

#[test]
fn ranks_that_come_in_any_order_meet_and_share() -> Result<()> {
    let found = ranks(4, |rank, port| -> contrastive_core::Result<_> {
        std::thread::sleep(Duration::from_millis([200, 0, 300, 100][rank]));
        let mut control = joined(rank, 4, port)?;
        assert_eq!((control.rank(), control.size()), (rank, 4));
        let id = control.share("start", if rank == 0 { &[7; 128] } else { &[] })?;
        for call in 0..100 {
            control.agree(&format!("call {call}"))?;
        }
        Ok(id)
    })?;
    for id in found {
        ensure!(id? == [7; 128], "another id");
    }
    ensure!(joined(0, 1, 1)?.agree("alone").is_ok(), "one rank needs nobody");
    Ok(())
}

#[test]
fn a_rank_that_does_not_come_is_named() -> Result<()> {
    let began = Instant::now();
    let found = ranks(3, |rank, port| if rank == 2 { String::new() } else { said(joined(rank, 3, port)) })?;
    for text in &found[..2] {
        ensure!(text.contains("rank 2: did not come to the rendezvous at 127.0.0.1:"), "{text}");
    }
    let text = said(joined(1, 2, free_port()?));
    ensure!(text.contains("rank 0: not reached at 127.0.0.1:"), "{text}");
    ensure!(began.elapsed() < WAIT * 5, "took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let text = said(joined(0, 2, port));
    ensure!(text.contains(&port.to_string()) && text.contains("MASTER_PORT"), "{text}");
    // And whoever connects there hears that it is not rank 0.
    let other = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut link, _) = listener.accept()?;
        link.write_all(&[3, 0, 0, 0, b'h', b'e', b'y'])
    });
    let text = said(joined(1, 2, port));
    ensure!(text.contains("rank 0: something else answers"), "{text}");
    other.join().ok().context("the other panicked")??;
    Ok(())
}

#[test]
fn strangers_do_not_disturb_the_rendezvous() -> Result<()> {
    let found = ranks(2, |rank, port| -> Result<()> {
        if rank == 1 {
            let mut stranger = loop {
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(stranger) => break stranger,
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        }
        joined(rank, 2, port)?.agree("call").map_err(contrastive_core::Error::from)?;
        Ok(())
    })?;
    found.into_iter().collect()
}

#[test]
fn other_numbers_of_ranks_and_doubles_are_refused() -> Result<()> {
    let found = ranks(2, |rank, port| said(joined(rank, 2 + rank, port)))?;
    for text in &found {
        ensure!(text.contains("rank 1: is one of 3 ranks, rank 0 one of 2"), "{text}");
    }
    let found = ranks(3, |rank, port| said(joined(rank.min(1), 3, port)))?;
    ensure!(found[0].contains("rank 1: came twice to the rendezvous"), "{found:?}");
    Ok(())
}

#[test]
fn another_call_ends_all_ranks_and_is_named() -> Result<()> {
    let found = ranks(3, |rank, port| -> contrastive_core::Result<Failure> {
        let mut control = joined(rank, 3, port)?;
        let text = if rank == 1 { "all_gather F32 [3]" } else { "all_gather F32 [2]" };
        Ok(control.agree(text).expect_err("agreed"))
    })?;
    for failure in found {
        let failure = failure?;
        ensure!(failure.rank == 1, "{failure:?}");
        ensure!(failure.reason == "called all_gather F32 [3] where rank 0 called all_gather F32 [2]");
    }
    Ok(())
}

#[test]
fn a_rank_that_hangs_or_leaves_is_named() -> Result<()> {
    for (hangs, reason) in [(true, "did not come to barrier within 1 s"), (false, "left before barrier")] {
        for culprit in [0, 2] {
            let found = ranks(3, |rank, port| -> contrastive_core::Result<Option<Failure>> {
                let mut control = joined(rank, 3, port)?;
                control.agree("first")?;
                if rank != culprit {
                    return Ok(control.agree("barrier").err());
                }
                std::thread::sleep(if hangs { WAIT * 4 } else { Duration::ZERO });
                Ok(None)
            })?;
            for (rank, failure) in found.into_iter().enumerate().filter(|(rank, _)| *rank != culprit) {
                let failure = failure?.with_context(|| format!("rank {rank} agreed without {culprit}"))?;
                let reason =
                    if hangs && culprit == 0 { reason.replace("1 s", "2 s") } else { reason.to_string() };
                ensure!(failure == Failure { rank: culprit, reason }, "rank {rank}: {failure:?}");
            }
        }
    }
    Ok(())
}

/// Set in processes that are to be ranks.
const PART: &str = "CONTRASTIVE_NCCL_PART";

/// This program as rank `rank` of three, as a launcher would start it.
fn process(rank: usize, port: u16, part: &str) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--exact", "part", "--nocapture"])
        .env(PART, part)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in
        [("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank), ("MASTER_PORT", port.into())]
    {
        command.env(name, value.to_string());
    }
    command.env("MASTER_ADDR", "localhost").spawn().context("this program")
}

/// Runs in each process that a launcher started; does nothing otherwise.
#[test]
fn part() -> Result<()> {
    let Ok(part) = std::env::var(PART) else { return Ok(()) };
    let launch = Launch::from_env()?;
    let mut control = Control::join(&launch, WAIT * 5).map_err(anyhow::Error::from)?;
    for call in 0..10 {
        control.agree(&format!("call {call}")).map_err(contrastive_core::Error::from)?;
    }
    if part == "die" && launch.rank == 1 {
        std::process::abort();
    }
    control.agree("last").map_err(contrastive_core::Error::from)?;
    println!("rank {} of {} left in order", launch.rank, launch.size);
    Ok(())
}

#[test]
fn processes_meet_by_their_environment_and_one_that_dies_is_named() -> Result<()> {
    for (part, says) in [("live", "left in order"), ("die", "rank 1: left before last")] {
        let port = free_port()?;
        let ranks = (0..3).map(|rank| process(rank, port, part)).collect::<Result<Vec<_>>>()?;
        for (rank, child) in ranks.into_iter().enumerate() {
            let output = child.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success() == (part == "live"), "{part}, rank {rank}: {text}");
            ensure!((part, rank) == ("die", 1) || text.contains(says), "{part}, rank {rank}: {text}");
        }
    }
    Ok(())
}
