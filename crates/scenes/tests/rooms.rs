//! The views of a room agree with each other.

use contrastive_scenes::rooms::{Camera, Frame, Label, Room, Vec3};

const SIZE: [usize; 2] = [48, 36];

fn frame(seed: u64, number: u64) -> (Room, Camera, Frame) {
    let room = Room::new(seed, number);
    let camera = Camera::random(&room, seed, number);
    let frame = room.render(&camera, SIZE[0], SIZE[1]);
    (room, camera, frame)
}

/// The place that a pixel shows, in the camera's axes.
fn place(camera: &Camera, frame: &Frame, [column, row]: [usize; 2]) -> Vec3 {
    let depth = f64::from(frame.depth[row * SIZE[0] + column]);
    camera.own(camera.ray([column, row], SIZE)).times(depth)
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    assert!(frame(5, 3).2 == frame(5, 3).2);
    assert!(frame(5, 3).2 != frame(5, 4).2 && frame(5, 3).2 != frame(6, 3).2);
}

/// Hashed over colours, labels and the bits of depth and normals: the same on every machine.
#[test]
fn no_bit_of_a_room_changes() {
    let (room, camera, frame) = frame(1, 0);
    let path = Camera::path(&room, 1, 0, 3, 0.1);
    let flow = room.flow(&camera, &path[2], SIZE[0], SIZE[1]);
    let floats = frame.depth.iter().chain(frame.normal.iter().flatten()).chain(flow.motion.iter().flatten());
    let bytes = frame.colour.iter().chain(&frame.label).copied();
    let hash = bytes
        .chain(floats.flat_map(|v| v.to_bits().to_le_bytes()))
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(hash, GOLDEN, "{hash:#x}");
}

const GOLDEN: u64 = 0xd111_af86_e196_e1df;

#[test]
fn normals_are_unit_vectors_towards_the_camera() {
    for number in 0..10 {
        let (_, camera, frame) = frame(2, number);
        for (i, normal) in frame.normal.iter().enumerate() {
            let length: f32 = normal.iter().map(|v| v * v).sum();
            assert!((length - 1.0).abs() < 1e-5, "{normal:?}");
            let ray = camera.own(camera.ray([i % SIZE[0], i / SIZE[0]], SIZE));
            let towards =
                f64::from(normal[0]) * ray.x + f64::from(normal[1]) * ray.y + f64::from(normal[2]) * ray.z;
            assert!(towards < 1e-6, "{normal:?}");
        }
    }
}

/// Where neighbours lie on one plane, the normal is at right angles to the way between them.
#[test]
fn normals_are_those_of_the_depth() {
    let (mut checked, mut bent) = (0, 0);
    for number in 0..10 {
        let (_, camera, frame) = frame(2, number);
        for row in 1..SIZE[1] {
            for column in 1..SIZE[0] {
                let at = |c: usize, r: usize| r * SIZE[0] + c;
                let here = at(column, row);
                let neighbours = [at(column - 1, row), at(column, row - 1)];
                let alike =
                    |&i: &usize| frame.label[i] == frame.label[here] && frame.normal[i] == frame.normal[here];
                if !neighbours.iter().all(alike) {
                    continue;
                }
                let across =
                    place(&camera, &frame, [column, row]) - place(&camera, &frame, [column - 1, row]);
                let down = place(&camera, &frame, [column, row]) - place(&camera, &frame, [column, row - 1]);
                let [x, y, z] = frame.normal[here].map(f64::from);
                let from_depth = across.cross(down).unit();
                checked += 1;
                // The same plane but for steps between parallel faces.
                bent += usize::from(from_depth.dot(Vec3::new(x, y, z)).abs() < 0.999);
            }
        }
    }
    assert!(checked > 5000 && bent * 20 < checked, "{bent} of {checked}");
}

/// A pixel's motion leads to a pixel of the other frame with the same label, depth and, nearly, colour.
#[test]
fn flow_is_the_reprojection_of_depth() {
    let (mut seen, mut same) = (0, 0);
    for number in 0..6 {
        let (room, _, _) = frame(2, number);
        let path = Camera::path(&room, 2, number, 2, 0.15);
        let frames = [0, 1].map(|i| room.render(&path[i], SIZE[0], SIZE[1]));
        let flow = room.flow(&path[0], &path[1], SIZE[0], SIZE[1]);
        let still = room.flow(&path[0], &path[0], SIZE[0], SIZE[1]);
        assert!(still.visible.iter().all(|&v| v) && still.motion.iter().flatten().all(|v| v.abs() < 1e-4));
        for i in (0..SIZE[0] * SIZE[1]).filter(|&i| flow.visible[i]) {
            let (column, row) = (i % SIZE[0], i / SIZE[0]);
            let [dx, dy] = flow.motion[i].map(f64::from);
            let world =
                path[0].position + path[0].ray([column, row], SIZE).times(f64::from(frames[0].depth[i]));
            let projected = path[1].project(world, SIZE);
            assert!(projected.is_some_and(|([x, y], _)| {
                (x - column as f64 - 0.5 - dx).abs() < 1e-3 && (y - row as f64 - 0.5 - dy).abs() < 1e-3
            }));
            let (x, y) = ((column as f64 + 0.5 + dx) as usize, (row as f64 + 0.5 + dy) as usize);
            seen += 1;
            same += usize::from(frames[1].label[y * SIZE[0] + x] == frames[0].label[i]);
        }
    }
    assert!(seen > 5000 && same * 100 > seen * 93, "{same} of {seen}");
}

#[test]
fn every_label_is_seen_and_none_is_everything() {
    let mut counts = [0usize; Label::COUNT];
    for number in 0..60 {
        let (room, _, frame) = frame(2, number);
        let farthest = room.size.length();
        assert!(frame.depth.iter().all(|&d| d > 0.0 && f64::from(d) < farthest));
        frame.label.iter().for_each(|&label| counts[usize::from(label)] += 1);
    }
    let all = 60 * SIZE[0] * SIZE[1];
    for (label, count) in Label::ALL.iter().zip(counts) {
        assert!(count * 500 > all && count * 2 < all, "{}: {count} of {all}", label.name());
    }
}
