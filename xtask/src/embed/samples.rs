//! What can be embedded: images from a folder, a list, parquet files or by name; sound files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use contrastive_core::augment::Image;
use contrastive_core::data::decode::decode;
use contrastive_core::data::{ImageFolder, ParquetImages, Source, Split};
use contrastive_core::{Error, Result as CoreResult};

use crate::data::{self, Images};

/// Files by name, with classes where all have one.
#[derive(Debug, Default)]
pub struct Files {
    /// What reports call the whole.
    pub name: String,
    /// The name that a row carries, and the file.
    pub files: Vec<(String, PathBuf)>,
    /// One class for each file, or none at all.
    pub labels: Option<Vec<u32>>,
    /// The classes' names.
    pub classes: Vec<String>,
}

impl Files {
    /// The lines of a text file: a path each, beside the list or absolute, and behind a tab its class where the list has
    /// classes. Empty lines do not count.
    pub fn listed(list: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
        let folder = list.parent().unwrap_or(Path::new(""));
        let (mut files, mut classes) = (Vec::new(), Vec::new());
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (path, class) = match line.split_once('\t') {
                Some((path, class)) => (path, Some(class.trim())),
                None => (line.trim_end(), None),
            };
            let others = classes.last().map_or(class.is_some(), |last: &Option<String>| last.is_some());
            if class.is_some() != others {
                bail!("{}: line {}: some lines have a class and others have none", list.display(), i + 1);
            }
            files.push((path.to_string(), folder.join(path)));
            classes.push(class.map(String::from));
        }
        let classes: Option<Vec<String>> = classes.into_iter().collect();
        Self::new(list, files, classes)
    }

    /// The sound files of a folder and its sub-folders in the order of their paths, or one file. Where all lie in
    /// sub-folders, and in two or more, those of the first level are the classes.
    pub fn sounds(path: &Path) -> Result<Self> {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Self::new(path, vec![(name, path.to_path_buf())], None);
        }
        let mut files = Vec::new();
        visit(path, "", 0, &mut files)?;
        files.sort();
        let class = |(name, _): &(String, PathBuf)| Some(name.split_once('/')?.0.to_string());
        let classes: Option<Vec<String>> = files.iter().map(class).collect();
        let several =
            classes.filter(|classes| classes.iter().collect::<BTreeSet<_>>().len() > 1 && !files.is_empty());
        Self::new(path, files, several)
    }

    fn new(path: &Path, files: Vec<(String, PathBuf)>, classes: Option<Vec<String>>) -> Result<Self> {
        if files.is_empty() {
            bail!("{}: names no files that can be embedded", path.display());
        }
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let Some(of_each) = classes else { return Ok(Self { name, files, ..Self::default() }) };
        let known: Vec<String> = of_each.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let labels = of_each.iter().map(|c| known.binary_search(c).unwrap_or_default() as u32).collect();
        Ok(Self { name, files, labels: Some(labels), classes: known })
    }

    /// BLAKE3 over names, classes and contents.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"contrastive files 1");
        for (i, (name, path)) in self.files.iter().enumerate() {
            let content = std::fs::read(path).map(|bytes| blake3::hash(&bytes).to_hex().to_string());
            let label = self.labels.as_ref().map(|labels| self.classes[labels[i] as usize].as_str());
            let content = content.unwrap_or_default();
            for part in [name.as_str(), label.unwrap_or_default(), content.as_str()] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..32].to_string()
    }
}

/// As a source: images, decoded when asked for, always three channels.
impl Source for Files {
    type Sample = Image;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn sample(&self, index: usize) -> CoreResult<Image> {
        let missing = || Error::data(&self.name, format!("index {index} of {}", self.files.len()));
        let (_, path) = self.files.get(index).ok_or_else(missing)?;
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Ok(decode(&bytes, path)?.to_rgb())
    }

