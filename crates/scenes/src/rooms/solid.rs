//! Boxes, cylinders and spheres, and where a ray meets them.

use super::Label;
use super::vector::Vec3;
use crate::look::Rgb;

/// The form of a solid, about its own middle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// A box of these half sides, turned about the upright axis by the solid's heading.
    Box(Vec3),
    /// An upright cylinder.
    Cylinder {
        /// Radius in metres.
        radius: f64,
        /// Half its height.
        half: f64,
    },
    /// A sphere of this radius.
    Sphere(f64),
}

/// How a surface is painted, in metres on the surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paint {
    /// The ground's colour.
    pub base: Rgb,
    /// The drawing's colour.
    pub accent: Rgb,
    /// What is drawn.
    pub pattern: Drawing,
    /// Size of the drawing in metres.
    pub size: f64,
}

/// What is drawn on a surface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawing {
    /// Nothing.
    Plain,
    /// Squares in two colours.
    Checker,
    /// Stripes along the second axis.
    Stripes,
    /// Dots.
    Dots,
}

impl Drawing {
    /// All of them.
    pub const ALL: [Drawing; 4] = [Drawing::Plain, Drawing::Checker, Drawing::Stripes, Drawing::Dots];
}

impl Paint {
    /// The colour at a place on the surface, parts of 255.
    pub(super) fn at(&self, u: f64, v: f64) -> [f64; 3] {
        let (u, v) = (u / self.size, v / self.size);
        let (fu, fv) = (u - u.floor(), v - v.floor());
        let drawn = match self.pattern {
            Drawing::Plain => false,
            Drawing::Checker => (fu < 0.5) != (fv < 0.5),
            Drawing::Stripes => fu < 0.4,
            Drawing::Dots => (fu - 0.5) * (fu - 0.5) + (fv - 0.5) * (fv - 0.5) < 0.08,
        };
        (if drawn { self.accent } else { self.base }).map(f64::from)
    }
}

/// A part of a piece of furniture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solid {
    /// Its middle.
    pub middle: Vec3,
    /// Cosine and sine of its heading.
    pub heading: [f64; 2],
    /// Its form.
    pub form: Form,
    /// What it belongs to.
    pub label: Label,
    /// How it is painted.
    pub paint: Paint,
}

/// Where a ray meets a surface.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Distance in lengths of the ray's direction.
    pub distance: f64,
    /// The unit normal, against the ray.
    pub normal: Vec3,
    /// The place on the surface in metres, for paint.
    pub surface: [f64; 2],
}

/// Nearer than this is the surface that a ray starts from.
const NEAR: f64 = 1e-6;

impl Solid {
    /// The first place where a ray from outside meets it.
    pub fn hit(&self, from: Vec3, ray: Vec3) -> Option<Hit> {
        let [cos, sin] = self.heading;
        let (from, ray) = ((from - self.middle).turned([cos, -sin]), ray.turned([cos, -sin]));
        let hit = match self.form {
            Form::Box(half) => box_hit(half, from, ray),
            Form::Cylinder { radius, half } => cylinder_hit(radius, half, from, ray),
            Form::Sphere(radius) => sphere_hit(radius, from, ray),
        }?;
        Some(Hit { normal: hit.normal.turned(self.heading), ..hit })
    }
}

/// Between three pairs of planes (Kay, Kajiya 1986).
fn box_hit(half: Vec3, from: Vec3, ray: Vec3) -> Option<Hit> {
    let parts = [(half.x, from.x, ray.x), (half.y, from.y, ray.y), (half.z, from.z, ray.z)];
    let (mut enter, mut leave, mut axis) = (f64::NEG_INFINITY, f64::INFINITY, 0);
    for (i, (half, from, ray)) in parts.into_iter().enumerate() {
        if ray.abs() < 1e-12 {
            if from.abs() > half {
                return None;
            }
            continue;
        }
        let (a, b) = ((-half - from) / ray, (half - from) / ray);
        let (first, last) = if a < b { (a, b) } else { (b, a) };
        if first > enter {
            (enter, axis) = (first, i);
        }
        if last < leave {
            leave = last;
        }
    }
    if enter > leave || enter < NEAR {
        return None;
    }
    let sign = if parts[axis].2 > 0.0 { -1.0 } else { 1.0 };
    let at = from + ray.times(enter);
    let (normal, surface) = match axis {
        0 => (Vec3::new(sign, 0.0, 0.0), [at.y, at.z]),
        1 => (Vec3::new(0.0, sign, 0.0), [at.x, at.z]),
        _ => (Vec3::new(0.0, 0.0, sign), [at.x, at.y]),
    };
    Some(Hit { distance: enter, normal, surface })
}

