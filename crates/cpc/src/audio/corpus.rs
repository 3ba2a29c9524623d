//! Collections of recordings by the layout of their folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use contrastive_core::{Error, Result};
use rayon::prelude::*;

use super::read_16k;
use crate::speech::phones::Folding;
use crate::speech::{Recording, Recordings, Segment};

/// How a collection lies in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `SPEAKER/CHAPTER/UTTERANCE.flac` (LibriSpeech), speakers and chapters being numbers.
    LibriSpeech,
    /// `DR1/SPEAKER/UTTERANCE.wav` (TIMIT, below `TRAIN` and `TEST` or not) or `dr1-SPEAKER/utterance.wav` (NLTK's sample),
    /// each beside its alignment `.phn`.
    Timit,
    /// `labels.csv` with the columns `path`, `speaker` and perhaps `digit`; paths are below the folder that holds it, or
    /// below that folder's own parent.
    Table,
}

/// One file of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    path: PathBuf,
    /// Below the collection's folder, with `/`.
    name: String,
    speaker: u32,
    word: Option<u32>,
    phones: Option<PathBuf>,
}

/// What [`Corpus::load`] reads.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// How phones are folded.
    pub folding: Folding,
    /// At most so many files, evenly from the whole; all where absent.
    pub most: Option<usize>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { folding: Folding::Cmu41, most: None }
    }
}

/// The files of a collection, found but not read.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    layout: Layout,
    items: Vec<Item>,
    speakers: Vec<String>,
}

