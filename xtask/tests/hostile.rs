//! The corpus of `fuzz/` and thousands of changed copies through every parser, on a stable compiler.

#[path = "../../fuzz/src/parsers.rs"]
mod parsers;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contrastive_core::rng::{Key, Purpose, Stream};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// The files of a parser in the order of their names.
fn seeds(parser: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut paths = Vec::new();
    let folder = corpus().join(parser);
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.iter().map(|path| Ok((name(path), std::fs::read(path)?))).collect()
}

/// A changed copy: a few bytes, a cut, a doubled or swapped piece, a large number.
fn changed(bytes: &[u8], others: &[(String, Vec<u8>)], stream: &mut Stream) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for _ in 0..1 + stream.below(3) {
        let at = stream.below(copy.len().max(1) as u64) as usize;
        match stream.below(7) {
            0 if at < copy.len() => copy[at] ^= 1 << stream.below(8),
            1 if at < copy.len() => copy[at] = stream.below(256) as u8,
            2 => copy.truncate(at),
            3 => {
                let piece = copy[at..(at + 16).min(copy.len())].to_vec();
                copy.splice(at..at, piece);
            }
            4 => {
                let large = [u64::MAX, 1 << 63, 1 << 40, 1 << 31, 0][stream.below(5) as usize].to_le_bytes();
                let width = [1, 2, 4, 8][stream.below(4) as usize];
                let end = (at + width).min(copy.len());
                copy[at..end].copy_from_slice(&large[..end - at]);
            }
            5 => {
                let other = &others[stream.below(others.len() as u64) as usize].1;
                let from = stream.below(other.len().max(1) as u64) as usize;
                copy.truncate(at);
                copy.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + 8).min(copy.len());
                copy[at..end].reverse();
            }
        }
    }
    copy
}

/// Changed copies of each file.
const COPIES: u64 = 400;

#[test]
fn no_parser_panics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for parser in parsers::NAMES {
        let seeds = seeds(parser)?;
        let mut accepted = 0;
        for (i, (name, bytes)) in seeds.iter().enumerate() {
            for copy in 0..COPIES {
                let key = Key::new(copy, Purpose::Data).name(parser).sample(i as u64);
                let bytes = changed(bytes, &seeds, &mut key.stream());
                let read = std::panic::catch_unwind(|| parsers::read(parser, &bytes, folder.path()));
                match read {
                    Ok(read) => accepted += u64::from(read),
                    Err(_) => panic!("{parser}: copy {copy} of {name}"),
                }
            }
        }
        println!("{parser}: {accepted} of {} changed copies are read", COPIES * seeds.len() as u64);
    }
    Ok(())
}

/// What of the corpus is sound; the rest is refused.
const SOUND: [&str; 17] = [
    "simclr.index",
    "types.safetensors",
    "vit.safetensors",
    "zip.pth",
    "legacy.pth",
    "arrays_p2.pkl",
    "arrays_p5.pkl",
    "timm.json",
    "transformers.json",
    "rgb.png",
    "rgb.jpg",
    "rgb.webp",
    "gray.png",
    "gray.parquet",
    "mono.wav",
    "stereo.wav",
    "ramp.flac",
];

#[test]
fn sound_files_are_read_and_others_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for parser in parsers::NAMES {
        for (name, bytes) in seeds(parser)? {
            let read = parsers::read(parser, &bytes, folder.path());
            let sound = SOUND.contains(&name.as_str()) || name.ends_with(".sph");
            assert_eq!(read, sound, "{parser}: {name}");
        }
    }
    Ok(())
}

/// Every prefix of every sound file is a file of its kind or an error, with little memory: what a header claims is not
/// believed.
#[test]
fn prefixes_cost_no_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for parser in parsers::NAMES {
        for (_, bytes) in seeds(parser)? {
            for length in (0..bytes.len()).step_by(7) {
                parsers::read(parser, &bytes[..length], folder.path());
            }
        }
    }
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
        // A claim that was believed would be gigabytes.
        assert!(kib < 1 << 20, "{kib} KiB at the peak");
    }
    Ok(())
}
