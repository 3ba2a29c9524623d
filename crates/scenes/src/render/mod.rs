//! From a [`World`] to pixels, on the CPU: one ray to a column for walls and doors, floor and ceiling by perspective,
//! objects as pictures that face the viewer, far ones first.
//!
//! Only IEEE additions, products, divisions and roots are used, in a fixed order, so that a world gives the same bytes
//! on any machine.

pub mod sprite;
pub mod texture;

use self::sprite::sprites;
use self::texture::{LEVELS, SIDE, level_for, textures};
use crate::env::{Result, Shape, config};
use crate::look::{Ceiling, Pattern, Rgb, Style, face_light};
use crate::map::Point;
use crate::ray::{Hit, cast};
use crate::world::{Object, World};

/// Height of the eye in cells.
const EYE: f32 = 0.5;
/// Objects nearer than this are behind the eye.
const NEAR: f64 = 0.12;

/// The picture's size and angle.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct View {
    /// Rows, 8 to 4096.
    pub height: usize,
    /// Columns, 8 to 4096.
    pub width: usize,
    /// Tangent of half the horizontal angle of view; 1, the default, sees DeepMind Lab's 90 degrees.
    pub half_angle_tangent: f64,
}

impl Default for View {
    fn default() -> Self {
        Self { height: 84, width: 84, half_angle_tangent: 1.0 }
    }
}

impl View {
    /// Refuses what cannot be drawn.
    pub(crate) fn check(&self) -> Result<()> {
        for (key, side) in [("view.height", self.height), ("view.width", self.width)] {
            if !(8..=4096).contains(&side) {
                return Err(config(key, format!("{side} is not in 8 to 4096")));
            }
        }
        if !(0.1..=4.0).contains(&self.half_angle_tangent) {
            let reason = format!("{} is not in 0.1 to 4", self.half_angle_tangent);
            return Err(config("view.half_angle_tangent", reason));
        }
        Ok(())
    }

    /// Shape of the picture.
    pub fn shape(&self) -> Shape {
        Shape { height: self.height, width: self.width }
    }
}

/// What is the same for all pixels of a row below (or above) the horizon.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Distance along the view at which the row meets the floor or the ceiling.
    distance: f32,
    /// Brightness of 256.
    light: u32,
    /// Texture size.
    level: usize,
}

/// Draws worlds; it owns what drawing needs, so that a frame allocates nothing.
#[derive(Debug)]
pub struct Renderer {
    view: View,
    /// Pixels that a cell is wide at distance 1.
    focal: f32,
    rows: Vec<Row>,
    /// Distance of the wall of each column.
    depth: Vec<f32>,
    /// Objects in view: distance, offset to the right and index.
    order: Vec<(f32, f32, usize)>,
}

