//! Furnished rooms ([`contrastive_scenes::rooms`]) as scenes of four views with labels, deterministic by seed.

use contrastive_core::Result;
use contrastive_core::augment::rgb_to_lab;
use contrastive_core::data::{Array, Split};
use contrastive_scenes::rooms::{Camera, Label, Room};

use super::recipe::views;
use super::scene::{Scene, Scenes};

/// `count` rooms, each from a camera of its own, in pictures of `side` by `side` pixels: L and ab to about `[-1, 1]`,
/// depth as `1 / metres − 0.5`, normals as they are, and 12 classes of pixels. Rooms of the two splits are different.
///
/// # Errors
/// No room.
pub fn rooms(split: Split, count: usize, side: usize) -> Result<Scenes> {
    let seed = match split {
        Split::Train => 1,
        Split::Test => 2,
    };
    let scenes = (0..count as u64).map(|number| scene(seed, number, side)).collect();
    Scenes::new(&format!("rooms-{}", split.name()), views(), scenes, Label::COUNT)
}

fn scene(seed: u64, number: u64, side: usize) -> Scene {
    let room = Room::new(seed, number);
    let frame = room.render(&Camera::random(&room, seed, number), side, side);
    let area = side * side;
    let array = |channels: usize, data: Vec<f32>| Array { shape: vec![channels, side, side], data };
    let (mut l, mut ab, mut normal) = (vec![0f32; area], vec![0f32; 2 * area], vec![0f32; 3 * area]);
    for (i, pixel) in frame.colour.as_chunks::<3>().0.iter().enumerate() {
        let [light, a, b] = rgb_to_lab(*pixel);
        l[i] = (light / 50.0 - 1.0) as f32;
        ab[i] = ((a - 6.025) / 92.208) as f32;
        ab[area + i] = ((b + 6.6895) / 101.1675) as f32;
    }
    for (i, parts) in frame.normal.iter().enumerate() {
        parts.iter().enumerate().for_each(|(c, part)| normal[c * area + i] = *part);
    }
    let depth = frame.depth.iter().map(|metres| 1.0 / metres - 0.5).collect();
    Scene {
        views: vec![array(1, l), array(2, ab), array(1, depth), array(3, normal)],
        labels: Some(frame.label),
    }
}
