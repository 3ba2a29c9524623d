//! Videos as folders of frames (UCF101, HMDB51): `DIR/CLASS/CLIP/FRAME.jpg`, frames in the order of their names.

use std::path::{Path, PathBuf};

use contrastive_core::augment::Image;
use contrastive_core::{Error, Result};

use super::plane::Plane;
use super::stack::{FIELDS, stack};
use super::tvl1::TvL1;
use crate::views::folder::{files, planes, read};
use crate::views::{Scene, View};

/// A clip that has not been read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// Its class: the place of its folder among all, in order of their names.
    pub class: u32,
    /// `CLASS/CLIP`.
    pub name: String,
    /// Its frames.
    pub frames: Vec<PathBuf>,
}

/// The clips of a folder, in order of their names, and the names of their classes. Clips without frames are left out.
///
/// # Errors
/// [`Error::Io`] naming the folder, [`Error::Data`] where there is no clip.
pub fn clips(root: &Path) -> Result<(Vec<Clip>, Vec<String>)> {
    let (mut clips, mut classes) = (Vec::new(), Vec::new());
    for class in folders(root)? {
        let class_name = name(&class);
        for clip in folders(&class)? {
            let frames = files(&clip)?;
            if !frames.is_empty() {
                let name = format!("{class_name}/{}", name(&clip));
                clips.push(Clip { class: classes.len() as u32, name, frames });
            }
        }
        classes.push(class_name);
    }
    if clips.is_empty() {
        return Err(Error::data(root.display().to_string(), "no folder CLASS/CLIP with frames"));
    }
    Ok((clips, classes))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        let path = entry.map_err(Error::io(root))?.path();
        if path.is_dir() && !name(&path).starts_with('.') {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

impl Clip {
    /// All frames.
    ///
    /// # Errors
    /// A file that cannot be read or decoded.
    pub fn read(&self) -> Result<Vec<Image>> {
        self.frames.iter().map(|path| read(path)).collect()
    }
}

/// The columns of [`moment`].
pub fn columns() -> Vec<View> {
    vec![View::new("frame", 3), View::new("later", 3), View::new("flow", 2 * FIELDS)]
}

/// A moment of a clip as a scene (section 4.3 of the paper): the frame, the one `later` frames on (or the last), and the
/// stack of flow around it, in pixels over 20. For frames against frames take the first two columns, for frames against
/// motion the first and the third.
///
/// # Errors
/// As [`stack`].
pub fn moment(frames: &[Image], at: usize, later: usize, flow: &TvL1) -> Result<Scene> {
    let gray: Vec<Plane> = frames.iter().map(Plane::of).collect::<Result<_>>()?;
    let motion = stack(&gray, at, flow, 20.0)?;
    let colours = |t: usize| planes(&frames[t].to_rgb(), |v| f32::from(v) / 127.5 - 1.0);
    let then = (at + later).min(frames.len() - 1);
    Ok(Scene { views: vec![colours(at), colours(then), motion], labels: None })
}
