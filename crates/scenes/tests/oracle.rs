//! Policies that know the map. That they do far better than random actions shows that the tasks can be solved with the
//! nine actions and within the time.

use anyhow::Result;
use contrastive_scenes::action::Action;
use contrastive_scenes::map::{Map, Point, Spot};
use contrastive_scenes::puzzle::solve;
use contrastive_scenes::rng::{Purpose, Stream};
use contrastive_scenes::tasks::explore_goals::{ExploreGoals, ExploreGoalsConfig};
use contrastive_scenes::tasks::keys_doors::{KeysDoors, KeysDoorsConfig};
use contrastive_scenes::tasks::seek_avoid::{BAD, GOOD, SeekAvoid, SeekAvoidConfig};
use contrastive_scenes::tasks::targets::{Targets, TargetsConfig};
use contrastive_scenes::tasks::watermaze::{Watermaze, WatermazeConfig};
use contrastive_scenes::tasks::{Game, Rules};
use contrastive_scenes::world::{Agent, World};
use contrastive_scenes::{Environment, Step};

const EPISODES: u64 = 12;

/// Degrees from where the agent looks to a point, positive to the right.
fn bearing(agent: &Agent, to: Point) -> f64 {
    let (x, y) = (to.x - agent.position.x, to.y - agent.position.y);
    let (sin, cos) = (agent.heading.sin(), agent.heading.cos());
    (y * cos - x * sin).atan2(x * cos + y * sin).to_degrees()
}

/// The action that gets the agent to a point it can walk to straight on.
fn towards(agent: &Agent, to: Point) -> Action {
    match bearing(agent, to) {
        b if b > 100.0 => Action::LookRight,
        b if b < -100.0 => Action::LookLeft,
        b if b > 60.0 => Action::LookRight,
        b if b < -60.0 => Action::LookLeft,
        b if b > 10.0 && agent.position.within(to, 0.6) => Action::LookRight,
        b if b < -10.0 && agent.position.within(to, 0.6) => Action::LookLeft,
        b if b > 10.0 => Action::LookRightForward,
        b if b < -10.0 => Action::LookLeftForward,
        _ => Action::Forward,
    }
}

/// The action towards the nearest of some points over cells that are allowed.
fn navigate(world: &World, goals: &[Point], allowed: impl Fn(Spot) -> bool) -> Option<Action> {
    let here = world.agent.position.spot();
    let path = goals
        .iter()
        .filter_map(|goal| world.map.path(here, goal.spot(), |s| allowed(s) && world.map.get(s).is_open()))
        .min_by_key(Vec::len)?;
    Some(towards(&world.agent, path.get(1).unwrap_or(&path[0]).centre()))
}

/// Mean return of a policy.
fn returns<R: Rules>(env: &mut Game<R>, mut policy: impl FnMut(&Game<R>, u64) -> Action) -> Result<f32> {
    let mut total = 0.0;
    for episode in 0..EPISODES {
        env.reset(11, episode)?;
        loop {
            let action = policy(env, episode);
            let Step { reward, done, .. } = env.step(action.index())?;
            total += reward;
            if done {
                break;
            }
        }
    }
    Ok(total / EPISODES as f32)
}

fn random<R: Rules>(env: &mut Game<R>) -> Result<f32> {
    let mut rng = Stream::new(5, 5, Purpose::Play);
    returns(env, |_, _| Action::ALL[rng.below(9)])
}

#[test]
fn watermaze_can_be_solved_from_memory() {
    let mut env = Watermaze::with(WatermazeConfig::default()).unwrap();
    let random = random(&mut env).unwrap();
    let oracle =
        returns(&mut env, |env, _| navigate(env.world(), &[env.rules().platform()], |_| true).unwrap())
            .unwrap();
    println!("watermaze: oracle {oracle}, random {random}");
    assert!(oracle > 100.0 && oracle > 4.0 * random, "oracle {oracle}, random {random}");
}

