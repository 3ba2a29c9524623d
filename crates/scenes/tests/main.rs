//! What every task is held to, and oracles that show each can be solved.

mod golden;
mod oracle;
mod rooms;

use anyhow::Result;
use contrastive_scenes::rng::{Purpose, Stream};
use contrastive_scenes::{Environment, Error, NAMES, SMALL_NAMES, View, by_name, by_name_with_view};

/// Plays random actions for some steps, over episodes' ends, and returns all frames and rewards.
fn play(env: &mut dyn Environment, seed: u64, steps: usize) -> Result<(Vec<u8>, Vec<f32>)> {
    let mut rng = Stream::new(seed, 99, Purpose::Play);
    let mut pixels = vec![0; env.shape().bytes()];
    let (mut frames, mut rewards) = (Vec::new(), Vec::new());
    let mut episode = 0;
    env.reset(seed, episode)?;
    for _ in 0..steps {
        env.observe(&mut pixels)?;
        frames.extend_from_slice(&pixels);
        let step = env.step(rng.below(env.actions()))?;
        rewards.push(step.reward);
        if step.done {
            episode += 1;
            env.reset(seed, episode)?;
        }
    }
    Ok((frames, rewards))
}

#[test]
fn two_runs_are_equal_to_the_byte_and_other_seeds_are_not() {
    for name in NAMES.into_iter().chain(SMALL_NAMES) {
        let view = View { height: 24, width: 32, ..View::default() };
        let mut env = by_name_with_view(name, view).unwrap();
        let first = play(&mut *env, 3, 700).unwrap();
        // The same environment again, in whatever state it was left, and a fresh one.
        assert!(play(&mut *env, 3, 700).unwrap() == first, "{name}");
        assert!(play(&mut *by_name_with_view(name, view).unwrap(), 3, 700).unwrap() == first, "{name}");
        assert!(play(&mut *env, 4, 700).unwrap().0 != first.0, "{name}");
    }
}

#[test]
fn observing_changes_nothing() {
    for name in NAMES {
        let view = View { height: 16, width: 16, ..View::default() };
        let mut env = by_name_with_view(name, view).unwrap();
        let (_, rewards) = play(&mut *env, 8, 400).unwrap();
        let mut blind = by_name(name).unwrap();
        let mut rng = Stream::new(8, 99, Purpose::Play);
        let mut episode = 0;
        blind.reset(8, episode).unwrap();
        for reward in rewards {
            let step = blind.step(rng.below(9)).unwrap();
            assert_eq!(step.reward, reward, "{name}");
            if step.done {
                episode += 1;
                blind.reset(8, episode).unwrap();
            }
        }
    }
}

#[test]
fn an_episode_ends_at_its_horizon_and_must_be_reset() {
    let lengths = [1800, 1350, 300, 900, 900];
    for (name, length) in NAMES.into_iter().zip(lengths) {
        let mut env = by_name(name).unwrap();
        assert_eq!((env.name(), env.actions(), env.frames_per_step()), (name, 9, 4));
        env.reset(0, 0).unwrap();
        for i in 1..=length {
            // Turning on the spot meets no key or goal.
            let step = env.step(4).unwrap();
            assert_eq!((step.done, step.truncated), (i == length, i == length), "{name} step {i}");
        }
        assert!(matches!(env.step(4), Err(Error::NotRunning { .. })));
        // The last sight can still be had.
        env.observe(&mut vec![0; env.shape().bytes()]).unwrap();
        env.reset(0, 1).unwrap();
        env.step(4).unwrap();
    }
}

#[test]
fn misuse_gets_an_error_that_names_it() {
    let mut env = by_name("seek_avoid").unwrap();
    let mut pixels = vec![0; env.shape().bytes()];
    assert_eq!(env.shape().bytes(), 84 * 84 * 3);
    assert!(matches!(env.step(0), Err(Error::NotRunning { .. })));
    assert!(matches!(env.observe(&mut pixels), Err(Error::NotRunning { .. })));
    env.reset(0, 0).unwrap();
    let error = env.step(9).unwrap_err();
    assert_eq!(error.to_string(), "seek_avoid: action 9, expected 0 to 8");
    let error = env.observe(&mut pixels[1..]).unwrap_err();
    assert_eq!(error.to_string(), "seek_avoid: the observation has 21168 bytes, the buffer 21167");
    let error = by_name("doom").err().unwrap();
    assert!(error.to_string().contains("`doom`") && error.to_string().contains("keys_doors"), "{error}");
}

#[test]
fn bad_settings_are_refused_by_key() {
    use contrastive_scenes::Controls;
    use contrastive_scenes::tasks::{explore_goals, keys_doors, seek_avoid, targets, watermaze};
    let controls = Controls { repeat: 0, ..Controls::default() };
    let error = |result: Option<Error>| result.map(|e| e.to_string()).unwrap_or_default();
    let cases = [
        (
            error(
                watermaze::Watermaze::with(watermaze::WatermazeConfig { controls, ..Default::default() })
                    .err(),
            ),
            "controls.repeat",
        ),
        (
            error(
                watermaze::Watermaze::with(watermaze::WatermazeConfig {
                    platform: f64::NAN,
                    ..Default::default()
                })
                .err(),
            ),
            "platform",
        ),
        (
            error(
                explore_goals::ExploreGoals::with(explore_goals::ExploreGoalsConfig {
                    goals: 99,
                    ..Default::default()
                })
                .err(),
            ),
            "goals",
        ),
        (
            error(
                seek_avoid::SeekAvoid::with(seek_avoid::SeekAvoidConfig {
                    good: usize::MAX,
                    ..Default::default()
                })
                .err(),
            ),
            "good",
        ),
        (
            error(targets::Targets::with(targets::TargetsConfig { radius: 0.5, ..Default::default() }).err()),
            "radius",
        ),
        (
            error(
                keys_doors::KeysDoors::with(keys_doors::KeysDoorsConfig { horizon: 0, ..Default::default() })
                    .err(),
            ),
            "horizon",
        ),
    ];
    for (error, key) in cases {
        assert!(error.contains(&format!("`{key}`")), "{error:?} names no `{key}`");
    }
}

#[test]
fn the_trait_is_made_for_boxes_and_threads() {
    fn takes(env: impl Environment + 'static) -> String {
        std::thread::spawn(move || env.name().to_owned()).join().unwrap()
    }
    assert_eq!(takes(by_name("targets").unwrap()), "targets");
}
