//! Pillow's 8-bit RGB and HSV conversions, with its mixture of single and double precision.

/// One pixel from RGB to HSV; all three in 0..=255.
#[inline]
pub(super) fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    if high == low {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let saturation = range / f32::from(high);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(high - v) / range);
    let hue = if r == high {
        bc - gc
    } else if g == high {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    // In [5/6, 11/6]: the remainder of the division by one is one subtraction.
    let turn = f64::from(hue) / 6.0 + 1.0;
    let turn = if turn >= 1.0 { turn - 1.0 } else { turn } as f32;
    [(f64::from(turn) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, high]
}

/// The sextant of each 8-bit hue and the position in it, in [0, 1).
pub(super) fn sextant(hue: u8) -> (u8, f32) {
    let scaled = f64::from(hue) * 6.0 / 255.0;
    let sextant = scaled.floor();
    (sextant as u8 % 6, (scaled - f64::from(sextant as f32)) as f32)
}

/// One pixel from HSV to RGB, the hue given by its [`sextant`].
#[inline]
pub(super) fn hsv_to_rgb((sextant, f): (u8, f32), s: u8, v: u8) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let fs = f32::from(s) / 255.0;
    let value = f64::from(v);
    // Rounds half up; nothing here is negative.
    let round = |x: f64| (x + 0.5) as u8;
    let p = round(value * (1.0 - f64::from(fs)));
    let q = round(value * (1.0 - f64::from(fs * f)));
    let t = round(value * (1.0 - f64::from(fs) * (1.0 - f64::from(f))));
    match sextant {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