#[test]
fn explore_goals_can_be_solved() {
    let mut env = ExploreGoals::with(ExploreGoalsConfig::default()).unwrap();
    let random = random(&mut env).unwrap();
    let oracle =
        returns(&mut env, |env, _| navigate(env.world(), env.rules().goals(), |_| true).unwrap()).unwrap();
    println!("explore_goals: oracle {oracle}, random {random}");
    assert!(oracle > 200.0 && oracle > 4.0 * random, "oracle {oracle}, random {random}");
}

#[test]
fn seek_avoid_can_be_solved() {
    let mut env = SeekAvoid::with(SeekAvoidConfig::default()).unwrap();
    let random = random(&mut env).unwrap();
    let oracle = returns(&mut env, |env, _| {
        let world = env.world();
        let of = |tag| -> Vec<Point> {
            world.objects.iter().filter(|o| o.tag == tag).map(|o| o.position).collect()
        };
        let bad: Vec<Spot> = of(BAD).iter().map(|p| p.spot()).collect();
        navigate(world, &of(GOOD), |s| !bad.contains(&s))
            .or_else(|| navigate(world, &of(GOOD), |_| true))
            .unwrap()
    })
    .unwrap();
    println!("seek_avoid: oracle {oracle}, random {random}");
    assert!(oracle > 8.0 && oracle > random + 6.0, "oracle {oracle}, random {random}");
}

#[test]
fn keys_doors_can_be_solved() {
    let mut env = KeysDoors::with(KeysDoorsConfig::default()).unwrap();
    let random = random(&mut env).unwrap();
    let (mut of, mut way, mut at) = (u64::MAX, Vec::new(), 0);
    let oracle = returns(&mut env, |env, episode| {
        if of != episode {
            (of, at, way) = (episode, 0, solve(env.rules().puzzle().unwrap()).unwrap());
        }
        let agent = &env.world().agent;
        // On to the next cell once the middle of this one is near.
        while at + 1 < way.len() && agent.position.within(way[at].centre(), 0.25) {
            at += 1;
        }
        towards(agent, way[at].centre())
    })
    .unwrap();
    println!("keys_doors: oracle {oracle}, random {random}");
    // 3 keys, 3 doors and the goal are 56.
    assert!(oracle > 50.0 && oracle > 4.0 * random, "oracle {oracle}, random {random}");
}

#[test]
fn targets_can_be_solved_without_memory() {
    let mut env = Targets::with(TargetsConfig::default()).unwrap();
    let random = random(&mut env).unwrap();
    let oracle = returns(&mut env, |env, _| {
        let world = env.world();
        if env.rules().aim(world).is_some() {
            return Action::Fire;
        }
        // Only what is in view; nothing there: turn.
        let nearest = world
            .objects
            .iter()
            .filter(|o| {
                bearing(&world.agent, o.position).abs() < 45.0
                    && visible(&world.map, &world.agent, o.position)
            })
            .min_by(|a, b| {
                let off = |p: Point| bearing(&world.agent, p).abs();
                off(a.position).total_cmp(&off(b.position))
            });
        match nearest.map(|o| bearing(&world.agent, o.position)) {
            Some(b) if b > 10.0 => Action::LookRight,
            Some(b) if b < -10.0 => Action::LookLeft,
            Some(b) if b > 0.0 => Action::StrafeRight,
            Some(_) => Action::StrafeLeft,
            None => Action::LookRight,
        }
    })
    .unwrap();
    println!("targets: oracle {oracle}, random {random}");
    assert!(oracle > 60.0 && oracle > 4.0 * random, "oracle {oracle}, random {random}");
}

fn visible(map: &Map, agent: &Agent, to: Point) -> bool {
    let ray = Point::new(to.x - agent.position.x, to.y - agent.position.y);
    contrastive_scenes::ray::cast(map, agent.position, ray).distance > 1.0
}
