//! What two patches of a picture share, and what an encoder learns from it, by how far apart they are: the paper's
//! experiment on mutual information, on rendered rooms.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::Graph;
use contrastive_cmc::views::distance::{DistanceRun, views};
use contrastive_cmc::views::{Between, Scenes, Task, ViewsCmc, recipe, rooms};
use contrastive_core::data::{Source, Split, embedded};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::features;
use contrastive_core::train::Method;

use super::epochs;
use super::views::lab;
use crate::cpc::{About, Measured, Session};

/// Rooms that are trained on, and others that say what patches share.
const ROOMS: [usize; 2] = [480, 240];
/// Side of the pictures and of a patch in pixels.
const SIDES: [usize; 2] = [128, 32];
/// Between the patches' corners, in pixels along each axis; patches overlap below their side.
const DISTANCES: [usize; 6] = [0, 8, 16, 32, 64, 96];
/// Places in each room that a bound is the mean over.
const ROUNDS: usize = 8;
/// Epochs, each with one pair of patches of every room.
const EPOCHS: u64 = 80;

/// Rooms as L and ab alone.
fn pictures(split: Split, count: usize) -> Result<Scenes> {
    let scenes = rooms::rooms(split, count, SIDES[0])?;
    let (columns, all) = (scenes.views()[..2].to_vec(), scenes.scenes().to_vec());
    let coloured = all.into_iter().map(|mut scene| {
        scene.views.truncate(2);
        scene.labels = None;
        scene
    });
    Ok(Scenes::new(scenes.name(), columns, coloured.collect(), 0)?)
}

/// An encoder for each distance.
pub fn by_distance(session: &Session) -> Result<()> {
    let [train, test] = [(Split::Train, ROOMS[0]), (Split::Test, ROOMS[1])].map(|(s, n)| pictures(s, n));
    let (train, test) = (Arc::new(train?), test?);
    for seed in session.seeds(&[0]) {
        for distance in DISTANCES {
            one(session, &train, &test, distance, seed)?;
        }
    }
    Ok(())
}

fn one(session: &Session, train: &Arc<Scenes>, test: &Scenes, distance: usize, seed: u64) -> Result<()> {
    let mut base = recipe::preset("rooms-smoke")?;
    base.method.views = views(3);
    base.method.task = Task::Contrast { temperature: 0.1, graph: Graph::Core, between: Between::Windows };
    base.window = SIDES[1];
    let run = DistanceRun { run: session.configured(&base, epochs(session, EPOCHS), seed)?, distance };
    let name = format!("distance {distance}");
    let (method, seconds) = session
        .train(&format!("cmc-distance-{distance}"), seed, |options| run.fit(train.clone(), options))?;
    let short = |source: &Scenes| source.fingerprint().chars().take(16).collect::<String>();
    let about = About {
        method: name,
        recipe: "rooms-smoke".into(),
        dataset: test.name().to_string(),
        data_hash: format!("{}+{}", short(train), short(test)),
        config_hash: contrastive_core::experiment::config_hash(&run)?,
        seed,
        seconds,
    };
    let bound = run.bound(&method, test, ROUNDS)?;
    let shared =
        Measured { protocol: "info-nce-bound-v1".into(), metric: "shared", unit: "nats", value: bound };
    session.record(&about, &[shared])?;
    let digits = embedded::sign_digits(Split::Test)?;
    let (dataset, hash) = (digits.name().to_string(), digits.fingerprint());
    let data_hash = hash.chars().take(16).collect();
    session.record(&About { dataset, data_hash, ..about }, &[transfer(session, &method)?])
}

/// Linear classification of digits, which the encoder has never seen.
fn transfer(session: &Session, method: &ViewsCmc) -> Result<Measured> {
    let of = |split| -> Result<_> {
        let source = embedded::sign_digits(split)?;
        let encode = |x: &candle_core::Tensor| method.features(x);
        Ok(features(encode, source, &lab(), &Device::Cpu, session.workers)?.0)
    };
    let metrics = Protocol::LinearLbfgsV1.evaluate(&of(Split::Train)?, &of(Split::Test)?)?;
    let top1 = metric(&metrics, "top1").context("top1")?;
    Ok(Measured::accuracy(Protocol::LinearLbfgsV1.name(), top1))
}
