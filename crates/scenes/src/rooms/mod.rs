//! Random furnished rooms, seen by a camera: colour, depth, surface normals, labels and exact motion, pixel by pixel.
//!
//! A room is a box with furniture (beds, tables, chairs, cabinets, sofas, lamps, rugs, pictures, balls) of random size,
//! place, heading, colour and pattern under one lamp. Rays are cast for every pixel; nothing is read from a file and
//! nothing is learned. The views of a frame are aligned, so that a room is a scene of many views in the sense of
//! *Contrastive Multiview Coding*; what a thing is follows from its shape, hardly from its colour.
//!
//! | file | holds |
//! | --- | --- |
//! | [`vector`] | vectors in metres: x right and y ahead on the floor, z up |
//! | [`solid`] | boxes, cylinders and spheres, and where a ray meets them |
//! | [`furnish`] | what stands in a room, and where |
//! | [`camera`] | where it is seen from, and ways through it |
//! | [`frame`] | from a room and a camera to pixels, and from two cameras to motion |
//!
//! Reproducible as the mazes are: additions, products, divisions and roots only, and streams keyed by seed and number.
//!
//! ```
//! use contrastive_scenes::rooms::{Camera, Label, Room};
//!
//! let room = Room::new(7, 0);
//! let camera = Camera::random(&room, 7, 0);
//! let frame = room.render(&camera, 32, 24);
//! assert_eq!(frame.colour.len(), 24 * 32 * 3);
//! assert!(frame.label.iter().all(|&label| usize::from(label) < Label::COUNT));
//! ```

pub mod camera;
pub mod frame;
pub mod furnish;
pub mod solid;
pub mod vector;

pub use camera::Camera;
pub use frame::{Flow, Frame};
pub use furnish::Room;
pub use vector::Vec3;

/// What a pixel shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Label {
    /// One of four.
    Wall,
    /// The floor.
    Floor,
    /// The ceiling.
    Ceiling,
    /// A bed with a head board and a pillow.
    Bed,
    /// A plate on four legs.
    Table,
    /// A seat with a back.
    Chair,
    /// A tall box.
    Cabinet,
    /// A seat between arms and a back.
    Sofa,
    /// A pole with a shade.
    Lamp,
    /// A flat picture on a wall.
    Picture,
    /// A flat rug on the floor.
    Rug,
    /// A ball.
    Ball,
}

impl Label {
    /// How many there are; labels are numbers below it.
    pub const COUNT: usize = 12;

    /// All labels; a label's number is its place here.
    pub const ALL: [Label; Self::COUNT] = [
        Label::Wall,
        Label::Floor,
        Label::Ceiling,
        Label::Bed,
        Label::Table,
        Label::Chair,
        Label::Cabinet,
        Label::Sofa,
        Label::Lamp,
        Label::Picture,
        Label::Rug,
        Label::Ball,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Floor => "floor",
            Self::Ceiling => "ceiling",
            Self::Bed => "bed",
            Self::Table => "table",
            Self::Chair => "chair",
            Self::Cabinet => "cabinet",
            Self::Sofa => "sofa",
            Self::Lamp => "lamp",
            Self::Picture => "picture",
            Self::Rug => "rug",
            Self::Ball => "ball",
        }
    }
}
