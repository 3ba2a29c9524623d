//! The binary version of CIFAR (Krizhevsky 2009), as distributed in `cifar-10-binary.tar.gz` and
//! `cifar-100-binary.tar.gz`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::augment::Image;
use crate::{Error, Result};

use super::memory::check_labels;
use super::{InMemory, Split};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

struct Layout {
    name: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// Bytes before the pixels; the last of them is the (fine) label.
    label_bytes: usize,
    classes: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        name: "cifar10",
        folder: "cifar-10-batches-bin",
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: &["test_batch.bin"],
        label_bytes: 1,
        classes: 10,
    },
    Layout {
        name: "cifar100",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: &["test.bin"],
        label_bytes: 2,
        classes: 100,
    },
];

/// Loads CIFAR-10 (`data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`) or CIFAR-100 (`train.bin`, `test.bin`,
/// fine labels) from `folder` or from the folder inside it that the archive unpacks to. `None` where neither lies
/// there.
///
/// # Errors
/// [`Error::Io`] for a file of the set that is missing or cannot be read, [`Error::Format`] for one that does not
/// hold whole records, [`Error::Data`] for a label out of range.
pub fn cifar_binary(folder: &Path, split: Split) -> Result<Option<InMemory>> {
    for layout in &LAYOUTS {
        let names = match split {
            Split::Train => layout.train,
            Split::Test => layout.test,
        };
        for candidate in [folder.to_path_buf(), folder.join(layout.folder)] {
            if candidate.join(names[0]).is_file() {
                let files: Vec<PathBuf> = names.iter().map(|name| candidate.join(name)).collect();
                return layout.read(&files, split).map(Some);
            }
        }
    }
    Ok(None)
}

impl Layout {
    fn read(&self, files: &[PathBuf], split: Split) -> Result<InMemory> {
        let record = self.label_bytes + 3 * PLANE;
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for path in files {
            let bytes = fs::read(path).map_err(Error::io(path))?;
            if bytes.is_empty() || bytes.len() % record != 0 {
                let reason =
                    format!("{} bytes are not whole {} records of {record} bytes", bytes.len(), self.name);
                return Err(Error::format(path, reason));
            }
            let first = labels.len();
            for row in bytes.chunks_exact(record) {
                let (head, planes) = row.split_at(self.label_bytes);
                labels.push(u32::from(head[self.label_bytes - 1]));
                // Planes of red, green and blue, each in row-major order.
                let data = (0..3 * PLANE).map(|i| planes[(i % 3) * PLANE + i / 3]).collect();
                images.push(Image::new(SIDE, SIDE, 3, data)?);
            }
            let shown = path.display().to_string();
            check_labels(&shown, labels[first..].iter().map(|&l| i64::from(l)), self.classes)?;
        }
        InMemory::labelled(format!("{}-{}", self.name, split.name()), images, labels, self.classes)
    }
}