    fn sample_name(&self, index: usize) -> String {
        self.files.get(index).map_or_else(String::new, |(name, _)| name.clone())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn fingerprint(&self) -> String {
        Self::fingerprint(self)
    }
}

/// The endings of the sound files that are looked for in folders.
const SOUNDS: [&str; 4] = ["wav", "flac", "sph", "nist"];
/// Below the number of links that systems follow in one path.
const DEEPEST: usize = 32;

fn visit(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if depth > DEEPEST {
        bail!("{}: folders nest deeper than {DEEPEST} levels", folder.display());
    }
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let sound = path.extension().is_some_and(|e| SOUNDS.iter().any(|s| e.eq_ignore_ascii_case(s)));
        if path.is_dir() {
            visit(&path, &format!("{prefix}{name}/"), depth + 1, files)?;
        } else if sound {
            files.push((format!("{prefix}{name}"), path));
        }
    }
    Ok(())
}

/// Images by whatever names them, and the names of their classes where they have some.
///
/// A folder is taken as it is, with all that is below it: this is no training set with parts. `split` is for parquet
/// files and sets by name.
pub fn images(place: &str, split: Split) -> Result<(Images, Vec<String>)> {
    let path = Path::new(place);
    let ends = |wanted: &[&str]| {
        path.extension().is_some_and(|e| wanted.iter().any(|wanted| e.eq_ignore_ascii_case(wanted)))
    };
    if path.is_file() && ends(&["txt", "tsv", "lst"]) {
        let files = Files::listed(path)?;
        let classes = files.classes.clone();
        return Ok((Arc::new(files), classes));
    }
    if path.is_file() && !ends(&["parquet"]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = Files::new(path, vec![(name, path.to_path_buf())], None)?;
        return Ok((Arc::new(files), Vec::new()));
    }
    if path.exists() {
        if let Some(images) = ParquetImages::at(path, split)? {
            return Ok((Arc::new(images), Vec::new()));
        }
        let folder = ImageFolder::open(path)?;
        let classes = folder.class_names().to_vec();
        return Ok((Arc::new(folder), classes));
    }
    Ok((data::source(place, split)?, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_files_and_classes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let list = folder.path().join("some.txt");
        std::fs::write(&list, "b/1.png\tdog\n\na 2.png\tcat\nc.png\tdog\n")?;
        let files = Files::listed(&list)?;
        assert_eq!((files.name.as_str(), files.files.len()), ("some", 3));
        assert_eq!(files.files[1], ("a 2.png".to_string(), folder.path().join("a 2.png")));
        assert_eq!(
            (&files.labels, &files.classes),
            (&Some(vec![1, 0, 1]), &vec!["cat".into(), "dog".into()])
        );
        let before = files.fingerprint();
        std::fs::write(folder.path().join("c.png"), "x")?;
        assert_ne!(files.fingerprint(), before);
        std::fs::write(&list, "a.png\nb.png\n")?;
        assert_eq!(Files::listed(&list)?.labels, None);
        std::fs::write(&list, "a.png\tx\nb.png\n")?;
        let error = Files::listed(&list).map_or_else(|e| e.to_string(), |_| String::new());
        assert!(error.contains("some.txt") && error.contains("line 2"), "{error}");
        std::fs::write(&list, "\n")?;
        assert!(Files::listed(&list).is_err());
        Ok(())
    }

    #[test]
    fn sounds_of_a_folder_have_its_folders_as_classes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for file in ["b/y.wav", "a/x.FLAC", "a/deep/z.sph", "a/notes.txt", ".hidden/h.wav"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().context("parent")?)?;
            std::fs::write(path, "")?;
        }
        let files = Files::sounds(folder.path())?;
        let names: Vec<&str> = files.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a/deep/z.sph", "a/x.FLAC", "b/y.wav"]);
        assert_eq!(files.labels, Some(vec![0, 0, 1]));
        std::fs::write(folder.path().join("top.wav"), "")?;
        assert_eq!(Files::sounds(folder.path())?.labels, None);
        Ok(())
    }
}
