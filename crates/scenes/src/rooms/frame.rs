//! From a room and a camera to pixels, and from two cameras to motion.

use super::solid::{Hit, Paint};
use super::vector::Vec3;
use super::{Camera, Label, Room};

/// What a camera sees, row by row from the upper left.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue for each pixel.
    pub colour: Vec<u8>,
    /// Metres along the camera's axis for each pixel.
    pub depth: Vec<f32>,
    /// The unit normal of the surface for each pixel, in the camera's axes: right, down, ahead (so the last is negative).
    pub normal: Vec<[f32; 3]>,
    /// A number of [`Label::ALL`] for each pixel.
    pub label: Vec<u8>,
}

/// Where each pixel of one frame goes in another.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Right and down, in pixels.
    pub motion: Vec<[f32; 2]>,
    /// Whether the place is seen in the other frame: in the picture and behind nothing.
    pub visible: Vec<bool>,
}

/// What a ray meets first.
struct Seen {
    hit: Hit,
    label: Label,
    paint: Paint,
}

impl Room {
    /// What a camera in the room sees.
    pub fn render(&self, camera: &Camera, width: usize, height: usize) -> Frame {
        let area = width * height;
        let mut frame = Frame {
            width,
            height,
            colour: Vec::with_capacity(area * 3),
            depth: Vec::with_capacity(area),
            normal: Vec::with_capacity(area),
            label: Vec::with_capacity(area),
        };
        for row in 0..height {
            for column in 0..width {
                let ray = camera.ray([column, row], [width, height]);
                let seen = self.first(camera.position, ray);
                let place = camera.position + ray.times(seen.hit.distance);
                frame.colour.extend(self.colour(&seen, place));
                frame.depth.push(seen.hit.distance as f32);
                let Vec3 { x, y, z } = camera.own(seen.hit.normal);
                frame.normal.push([x as f32, y as f32, z as f32]);
                frame.label.push(seen.label as u8);
            }
        }
        frame
    }

    /// Where each pixel of `from`'s picture goes in that of `to`, both of this size.
    pub fn flow(&self, from: &Camera, to: &Camera, width: usize, height: usize) -> Flow {
        let size = [width, height];
        let mut flow = Flow { motion: Vec::new(), visible: Vec::new() };
        for row in 0..height {
            for column in 0..width {
                let ray = from.ray([column, row], size);
                let place = from.position + ray.times(self.first(from.position, ray).hit.distance);
                let Some(([x, y], depth)) = to.project(place, size) else {
                    flow.motion.push([0.0; 2]);
                    flow.visible.push(false);
                    continue;
                };
                flow.motion.push([(x - column as f64 - 0.5) as f32, (y - row as f64 - 0.5) as f32]);
                let inside = x >= 0.0 && y >= 0.0 && x < width as f64 && y < height as f64;
                let back = (place - to.position).times(1.0 / depth);
                let nearest = self.first(to.position, back).hit.distance;
                flow.visible.push(inside && nearest > depth * 0.999);
            }
        }
        flow
    }

    /// What a ray from inside meets first. A room is closed, so there is always something.
    fn first(&self, from: Vec3, ray: Vec3) -> Seen {
        let mut seen = self.shell(from, ray);
        for solid in &self.solids {
            if let Some(hit) = solid.hit(from, ray)
                && hit.distance < seen.hit.distance
            {
                seen = Seen { hit, label: solid.label, paint: solid.paint };
            }
        }
        seen
    }

    /// Floor, ceiling and walls from inside.
    fn shell(&self, from: Vec3, ray: Vec3) -> Seen {
        let sides = [
            (from.z, ray.z, self.size.z, [0, 1]),
            (from.x, ray.x, self.size.x, [2, 3]),
            (from.y, ray.y, self.size.y, [4, 5]),
        ];
        let (mut distance, mut which, mut ahead) = (f64::INFINITY, 0, true);
        for (from, ray, length, [low, high]) in sides {
            if ray.abs() < 1e-12 {
                continue;
            }
            let up = ray > 0.0;
            let at = if up { (length - from) / ray } else { -from / ray };
            if at < distance {
                (distance, which, ahead) = (at, if up { high } else { low }, up);
            }
        }
        let at = from + ray.times(distance);
        let sign = if ahead { -1.0 } else { 1.0 };
        let (normal, surface, label) = match which {
            0 => (Vec3::new(0.0, 0.0, sign), [at.x, at.y], Label::Floor),
            1 => (Vec3::new(0.0, 0.0, sign), [at.x, at.y], Label::Ceiling),
            2 | 3 => (Vec3::new(sign, 0.0, 0.0), [at.y, at.z], Label::Wall),
            _ => (Vec3::new(0.0, sign, 0.0), [at.x, at.z], Label::Wall),
        };
        Seen { hit: Hit { distance, normal, surface }, label, paint: self.surfaces[which] }
    }

    /// Paint under the light that is everywhere and that of the lamp, which falls off with distance and throws shadows.
    fn colour(&self, seen: &Seen, place: Vec3) -> [u8; 3] {
        let way = self.lamp - place;
        let distance = way.length();
        let slant = seen.hit.normal.dot(way.unit()).max(0.0);
        let start = place + seen.hit.normal.times(1e-4);
        let blocked = slant > 0.0
            && self.solids.iter().any(|solid| {
                // A lamp's shade lets its light through.
                solid.label != Label::Lamp
                    && solid.hit(start, self.lamp - start).is_some_and(|hit| hit.distance < 1.0)
            });
        let direct = if blocked { 0.0 } else { slant * 3.0 / (1.0 + 0.35 * distance * distance) };
        let light = (self.ambient + direct * 0.7).min(1.15);
        let [u, v] = seen.hit.surface;
        seen.paint.at(u, v).map(|part| (part * light).clamp(0.0, 255.0) as u8)
    }
}