impl Corpus {
    /// The collection in a folder, whose layout is found out.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for a folder of none of the [layouts](Layout).
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        if root.join("labels.csv").is_file() {
            return Self::with_layout(root, Layout::Table);
        }
        let files = files_below(root)?;
        let timit = files.iter().any(|file| has_extension(file, "phn"));
        Self::found(root, if timit { Layout::Timit } else { Layout::LibriSpeech }, files)
    }

    /// The collection in a folder of this layout.
    ///
    /// # Errors
    /// As [`Corpus::open`]; [`Error::Format`] for a table that does not fit.
    pub fn with_layout(root: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let root = root.as_ref();
        let files = if layout == Layout::Table { Vec::new() } else { files_below(root)? };
        Self::found(root, layout, files)
    }

    fn found(root: &Path, layout: Layout, files: Vec<PathBuf>) -> Result<Self> {
        let name =
            root.file_name().map_or_else(|| "speech".to_string(), |n| n.to_string_lossy().into_owned());
        let named = match layout {
            Layout::Table => table(root)?,
            Layout::LibriSpeech => files.iter().filter_map(|file| librispeech(root, file)).collect(),
            Layout::Timit => files.iter().filter_map(|file| timit(root, file)).collect(),
        };
        if named.is_empty() {
            let reason = "holds no recordings as SPEAKER/CHAPTER/UTTERANCE.flac (LibriSpeech), \
                          DR1/SPEAKER/UTTERANCE.wav with .phn (TIMIT) or in a labels.csv";
            return Err(Error::data(root.display().to_string(), reason));
        }
        let mut numbers: BTreeMap<String, u32> =
            named.iter().map(|(speaker, _)| (speaker.clone(), 0)).collect();
        numbers.values_mut().zip(0..).for_each(|(number, place)| *number = place);
        let mut items: Vec<Item> =
            named.into_iter().map(|(speaker, item)| Item { speaker: numbers[&speaker], ..item }).collect();
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { name, layout, items, speakers: numbers.into_keys().collect() })
    }

    /// How it lies in its folder.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The speakers' names, in order of their numbers.
    pub fn speakers(&self) -> &[String] {
        &self.speakers
    }

    /// Reads the files into memory, on all threads: an hour takes 230 MB.
    ///
    /// # Errors
    /// The first file that cannot be read.
    pub fn load(&self, options: LoadOptions) -> Result<Recordings> {
        let count = self.items.len();
        let most = options.most.unwrap_or(count).clamp(1, count.max(1));
        let chosen: Vec<&Item> = (0..most).map(|i| &self.items[i * count / most]).collect();
        let read = |item: &&Item| -> Result<Recording> {
            let phones: Vec<Segment> = match &item.phones {
                None => Vec::new(),
                Some(path) => {
                    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
                    options.folding.segments(&text, path)?
                }
            };
            let samples = read_16k(&item.path)?;
            Ok(Recording { name: item.name.clone(), samples, speaker: item.speaker, word: item.word, phones })
        };
        let recordings: Result<Vec<Recording>> = chosen.par_iter().map(read).collect();
        Recordings::new(&self.name, recordings?, self.speakers.clone())
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// All files below a folder, in the order of their names.
fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The parts of a path below the root.
fn parts(root: &Path, file: &Path) -> Option<Vec<String>> {
    let below = file.strip_prefix(root).ok()?;
    Some(below.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect())
}

fn item(file: &Path, parts: &[String]) -> Item {
    Item { path: file.to_path_buf(), name: parts.join("/"), speaker: 0, word: None, phones: None }
}

fn librispeech(root: &Path, file: &Path) -> Option<(String, Item)> {
    let parts = parts(root, file)?;
    let [.., speaker, chapter, _] = parts.as_slice() else { return None };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let wanted = has_extension(file, "flac") || has_extension(file, "wav");
    (wanted && number(speaker) && number(chapter)).then(|| (speaker.clone(), item(file, &parts)))
}

fn timit(root: &Path, file: &Path) -> Option<(String, Item)> {
    if !has_extension(file, "wav") {
        return None;
    }
    let parts = parts(root, file)?;
    let folder = parts.len().checked_sub(2).map(|i| parts[i].to_lowercase())?;
    let region = parts.len().checked_sub(3).map(|i| parts[i].to_lowercase());
    let is_region = |text: &str| {
        text.strip_prefix("dr").is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    // `dr1-fvmh0`, or `fvmh0` in `dr1`.
    let speaker = match (folder.split_once('-'), region) {
        (Some((dr, _)), _) if is_region(dr) => folder.clone(),
        (_, Some(region)) if is_region(&region) => format!("{region}-{folder}"),
        _ => return None,
    };
    let alignment = ["phn", "PHN"].map(|extension| file.with_extension(extension));
    let phones = alignment.into_iter().find(|path| path.is_file());
    Some((speaker, Item { phones, ..item(file, &parts) }))
}

/// The rows of `labels.csv`: plain fields, no quotes.
fn table(root: &Path) -> Result<Vec<(String, Item)>> {
    let path = root.join("labels.csv");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().map_or("", |(_, line)| line).split(',').map(str::trim).collect();
    let column = |name: &str| header.iter().position(|field| *field == name);
    let (Some(file), Some(speaker)) = (column("path"), column("speaker")) else {
        return Err(Error::format(&path, "line 1: needs the columns `path` and `speaker`"));
    };
    let digit = column("digit");
    let mut rows = Vec::new();
    for (i, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let fault = |reason: String| Error::format(&path, format!("line {}: {reason}", i + 1));
        if fields.len() != header.len() {
            return Err(fault(format!("{} fields for {} columns", fields.len(), header.len())));
        }
        let word = match digit.map(|digit| fields[digit]) {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| fault(format!("`{text}` is no digit")))?),
        };
        let below = [Some(root), root.parent()].into_iter().flatten().map(|folder| folder.join(fields[file]));
        let found = below.into_iter().find(|path| path.is_file());
        let found = found.ok_or_else(|| fault(format!("no file `{}`", fields[file])))?;
        let named = Item { path: found, name: fields[file].to_string(), speaker: 0, word, phones: None };
        rows.push((fields[speaker].to_string(), named));
    }
    Ok(rows)
}
