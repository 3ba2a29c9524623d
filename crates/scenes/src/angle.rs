//! Headings in whole degrees, with sines from a table.
//!
//! The platform's `sin` and `cos` differ in the last bit from one C library to the next, and one bit is enough to walk
//! past a door. The table here is a Taylor polynomial evaluated by the compiler in IEEE additions and products, so it
//! is the same everywhere.

use std::f64::consts::PI;

/// `sin(k°)` for k from 0 to 90.
const SINE: [f64; 91] = sine_table();

const fn sine_table() -> [f64; 91] {
    let mut table = [0.0; 91];
    let mut k = 0;
    while k <= 45 {
        let x = k as f64 * (PI / 180.0);
        table[k] = series(x, x, 1);
        table[90 - k] = series(x, 1.0, 0);
        k += 1;
    }
    table
}

/// The Taylor series that begins with `first` of power `power`: the sine for 1, the cosine for 0.
const fn series(x: f64, first: f64, power: u32) -> f64 {
    let mut term = first;
    let mut sum = first;
    let mut n = power;
    while n < 20 {
        term = -term * x * x / ((n + 1) as f64 * (n + 2) as f64);
        sum += term;
        n += 2;
    }
    sum
}

/// A direction on the map in whole degrees: 0 looks along +x, 90 along +y. The map's y runs down, so that a growing
/// angle turns right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Angle(u16);

impl Angle {
    /// The angle of any number of degrees.
    pub fn new(degrees: i32) -> Self {
        Self(degrees.rem_euclid(360) as u16)
    }

    /// Degrees, 0 to 359.
    pub fn degrees(self) -> i32 {
        i32::from(self.0)
    }

    /// This angle turned right by some degrees (left if negative).
    #[must_use]
    pub fn turned(self, degrees: i32) -> Self {
        Self::new(self.degrees() + degrees)
    }

    /// The sine.
    pub fn sin(self) -> f64 {
        let k = usize::from(self.0);
        match k {
            0..=90 => SINE[k],
            91..=180 => SINE[180 - k],
            181..=270 => -SINE[k - 180],
            _ => -SINE[360 - k],
        }
    }

    /// The cosine.
    pub fn cos(self) -> f64 {
        self.turned(90).sin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_library_and_with_itself() {
        for k in -400..800 {
            let angle = Angle::new(k);
            let (sin, cos) = f64::from(k).to_radians().sin_cos();
            assert!((angle.sin() - sin).abs() < 1e-14, "sin {k}");
            assert!((angle.cos() - cos).abs() < 1e-14, "cos {k}");
        }
        assert_eq!([Angle::new(0).sin(), Angle::new(90).sin(), Angle::new(180).sin()], [0.0, 1.0, 0.0]);
        assert_eq!([Angle::new(270).sin(), Angle::new(180).cos(), Angle::new(90).cos()], [-1.0, -1.0, 0.0]);
    }

    #[test]
    fn no_bit_of_the_table_changes() {
        let hash = SINE
            .iter()
            .flat_map(|s| s.to_bits().to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(hash, 0xc8da_4096_da85_29ac, "{hash:#x}");
    }
}