impl Renderer {
    /// A renderer for a view.
    ///
    /// # Errors
    /// If the view cannot be drawn.
    pub fn new(view: View) -> Result<Self> {
        view.check()?;
        let focal = (view.width as f64 / 2.0 / view.half_angle_tangent) as f32;
        let horizon = view.height as f32 / 2.0;
        let rows = (0..view.height)
            .map(|y| {
                // The horizon of an odd height runs through a row: half a pixel off it is far enough.
                let below = (y as f32 + 0.5 - horizon).abs().max(0.5);
                let distance = focal * EYE / below;
                // The floor is foreshortened: a size smaller than its width asks for.
                let level = (level_for(focal / distance) + usize::from(distance > 1.5)).min(LEVELS - 1);
                Row { distance, light: light(distance, 1.0), level }
            })
            .collect();
        Ok(Self { view, focal, rows, depth: vec![0.0; view.width], order: Vec::new() })
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Draws into `pixels`, `[height, width, 3]`. Nothing happens if the length is another, or the
    /// world has no styles.
    pub fn draw(&mut self, world: &World, pixels: &mut [u8]) {
        if pixels.len() != self.view.shape().bytes() || world.styles.is_empty() {
            return;
        }
        let (sin, cos) = (world.agent.heading.sin(), world.agent.heading.cos());
        for x in 0..self.view.width {
            let side = (2.0 * (x as f64 + 0.5) / self.view.width as f64 - 1.0) * self.view.half_angle_tangent;
            let ray = Point::new(cos - side * sin, sin + side * cos);
            self.column(world, x, ray, pixels);
        }
        self.objects(world, sin, cos, pixels);
        self.overlay(world, pixels);
    }

    fn column(&mut self, world: &World, x: usize, ray: Point, pixels: &mut [u8]) {
        let hit = cast(&world.map, world.agent.position, ray);
        let distance = (hit.distance as f32).max(1e-3);
        self.depth[x] = distance;
        let scale = self.focal / distance;
        let tall = scale * world.wall_height as f32;
        let top = self.view.height as f32 / 2.0 + scale * EYE - tall;
        let first = edge(top, self.view.height);
        let last = edge(top + tall, self.view.height);
        self.overhead(world, x, first, ray, pixels);
        self.wall(world, x, (first, last), (top, tall), &hit, pixels);
        self.ground(world, x, last, ray, pixels);
    }

    fn wall(
        &self,
        world: &World,
        x: usize,
        (first, last): (usize, usize),
        (top, tall): (f32, f32),
        hit: &Hit,
        pixels: &mut [u8],
    ) {
        let style = &world.styles[usize::from(hit.style) % world.styles.len()];
        let level = level_for(self.focal / hit.distance as f32);
        let side = SIDE >> level;
        let table = textures()[style.pattern as usize].level(level);
        let column = ((hit.along * side as f64) as usize).min(side - 1);
        // Bricks repeat on a higher wall, pictures and doors grow with it.
        let repeats = if Pattern::WALLS.contains(&style.pattern) { world.wall_height as f32 } else { 1.0 };
        let light = light(hit.distance as f32, face_light(hit.face));
        let step = side as f32 * repeats / tall;
        let lowest = ((side as f32 * repeats) as usize).saturating_sub(1);
        let mut v = (first as f32 + 0.5 - top) * step;
        for y in first..last {
            let row = (v as usize).min(lowest) & (side - 1);
            self.put(pixels, x, y, blend(style, table[row * side + column], light));
            v += step;
        }
    }

    fn ground(&self, world: &World, x: usize, from: usize, ray: Point, pixels: &mut [u8]) {
        let textures = textures();
        let texture = &textures[world.floor.pattern as usize];
        let eye = (world.agent.position.x as f32, world.agent.position.y as f32);
        let ray = (ray.x as f32, ray.y as f32);
        for y in from..self.view.height {
            let row = self.rows[y];
            let at = (eye.0 + ray.0 * row.distance, eye.1 + ray.1 * row.distance);
            let mut colour = blend(&world.floor, sample(texture.level(row.level), row.level, at), row.light);
            if let Some(patch) = &world.patch {
                let (dx, dy) = (at.0 - patch.centre.x as f32, at.1 - patch.centre.y as f32);
                let r2 = (patch.radius * patch.radius) as f32;
                if dx * dx + dy * dy < r2 {
                    let rim = dx * dx + dy * dy > 0.7 * r2;
                    let light = if rim { row.light * 2 / 3 } else { row.light };
                    colour = patch.colour.map(|c| (u32::from(c) * light / 256) as u8);
                }
            }
            self.put(pixels, x, y, colour);
        }
    }

    fn overhead(&self, world: &World, x: usize, to: usize, ray: Point, pixels: &mut [u8]) {
        match &world.ceiling {
            Ceiling::Sky(zenith, horizon) => {
                let half = self.view.height.div_ceil(2) as u32;
                for y in 0..to {
                    let t = (y as u32).min(half);
                    let mixed = |i: usize| {
                        ((u32::from(zenith[i]) * (half - t) + u32::from(horizon[i]) * t) / half) as u8
                    };
                    self.put(pixels, x, y, [mixed(0), mixed(1), mixed(2)]);
                }
            }
            Ceiling::Roof(style) => {
                let textures = textures();
                let texture = &textures[style.pattern as usize];
                let eye = (world.agent.position.x as f32, world.agent.position.y as f32);
                let ray = (ray.x as f32, ray.y as f32);
                let rise = (world.wall_height as f32 - EYE) / EYE;
                for y in 0..to {
                    let Row { distance, level, .. } = self.rows[y];
                    let distance = distance * rise;
                    let at = (eye.0 + ray.0 * distance, eye.1 + ray.1 * distance);
                    let texel = sample(texture.level(level), level, at);
                    let colour = blend(style, texel, light(distance, 1.0));
                    self.put(pixels, x, y, colour);
                }
            }
        }
    }

    fn objects(&mut self, world: &World, sin: f64, cos: f64, pixels: &mut [u8]) {
        self.order.clear();
        for (i, object) in world.objects.iter().enumerate() {
            let (x, y) =
                (object.position.x - world.agent.position.x, object.position.y - world.agent.position.y);
            let (ahead, aside) = (x * cos + y * sin, y * cos - x * sin);
            if ahead > NEAR {
                self.order.push((ahead as f32, aside as f32, i));
            }
        }
        // The index settles ties, so that the order is one of the world and not of the sort.
        self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
        for &(ahead, aside, i) in &self.order {
            self.object(&world.objects[i], ahead, aside, pixels);
        }
    }

    fn object(&self, object: &Object, ahead: f32, aside: f32, pixels: &mut [u8]) {
        let scale = self.focal / ahead;
        let size = object.size as f32 * scale;
        let left = self.view.width as f32 / 2.0 + aside * scale - size / 2.0;
        let top = self.view.height as f32 / 2.0 - (object.lift as f32 - EYE) * scale - size / 2.0;
        let level = level_for(size);
        let side = SIDE >> level;
        let table = sprites()[object.shape as usize].level(level);
        let step = side as f32 / size;
        // Things lie in half the haze that walls do: they are what is looked for.
        let light = light(ahead / 2.0, 1.0);
        for x in edge(left, self.view.width)..edge(left + size, self.view.width) {
            if self.depth[x] <= ahead {
                continue;
            }
            let column = (((x as f32 + 0.5 - left) * step) as usize).min(side - 1);
            for y in edge(top, self.view.height)..edge(top + size, self.view.height) {
                let row = (((y as f32 + 0.5 - top) * step) as usize).min(side - 1);
                let texel = table[row * side + column];
                if texel.covered {
                    let light = light * u32::from(texel.light) / 255;
                    self.put(pixels, x, y, mixed(object.colour, object.detail, texel.mix, light));
                }
            }
        }
    }

    fn overlay(&self, world: &World, pixels: &mut [u8]) {
        let (height, width) = (self.view.height, self.view.width);
        if let Some(colour) = world.badge {
            let side = (height.min(width) / 8).max(3);
            let corner = side / 4 + 1;
            for y in corner..corner + side {
                for x in corner..corner + side {
                    let rim = y == corner || x == corner || y + 1 == corner + side || x + 1 == corner + side;
                    self.put(pixels, x, y, if rim { [16; 3] } else { colour });
                }
            }
        }
        if world.crosshair {
            let arm = (height.min(width) / 28).max(1);
            let (x, y) = (width / 2, height / 2);
            for i in 0..=2 * arm {
                self.put(pixels, x + i - arm, y, [255, 255, 255]);
                self.put(pixels, x, y + i - arm, [255, 255, 255]);
            }
        }
    }

    #[inline]
    fn put(&self, pixels: &mut [u8], x: usize, y: usize, colour: Rgb) {
        let at = (y * self.view.width + x) * 3;
        pixels[at..at + 3].copy_from_slice(&colour);
    }
}

/// The first pixel whose middle is not before a place, within the picture.
#[inline]
fn edge(at: f32, size: usize) -> usize {
    let first = (at - 0.5).max(0.0);
    let whole = first as usize;
    (whole + usize::from(first > whole as f32)).min(size)
}

/// Brightness of 256 at a distance.
#[inline]
fn light(distance: f32, face: f32) -> u32 {
    let far = 1.0 / (1.0 + 0.05 * distance + 0.008 * distance * distance);
    (256.0 * face * far.max(0.25)) as u32
}

/// A texel of a floor or ceiling, whose pattern repeats from cell to cell.
#[inline]
fn sample(table: &[u8], level: usize, at: (f32, f32)) -> u8 {
    let side = SIDE >> level;
    // Along the far rows a rounding can leave the map; the mask keeps the index inside the table.
    let texel = |a: f32| ((a * side as f32) as i32 as usize) & (side - 1);
    table[texel(at.1) * side + texel(at.0)]
}

#[inline]
fn blend(style: &Style, mix: u8, light: u32) -> Rgb {
    mixed(style.base, style.accent, mix, light)
}

/// `(a + (b − a)·mix/255)·light/256`, each channel.
#[inline]
fn mixed(a: Rgb, b: Rgb, mix: u8, light: u32) -> Rgb {
    let mix = u32::from(mix);
    let channel = |i: usize| {
        let sum = u32::from(a[i]) * (255 - mix) + u32::from(b[i]) * mix;
        // 257/65536 is 1/255 to the last bit that shows.
        ((((sum * 257) >> 16) * light) >> 8) as u8
    };
    [channel(0), channel(1), channel(2)]
}

#[cfg(test)]
mod tests;
