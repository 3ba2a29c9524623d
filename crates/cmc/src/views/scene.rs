//! Scenes as named views.

use contrastive_core::data::{Array, Source, Transform};
use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};

/// A column of a set of scenes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Its name: `L`, `depth`.
    pub name: String,
    /// Its channels.
    pub channels: usize,
}

impl View {
    /// A view of a name and so many channels.
    pub fn new(name: &str, channels: usize) -> Self {
        Self { name: name.to_string(), channels }
    }
}

/// One scene: a `[C, H, W]` array for each view, all of one height and width.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The views, in the order of [`Scenes::views`].
    pub views: Vec<Array>,
    /// A class for each pixel, row by row, where there are labels.
    pub labels: Option<Vec<u8>>,
}

/// Scenes in memory. The [fingerprint](Source::fingerprint) is BLAKE3 over names, shapes, values and labels.
#[derive(Debug, Clone)]
pub struct Scenes {
    name: String,
    views: Vec<View>,
    scenes: Vec<Scene>,
    classes: usize,
    fingerprint: String,
}

impl Scenes {
    /// A set of scenes; `classes` bounds their pixels' labels.
    ///
    /// # Errors
    /// [`Error::Data`] for no scene, a view of another shape than its scene's first or than its column says, labels out
    /// of range.
    pub fn new(name: &str, views: Vec<View>, scenes: Vec<Scene>, classes: usize) -> Result<Self> {
        let fail = |i: usize, reason: String| Err(Error::data(format!("{name}[{i}]"), reason));
        if scenes.is_empty() || views.is_empty() {
            return Err(Error::data(name, "no scene or no view"));
        }
        let mut bytes: Vec<u8> = Vec::new();
        for view in &views {
            bytes.extend(view.name.as_bytes());
            bytes.extend((view.channels as u64).to_le_bytes());
        }
        let mut sum = Sum::default();
        sum.add(&bytes);
        for (i, scene) in scenes.iter().enumerate() {
            if scene.views.len() != views.len() {
                return fail(i, format!("{} views where there are {}", scene.views.len(), views.len()));
            }
            let size = scene.views[0].shape.get(1..).unwrap_or(&[]).to_vec();
            for (array, view) in scene.views.iter().zip(&views) {
                let expected: Vec<usize> =
                    std::iter::once(view.channels).chain(size.iter().copied()).collect();
                let elements = array.shape.iter().product::<usize>();
                if array.shape != expected || size.len() != 2 || array.data.len() != elements {
                    return fail(
                        i,
                        format!("view `{}` is {:?}, expected {expected:?}", view.name, array.shape),
                    );
                }
                bytes.clear();
                bytes.extend(array.data.iter().flat_map(|v| v.to_bits().to_le_bytes()));
                sum.add(&bytes);
            }
            if let Some(labels) = &scene.labels {
                if labels.len() != size.iter().product::<usize>() {
                    return fail(i, format!("{} labels for {size:?} pixels", labels.len()));
                }
                if let Some(label) = labels.iter().find(|label| usize::from(**label) >= classes) {
                    return fail(i, format!("label {label} is out of range for {classes} classes"));
                }
                sum.add(labels);
            }
        }
        Ok(Self { name: name.to_string(), views, scenes, classes, fingerprint: sum.end() })
    }

    /// The columns.
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Where a column stands.
    ///
    /// # Errors
    /// [`Error::Data`] naming the columns there are.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.views.iter().position(|view| view.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.views.iter().map(|view| view.name.as_str()).collect();
            Error::data(&self.name, format!("no view `{name}`; there are {}", known.join(", ")))
        })
    }

    /// All scenes.
    pub fn scenes(&self) -> &[Scene] {
        &self.scenes
    }

    /// The same without all but the first `count`.
    ///
    /// # Errors
    /// No scene.
    pub fn first(&self, count: usize) -> Result<Self> {
        let scenes = self.scenes.iter().take(count).cloned().collect();
        Self::new(&self.name, self.views.clone(), scenes, self.classes)
    }

    /// The number of classes of pixels.
    pub fn pixel_classes(&self) -> usize {
        self.classes
    }
}

/// A hash over parts: that of the hashes of all parts so far and the next.
#[derive(Default)]
struct Sum(String);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let part = blake3::hash(bytes).to_hex();
        self.0 = blake3::hash(format!("{}{part}", self.0).as_bytes()).to_hex().to_string();
    }

    fn end(self) -> String {
        self.0
    }
}

impl Source for Scenes {
    type Sample = Scene;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.scenes.len()
    }

    fn sample(&self, index: usize) -> Result<Scene> {
        let count = self.scenes.len();
        let missing = || Error::data(&self.name, format!("index {index} is out of range for {count} scenes"));
        self.scenes.get(index).cloned().ok_or_else(missing)
    }

    /// None: it is pixels that have classes.
    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> usize {
        0
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// Some columns of a scene, all cut by one random window: views stay aligned. With labels as the last array `[1, H, W]`
/// where they are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The columns, in the method's order.
    pub columns: Vec<usize>,
    /// Side of the window in pixels.
    pub side: usize,
    /// Whether labels come last.
    pub labels: bool,
}

