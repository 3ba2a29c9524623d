use super::*;
use crate::angle::Angle;
use crate::look::{Pattern, Shape as Look};
use crate::map::{Axis, Cell, Map, Spot};

fn frame(world: &World, view: View) -> Vec<u8> {
    let mut pixels = vec![0; view.shape().bytes()];
    Renderer::new(view).unwrap().draw(world, &mut pixels);
    pixels
}

fn pixel(pixels: &[u8], view: View, x: usize, y: usize) -> Rgb {
    let at = (y * view.width + x) * 3;
    [pixels[at], pixels[at + 1], pixels[at + 2]]
}

/// A room with plain colours: each thing has one, up to its brightness.
fn plain() -> World {
    let mut world = World::new(Map::room(7, 7));
    world.styles = vec![Style::new(Pattern::Stone, [200, 0, 0], [200, 0, 0])];
    world.floor = Style::new(Pattern::Tiles, [0, 200, 0], [0, 200, 0]);
    world.ceiling = Ceiling::Sky([0, 0, 200], [0, 0, 200]);
    world.agent.position = Point::new(1.5, 4.5);
    world
}

#[test]
fn a_wall_is_as_high_as_perspective_says() {
    let view = View::default();
    let pixels = frame(&plain(), view);
    // 6.5 cells to the wall, focal length 42: 42 / 6.5 = 6.5 pixels about the horizon.
    let column: Vec<Rgb> = (0..84).map(|y| pixel(&pixels, view, 42, y)).collect();
    assert!(column[..38].iter().all(|c| c[2] > 0 && c[0] == 0), "sky");
    assert!(column[39..45].iter().all(|c| c[0] > 0 && c[1] == 0), "wall");
    assert!(column[46..].iter().all(|c| c[1] > 0 && c[0] == 0), "floor");
    // The floor is lighter near by.
    assert!(column[83][1] > column[47][1]);
}

#[test]
fn a_higher_wall_grows_upwards_only() {
    let view = View::default();
    let mut world = plain();
    world.wall_height = 2.0;
    let pixels = frame(&world, view);
    // 42 / 6.5 = 6.5 pixels to a cell: one and a half of them above the horizon, half of one below.
    let column: Vec<Rgb> = (0..84).map(|y| pixel(&pixels, view, 42, y)).collect();
    assert!(column[..32].iter().all(|c| c[2] > 0 && c[0] == 0), "sky");
    assert!(column[33..45].iter().all(|c| c[0] > 0 && c[1] == 0), "wall");
    assert!(column[46..].iter().all(|c| c[1] > 0 && c[0] == 0), "floor");
}

#[test]
fn any_size_and_heading_fills_every_pixel() {
    let mut world = plain();
    world.ceiling = Ceiling::Roof(Style::new(Pattern::Tiles, [0, 0, 200], [0, 0, 200]));
    for (height, width) in [(84, 84), (72, 96), (9, 31), (64, 64)] {
        for heading in (0..360).step_by(15) {
            world.agent.heading = Angle::new(heading);
            let pixels = frame(&world, View { height, width, ..View::default() });
            assert!(pixels.chunks(3).all(|p| p != [0, 0, 0]), "{height}×{width} {heading}°");
        }
    }
}

#[test]
fn objects_hide_behind_walls_doors_and_nearer_objects() {
    let view = View::default();
    let mut world = plain();
    let ball = |x: f64, colour| Object {
        lift: 0.5,
        ..Object::new(Point::new(x, 4.5), Look::Ball, colour, colour, 0)
    };
    world.objects = vec![ball(5.5, [0, 0, 255])];
    let seen = pixel(&frame(&world, view), view, 42, 42);
    assert!(seen[2] > 0 && seen[0] == 0, "{seen:?}");
    // The order in the list does not matter.
    for objects in [
        vec![ball(5.5, [0, 0, 255]), ball(3.5, [0, 255, 0])],
        vec![ball(3.5, [0, 255, 0]), ball(5.5, [0, 0, 255])],
    ] {
        world.objects = objects;
        let seen = pixel(&frame(&world, view), view, 42, 42);
        assert!(seen[1] > 0 && seen[2] == 0, "{seen:?}");
    }
    world.objects = vec![ball(5.5, [0, 0, 255])];
    world.styles.push(Style::new(Pattern::Door, [99, 99, 0], [99, 99, 0]));
    let through = Axis::X;
    for (cell, hidden) in [
        (Cell::Wall(0), true),
        (Cell::Door { style: 1, through, open: false }, true),
        (Cell::Door { style: 1, through, open: true }, false),
    ] {
        world.map.set(Spot::new(4, 4), cell);
        let with = frame(&world, view);
        let mut empty = world.clone();
        empty.objects.clear();
        assert_eq!(with == frame(&empty, view), hidden, "{cell:?}");
    }
}

#[test]
fn turning_right_moves_things_to_the_left() {
    let view = View::default();
    let mut world = plain();
    world.objects =
        vec![Object { lift: 0.5, ..Object::new(Point::new(5.5, 4.5), Look::Ball, [0, 0, 255], [0; 3], 0) }];
    let middle = |world: &World| {
        let pixels = frame(world, view);
        let blue: Vec<usize> =
            (0..84).filter(|&x| pixel(&pixels, view, x, 42)[2] > pixel(&pixels, view, x, 42)[0]).collect();
        blue.iter().sum::<usize>() / blue.len()
    };
    assert_eq!(middle(&world), 41);
    world.agent.heading = Angle::new(20);
    assert!(middle(&world) < 32);
    world.agent.heading = Angle::new(-20);
    assert!(middle(&world) > 52);
}

#[test]
fn patch_badge_and_crosshair_show() {
    let view = View::default();
    let bare = frame(&plain(), view);
    let mut world = plain();
    world.badge = Some([250, 250, 0]);
    assert_eq!(pixel(&frame(&world, view), view, 6, 6), [250, 250, 0]);
    let mut world = plain();
    world.crosshair = true;
    assert_eq!(pixel(&frame(&world, view), view, 42, 42), [255; 3]);
    let mut world = plain();
    world.patch =
        Some(crate::world::Patch { centre: Point::new(3.0, 4.5), radius: 0.6, colour: [250, 0, 250] });
    let patched = frame(&world, view);
    assert!(patched.chunks(3).any(|p| p[0] > 100 && p[2] > 100) && patched != bare);
}

#[test]
fn a_view_that_cannot_be_drawn_is_refused() {
    for view in [
        View { height: 0, ..View::default() },
        View { width: 5000, ..View::default() },
        View { half_angle_tangent: f64::NAN, ..View::default() },
    ] {
        assert!(Renderer::new(view).unwrap_err().to_string().contains("view."));
    }
}
