//! A hash of the pixels of each task along a fixed walk. It changes with any change of what is seen, which is then
//! deliberate or a fault; runs made before it cannot be repeated.

use contrastive_scenes::{NAMES, View, by_name, by_name_with_view};

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn no_pixel_changes_unnoticed() {
    let golden: [u64; 5] = [
        0x0fbe_e442_f4ad_5c80,
        0x5604_258a_8359_252f,
        0x776f_88d6_26ea_8c37,
        0x347a_d81f_486c_5b7a,
        0x8296_f75f_feaa_0308,
    ];
    let hashes = NAMES.map(|name| {
        let mut env = by_name(name).unwrap();
        let mut pixels = vec![0; env.shape().bytes()];
        let mut all = Vec::new();
        for seed in 0..6 {
            env.reset(seed, 2).unwrap();
            for i in 0..40 {
                if i % 5 == 0 {
                    env.observe(&mut pixels).unwrap();
                    all.extend_from_slice(&pixels);
                }
                env.step([0, 7, 4, 2, 6, 4, 1, 3, 8][i % 9]).unwrap();
            }
        }
        fnv(&all)
    });
    assert!(hashes == golden, "{NAMES:?} are {hashes:#x?}");
}

#[test]
fn a_wide_view_is_golden_too() {
    let view = View { height: 72, width: 96, ..View::default() };
    let mut env = by_name_with_view("explore_goals", view).unwrap();
    let mut pixels = vec![0; env.shape().bytes()];
    env.reset(5, 0).unwrap();
    env.observe(&mut pixels).unwrap();
    assert!(fnv(&pixels) == 0x01ad_acfb_8aeb_c968, "{:#x}", fnv(&pixels));
}