fn cylinder_hit(radius: f64, half: f64, from: Vec3, ray: Vec3) -> Option<Hit> {
    let mut best: Option<Hit> = None;
    let mut offer = |distance: f64, normal: Vec3, surface: [f64; 2]| {
        if distance > NEAR && best.is_none_or(|hit| distance < hit.distance) {
            best = Some(Hit { distance, normal, surface });
        }
    };
    // The mantle.
    let a = ray.x * ray.x + ray.y * ray.y;
    if a > 1e-18 {
        let b = from.x * ray.x + from.y * ray.y;
        let c = from.x * from.x + from.y * from.y - radius * radius;
        let root = b * b - a * c;
        if root > 0.0 {
            let distance = (-b - root.sqrt()) / a;
            let at = from + ray.times(distance);
            if at.z.abs() <= half {
                offer(distance, Vec3::new(at.x / radius, at.y / radius, 0.0), [at.x + at.y, at.z]);
            }
        }
    }
    // The lids.
    if ray.z.abs() > 1e-12 {
        let sign = if ray.z > 0.0 { -1.0 } else { 1.0 };
        let distance = (sign * half - from.z) / ray.z;
        let at = from + ray.times(distance);
        if at.x * at.x + at.y * at.y <= radius * radius {
            offer(distance, Vec3::new(0.0, 0.0, sign), [at.x, at.y]);
        }
    }
    best
}

fn sphere_hit(radius: f64, from: Vec3, ray: Vec3) -> Option<Hit> {
    let (a, b, c) = (ray.dot(ray), from.dot(ray), from.dot(from) - radius * radius);
    let root = b * b - a * c;
    if root <= 0.0 {
        return None;
    }
    let distance = (-b - root.sqrt()) / a;
    if distance < NEAR {
        return None;
    }
    let at = from + ray.times(distance);
    Some(Hit { distance, normal: at.times(1.0 / radius), surface: [at.x + at.y, at.z] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solid(form: Form, heading: [f64; 2]) -> Solid {
        let paint = Paint { base: [0; 3], accent: [0; 3], pattern: Drawing::Plain, size: 1.0 };
        Solid { middle: Vec3::new(0.0, 4.0, 1.0), heading, form, label: Label::Ball, paint }
    }

    #[test]
    fn rays_meet_solids_where_geometry_says() {
        let (from, ahead) = (Vec3::new(0.0, 0.0, 1.0), Vec3::new(0.0, 1.0, 0.0));
        let at = |form, heading| solid(form, heading).hit(from, ahead);
        let straight = [1.0, 0.0];
        let hit = at(Form::Box(Vec3::new(1.0, 0.5, 1.0)), straight);
        assert!(hit.is_some_and(|h| h.distance == 3.5 && h.normal == Vec3::new(0.0, -1.0, 0.0)));
        // Turned by a right angle its other side is in front.
        let hit = at(Form::Box(Vec3::new(1.0, 0.5, 1.0)), [0.0, 1.0]);
        assert!(hit.is_some_and(|h| h.distance == 3.0 && h.normal == Vec3::new(0.0, -1.0, 0.0)));
        let hit = at(Form::Cylinder { radius: 0.5, half: 0.2 }, straight);
        assert!(hit.is_some_and(|h| h.distance == 3.5 && h.normal == Vec3::new(0.0, -1.0, 0.0)));
        let hit = at(Form::Sphere(1.0), straight);
        assert!(hit.is_some_and(|h| h.distance == 3.0 && h.normal == Vec3::new(0.0, -1.0, 0.0)));
        let down = Vec3::new(0.0, 0.0, -1.0);
        let lid =
            solid(Form::Cylinder { radius: 0.5, half: 0.2 }, straight).hit(Vec3::new(0.0, 4.0, 3.0), down);
        assert!(lid.is_some_and(|h| (h.distance - 1.8).abs() < 1e-12 && h.normal.z == 1.0));
        assert!(at(Form::Sphere(1.0), straight).is_some());
        for form in [Form::Sphere(0.5), Form::Box(Vec3::new(0.5, 0.5, 0.5))] {
            assert!(solid(form, straight).hit(from, Vec3::new(1.0, 1.0, 0.0)).is_none());
            assert!(solid(form, straight).hit(from, Vec3::new(0.0, -1.0, 0.0)).is_none());
        }
    }

    #[test]
    fn paint_repeats() {
        let paint = Paint { base: [10; 3], accent: [200; 3], pattern: Drawing::Checker, size: 2.0 };
        assert_eq!(paint.at(0.5, 0.5), paint.at(2.5, -1.5));
        assert_ne!(paint.at(0.5, 0.5), paint.at(1.5, 0.5));
    }
}
