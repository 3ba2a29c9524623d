//! How things look: colours, wall patterns and the shapes of objects. No pixel is drawn here.

use crate::map::{Axis, Cell, Map};
use crate::rng::Stream;

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// A pattern in two colours on a wall, a floor or a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pattern {
    /// Bricks with mortar.
    Brick,
    /// Smooth random blotches.
    Stone,
    /// Upright boards.
    Planks,
    /// Two squares by two.
    Checker,
    /// Upright stripes.
    Stripes,
    /// Slanted stripes.
    Slant,
    /// A framed panel.
    Panel,
    /// Tiles with dark joints.
    Tiles,
    /// Rows of dots.
    Dots,
    /// A picture: a disc.
    Disc,
    /// A picture: rings.
    Rings,
    /// A picture: an upright cross.
    Cross,
    /// A picture: a diamond.
    Diamond,
    /// A picture: a triangle.
    Triangle,
    /// A picture: a slanted cross.
    Saltire,
    /// A picture: three bars.
    Bars,
    /// The leaf of a door.
    Door,
}

impl Pattern {
    /// All patterns; a pattern's number is its place here.
    pub const ALL: [Pattern; 17] = [
        Pattern::Brick,
        Pattern::Stone,
        Pattern::Planks,
        Pattern::Checker,
        Pattern::Stripes,
        Pattern::Slant,
        Pattern::Panel,
        Pattern::Tiles,
        Pattern::Dots,
        Pattern::Disc,
        Pattern::Rings,
        Pattern::Cross,
        Pattern::Diamond,
        Pattern::Triangle,
        Pattern::Saltire,
        Pattern::Bars,
        Pattern::Door,
    ];
    /// Those that tile a wall.
    pub const WALLS: [Pattern; 7] = [
        Pattern::Brick,
        Pattern::Stone,
        Pattern::Planks,
        Pattern::Stripes,
        Pattern::Slant,
        Pattern::Panel,
        Pattern::Dots,
    ];
    /// Those that are pictures on a wall.
    pub const PICTURES: [Pattern; 7] = [
        Pattern::Disc,
        Pattern::Rings,
        Pattern::Cross,
        Pattern::Diamond,
        Pattern::Triangle,
        Pattern::Saltire,
        Pattern::Bars,
    ];
}

/// A pattern and its two colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The pattern.
    pub pattern: Pattern,
    /// The ground's colour.
    pub base: Rgb,
    /// The drawing's colour.
    pub accent: Rgb,
}

impl Style {
    /// A style of a pattern and two colours.
    pub fn new(pattern: Pattern, base: Rgb, accent: Rgb) -> Self {
        Self { pattern, base, accent }
    }
}

/// What is overhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// Open sky, from the colour above to that at the horizon.
    Sky(Rgb, Rgb),
    /// A ceiling at the walls' height.
    Roof(Style),
}

/// The shape of an object; objects always face the viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shape {
    /// A ball.
    Ball,
    /// A ball with a stalk and a leaf.
    Apple,
    /// A long fruit with two tips.
    Lemon,
    /// An upright diamond with facets.
    Gem,
    /// A key.
    Key,
    /// An ice lolly: the goal of DeepMind Lab's puzzles.
    Lolly,
    /// A figure with a head, a body and an eye slit.
    Robot,
}

impl Shape {
    /// All shapes; a shape's number is its place here.
    pub const ALL: [Shape; 7] =
        [Shape::Ball, Shape::Apple, Shape::Lemon, Shape::Gem, Shape::Key, Shape::Lolly, Shape::Robot];
}

/// Colours of walls that can be told apart at a glance.
pub const WALL_COLOURS: [(Rgb, Rgb); 10] = [
    ([178, 74, 58], [214, 196, 176]),
    ([74, 110, 168], [176, 200, 228]),
    ([86, 140, 82], [196, 220, 160]),
    ([196, 156, 76], [110, 78, 42]),
    ([132, 88, 152], [214, 178, 224]),
    ([90, 154, 156], [30, 74, 84]),
    ([150, 150, 154], [84, 86, 96]),
    ([206, 118, 60], [250, 206, 150]),
    ([188, 98, 134], [246, 204, 216]),
    ([104, 92, 82], [186, 172, 152]),
];

/// Strong colours for pictures, keys and doors.
pub const BRIGHT: [Rgb; 6] =
    [[226, 40, 36], [44, 190, 62], [48, 84, 232], [244, 216, 40], [238, 240, 244], [220, 60, 210]];

/// Styles for a maze drawn at random: `walls` tilings, then `pictures` pictures.
pub fn random_styles(walls: usize, pictures: usize, rng: &mut Stream) -> Vec<Style> {
    let mut colours = WALL_COLOURS;
    let mut patterns = Pattern::WALLS;
    rng.shuffle(&mut colours);
    rng.shuffle(&mut patterns);
    let mut styles: Vec<Style> = (0..walls)
        .map(|i| {
            let (base, accent) = colours[i % colours.len()];
            Style::new(patterns[i % patterns.len()], base, accent)
        })
        .collect();
    let mut emblems = Pattern::PICTURES;
    rng.shuffle(&mut emblems);
    for i in 0..pictures {
        let ground = if rng.chance(0.5) { [36, 38, 46] } else { [232, 226, 212] };
        let mut colour = BRIGHT[rng.below(BRIGHT.len())];
        if ground[0] > 128 && colour == BRIGHT[4] {
            colour = BRIGHT[0];
        }
        styles.push(Style::new(emblems[i % emblems.len()], ground, colour));
    }
    styles
}

/// Gives every wall of a map a style: tilings by blocks of `block` cells, so that a place has a colour of its own, and
/// here and there a picture. The styles are those of [`random_styles`].
pub fn decorate(map: &mut Map, walls: usize, pictures: usize, block: usize, share: f64, rng: &mut Stream) {
    let columns = map.width().div_ceil(block);
    let mut tilings: Vec<u8> =
        (0..columns * map.height().div_ceil(block)).map(|i| (i % walls) as u8).collect();
    rng.shuffle(&mut tilings);
    for spot in map.spots() {
        if let Cell::Wall(_) = map.get(spot) {
            let picture = pictures > 0 && rng.chance(share);
            let style = if picture {
                (walls + rng.below(pictures)) as u8
            } else {
                tilings[spot.y / block * columns + spot.x / block]
            };
            map.set(spot, Cell::Wall(style));
        }
    }
}

/// How bright a face is: those across the y axis lie in the shade, which makes corners visible.
pub(crate) fn face_light(face: Axis) -> f32 {
    match face {
        Axis::X => 1.0,
        Axis::Y => 0.8,
    }
}
