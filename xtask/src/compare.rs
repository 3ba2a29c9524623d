//! Ours beside a peer's: the same work in turns on one machine, and the table of it.
//!
//! Every measurement runs in a fresh process. A round measures ours and then each peer once; what other programs do
//! to the machine meanwhile then falls on all of them. The table is written from the rows kept beside it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use contrastive_core::kernels::Precision;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::results::{splice, write_atomic};

/// Each case with the peers it is held against: the strongest first, and then what a user gets without settings.
const PEERS: &[(&str, &[&str])] = &[
    ("simclr_r18_32", &["channels_last+tuned", "eager"]),
    ("simclr_r50_224", &["channels_last+tuned", "eager"]),
    ("moco_r18_32", &["channels_last+tuned", "eager"]),
    ("dino_vits16_224", &["eager+tuned", "eager"]),
    ("embed_r18_32", &["channels_last+tuned", "eager"]),
    ("embed_r50_224", &["channels_last+tuned", "eager"]),
    ("embed_vits16_224", &["eager+tuned", "eager"]),
    ("augment_cifar", &["tv2_tensor", "lightly_pil", "albumentations"]),
    ("augment_jpeg", &["tv2_tensor", "lightly_pil", "albumentations"]),
    ("decode_jpeg", &["torchvision", "pil"]),
    ("nt_xent_512", &["chunked", "lightly"]),
    ("nt_xent_4096", &["chunked", "lightly"]),
    ("nt_xent_16384", &["chunked", "lightly"]),
    ("knn", &["faiss", "lightly"]),
    ("linear_probe", &["sklearn_lbfgs"]),
    ("startup", &["lightly"]),
];

/// Where the rows behind the table are kept.
const ROWS: &str = "results/benchmarks.json";
/// The pictures that both sides read are written here (under the build's folder, which git ignores).
const PICTURES: &str = "target/bench-pictures";
/// The peers' script finds the pictures by this variable.
const PICTURES_VARIABLE: &str = "BENCH_PICTURES";
/// The mark of the table in its file.
const MARK: &str = "benchmarks";

/// What to compare and how.
pub struct Comparison<'a> {
    /// The interpreter.
    pub python: &'a Path,
    /// The peers' cases.
    pub script: &'a Path,
    /// How our side rounds.
    pub precision: Precision,
    /// Turns.
    pub rounds: usize,
    /// Repeats within one measurement.
    pub repeats: usize,
    /// The file with the table.
    pub table: Option<&'a Path>,
}

/// Medians over the rounds of one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Side {
    variant: String,
    ms: f64,
    /// Half the range of the rounds, over the median.
    range: f64,
    peak_rss_mb: Option<f64>,
    /// Versions of the libraries, as the script says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    library: Option<String>,
}

/// Ours beside one peer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pair {
    case: String,
    batch: u64,
    threads: u64,
    rounds: usize,
    machine: String,
    version: String,
    ours: Side,
    peer: Side,
}

impl Comparison<'_> {
    /// Measures the cases (all that have peers and exist on our side, where none is named).
    pub fn run(&self, names: &[String]) -> Result<()> {
        let exists = |name: &str| contrastive_benches::cases().iter().any(|case| case.name == name);
        let chosen: Vec<(&str, &[&str])> = match names {
            [] => PEERS.iter().copied().filter(|(name, _)| exists(name)).collect(),
            _ => names.iter().map(|name| peers_of(name)).collect::<Result<_>>()?,
        };
        if chosen.iter().any(|(name, _)| name.ends_with("jpeg") || name.starts_with("augment")) {
            contrastive_benches::write_pictures(Path::new(PICTURES))?;
        }
        for (name, variants) in chosen {
            let pairs = self.case(name, variants)?;
            for pair in &pairs {
                println!("{}", line(pair));
            }
            if let Some(table) = self.table {
                let rows = merge(Path::new(ROWS), pairs)?;
                splice(table, MARK, &markdown(&rows))?;
            }
        }
        Ok(())
    }

    fn case(&self, name: &str, variants: &[&str]) -> Result<Vec<Pair>> {
        let variants: Vec<_> = variants.iter().map(|variant| rounded(variant, self.precision)).collect();
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); variants.len()]);
        for _ in 0..self.rounds.max(1) {
            let mut own = Command::new(std::env::current_exe()?);
            own.args(["bench", name, "--json", "--repeats", &self.repeats.to_string()]);
            own.args(["--precision", self.precision.name()]);
            ours.push(measure(own).with_context(|| format!("{name}, ours"))?);
            let threads = ours[0]["threads"].as_u64().unwrap_or(1);
            for (records, variant) in theirs.iter_mut().zip(&variants) {
                let mut peer = Command::new(self.python);
                peer.arg(self.script).args([name, "--variant", variant, "--json"]);
                peer.args(["--threads", &threads.to_string(), "--repeats", &self.repeats.to_string()]);
                peer.env(PICTURES_VARIABLE, std::path::absolute(PICTURES)?);
                records.push(measure(peer).with_context(|| format!("{name}, {variant}"))?);
            }
        }
        let own = side(&ours)?;
        let pair = |records: &Vec<Value>| {
            Ok(Pair {
                case: name.into(),
                batch: ours[0]["batch"].as_u64().unwrap_or(0),
                threads: ours[0]["threads"].as_u64().unwrap_or(1),
                rounds: self.rounds.max(1),
                machine: machine(),
                version: env!("CARGO_PKG_VERSION").into(),
                ours: own.clone(),
                peer: side(records)?,
            })
        };
        theirs.iter().map(pair).collect()
    }
}

