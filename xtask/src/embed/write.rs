//! Files of embeddings: safetensors, npy, parquet, CSV. One part at a time is in memory.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use contrastive_core::Error;
use contrastive_core::weights::{METADATA_KEY, canonical_json, write_atomically};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};

use super::parts::Parts;
use super::table::{About, Rows, packed};

/// How embeddings are stored, by the end of the file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `embeddings` `[N, D]`, `labels`, `names` and `names.offsets`, with [`About`] as metadata.
    Safetensors,
    /// numpy's `[N, D]`, with names and labels in a CSV file beside it.
    Npy,
    /// Columns `name`, `label` and `embedding`, a list.
    Parquet,
    /// Columns `name`, `label`, `e0` and so on.
    Csv,
}

impl Format {
    /// The format of a file.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npy") => Ok(Self::Npy),
            Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            _ => bail!(
                "{}: the format is the end of the name: .safetensors, .npy, .parquet or .csv",
                path.display()
            ),
        }
    }
}

/// What stands at the beginning of a file: sizes and all names.
struct Whole {
    rows: usize,
    dim: usize,
    names: Vec<String>,
    labels: Vec<i64>,
}

/// Writes all parts to a file, whole or not at all. Names the number of rows.
pub fn write(path: &Path, parts: &Parts, about: &About) -> Result<usize> {
    let format = Format::of(path)?;
    let mut whole = Whole { rows: 0, dim: 0, names: Vec::new(), labels: Vec::new() };
    for i in 0..parts.len() {
        let rows = parts.get(i)?.rows;
        whole.dim = whole.dim.max(rows.dim);
        whole.rows += rows.len();
        whole.names.extend(rows.names);
        whole.labels.extend(rows.labels);
    }
    if whole.rows == 0 {
        bail!("{}: no sample could be read, so there is nothing to write", about.data);
    }
    if format == Format::Npy {
        let side = path.with_extension("csv");
        atomically(&side, |file| {
            file.write_all(b"name,label\n")?;
            for (name, label) in whole.names.iter().zip(&whole.labels) {
                file.write_all(format!("{},{}\n", quoted(name), label_text(*label)).as_bytes())?;
            }
            Ok(())
        })?;
    }
    atomically(path, |file| match format {
        Format::Safetensors => safetensors(file, parts, about, &whole),
        Format::Npy => npy(file, parts, about, &whole),
        Format::Parquet => parquet(file, parts, about),
        Format::Csv => csv(file, parts, about, &whole),
    })?;
    Ok(whole.rows)
}

/// [`write_atomically`] of something that fails in its own way.
fn atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut failed = None;
    let written = write_atomically(path, |file| {
        fill(file).map_err(|error| {
            failed = Some(error);
            Error::format(path, "not written")
        })
    });
    match (failed, written) {
        (Some(error), _) => Err(error.context(path.display().to_string())),
        (None, written) => Ok(written?),
    }
}

/// The rows of each part as they are stored.
fn each(parts: &Parts, about: &About, mut take: impl FnMut(&Rows) -> Result<()>) -> Result<()> {
    for i in 0..parts.len() {
        let mut rows = parts.get(i)?.rows;
        if about.normalized {
            rows.normalize();
        }
        take(&rows)?;
    }
    Ok(())
}

