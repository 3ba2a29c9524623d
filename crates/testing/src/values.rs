//! Numbers that fixtures' scripts and tests both make from a name, so that no weights are stored.

/// `n` numbers in [-1, 1): element `i` is the formula of `core/tests/fixtures/nn/values.py` for the tensor `name`.
pub fn formula(name: &str, n: usize) -> Vec<f64> {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let value = |i: u64| {
        let mut z = hash.wrapping_add(i).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..n as u64).map(value).collect()
}