/// The variant of a peer that rounds as we do: a network of PyTorch has its own bf16.
fn rounded(variant: &str, precision: Precision) -> String {
    let network = variant.starts_with("eager") || variant.starts_with("channels_last");
    if precision == Precision::Bf16 && network { format!("bf16+{variant}") } else { variant.into() }
}

fn peers_of(name: &str) -> Result<(&'static str, &'static [&'static str])> {
    let known = || PEERS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    PEERS
        .iter()
        .copied()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("`{name}` has no peers; known: {}", known()))
}

/// The last JSON line that a process prints.
fn measure(mut command: Command) -> Result<Value> {
    let output = command.output().context("could not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().rev().find(|line| line.starts_with('{')) else {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("no JSON line ({}): {}", output.status, errors.trim().lines().last().unwrap_or_default());
    };
    let record: Value = serde_json::from_str(line)?;
    match record["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => Ok(record),
    }
}

fn side(records: &[Value]) -> Result<Side> {
    let numbers = |name: &str| {
        let mut numbers: Vec<f64> = records.iter().filter_map(|record| record[name].as_f64()).collect();
        numbers.sort_by(f64::total_cmp);
        numbers
    };
    let ms = numbers("ms");
    if ms.len() != records.len() || ms.is_empty() {
        bail!("a JSON line without `ms`");
    }
    let median = ms[ms.len() / 2];
    let memory = numbers("peak_rss_mb");
    Ok(Side {
        variant: records[0]["variant"].as_str().unwrap_or_default().into(),
        ms: median,
        range: (ms[ms.len() - 1] - ms[0]) / 2.0 / median,
        peak_rss_mb: memory.get(memory.len() / 2).copied(),
        library: records[0]["library"].as_str().map(String::from),
    })
}

/// The machine in general terms.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores, {} {}", std::env::consts::ARCH, instructions())
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if Precision::Bf16x3.is_native() {
        "with AVX-512 and AMX"
    } else if is_x86_feature_detected!("avx512f") {
        "with AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "with AVX2"
    } else {
        "without AVX2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    "with its base instructions"
}

/// Adds rows to those kept, replacing the same case and peer, in the order of [`PEERS`].
fn merge(path: &Path, new: Vec<Pair>) -> Result<Vec<Pair>> {
    let mut rows: Vec<Pair> = match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string())?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    let place = |pair: &Pair| {
        (pair.machine.clone(), pair.case.clone(), pair.ours.variant.clone(), pair.peer.variant.clone())
    };
    rows.retain(|row| !new.iter().any(|pair| place(pair) == place(row)));
    rows.extend(new);
    let rank = |pair: &Pair| {
        let case = PEERS.iter().position(|(name, _)| *name == pair.case).unwrap_or(PEERS.len());
        let variants = PEERS.get(case).map_or(&[][..], |(_, variants)| variants);
        let variant = variants.iter().position(|variant| *variant == pair.peer.variant);
        (case, pair.ours.variant.clone(), variant)
    };
    rows.sort_by_key(|pair| (pair.machine.clone(), rank(pair)));
    write_atomic(path, &(serde_json::to_string_pretty(&rows)? + "\n"))?;
    Ok(rows)
}

