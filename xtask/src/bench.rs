//! `cargo xtask bench`: the speed of a case.

use anyhow::Result;

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
    /// Measured repeats; the median counts.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

/// Measures.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.cases.is_empty() {
        for case in contrastive_benches::cases() {
            println!("{:<20} {}", case.name, case.about);
        }
        return Ok(());
    }
    for name in &arguments.cases {
        let record = contrastive_benches::run(name, arguments.batch, arguments.repeats)?;
        if arguments.json {
            println!("{}", serde_json::to_string(&record)?);
        } else {
            println!("{}: {:.1} ms, {:.0} images/s", record.case, record.ms, record.images_per_s);
        }
    }
    Ok(())
}
