//! Environments together, the policy in them, the LSTM's states.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::single;
use contrastive_core::nn::{Carried, Mode, ParamStore};
use contrastive_core::optim::{Gradients, ParamGroups};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Method, Progress};
use contrastive_cpc::rl::model::pixels;
use contrastive_cpc::rl::{ActorCritic, Agent, Environment, Places, Shape, Torso, VecEnvironment};

use super::{Colours, SHAPE, colours, tiny};

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn difference(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()?)
}

#[test]
fn episodes_follow_each_other_and_are_played_again() -> Result<()> {
    let mut envs = colours(5, 2.0)?;
    assert!(envs.step(&[0; 5]).is_err() && envs.places().is_none());
    envs.begin()?;
    let mut ended = 0;
    let mut totals = [0f64; 5];
    for t in 0..23u32 {
        let actions: Vec<u32> = (0..5).map(|i| (t + i) % 3).collect();
        let transitions = envs.step(&actions)?.to_vec();
        for (i, transition) in transitions.iter().enumerate() {
            totals[i] += f64::from(transition.reward);
            assert_eq!(transition.done, transition.finished.is_some());
            assert_eq!((transition.done, transition.truncated), (envs.at_start(i), envs.at_start(i)));
            if let Some((total, steps)) = transition.finished {
                assert_eq!(total, totals[i]);
                assert!((5..=10).contains(&steps));
                (totals[i], ended) = (0.0, ended + 1);
                assert_eq!(envs.last(i), None);
            } else {
                assert_eq!(envs.last(i), Some((transition.reward, actions[i])));
            }
        }
    }
    assert!(ended >= 10, "{ended}");
    let state = envs.places().ok_or_else(|| anyhow::anyhow!("begun"))?.tensors()?.into_iter().collect();
    let mut again = colours(5, 2.0)?;
    again.put_back(&Places::read(&state)?)?;
    // A part of them finds its own places; more than there are does not.
    let mut part = colours(4, 2.0)?;
    part.put_back(&Places::read(&state)?)?;
    assert_eq!(part.pixels(), &again.pixels()[..part.pixels().len()]);
    assert!(colours(6, 2.0)?.put_back(&Places::read(&state)?).is_err());
    for t in 0..15u32 {
        assert_eq!(envs.pixels(), again.pixels());
        let actions = [t % 3, 0, 1, 2, t % 2];
        assert_eq!(envs.step(&actions)?, again.step(&actions)?);
    }
    assert!(envs.step(&[0, 0, 3, 0, 0]).unwrap_err().to_string().contains("colours: action 3"));
    let other = Colours { shape: Shape { height: 21, ..SHAPE }, ..Colours::new(1.0) };
    let mixed: Vec<Box<dyn Environment>> = vec![Box::new(Colours::new(1.0)), Box::new(other)];
    assert!(VecEnvironment::new(mixed, 0).is_err() && VecEnvironment::new(Vec::new(), 0).is_err());
    Ok(())
}

