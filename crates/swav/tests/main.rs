//! What every method is held to, and SwAV's golden numbers.

mod golden;

use anyhow::Result;
use candle_core::Device;
use contrastive_core::experiment::RunConfig;
use contrastive_swav::{QueueConfig, Swav, SwavConfig, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<SwavConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.projector.hidden = 16;
    run.method.projector.output = 8;
    run.method.prototypes = 12;
    Ok(run)
}

/// A batch of the smoke preset's four views.
const SIDES: [usize; 4] = [16, 16, 12, 12];

/// The assignments follow the scores without a gradient, which differences cannot know: an ε at which they hardly move.
#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let config = SwavConfig { epsilon: 1e4, ..tiny()?.method };
    let mut method = Swav::new(config, 5, &Device::Cpu)?;
    let places = [
        ("projector.0.weight", 3),
        ("projector.0.bias", 1),
        ("projector.1.weight", 2),
        ("projector.3.weight", 7),
        ("projector.3.bias", 0),
        ("prototypes.weight", 5),
    ];
    testing::assert_gradients(&mut method, &testing::batch(8, &SIDES)?, &[], &places)
}

/// The second step assigns with a queue that the first has filled.
#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let mut run = tiny()?;
    run.method.queue = QueueConfig { length: 8, start_epoch: 0 };
    testing::assert_ranks(|_| run.clone(), 8, &SIDES, &[2, 4])
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let mut run = tiny()?;
    // Begins to fill with step 5 of 10, is full and used after 2 steps.
    run.method.queue = QueueConfig { length: 40, start_epoch: 1 };
    run.method.freeze_steps = 3;
    testing::assert_resumes(run)
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 4;
    testing::assert_learns(&run, 0.05)
}

#[test]
#[ignore]
fn explore() -> Result<()> {
    use contrastive_core::data::{Split, embedded};
    use contrastive_core::diagnostics::*;
    use contrastive_core::eval::{Protocol, metric};
    use contrastive_core::experiment::{RunOptions, features, fit};
    use contrastive_core::train::*;
    struct Log(Vec<(f64, f64)>, u64, Collapse);
    impl Observer for Log {
        fn on_step(&mut self, r: &StepRecord<'_>, _n: &mut Notes) -> contrastive_core::Result<()> {
            self.0.push((r.loss, r.terms[0].1));
            if self.2.due(r.progress.step) {
                let rep = self.2.observe(r.progress.step, r.embeddings, Some(r.grad_norm))?;
                for w in &rep.warnings {
                    eprintln!("  {w}");
                }
                if std::env::var("V").is_ok() {
                    eprintln!(
                        "  {} {:?} loss {:.3}",
                        r.progress.step,
                        rep.values.iter().map(|(n, v)| format!("{n} {v:.4}")).collect::<Vec<_>>(),
                        r.loss
                    );
                }
            }
            self.1 = r.progress.steps_per_epoch;
            Ok(())
        }
    }
    for line in std::env::var("RUNS")?.split(';') {
        let sets: Vec<String> =
            line.split('|').map(str::trim).filter(|s| !s.is_empty()).map(String::from).collect();
        let base = if sets.iter().any(|s| s == "tiny") { tiny()? } else { recipe::preset("smoke")? };
        let sets: Vec<String> = sets.into_iter().filter(|s| s != "tiny").collect();
        let mut run = base;
        if let Some(s) = sets.iter().find(|s| s.starts_with("small=")) {
            let v: Vec<f64> = s[6..].split(',').map(|x| x.parse().unwrap()).collect();
            run.augment.views.truncate(1);
            if v[0] > 0.0 {
                run.augment.views.push(contrastive_core::augment::ops::view(
                    "small",
                    v[0] as usize,
                    contrastive_core::experiment::tiers::light_ops(
                        v[1] as usize,
                        [v[2], v[3]],
                        0.0,
                        contrastive_core::experiment::tiers::SMOKE_NORM,
                    ),
                ));
            }
            run.method.views = 2 + v[0] as usize;
        }
        if let Some(s) = sets.iter().find(|s| s.starts_with("large=")) {
            let v: Vec<f64> = s[6..].split(',').map(|x| x.parse().unwrap()).collect();
            run.augment.views[0].ops = contrastive_core::experiment::tiers::light_ops(
                v[0] as usize,
                [v[1], v[2]],
                0.0,
                contrastive_core::experiment::tiers::SMOKE_NORM,
            );
        }
        let sets: Vec<String> =
            sets.into_iter().filter(|s| !s.starts_with("small=") && !s.starts_with("large=")).collect();
        let run = contrastive_core::train::config::layered(&run, None, &sets)?;
        let mut log =
            Log(vec![], 1, Collapse::new(CollapseConfig { every: 5, ..CollapseConfig::default() })?);
        let folder = tempfile_dir()?;
        let t = std::time::Instant::now();
        let r = fit(
            &run,
            embedded::sign_digits(Split::Train)?,
            RunOptions { observers: vec![&mut log], ..RunOptions::new(folder.join("run")) },
        );
        let secs = t.elapsed().as_secs_f64();
        let losses: Vec<String> = log
            .0
            .chunks(log.1 as usize * 2)
            .map(|c| {
                format!(
                    "{:.2}/{:.2}",
                    c.iter().map(|x| x.0).sum::<f64>() / c.len() as f64,
                    c.last().unwrap().1
                )
            })
            .collect();
        let mut acc = String::new();
        match r {
            Ok((m, _)) => {
                let of = |split| -> Result<_> {
                    Ok(features(
                        |x| m.features(x),
                        embedded::sign_digits(split)?,
                        &run.eval,
                        &Device::Cpu,
                        1,
                    )?
                    .0)
                };
                let (a, b) = (of(Split::Train)?, of(Split::Test)?);
                for p in [Protocol::KnnK20T007V1, Protocol::KnnK200T01V1] {
                    acc += &format!(" {:.3}", metric(&p.evaluate(&a, &b)?, "top1").unwrap());
                }
            }
            Err(e) => acc = e.to_string(),
        }
        eprintln!("{line}: {acc} {secs:.0}s  {}", losses.join(" "));
        std::fs::remove_dir_all(folder).ok();
    }
    Ok(())
}
fn tempfile_dir() -> Result<std::path::PathBuf> {
    let p = std::env::temp_dir().join(format!("swav-explore-{}", std::process::id()));
    std::fs::create_dir_all(&p)?;
    Ok(p)
}
