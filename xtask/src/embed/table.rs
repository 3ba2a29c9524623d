//! Embeddings with names: as safetensors, part by part and whole.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use contrastive_core::weights;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of [`About`].
const VERSION: u32 = 1;

/// What embeddings are of and whose they are: the metadata of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Of this layout.
    pub version: u32,
    /// The network: a method, or a repository.
    pub model: String,
    /// Hash of its weights.
    pub weights: String,
    /// What happened to a sample before the network.
    pub preprocessing: String,
    /// The name of the data.
    pub data: String,
    /// Its hash.
    pub fingerprint: String,
    /// The classes' names, where they are known.
    pub classes: Vec<String>,
    /// Whether rows have unit length.
    pub normalized: bool,
}

impl About {
    /// Of this version.
    pub fn new(model: &str, weights: String, preprocessing: String) -> Self {
        Self {
            version: VERSION,
            model: model.to_string(),
            weights,
            preprocessing,
            data: String::new(),
            fingerprint: String::new(),
            classes: Vec::new(),
            normalized: false,
        }
    }
}

/// Rows with a name each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The width.
    pub dim: usize,
    /// The elements, row by row.
    pub data: Vec<f32>,
    /// A file's path below its folder, or what the source calls a sample.
    pub names: Vec<String>,
    /// The class of each, −1 where it has none.
    pub labels: Vec<i64>,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    /// The rows at these places, in this order.
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            dim: self.dim,
            data: places.iter().flat_map(|&i| self.row(i)).copied().collect(),
            names: places.iter().map(|&i| self.names[i].clone()).collect(),
            labels: places.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// The rows behind these.
    pub fn extend(&mut self, other: Self) {
        self.dim = self.dim.max(other.dim);
        self.data.extend(other.data);
        self.names.extend(other.names);
        self.labels.extend(other.labels);
    }

    /// Gives rows unit length; zeros stay.
    pub fn normalize(&mut self) {
        for row in self.data.chunks_exact_mut(self.dim.max(1)) {
            let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.data.len() != self.len() * self.dim || self.labels.len() != self.len() {
            return Err(format!("{} rows of {} do not fit together", self.len(), self.dim));
        }
        match self.data.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(format!("`{}`: its embedding holds {}", self.names[i / self.dim], self.data[i])),
            None => Ok(()),
        }
    }

    /// Writes them: `embeddings` `[N, D]`, `labels` `[N]`, and names as Arrow has them: `names` (UTF-8, one behind the
    /// other) and `names.offsets` `[N + 1]`.
    pub fn save(&self, path: &Path, about: &Value) -> Result<()> {
        self.check().map_err(anyhow::Error::msg)?;
        let (bytes, offsets) = packed(&self.names);
        let cpu = &Device::Cpu;
        let tensors = [
            ("embeddings", Tensor::from_slice(&self.data, (self.len(), self.dim), cpu)?),
            ("labels", Tensor::from_slice(&self.labels, self.len(), cpu)?),
            ("names", Tensor::from_slice(&bytes, bytes.len(), cpu)?),
            ("names.offsets", Tensor::from_slice(&offsets, offsets.len(), cpu)?),
        ];
        let tensors: Vec<(String, Tensor)> = tensors.map(|(name, t)| (name.to_string(), t)).into();
        Ok(weights::save(path, &tensors, about)?)
    }

    /// Reads them, with the metadata.
    pub fn load(path: &Path) -> Result<(Self, Value)> {
        let (mut tensors, about) = weights::load(path)?;
        let mut take = |name: &str| {
            let found = tensors.remove(name);
            found.with_context(|| format!("{}: no `{name}`: not from cargo xtask embed", path.display()))
        };
        let shown = path.display();
        let embeddings = take("embeddings")?;
        let &[_, dim] = embeddings.dims() else {
            bail!("{shown}: `embeddings` has shape {:?}, not [N, D]", embeddings.dims())
        };
        let wrong = |name: &str| format!("{shown}: `{name}` is of another type or shape");
        let data = embeddings.flatten_all()?.to_vec1().with_context(|| wrong("embeddings"))?;
        let labels = take("labels")?.to_vec1().with_context(|| wrong("labels"))?;
        let bytes = take("names")?.to_vec1().with_context(|| wrong("names"))?;
        let offsets = take("names.offsets")?.to_vec1().with_context(|| wrong("names.offsets"))?;
        let names = unpacked(&bytes, &offsets).with_context(|| wrong("names.offsets"))?;
        let rows = Self { dim, data, names, labels };
        rows.check().map_err(|reason| anyhow::anyhow!("{shown}: {reason}"))?;
        Ok((rows, about))
    }

    /// Reads a whole file of embeddings.
    pub fn open(path: &Path) -> Result<(Self, About)> {
        let (rows, about) = Self::load(path)?;
        let about: About = serde_json::from_value(about)
            .with_context(|| format!("{}: metadata that is not from cargo xtask embed", path.display()))?;
        if about.version != VERSION {
            bail!("{}: version {} of embeddings, not {VERSION}", path.display(), about.version);
        }
        if rows.len() == 0 || rows.dim == 0 {
            bail!("{}: holds no embeddings", path.display());
        }
        Ok((rows, about))
    }
}

/// Texts one behind the other, and where each begins.
pub fn packed(names: &[String]) -> (Vec<u8>, Vec<i64>) {
    let mut offsets = vec![0i64];
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend_from_slice(name.as_bytes());
        offsets.push(bytes.len() as i64);
    }
    (bytes, offsets)
}

fn unpacked(bytes: &[u8], offsets: &[i64]) -> Option<Vec<String>> {
    let place = |&offset: &i64| usize::try_from(offset).ok();
    let places: Vec<usize> = offsets.iter().map(place).collect::<Option<_>>()?;
    if places.first() != Some(&0) || places.last() != Some(&bytes.len()) {
        return None;
    }
    let name = |pair: &[usize]| Some(std::str::from_utf8(bytes.get(pair[0]..pair[1])?).ok()?.to_string());
    places.windows(2).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            dim: 2,
            data: vec![3.0, 4.0, 0.0, 0.0, -1.0, 0.0],
            names: vec!["a/é.png".into(), String::new(), "b\n.png".into()],
            labels: vec![0, -1, 1],
        }
    }

    #[test]
    fn rows_come_back_and_broken_files_are_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        let about = About::new("m", "w".into(), "p".into());
        rows().save(&path, &serde_json::to_value(&about)?)?;
        assert_eq!(Rows::open(&path)?, (rows(), about));
        let whole = std::fs::read(&path)?;
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            std::fs::write(&path, bytes)?;
            if let Err(error) = Rows::open(&path) {
                assert!(format!("{error:#}").contains("x.safetensors"), "{error:#}");
            }
        }
        assert!(Rows { labels: vec![], ..rows() }.save(&path, &Value::Null).is_err());
        assert!(Rows { data: vec![f32::NAN; 6], ..rows() }.save(&path, &Value::Null).is_err());
        assert_eq!(unpacked(b"abc", &[0, 4]), None);
        assert_eq!(unpacked(b"abc", &[0, 2, 1, 3]), None);
        Ok(())
    }

    #[test]
    fn unit_length() {
        let mut rows = rows();
        rows.normalize();
        assert_eq!(rows.data, [0.6, 0.8, 0.0, 0.0, -1.0, 0.0]);
    }
}
