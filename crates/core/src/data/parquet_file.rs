//! Image data sets in parquet files, as the Hugging Face Hub stores them: a struct column with the encoded image in
//! its `bytes` field and an integer label column.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use rayon::prelude::*;

use crate::augment::Image;
use crate::{Error, Result};

use super::decode::decode;
use super::memory::check_labels;
use super::{InMemory, Split};

const IMAGE_COLUMNS: [&str; 2] = ["img", "image"];
const LABEL_COLUMNS: [&str; 2] = ["label", "fine_label"];
const ROWS_PER_READ: usize = 1024;

/// Which columns of a parquet file hold the images and the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParquetColumns {
    /// The image column: a struct with a binary field `bytes`, or plain binary.
    pub image: String,
    /// The label column, integers.
    pub label: String,
    /// The number of classes.
    pub classes: usize,
}

/// Loads and decodes the images of parquet files, in file and row order.
///
/// Only the needed columns are read. The encoded images may be JPEG, PNG or WebP; gray images keep one channel. Without
/// `columns` they are found by name: `img` or `image`, and `label` or `fine_label` if present, with the class count
/// from the Hub's own metadata or else the largest label plus one.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened; [`Error::Format`] for a truncated or hostile file, a missing column,
/// a null or an image that does not decode (with its row); [`Error::Data`] for a label out of range or no rows at all.
pub fn open_parquet(name: &str, files: &[PathBuf], columns: Option<&ParquetColumns>) -> Result<InMemory> {
    let mut images = Vec::new();
    let mut labels: Option<Vec<i64>> = None;
    let mut declared = columns.map(|c| c.classes);
    for (i, path) in files.iter().enumerate() {
        // A hostile file may trip an assertion in the parquet reader.
        let table = catch_unwind(AssertUnwindSafe(|| read_table(path, columns, true)))
            .map_err(|_| Error::format(path, "the parquet reader failed on this file"))??;
        if let (Some(classes), Some(labels)) = (declared.or(table.classes), &table.labels) {
            check_labels(&path.display().to_string(), labels.iter().copied(), classes)?;
        }
        declared = declared.or(table.classes);
        let fits = i == 0 || table.labels.is_some() == labels.is_some();
        if !fits {
            return Err(Error::format(path, "one file of the set has labels and another has none"));
        }
        if let Some(new) = table.labels {
            labels.get_or_insert_default().extend(new);
        }
        let decoded: Vec<Result<Image>> = table
            .images
            .par_iter()
            .enumerate()
            .map(|(row, bytes)| decode(bytes.data(), path).map_err(|e| in_row(e, row)))
            .collect();
        for image in decoded {
            images.push(image?);
        }
    }
    let Some(labels) = labels else {
        return InMemory::unlabelled(name, images);
    };
    let largest = labels.iter().copied().max().unwrap_or_default();
    let classes = declared.unwrap_or_else(|| usize::try_from(largest).unwrap_or_default() + 1);
    check_labels(name, labels.iter().copied(), classes)?;
    // In range by the check above.
    let labels = labels.into_iter().map(|label| label as u32).collect();
    InMemory::labelled(name, images, labels, classes)
}

/// The parquet files of a split below `path` in path order, or `path` itself if it is a parquet file.
pub(super) fn files_of_split(path: &Path, split: Split) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(if is_parquet(path) { vec![path.to_path_buf()] } else { Vec::new() });
    }
    let mut files = Vec::new();
    collect_files(path, split.name(), false, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect_files(
    folder: &Path,
    split: &str,
    inside: bool,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if depth < 2 && !name.starts_with('.') {
                collect_files(&path, split, inside || name == split, depth + 1, files)?;
            }
        } else if is_parquet(&path) && (inside || name.starts_with(split)) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "parquet")
}

/// The columns of a file.
#[derive(Debug)]
pub(super) struct Table {
    /// Encoded images.
    pub images: Vec<ByteArray>,
    /// Labels, where there are any.
    pub labels: Option<Vec<i64>>,
    /// Classes by the Hub's own metadata.
    pub classes: Option<usize>,
}

/// The number of rows that a file declares.
pub(super) fn rows_of(path: &Path) -> Result<usize> {
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = SerializedFileReader::new(file).map_err(|e| Error::format(path, e))?;
    let rows = reader.metadata().file_metadata().num_rows();
    usize::try_from(rows).map_err(|_| Error::format(path, format!("{rows} rows are declared")))
}

/// Refuses columns that lie before the beginning of the file: the reader takes for granted that none does.
fn check_places(metadata: &ParquetMetaData) -> std::result::Result<(), String> {
    for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        if start < 0 || column.compressed_size() < 0 {
            let (name, length) = (column.column_path().string(), column.compressed_size());
            return Err(format!("column `{name}` begins at byte {start} and is {length} bytes long"));
        }
    }
    Ok(())
}

