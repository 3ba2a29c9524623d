//! `cargo xtask bench`: the speed of a case, alone or beside a peer's.

use std::path::PathBuf;

use anyhow::{Result, bail};
use contrastive_benches::Record;
use contrastive_core::kernels::{Precision, with_precision};

use crate::compare::Comparison;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The cases; all are listed where none is named.
    cases: Vec<String>,
    /// One JSON line per case.
    #[arg(long)]
    json: bool,
    /// Samples in a unit of work, instead of the case's own.
    #[arg(long)]
    batch: Option<usize>,
    /// How our side rounds: f32, f32-exact, bf16 or bf16x3.
    #[arg(long, default_value = "f32", value_parser = |name: &str| name.parse::<Precision>())]
    precision: Precision,
    /// Measured repeats; the median counts.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// A Python with the peers' libraries: measures each case and its peers in turn, each in a process of its own.
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// The peers' cases: a script that prints the same JSON lines.
    #[arg(long, default_value = "scripts/peer_bench.py", requires = "peer")]
    script: PathBuf,
    /// How often ours and the peers take turns; medians count.
    #[arg(long, default_value_t = 3, requires = "peer")]
    rounds: usize,
    /// Rewrites the table in this file, between its marks, with the new figures beside those of earlier calls.
    #[arg(long, value_name = "FILE", requires = "peer")]
    table: Option<PathBuf>,
}

/// Measures.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(python) = &arguments.peer {
        if arguments.batch.is_some() {
            bail!("--batch does not go with --peer: both sides take the case's own");
        }
        let comparison = Comparison {
            python,
            script: &arguments.script,
            precision: arguments.precision,
            rounds: arguments.rounds,
            repeats: arguments.repeats,
            table: arguments.table.as_deref(),
        };
        return comparison.run(&arguments.cases);
    }
    if arguments.cases.is_empty() {
        for case in contrastive_benches::cases() {
            println!("{:<20} {}", case.name, case.about);
        }
        return Ok(());
    }
    for name in &arguments.cases {
        let record = with_precision(arguments.precision, || {
            contrastive_benches::run(name, arguments.batch, arguments.repeats)
        })?;
        if arguments.json {
            println!("{}", serde_json::to_string(&record)?);
        } else {
            show(&record);
        }
    }
    Ok(())
}

/// For people: a line, and one for each further figure.
fn show(record: &Record) {
    let memory = record.peak_rss_mb.map(|mb| format!(", {mb:.0} MB")).unwrap_or_default();
    println!(
        "{}: {:.1} ms ± {:.0} %, {:.0} images/s{memory}",
        record.case,
        record.ms,
        100.0 * record.spread,
        record.images_per_s
    );
    for (name, value) in &record.more {
        match value.as_array() {
            Some(rows) => rows.iter().for_each(|row| println!("  {row}")),
            None => println!("  {name}: {value}"),
        }
    }
}
