//! Gymnasium, where there is one: in the interpreter that `PYTHON` names, or in `python3`.

use std::process::{Command, Stdio};

use anyhow::Result;
use contrastive_cpc::rl::{Environment, GymEnvironment, Shape, VecEnvironment};

const SHAPE: Shape = Shape { height: 40, width: 60 };

fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_string())
}

fn can_import(modules: &str) -> bool {
    let import = ["-c".to_string(), format!("import {modules}")];
    let quiet = || Stdio::null();
    Command::new(python()).args(import).stdout(quiet()).stderr(quiet()).status().is_ok_and(|s| s.success())
}

#[test]
fn what_cannot_start_says_why() {
    let refused = |python: &str| {
        GymEnvironment::start(python, "NoSuch-v0", SHAPE).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let text = refused("no-such-interpreter");
    assert!(text.contains("gym:NoSuch-v0") && text.contains("no-such-interpreter"), "{text}");
    if can_import("sys") {
        let text = refused(&python());
        let reason = if can_import("gymnasium") { "NoSuch" } else { "gymnasium" };
        assert!(
            text.contains("gym:NoSuch-v0") && text.matches(reason).count() > 0 && !text.contains('\n'),
            "{text}"
        );
    }
}

#[test]
fn cart_pole_is_played() -> Result<()> {
    if !can_import("gymnasium, pygame") {
        println!("skipped: {} has no gymnasium with pygame", python());
        return Ok(());
    }
    let start = || GymEnvironment::start(&python(), "CartPole-v1", SHAPE);
    let mut env = start()?;
    assert_eq!((env.name(), env.shape(), env.actions()), ("gym:CartPole-v1", SHAPE, 2));
    assert!(env.step(0).is_err());
    let mut play = |seed, episode| -> Result<(Vec<u8>, usize)> {
        env.reset(seed, episode)?;
        let mut frame = vec![0; SHAPE.bytes()];
        let mut seen = Vec::new();
        for steps in 1.. {
            env.observe(&mut frame)?;
            seen.extend_from_slice(&frame);
            let step = env.step(0)?;
            assert_eq!(step.reward, 1.0);
            if step.done {
                assert!(!step.truncated);
                return Ok((seen, steps));
            }
        }
        unreachable!()
    };
    let (first, steps) = play(3, 0)?;
    // Always to the left: the pole falls soon, and the picture moves.
    assert!((5..20).contains(&steps) && first[..SHAPE.bytes()] != first[SHAPE.bytes() * (steps - 1)..]);
    assert!(play(3, 0)? == (first.clone(), steps) && play(3, 1)?.0 != first);
    assert!(env.step(5).is_err() && env.observe(&mut [0; 3]).is_err());

    let batch = || -> Result<VecEnvironment> {
        let all: Vec<Box<dyn Environment>> = vec![Box::new(start()?), Box::new(start()?)];
        Ok(VecEnvironment::new(all, 5)?)
    };
    let (mut envs, mut again) = (batch()?, batch()?);
    envs.begin()?;
    let ended = (0..25).try_fold(0, |n, t| -> Result<usize> {
        Ok(n + envs.step(&[0, t % 2])?.iter().filter(|x| x.done).count())
    })?;
    assert!(ended > 1);
    again.put_back(&envs.places().ok_or_else(|| anyhow::anyhow!("begun"))?)?;
    assert!(envs.pixels() == again.pixels() && envs.step(&[1, 1])? == again.step(&[1, 1])?);
    Ok(())
}