impl Window {
    /// The window at a place, of every column.
    ///
    /// # Errors
    /// A scene that is smaller or lacks a column or labels.
    pub fn cut(&self, scene: &Scene, corner: [usize; 2]) -> Result<Vec<Array>> {
        let mut arrays = Vec::with_capacity(self.columns.len() + 1);
        for &column in &self.columns {
            let Some(array) = scene.views.get(column) else {
                return Err(Error::shape("window", format!("view {column}"), &[scene.views.len()]));
            };
            arrays.push(self.part(&array.data, &array.shape, corner)?);
        }
        if self.labels {
            let Some(labels) = &scene.labels else { return Err(Error::data("scene", "has no labels")) };
            let size = scene.views.first().map(|view| view.shape.clone()).unwrap_or_default();
            let values: Vec<f32> = labels.iter().map(|&label| f32::from(label)).collect();
            arrays.push(self.part(&values, &[&[1], size.get(1..).unwrap_or(&[])].concat(), corner)?);
        }
        Ok(arrays)
    }

    fn part(&self, data: &[f32], shape: &[usize], [top, left]: [usize; 2]) -> Result<Array> {
        let (&[channels, height, width], side) = (shape, self.side) else {
            return Err(Error::shape("window", "[C, H, W]", shape));
        };
        if top + side > height || left + side > width {
            return Err(Error::shape("window", format!("at least {side} x {side} pixels"), shape));
        }
        let mut part = Vec::with_capacity(channels * side * side);
        for channel in 0..channels {
            for row in top..top + side {
                let start = (channel * height + row) * width + left;
                part.extend_from_slice(&data[start..start + side]);
            }
        }
        Ok(Array { shape: vec![channels, side, side], data: part })
    }
}

impl Transform<Scene> for Window {
    fn apply(&self, scene: &Scene, key: Key) -> Result<Vec<Array>> {
        let shape = scene.views.first().map(|view| view.shape.clone()).unwrap_or_default();
        let &[_, height, width] = shape.as_slice() else {
            return Err(Error::shape("window", "[C, H, W]", &shape));
        };
        let mut stream = key.stream();
        let mut place = |length: usize| stream.below((length.saturating_sub(self.side) + 1) as u64) as usize;
        let corner = [place(height), place(width)];
        self.cut(scene, corner)
    }
}

#[cfg(test)]
mod tests {
    use contrastive_core::rng::Purpose;

    use super::*;

    fn scene() -> Scene {
        let array = |c: usize, f: f32| Array {
            shape: vec![c, 6, 8],
            data: (0..c * 48).map(|i| f * (i % 48) as f32).collect(),
        };
        Scene { views: vec![array(1, 1.0), array(2, 10.0)], labels: Some((0..48).collect()) }
    }

    #[test]
    fn all_views_are_cut_by_one_window() -> Result<()> {
        let window = Window { columns: vec![1, 0], side: 4, labels: true };
        let key = Key::new(3, Purpose::Augment).sample(1);
        let arrays = window.apply(&scene(), key)?;
        assert_eq!(
            arrays.iter().map(|a| a.shape.clone()).collect::<Vec<_>>(),
            [[2, 4, 4], [1, 4, 4], [1, 4, 4]]
        );
        let scaled: Vec<f32> = arrays[1].data.iter().map(|v| v * 10.0).collect();
        assert_eq!(arrays[0].data[..16], scaled);
        assert_eq!(arrays[1].data, arrays[2].data);
        assert!(Window { side: 7, ..window.clone() }.apply(&scene(), key).is_err());
        assert!(Window { columns: vec![2], ..window }.apply(&scene(), key).is_err());
        Ok(())
    }

    #[test]
    fn columns_are_held_to_their_shapes() -> Result<()> {
        let views = || vec![View::new("a", 1), View::new("b", 2)];
        let set = Scenes::new("set", views(), vec![scene()], 48)?;
        assert_eq!((set.column("b")?, set.len()), (1, 1));
        assert!(set.column("c").is_err_and(|e| e.to_string().contains("a, b")));
        assert!(Scenes::new("set", views(), vec![scene()], 47).is_err());
        assert!(Scenes::new("set", vec![View::new("a", 1), View::new("b", 3)], vec![scene()], 48).is_err());
        assert!(Scenes::new("set", views(), vec![], 48).is_err());
        let mut other = scene();
        other.views[0].data[5] += 1.0;
        assert_ne!(Scenes::new("set", views(), vec![other], 48)?.fingerprint(), set.fingerprint());
        Ok(())
    }
}