fn floats(rows: &Rows) -> Vec<u8> {
    rows.data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn safetensors(file: &mut dyn Write, parts: &Parts, about: &About, whole: &Whole) -> Result<()> {
    let (names, offsets) = packed(&whole.names);
    let (n, dim) = (whole.rows, whole.dim);
    // Wider elements first, so that all are aligned.
    let outlines = [
        ("labels", "I64", vec![n], 8 * n),
        ("names.offsets", "I64", vec![n + 1], 8 * (n + 1)),
        ("embeddings", "F32", vec![n, dim], 4 * n * dim),
        ("names", "U8", vec![names.len()], names.len()),
    ];
    let mut header = Map::new();
    let about_text = canonical_json(&serde_json::to_value(about)?);
    header.insert("__metadata__".into(), json!({METADATA_KEY: about_text}));
    let mut end = 0;
    for (name, dtype, shape, size) in outlines {
        let offsets = [end, end + size];
        header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        end += size;
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for number in whole.labels.iter().chain(&offsets) {
        file.write_all(&number.to_le_bytes())?;
    }
    each(parts, about, |rows| Ok(file.write_all(&floats(rows))?))?;
    Ok(file.write_all(&names)?)
}

/// Version 1.0 of numpy's format.
fn npy(file: &mut dyn Write, parts: &Parts, about: &About, whole: &Whole) -> Result<()> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", whole.rows, whole.dim);
    // The data begins at a multiple of 64, behind a line's end.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(length - 1 - header.len()));
    header.push('\n');
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(length)?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    each(parts, about, |rows| Ok(file.write_all(&floats(rows))?))
}

fn label_text(label: i64) -> String {
    if label < 0 { String::new() } else { label.to_string() }
}

/// A field of RFC 4180.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn csv(file: &mut dyn Write, parts: &Parts, about: &About, whole: &Whole) -> Result<()> {
    let columns: Vec<String> = (0..whole.dim).map(|d| format!("e{d}")).collect();
    file.write_all(format!("name,label,{}\n", columns.join(",")).as_bytes())?;
    each(parts, about, |rows| {
        for (i, name) in rows.names.iter().enumerate() {
            // The shortest text that reads back as the same number.
            let numbers: Vec<String> = rows.row(i).iter().map(f32::to_string).collect();
            let line = format!("{},{},{}\n", quoted(name), label_text(rows.labels[i]), numbers.join(","));
            file.write_all(line.as_bytes())?;
        }
        Ok(())
    })
}

const SCHEMA: &str = "message embeddings {
  required binary name (UTF8);
  optional int64 label;
  required group embedding (LIST) { repeated group list { required float element; } }
}";

fn parquet(file: &mut dyn Write, parts: &Parts, about: &About) -> Result<()> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let text = canonical_json(&serde_json::to_value(about)?);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by("contrastive".into())
        .set_key_value_metadata(Some(vec![KeyValue::new(METADATA_KEY.to_string(), text)]));
    // Numbers of a network hardly repeat.
    let properties = properties.set_dictionary_enabled(false).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties))?;
    each(parts, about, |rows| {
        if rows.len() == 0 {
            return Ok(());
        }
        let mut group = writer.next_row_group()?;
        row_group(&mut group, rows)?;
        group.close()?;
        // What is complete goes to the disk.
        let complete = writer.inner_mut();
        file.write_all(complete)?;
        complete.clear();
        Ok(())
    })?;
    Ok(file.write_all(writer.into_inner()?)?)
}

fn row_group<W: Write + Send>(group: &mut SerializedRowGroupWriter<'_, W>, rows: &Rows) -> Result<()> {
    let missing = "the schema has three columns";
    let names: Vec<ByteArray> = rows.names.iter().map(|name| ByteArray::from(name.as_str())).collect();
    let mut column = group.next_column()?.context(missing)?;
    column.typed::<ByteArrayType>().write_batch(&names, None, None)?;
    column.close()?;
    let labels: Vec<i64> = rows.labels.iter().copied().filter(|label| *label >= 0).collect();
    let there: Vec<i16> = rows.labels.iter().map(|label| i16::from(*label >= 0)).collect();
    let mut column = group.next_column()?.context(missing)?;
    column.typed::<Int64Type>().write_batch(&labels, Some(&there), None)?;
    column.close()?;
    let there = vec![1i16; rows.data.len()];
    let again: Vec<i16> = (0..rows.data.len()).map(|i| i16::from(i % rows.dim != 0)).collect();
    let mut column = group.next_column()?.context(missing)?;
    column.typed::<FloatType>().write_batch(&rows.data, Some(&there), Some(&again))?;
    column.close()?;
    Ok(())
}
