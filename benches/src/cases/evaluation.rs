//! Evaluation: nearest neighbours and the linear probe.

use anyhow::Result;
use contrastive_core::eval::{Features, Knn, LogisticConfig, fit_logistic};
use contrastive_core::rng::{Key, Purpose};

use crate::measure::{Timing, time};

const TRAIN: usize = 50_000;
const TEST: usize = 10_000;
const CLASSES: usize = 10;

/// Training and test features: a normal cloud around each of ten normal centres scaled by `spread`.
fn clouds(train: usize, test: usize, dim: usize, spread: f64) -> Result<(Features, Features)> {
    let mut stream = Key::new(1234, Purpose::Data).name("clouds").stream();
    let centres: Vec<f64> = (0..CLASSES * dim).map(|_| spread * stream.normal()).collect();
    let mut draw = |name: &str, n: usize| {
        let labels: Vec<u32> = (0..n).map(|_| stream.below(CLASSES as u64) as u32).collect();
        let mut data = Vec::with_capacity(n * dim);
        for &label in &labels {
            let centre = &centres[label as usize * dim..][..dim];
            data.extend(centre.iter().map(|c| (c + stream.normal()) as f32));
        }
        Features::new(name, data, dim, labels)
    };
    Ok((draw("train", train)?, draw("test", test)?))
}

pub(super) fn knn(queries: usize, repeats: usize) -> Result<Timing> {
    let (train, test) = clouds(TRAIN, queries, 128, 0.2)?;
    let mut top1 = 0.0;
    let timing = time(queries, repeats, || {
        top1 = Knn { k: 200, temperature: 0.1 }.predict(&train, &test).top(1);
        Ok(())
    })?;
    Ok(timing.with("accuracy", top1))
}

pub(super) fn linear_probe(samples: usize, repeats: usize) -> Result<Timing> {
    let (train, test) = clouds(samples, TEST, 512, 0.09)?;
    let (mut top1, mut iterations) = (0.0, 0);
    let timing = time(samples, repeats, || {
        let fit = fit_logistic(&train, CLASSES, &LogisticConfig::v1(), None)?;
        iterations = fit.iterations;
        top1 = fit.classifier().predict(&test)?.top(1);
        Ok(())
    })?;
    Ok(timing.with("accuracy", top1).with("iterations", iterations))
}
