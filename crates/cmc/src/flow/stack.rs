//! Fields around a moment of a clip.

use contrastive_core::data::Array;
use contrastive_core::{Error, Result};

use super::plane::Plane;
use super::tvl1::TvL1;

/// Fields in a stack: ten, so 20 channels.
pub const FIELDS: usize = 10;

/// The flow from each frame to the next over ten steps centred at frame `at`: from frame `at - 5` on, `[20, H, W]`, right
/// and down of each field in turn, in pixels over `scale`. At a clip's ends the first or last field is repeated.
///
/// # Errors
/// A clip of fewer than two frames, a moment beyond it, frames of different sides.
pub fn stack(frames: &[Plane], at: usize, flow: &TvL1, scale: f32) -> Result<Array> {
    if frames.len() < 2 || at >= frames.len() {
        let reason = format!("moment {at} of a clip of {} frames; a stack needs two and more", frames.len());
        return Err(Error::data("clip", reason));
    }
    let (width, height) = (frames[0].width, frames[0].height);
    let mut data = Vec::with_capacity(2 * FIELDS * width * height);
    let mut last: Option<(usize, Vec<f32>)> = None;
    for step in 0..FIELDS {
        let from = (at + step).saturating_sub(FIELDS / 2).min(frames.len() - 2);
        let field = match last.take().filter(|(known, _)| *known == from) {
            Some((_, field)) => field,
            None => {
                let field = flow.flow(&frames[from], &frames[from + 1])?;
                field.x.data.iter().chain(&field.y.data).map(|v| v / scale).collect()
            }
        };
        data.extend_from_slice(&field);
        last = Some((from, field));
    }
    Ok(Array { shape: vec![2 * FIELDS, height, width], data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_centred_and_repeat_at_the_ends() -> Result<()> {
        // Frame t is moved by t²/8 pixels: the step from t to t + 1 is (2t + 1)/8.
        let frame = |t: usize| {
            let moved = (t * t) as f32 / 8.0;
            let value = |i: usize| {
                let (x, y) = ((i % 32) as f32 - moved, (i / 32) as f32);
                127.0 + 50.0 * ((0.5 * x).sin() + (0.4 * y + 0.2 * x).cos())
            };
            Plane::new(32, 24, (0..32 * 24).map(value).collect())
        };
        let frames: Vec<Plane> = (0..6).map(frame).collect::<Result<_>>()?;
        let stack = stack(&frames, 3, &TvL1::default(), 1.0)?;
        assert_eq!(stack.shape, [20, 24, 32]);
        let middle = |field: usize| stack.data[(2 * field * 24 + 12) * 32 + 16];
        // Fields begin at frame -2 (so 0) and end at 7 (so 4).
        for (field, from) in [(0, 0), (2, 0), (3, 1), (5, 3), (6, 4), (9, 4)] {
            let expected = (2 * from + 1) as f32 / 8.0;
            assert!((middle(field) - expected).abs() < 0.2, "field {field}: {}, {expected}", middle(field));
        }
        assert!(super::stack(&frames[..1], 0, &TvL1::default(), 1.0).is_err());
        assert!(super::stack(&frames, 6, &TvL1::default(), 1.0).is_err());
        Ok(())
    }
}
