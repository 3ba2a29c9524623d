//! Folders of aligned pictures as scenes: colour and depth, and normals and labels where there are any.
//!
//! ```text
//! DIR/rgb/NAME.png   DIR/depth/NAME.png   DIR/normal/NAME.png   DIR/label/NAME.png
//! ```
//!
//! Pictures of one name belong together; endings may differ (JPEG, PNG, WebP). Depth is gray, from near (0) to far (255);
//! normals are `(n + 1) / 2` in red, green and blue; a label's gray value is its class.
//!
//! NYU-Depth-v2 comes as one MATLAB file (HDF5). It becomes such a folder once, with h5py and Pillow:
//!
//! ```text
//! python -c "import h5py,os,numpy as np;from PIL import Image as I
//! f=h5py.File('nyu_depth_v2_labeled.mat');[os.makedirs('nyu/'+d,exist_ok=True) for d in ('rgb','depth','label')]
//! for i in range(f['images'].shape[0]):
//!  n='%04d.png'%i;I.fromarray(f['images'][i].transpose(2,1,0)).save('nyu/rgb/'+n)
//!  I.fromarray((f['depths'][i].T*25.5).clip(0,255).astype('u1')).save('nyu/depth/'+n)
//!  I.fromarray(np.minimum(f['labels'][i].T,255).astype('u1')).save('nyu/label/'+n)"
//! ```
//!
//! Its 894 classes are cut at 255 here; map them to 13 or 40 first for the usual tasks. It holds no normals.

use std::path::{Path, PathBuf};

use contrastive_core::augment::{Image, luma, rgb_to_lab};
use contrastive_core::data::{Array, decode};
use contrastive_core::{Error, Result};

use super::scene::{Scene, Scenes, View};

/// The scenes of a folder: views `L`, `ab`, `depth` and, if the folder has them, `normal`; labels below `classes`.
///
/// # Errors
/// [`Error::Io`] or [`Error::Format`] naming the file, [`Error::Data`] for a picture whose fellow is missing or of another
/// size, labels out of range, no picture.
pub fn rgbd(root: &Path, classes: usize) -> Result<Scenes> {
    let has = |part: &str| root.join(part).is_dir();
    let (normals, labels) = (has("normal"), has("label"));
    let mut views = vec![View::new("L", 1), View::new("ab", 2), View::new("depth", 1)];
    if normals {
        views.push(View::new("normal", 3));
    }
    let mut scenes = Vec::new();
    for path in files(&root.join("rgb"))? {
        let image = read(&path)?.to_rgb();
        let size = [image.height, image.width];
        let [l, ab] = colours(&image);
        let mut scene = Scene { views: vec![l, ab], labels: None };
        let depth = gray(&fellow(root, "depth", &path, size)?);
        scene.views.push(array(1, size, depth.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect()));
        if normals {
            let normal = fellow(root, "normal", &path, size)?.to_rgb();
            scene.views.push(planes(&normal, |v| f32::from(v) / 127.5 - 1.0));
        }
        if labels {
            scene.labels = Some(gray(&fellow(root, "label", &path, size)?));
        }
        scenes.push(scene);
    }
    let name =
        root.file_name().map_or_else(|| "rgbd".to_string(), |name| name.to_string_lossy().into_owned());
    Scenes::new(&name, views, scenes, classes)
}

/// L and ab of an image, each to about `[-1, 1]`.
pub fn colours(image: &Image) -> [Array; 2] {
    let size = [image.height, image.width];
    let area = size[0] * size[1];
    let (mut l, mut ab) = (vec![0f32; area], vec![0f32; 2 * area]);
    for (i, pixel) in image.to_rgb().data.as_chunks::<3>().0.iter().enumerate() {
        let [light, a, b] = rgb_to_lab(*pixel);
        l[i] = (light / 50.0 - 1.0) as f32;
        ab[i] = ((a - 6.025) / 92.208) as f32;
        ab[area + i] = ((b + 6.6895) / 101.1675) as f32;
    }
    [array(1, size, l), array(2, size, ab)]
}

/// The channels of an image one after another.
pub fn planes(image: &Image, value: impl Fn(u8) -> f32) -> Array {
    let channels = image.channels;
    let data = (0..channels).flat_map(|c| image.data.iter().skip(c).step_by(channels).map(|&v| value(v)));
    array(channels, [image.height, image.width], data.collect())
}

fn array(channels: usize, [height, width]: [usize; 2], data: Vec<f32>) -> Array {
    Array { shape: vec![channels, height, width], data }
}

fn gray(image: &Image) -> Vec<u8> {
    match image.channels {
        3 => image.data.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect(),
        _ => image.data.clone(),
    }
}

/// The files of a folder in the order of their names.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_file() && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Decodes a file.
pub(crate) fn read(path: &Path) -> Result<Image> {
    decode::decode(&std::fs::read(path).map_err(Error::io(path))?, path)
}

/// The picture of the same name in another part.
fn fellow(root: &Path, part: &str, path: &Path, size: [usize; 2]) -> Result<Image> {
    let stem = path.file_stem().unwrap_or_default();
    let folder = root.join(part);
    let endings = ["png", "jpg", "jpeg", "webp"].map(|ending| folder.join(stem).with_extension(ending));
    let Some(found) = endings.iter().find(|path| path.is_file()) else {
        let reason = format!("has no fellow in `{part}`");
        return Err(Error::data(path.display().to_string(), reason));
    };
    let image = read(found)?;
    if [image.height, image.width] != size {
        let reason = format!("is {}x{}, its colours {}x{}", image.width, image.height, size[1], size[0]);
        return Err(Error::data(found.display().to_string(), reason));
    }
    Ok(image)
}
