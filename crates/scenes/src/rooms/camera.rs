//! Where a room is seen from, and ways through it.

use super::Room;
use super::vector::Vec3;
use crate::rng::{Purpose, Stream};

/// A pinhole camera. Its axes are of unit length and at right angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Camera {
    /// The pinhole.
    pub position: Vec3,
    /// Where it looks.
    pub ahead: Vec3,
    /// Right in the picture.
    pub right: Vec3,
    /// Down in the picture.
    pub down: Vec3,
    /// Half the width of the picture at distance 1.
    pub tangent: f64,
}

impl Camera {
    /// A camera at `position` that looks at `target`, upright, with this half width of the picture at distance 1.
    pub fn look_at(position: Vec3, target: Vec3, tangent: f64) -> Self {
        let ahead = (target - position).unit();
        let right = ahead.cross(Vec3::new(0.0, 0.0, 1.0)).unit();
        Self { position, ahead, right, down: ahead.cross(right), tangent }
    }

    /// View `number` of a room: from head height near one corner towards the other side.
    pub fn random(room: &Room, seed: u64, number: u64) -> Self {
        let rng = &mut Stream::new(seed, number, Purpose::Play);
        let Vec3 { x, y, z } = room.size;
        let corner = [rng.chance(0.5), rng.chance(0.5)];
        let side =
            |high: bool, length: f64, part: f64| if high { length * (1.0 - part) } else { length * part };
        let position = Vec3::new(
            side(corner[0], x, rng.range(0.06, 0.2)),
            side(corner[1], y, rng.range(0.06, 0.2)),
            z * rng.range(0.5, 0.72),
        );
        let target = Vec3::new(
            side(corner[0], x, rng.range(0.5, 0.8)),
            side(corner[1], y, rng.range(0.5, 0.8)),
            z * rng.range(0.08, 0.35),
        );
        Self::look_at(position, target, rng.range(0.75, 0.95))
    }

    /// `frames` cameras on a straight way that begins at [`Camera::random`]: `step` metres to the side and ahead, and a
    /// slowly moving target. What a video of the room is.
    pub fn path(room: &Room, seed: u64, number: u64, frames: usize, step: f64) -> Vec<Self> {
        let first = Self::random(room, seed, number);
        let rng = &mut Stream::new(seed, number ^ (1 << 63), Purpose::Play);
        let sideways = if rng.chance(0.5) { step } else { -step };
        let motion = first.right.times(sideways) + first.ahead.times(step * rng.range(0.0, 0.5));
        let motion = Vec3::new(motion.x, motion.y, 0.0);
        let target = first.position + first.ahead.times(3.0);
        let drift = first.right.times(sideways * rng.range(-0.5, 0.5));
        (0..frames)
            .map(|i| {
                let t = i as f64;
                let place = first.position + motion.times(t);
                // Never through a wall.
                let inside = |v: f64, length: f64| v.clamp(0.1, length - 0.1);
                let place = Vec3::new(inside(place.x, room.size.x), inside(place.y, room.size.y), place.z);
                Self::look_at(place, target + drift.times(t), first.tangent)
            })
            .collect()
    }

    /// The ray through the middle of a pixel, of length 1 along [`Camera::ahead`]: distances along it are depths.
    pub fn ray(&self, [column, row]: [usize; 2], [width, height]: [usize; 2]) -> Vec3 {
        let scale = 2.0 * self.tangent / width as f64;
        let u = (column as f64 + 0.5 - width as f64 / 2.0) * scale;
        let v = (row as f64 + 0.5 - height as f64 / 2.0) * scale;
        self.ahead + self.right.times(u) + self.down.times(v)
    }

    /// Where a place appears, in pixels from the picture's upper left corner (a pixel's middle is at a half), and its
    /// depth in metres; `None` behind the camera.
    pub fn project(&self, place: Vec3, [width, height]: [usize; 2]) -> Option<([f64; 2], f64)> {
        let relative = place - self.position;
        let depth = relative.dot(self.ahead);
        if depth < 1e-6 {
            return None;
        }
        let scale = width as f64 / (2.0 * self.tangent) / depth;
        let column = relative.dot(self.right) * scale + width as f64 / 2.0;
        let row = relative.dot(self.down) * scale + height as f64 / 2.0;
        Some(([column, row], depth))
    }

    /// A direction in the camera's own axes: right, down, ahead.
    pub fn own(&self, direction: Vec3) -> Vec3 {
        Vec3::new(direction.dot(self.right), direction.dot(self.down), direction.dot(self.ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projection_undoes_rays() {
        let room = Room::new(1, 2);
        let camera = Camera::random(&room, 1, 2);
        let size = [40, 30];
        for at in [[0, 0], [39, 29], [20, 7]] {
            let place = camera.position + camera.ray(at, size).times(2.5);
            let projected = camera.project(place, size);
            assert!(projected.is_some_and(|([x, y], depth)| {
                let near = |a: f64, b: usize| (a - b as f64 - 0.5).abs() < 1e-9;
                near(x, at[0]) && near(y, at[1]) && (depth - 2.5).abs() < 1e-9
            }));
        }
        assert!(camera.project(camera.position - camera.ahead, size).is_none());
        for (a, b) in [(camera.ahead, camera.right), (camera.right, camera.down), (camera.ahead, camera.down)]
        {
            assert!(a.dot(b).abs() < 1e-12 && (a.length() - 1.0).abs() < 1e-12);
        }
        // Up in the room is up in the picture.
        assert!(camera.down.z < 0.0);
    }
}