/// Reads the columns of a file; without its images where they are not asked for.
pub(super) fn read_table(path: &Path, columns: Option<&ParquetColumns>, with_images: bool) -> Result<Table> {
    let file = File::open(path).map_err(Error::io(path))?;
    let bad = |e: ParquetError| Error::format(path, e);
    let reader = SerializedFileReader::new(file).map_err(bad)?;
    check_places(reader.metadata()).map_err(|reason| Error::format(path, reason))?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let image_names: Vec<&str> = columns.map_or(IMAGE_COLUMNS.to_vec(), |c| vec![c.image.as_str()]);
    let label_names: Vec<&str> = columns.map_or(LABEL_COLUMNS.to_vec(), |c| vec![c.label.as_str()]);
    let image_leaf = find_leaf(schema, &image_names, true);
    let image_leaf = image_leaf.ok_or_else(|| missing(path, "image", &image_names, schema))?;
    let label_leaf = find_leaf(schema, &label_names, false);
    if label_leaf.is_none() && columns.is_some() {
        return Err(missing(path, "label", &label_names, schema));
    }
    let classes = label_leaf.and_then(|leaf| declared_classes(&reader, schema.column(leaf).name()));

    let mut table = Table { images: Vec::new(), labels: label_leaf.map(|_| Vec::new()), classes };
    for group in 0..reader.num_row_groups() {
        let rows = reader.get_row_group(group).map_err(bad)?;
        match rows.get_column_reader(image_leaf).map_err(bad)? {
            ColumnReader::ByteArrayColumnReader(_) if !with_images => {}
            ColumnReader::ByteArrayColumnReader(column) => read_column(column, path, &mut table.images)?,
            _ => return Err(Error::format(path, "the image column is not binary")),
        }
        if let (Some(leaf), Some(labels)) = (label_leaf, &mut table.labels) {
            match rows.get_column_reader(leaf).map_err(bad)? {
                ColumnReader::Int64ColumnReader(column) => read_column(column, path, labels)?,
                ColumnReader::Int32ColumnReader(column) => {
                    let mut narrow = Vec::new();
                    read_column(column, path, &mut narrow)?;
                    labels.extend(narrow.into_iter().map(i64::from));
                }
                _ => return Err(Error::format(path, "the label column is not an integer column")),
            }
        }
    }
    let rows = reader.metadata().file_metadata().num_rows();
    let counts = [with_images.then_some(table.images.len()), table.labels.as_ref().map(Vec::len)];
    if let Some(count) = counts.into_iter().flatten().find(|&c| i64::try_from(c).ok() != Some(rows)) {
        return Err(Error::format(path, format!("{rows} rows are declared and {count} were found")));
    }
    Ok(table)
}

/// Reads all of one column chunk, which must not hold nulls.
fn read_column<T: DataType>(
    mut column: ColumnReaderImpl<T>,
    path: &Path,
    into: &mut Vec<T::T>,
) -> Result<()> {
    loop {
        let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
        let (records, values, _) = column
            .read_records(ROWS_PER_READ, Some(&mut definitions), Some(&mut repetitions), into)
            .map_err(|e| Error::format(path, e))?;
        if records != values {
            return Err(Error::format(path, format!("a null near row {}", into.len())));
        }
        if records == 0 {
            return Ok(());
        }
    }
}

/// The leaf of the first named column that is there: `name.bytes` for a struct, else `name` itself. Repeated columns
/// (lists) do not count.
fn find_leaf(schema: &SchemaDescriptor, names: &[&str], is_image: bool) -> Option<usize> {
    names.iter().find_map(|name| {
        schema.columns().iter().position(|column| {
            let parts = column.path().parts();
            let fits = match parts {
                [only] => only == name,
                [outer, inner] => is_image && outer == name && inner == "bytes",
                _ => false,
            };
            fits && column.max_rep_level() == 0
        })
    })
}

fn missing(path: &Path, what: &str, names: &[&str], schema: &SchemaDescriptor) -> Error {
    let found: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
    let reason = format!("no {what} column `{}` (found {})", names.join("` or `"), found.join(", "));
    Error::format(path, reason)
}

/// The class count in the `huggingface` entry of the file's metadata.
fn declared_classes(reader: &SerializedFileReader<File>, label: &str) -> Option<usize> {
    let entries = reader.metadata().file_metadata().key_value_metadata()?;
    let text = entries.iter().find(|e| e.key == "huggingface")?.value.as_deref()?;
    let info: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(info["info"]["features"][label]["names"].as_array()?.len())
}

/// Names the row in an error about an image.
pub(super) fn in_row(error: Error, row: usize) -> Error {
    match error {
        Error::Format { path, reason } => Error::Format { path, reason: format!("row {row}: {reason}") },
        other => other,
    }
}