fn memory_ratio(pair: &Pair) -> Option<f64> {
    Some(pair.ours.peak_rss_mb? / pair.peer.peak_rss_mb?)
}

fn line(pair: &Pair) -> String {
    let memory = memory_ratio(pair).map(|ratio| format!(", {ratio:.2} of its memory")).unwrap_or_default();
    let (ours, peer) = (&pair.ours, &pair.peer);
    format!(
        "{}: {} ms, {} {} ms: {:.2} times as fast{memory}",
        pair.case,
        number(ours.ms),
        peer.variant,
        number(peer.ms),
        peer.ms / ours.ms
    )
}

/// The median of the rounds; one round has no range.
fn median(side: &Side, rounds: usize) -> String {
    let ms = number(side.ms);
    if rounds > 1 { format!("{ms} ± {:.0} %", 100.0 * side.range) } else { ms }
}

/// Three digits that count, or all before the point.
fn number(x: f64) -> String {
    match x {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        x => format!("{x:.2}"),
    }
}

/// One table per machine.
fn markdown(rows: &[Pair]) -> String {
    let mut text = String::new();
    for group in rows.chunk_by(|a, b| a.machine == b.machine) {
        let _ = write!(text, "\n{}:\n\n", group[0].machine);
        text.push_str("| case | batch | threads | ours | ms | peer | its ms | speed | memory |\n");
        text.push_str("| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |\n");
        for pair in group {
            let memory = memory_ratio(pair).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {:.2} | {memory} |",
                pair.case,
                pair.batch,
                pair.threads,
                pair.ours.variant,
                median(&pair.ours, pair.rounds),
                pair.peer.variant,
                median(&pair.peer, pair.rounds),
                pair.peer.ms / pair.ours.ms
            );
        }
        let mut libraries: Vec<&str> = group.iter().filter_map(|pair| pair.peer.library.as_deref()).collect();
        libraries.sort_unstable();
        libraries.dedup();
        if !libraries.is_empty() {
            let _ = write!(text, "\nPeers: {}.\n", libraries.join("; "));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(case: &str, variant: &str, ours: f64, peer: f64) -> Pair {
        let side = |variant: &str, ms| Side {
            variant: variant.into(),
            ms,
            range: 0.01,
            peak_rss_mb: Some(ms),
            library: None,
        };
        Pair {
            case: case.into(),
            batch: 64,
            threads: 2,
            rounds: 3,
            machine: "2 cores".into(),
            version: "0".into(),
            ours: side("contrastive", ours),
            peer: side(variant, peer),
        }
    }

    #[test]
    fn rows_are_replaced_sorted_and_shown() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("rows.json");
        merge(&path, vec![pair("knn", "faiss", 10.0, 20.0), pair("knn", "lightly", 10.0, 30.0)])?;
        merge(&path, vec![pair("simclr_r18_32", "eager", 1000.0, 2500.0)])?;
        let rows = merge(&path, vec![pair("knn", "faiss", 10.0, 15.0)])?;
        assert_eq!(rows.len(), 3);
        let table = markdown(&rows);
        let first =
            "| simclr_r18_32 | 64 | 2 | contrastive | 1000 ± 1 % | eager | 2500 ± 1 % | 2.50 | 0.40 |\n";
        let second = "| knn | 64 | 2 | contrastive | 10.0 ± 1 % | faiss | 15.0 ± 1 % | 1.50 | 0.67 |\n";
        assert!(table.contains(&format!("{first}{second}")), "{table}");
        Ok(())
    }

    #[test]
    fn a_side_is_the_median_of_its_rounds() -> Result<()> {
        let record = |ms: f64| serde_json::json!({"variant": "v", "ms": ms, "peak_rss_mb": 2.0 * ms});
        let side = side(&[record(30.0), record(10.0), record(20.0)])?;
        assert_eq!((side.ms, side.range, side.peak_rss_mb), (20.0, 0.5, Some(40.0)));
        assert!(super::side(&[serde_json::json!({"variant": "v"})]).is_err());
        Ok(())
    }

    #[test]
    fn only_cases_with_peers_can_be_compared() {
        assert!(peers_of("knn").is_ok());
        assert!(peers_of("micro_conv_64").is_err());
        for (name, variants) in PEERS {
            assert!(!variants.is_empty(), "{name}");
        }
    }
}