#[test]
fn frames_become_planes() -> Result<()> {
    let shape = Shape { height: 1, width: 2 };
    let x = pixels(&[0, 51, 102, 153, 204, 255], shape, &Device::Cpu)?;
    assert_eq!(x.dims(), [1, 3, 1, 2]);
    let expected = [0.0, 0.6, 0.2, 0.8, 0.4, 1.0];
    assert!(values(&x)?.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    assert!(pixels(&[0; 5], shape, &Device::Cpu).is_err());
    Ok(())
}

#[test]
fn states_are_carried_and_end_with_the_episode() -> Result<()> {
    for torso in [Torso::Shallow, Torso::Deep] {
        let mut config = tiny()?.method;
        config.torso = torso;
        let agent = Agent::new(&ParamStore::new(1, &Device::Cpu).builder(), &config, SHAPE, 3)?;
        let mut stream = Key::new(3, Purpose::Data).stream();
        let mut draw = |shape: &[usize]| {
            let data = (0..shape.iter().product()).map(|_| stream.unit() as f32).collect::<Vec<_>>();
            Tensor::from_vec(data, shape, &Device::Cpu)
        };
        let (frames, told) = (draw(&[4, 3, 20, 20])?, draw(&[1, 4, 4])?);
        let part = |from: usize, state: Option<&Tensor>, resets: &[bool]| {
            let (frames, told) = (frames.narrow(0, from, resets.len())?, told.narrow(1, from, resets.len())?);
            agent.forward(&frames, &told, Carried { state, resets: Some(resets) }, &Mode::eval())
        };
        let whole = part(0, None, &[false, false, true, false])?;
        let [first, second] = [part(0, None, &[false, false])?, part(2, None, &[false, false])?];
        let tail = whole.contexts.narrow(1, 2, 2)?;
        assert!(
            difference(&tail, &second.contexts)? < 1e-6 && difference(&whole.state, &second.state)? < 1e-6
        );
        let reset = part(2, Some(&first.state), &[true, false])?;
        assert!(difference(&reset.contexts, &second.contexts)? < 1e-6);
        let carried = part(2, Some(&first.state), &[false, false])?;
        let through = part(0, None, &[false; 4])?.contexts.narrow(1, 2, 2)?;
        assert!(difference(&carried.contexts, &through)? < 1e-6);
        assert!(difference(&carried.contexts, &second.contexts)? > 1e-4);
        assert_eq!(
            (whole.codes.dims(), whole.logits.dims(), whole.values.dims()),
            (&[1, 4, 32][..], &[4, 3][..], &[4][..])
        );
    }
    Ok(())
}

#[test]
fn learning_sees_what_acting_saw() -> Result<()> {
    let config = tiny()?.method;
    let mut method = ActorCritic::new(config, colours(8, 5.0)?, 4, &Device::Cpu)?;
    for update in 0..3 {
        let rollout = method.collect(7, update)?.clone();
        // Paid 5, learned from 1.
        assert!(rollout.rewards.iter().all(|r| *r == 0.0 || *r == 1.0) && rollout.rewards.contains(&1.0));
        let outlook = method.outlook(&Mode::eval())?;
        let acted = method.actor().state().expect("states");
        assert!(difference(&outlook.state, acted)? < 1e-5);
        for at in 0..rollout.first.len() {
            let told = &rollout.previous[at * 4..at * 4 + 4];
            let (step, row) = (at % 12, at);
            if rollout.first[at] {
                assert_eq!(told, [0.0; 4]);
            } else if step > 0 {
                assert_eq!(
                    (told[0], told[1 + rollout.actions[row - 1] as usize]),
                    (rollout.rewards[row - 1], 1.0)
                );
            }
            if step > 0 {
                assert_eq!(rollout.first[at], rollout.done[at - 1]);
            }
        }
    }
    let episodes = method.episodes();
    assert!(episodes.len() > 20 && episodes.iter().any(|e| e.total >= 10.0));
    assert!(episodes.iter().all(|e| e.total % 5.0 == 0.0 && e.frames <= 3 * 8 * 12 * 4));
    let most = method.curve(3, 3);
    assert_eq!(most.points.iter().map(|p| p.episodes).sum::<usize>(), episodes.len());
    Ok(())
}

/// The actions of three updates of learning.
fn played(threads: usize) -> Result<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| {
        let run = tiny()?;
        let mut method = ActorCritic::new(run.method, colours(8, 1.0)?, 4, &Device::Cpu)?;
        let mut optimizer = run.optim.optimizer.build(method.params(), &ParamGroups::new())?;
        let mut actions = Vec::new();
        for step in 0..3 {
            let progress =
                Progress { seed: 9, step, total_steps: 3, epoch: 0, total_epochs: 1, steps_per_epoch: 3 };
            let batch = Batch { views: Vec::new(), indices: Vec::new(), labels: None };
            let out = method.step(&batch, &single(), &progress)?;
            actions.extend_from_slice(&method.actor().rollout().actions);
            optimizer.step(&Gradients::of(method.params(), &out.loss)?, 1e-2)?;
        }
        Ok(actions)
    })
}

#[test]
fn actions_do_not_depend_on_threads() -> Result<()> {
    let one = played(1)?;
    assert_eq!(one, played(4)?);
    assert!((0..3).all(|action| one.contains(&action)));
    Ok(())
}
