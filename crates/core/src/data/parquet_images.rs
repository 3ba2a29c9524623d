//! Images of parquet files of any size, read when they are asked for.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::augment::Image;
use crate::{Error, Result};

use super::decode::decode;
use super::memory::{check_labels, out_of_range, short_hex};
use super::parquet_file::{Table, files_of_split, in_row, read_table, rows_of};
use super::{ParquetColumns, Source, Split};

/// Encoded files in memory at a time: workers that read in order cross a border together.
const KEPT: usize = 2;

/// The images of parquet files in the Hub's layout, in file and row order. As [`super::open_parquet`], but an image is
/// decoded when it is asked for and at most two files are in memory, encoded: for sets that are larger than memory.
///
/// Reading in order reads each file once; reading at random reads a file again and again.
#[derive(Debug)]
pub struct ParquetImages {
    name: String,
    files: Vec<PathBuf>,
    /// The first row of each file, and behind them the number of all.
    starts: Vec<usize>,
    columns: Option<ParquetColumns>,
    labels: Option<Vec<u32>>,
    classes: usize,
    kept: Mutex<Vec<(usize, Arc<Table>)>>,
    fingerprint: OnceLock<String>,
}

impl ParquetImages {
    /// Reads sizes and labels, no image.
    ///
    /// # Errors
    /// As [`super::open_parquet`].
    pub fn open(name: &str, files: Vec<PathBuf>, columns: Option<ParquetColumns>) -> Result<Self> {
        let (mut starts, mut labels, mut classes) = (vec![0], None, None);
        for (i, path) in files.iter().enumerate() {
            let table = guarded(path, columns.as_ref(), false)?;
            if i > 0 && table.labels.is_some() != labels.is_some() {
                return Err(Error::format(path, "one file of the set has labels and another has none"));
            }
            classes = classes.or(columns.as_ref().map(|c| c.classes)).or(table.classes);
            if let Some(new) = table.labels {
                labels.get_or_insert_with(Vec::new).extend(new);
            }
            starts.push(starts[i] + rows_of(path)?);
        }
        if starts.last() == Some(&0) {
            return Err(Error::data(name, "the data set holds no images"));
        }
        let classes = match &labels {
            None => 0,
            Some(labels) => {
                let largest = labels.iter().copied().max().unwrap_or_default();
                let classes = classes.unwrap_or_else(|| usize::try_from(largest).unwrap_or_default() + 1);
                check_labels(name, labels.iter().copied(), classes)?;
                classes
            }
        };
        Ok(Self {
            name: name.to_string(),
            files,
            starts,
            columns,
            // In range by the check above.
            labels: labels.map(|labels| labels.into_iter().map(|label| label as u32).collect()),
            classes,
            kept: Mutex::new(Vec::new()),
            fingerprint: OnceLock::new(),
        })
    }

    /// The parquet files of a split below a folder, or one file ([`super::open`] has the rules); none where there are no
    /// such files.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn at(path: &Path, split: Split) -> Result<Option<Self>> {
        let files = files_of_split(path, split)?;
        let stem = path.file_stem().map_or_else(|| "parquet".into(), |n| n.to_string_lossy().into_owned());
        if files.is_empty() { Ok(None) } else { Self::open(&stem, files, None).map(Some) }
    }

    /// File and row of a sample.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        let file = self.starts.partition_point(|&start| start <= index).checked_sub(1)?;
        (file < self.files.len()).then(|| (file, index - self.starts[file]))
    }

    fn table(&self, file: usize) -> Result<Arc<Table>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = kept.iter().find(|(known, _)| *known == file) {
            return Ok(table.clone());
        }
        // Under the lock: two workers that need the same file read it once.
        let table = Arc::new(guarded(&self.files[file], self.columns.as_ref(), true)?);
        kept.insert(0, (file, table.clone()));
        kept.truncate(KEPT);
        Ok(table)
    }
}

/// A hostile file may trip an assertion in the parquet reader.
fn guarded(path: &Path, columns: Option<&ParquetColumns>, images: bool) -> Result<Table> {
    catch_unwind(AssertUnwindSafe(|| read_table(path, columns, images)))
        .map_err(|_| Error::format(path, "the parquet reader failed on this file"))?
}

impl Source for ParquetImages {
    type Sample = Image;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn sample(&self, index: usize) -> Result<Image> {
        let (file, row) = self.place(index).ok_or_else(|| out_of_range(&self.name, index, self.len()))?;
        let table = self.table(file)?;
        let bytes = table.images.get(row).ok_or_else(|| out_of_range(&self.name, index, self.len()))?;
        decode(bytes.data(), &self.files[file]).map_err(|e| in_row(e, row))
    }

    /// The file's name and the row.
    fn sample_name(&self, index: usize) -> String {
        match self.place(index) {
            Some((file, row)) => {
                let file = self.files[file].file_name().unwrap_or_default().to_string_lossy().into_owned();
                format!("{file}[{row}]")
            }
            None => format!("{}[{index}]", self.name),
        }
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    /// BLAKE3 over the files' bytes, in their order; computed once, when it is asked for. A file that cannot be read
    /// counts as such.
    fn fingerprint(&self) -> String {
        let compute = || {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"contrastive parquet 1");
            for path in &self.files {
                let mut own = blake3::Hasher::new();
                match std::fs::File::open(path).and_then(|mut file| feed(&mut file, &mut own)) {
                    Ok(()) => hasher.update(own.finalize().as_bytes()),
                    Err(_) => hasher.update(b"unreadable"),
                };
            }
            short_hex(&hasher.finalize())
        };
        self.fingerprint.get_or_init(compute).clone()
    }
}

fn feed(file: &mut std::fs::File, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        };
    }
}
