use candle_core::{Device, Tensor};

use super::*;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

#[derive(serde::Deserialize)]
struct Case {
    shape: (usize, usize),
    first: Vec<f32>,
    second: Vec<f32>,
    spread: f64,
    effective_rank: f64,
    alignment: f64,
    uniformity: f64,
}

fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-6 * want.abs().max(1e-3)
}

#[test]
fn measures_are_numpys() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/diagnostics/diagnostics.json");
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let cases: Vec<Case> = serde_json::from_str(&text).map_err(|e| Error::format(path, e))?;
    assert_eq!(cases.len(), 4);
    for case in cases {
        let first = Embeddings::new(&Tensor::from_vec(case.first, case.shape, &Device::Cpu)?)?;
        let second = Embeddings::new(&Tensor::from_vec(case.second, case.shape, &Device::Cpu)?)?;
        let rank = first.effective_rank()?;
        let (x, y) = (first.normalized(), second.normalized());
        let (spread, alignment, uniformity) = (x.spread(), x.alignment(&y)?, x.uniformity());
        let shape = case.shape;
        assert!(close(rank, case.effective_rank), "{shape:?} rank {rank} {}", case.effective_rank);
        assert!(close(spread, case.spread), "{shape:?} spread {spread} {}", case.spread);
        assert!(close(alignment, case.alignment), "{shape:?} alignment {alignment} {}", case.alignment);
        assert!(close(uniformity, case.uniformity), "{shape:?} uniformity {uniformity} {}", case.uniformity);
    }
    Ok(())
}

/// `[n, d]` of a function of row, column and a normal draw.
fn make(n: usize, d: usize, seed: u64, f: impl Fn(usize, usize, f64) -> f64) -> Result<Tensor> {
    let mut stream = Key::new(seed, Purpose::Data).stream();
    let mut values = Vec::with_capacity(n * d);
    for i in 0..n {
        for j in 0..d {
            values.push(f(i, j, stream.normal()) as f32);
        }
    }
    Ok(Tensor::from_vec(values, (n, d), &Device::Cpu)?)
}

/// Kinds raised over five observations of the same two views.
fn raised(first: &Tensor, second: &Tensor, norm: Option<f64>) -> Result<Vec<WarningKind>> {
    let mut monitor = Collapse::new(CollapseConfig::default())?;
    let mut kinds = Vec::new();
    for step in 0..5 {
        let report = monitor.observe(step, &[first.clone(), second.clone()], None, norm)?;
        kinds.extend(report.warnings.iter().map(|w| w.kind));
    }
    Ok(kinds)
}

#[test]
fn healthy_embeddings_raise_nothing() -> Result<()> {
    for (n, d) in [(256, 128), (64, 512), (300, 16), (32, 2)] {
        let first = make(n, d, 1, |_, _, x| x)?;
        let second = (&first + (make(n, d, 2, |_, _, x| x)? * 0.3)?)?;
        assert_eq!(raised(&first, &second, Some(1.0))?, [], "{n} {d}");
    }
    let first = make(256, 128, 1, |_, _, x| x)?;
    let report = Collapse::new(CollapseConfig::default())?.observe(0, &[first], None, None)?;
    let value = |name| report.get(name).unwrap_or(f64::NAN);
    assert!((value("spread") - 1.0).abs() < 0.02, "{report:?}");
    assert!(value("effective_rank") > 100.0 && value("dead_fraction") == 0.0, "{report:?}");
    assert!((value("uniformity") + 3.9).abs() < 0.1 && report.get("alignment").is_none(), "{report:?}");
    Ok(())
}

/// `[N, K]`: uniform, of one dimension, each sample of its own, halves of two dimensions.
#[test]
fn information_is_what_assignments_say_of_their_samples() -> Result<()> {
    let (n, k) = (16, 32);
    let of = |f: fn(usize, usize) -> f64| make(n, k, 1, |i, j, _| f(i, j));
    let value = |f| information(&of(f)?);
    assert!(value(|_, _| 1.0 / 32.0)?.abs() < 1e-6);
    assert!(value(|_, j| f64::from(u8::from(j == 5)))?.abs() < 1e-9);
    assert!((value(|i, j| f64::from(u8::from(i == j)))? - 1.0).abs() < 1e-9);
    assert!((value(|i, j| f64::from(u8::from(j == i % 2)))? - 0.25).abs() < 1e-9);
    assert!(information(&of(|_, _| 1.0)?.narrow(0, 0, 1)?).is_err());
    Ok(())
}

#[test]
fn assignments_that_are_alike_raise_a_warning() -> Result<()> {
    let views = [make(16, 32, 1, |_, _, x| x)?];
    for (assigned, expected) in [
        (make(16, 32, 1, |_, _, _| 1.0 / 32.0)?, vec![WarningKind::Assignments]),
        (make(16, 32, 1, |i, j, _| f64::from(u8::from(i == j)))?, vec![]),
    ] {
        let mut monitor = Collapse::new(CollapseConfig::default())?;
        let mut seen = Vec::new();
        for step in 0..5 {
            let report = monitor.observe(step, &views, Some(&assigned), None)?;
            seen.extend(report.warnings.iter().map(|warning| warning.kind));
        }
        assert_eq!(seen, expected);
    }
    Ok(())
}

#[test]
fn each_collapse_raises_its_own_warning() -> Result<()> {
    let (n, d) = (256, 128);
    let noise = (make(n, d, 9, |_, _, x| x)? * 0.3)?;
    // Every image in one point, with and without a trace of noise.
    for trace in [0.0, 0.01] {
        let constant = make(n, d, 3, |_, j, x| (j as f64 + 1.0).sin() + trace * x)?;
        assert_eq!(raised(&constant, &constant, Some(1.0))?, [WarningKind::Constant]);
    }
    let zero = make(n, d, 3, |_, _, _| 0.0)?;
    assert_eq!(raised(&zero, &zero, None)?, [WarningKind::Constant]);
    // One direction with either sign: the spread looks healthy.
    let line = make(n, d, 4, |i, j, _| (j as f64 + 1.0).sin() * (i as f64 * 0.7 + 0.2).cos())?;
    let second = (&line + &noise)?;
    assert_eq!(raised(&line, &second, None)?, [WarningKind::Rank]);
    // Half of the dimensions constant.
    let half = make(n, d, 5, |_, j, x| if j < d / 2 { x } else { 0.0 })?;
    assert_eq!(raised(&half, &(&half + &noise)?, None)?, [WarningKind::DeadDimensions]);
    let rank = Embeddings::new(&half)?.effective_rank()?;
    assert!((50.0..64.001).contains(&rank), "{rank}");
    // Views that are one.
    let healthy = make(n, d, 6, |_, _, x| x)?;
    assert_eq!(raised(&healthy, &healthy, None)?, [WarningKind::SameViews]);
    // Gradients.
    let second = (&healthy + &noise)?;
    assert_eq!(raised(&healthy, &second, Some(0.0))?, [WarningKind::VanishingGradient]);
    assert_eq!(raised(&healthy, &second, Some(1e6))?, [WarningKind::ExplodingGradient]);
    assert_eq!(raised(&healthy, &second, Some(f64::NAN))?, [WarningKind::NonFinite]);
    let broken = make(n, d, 7, |i, _, x| if i == 3 { f64::NAN } else { x })?;
    assert_eq!(raised(&broken, &second, None)?, [WarningKind::NonFinite]);
    Ok(())
}

#[test]
fn patience_and_hysteresis() -> Result<()> {
    let config = CollapseConfig { min_spread: 0.5, ..CollapseConfig::default() };
    let mut monitor = Collapse::new(config)?;
    // Noise around a common offset: the spread falls as the offset grows.
    let cloud = |offset: f64| make(64, 32, 8, |_, _, x| x + offset);
    let (healthy, between, bad) = (cloud(0.0)?, cloud(1.5)?, cloud(8.0)?);
    let spread = |z: &Tensor| -> Result<f64> { Ok(Embeddings::new(z)?.normalized().spread()) };
    assert!(spread(&bad)? < 0.5 && (0.5..0.6).contains(&spread(&between)?), "{}", spread(&between)?);
    let mut count = |z: &Tensor, times: usize| -> Result<usize> {
        let mut warnings = 0;
        for step in 0..times {
            warnings += monitor.observe(step as u64, std::slice::from_ref(z), None, None)?.warnings.len();
        }
        Ok(warnings)
    };
    assert_eq!(count(&bad, 2)?, 0, "patience");
    assert_eq!(count(&healthy, 1)?, 0);
    assert_eq!(count(&bad, 2)?, 0, "the count begins anew");
    assert_eq!(count(&bad, 1)?, 1);
    assert_eq!(count(&bad, 50)?, 0, "once");
    assert_eq!(count(&between, 1)? + count(&bad, 5)?, 0, "not far enough back");
    assert_eq!(count(&healthy, 1)? + count(&bad, 5)?, 1, "armed again");
    Ok(())
}

#[test]
fn warnings_read_as_one_line() -> Result<()> {
    let config = CollapseConfig { patience: 1, ..CollapseConfig::default() };
    let zero = make(8, 4, 1, |_, _, _| 0.0)?;
    let report = Collapse::new(config)?.observe(150, &[zero], None, None)?;
    let text = report.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(
        text.starts_with("step 150: spread of the embeddings 0.000e0 is below 1.000e-1; complete collapse")
    );
    assert!(text.contains("stop-gradient") && !text.contains('\n') && !text.contains("  "), "{text}");
    Ok(())
}

#[test]
fn bad_input_and_settings_are_named() -> Result<()> {
    let mut monitor = Collapse::new(CollapseConfig::default())?;
    assert!(monitor.due(0) && monitor.due(100) && !monitor.due(101));
    assert!(monitor.observe(0, &[], None, None).is_err());
    assert!(monitor.observe(0, &[make(1, 4, 1, |_, _, x| x)?], None, None).is_err());
    assert!(Embeddings::new(&Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu)?).is_err());
    let faulty = [
        (CollapseConfig { every: 0, ..CollapseConfig::default() }, "collapse.every"),
        (CollapseConfig { max_rows: 1, ..CollapseConfig::default() }, "collapse.max_rows"),
        (CollapseConfig { min_spread: 1.5, ..CollapseConfig::default() }, "collapse.min_spread"),
        (CollapseConfig { hysteresis: f64::NAN, ..CollapseConfig::default() }, "collapse.hysteresis"),
        (
            CollapseConfig { max_gradient_norm: 0.0, ..CollapseConfig::default() },
            "collapse.max_gradient_norm",
        ),
    ];
    for (config, key) in faulty {
        let message = Collapse::new(config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(key), "{message}");
    }
    assert!(toml::from_str::<CollapseConfig>("min_spred = 0.1").is_err());
    assert_eq!(toml::from_str::<CollapseConfig>("").ok(), Some(CollapseConfig::default()));
    Ok(())
}

#[test]
fn subsets_are_spread_and_bits_do_not_depend_on_the_thread_count() -> Result<()> {
    let z = make(1000, 3, 1, |i, _, _| i as f64)?;
    let subset = Embeddings::new(&z)?.subset(10);
    assert_eq!((subset.rows(), subset.dimensions()), (10, 3));
    let z = make(300, 70, 2, |_, _, x| x)?;
    let run = |threads: usize| -> Result<Vec<u64>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map_err(|e| Error::data("thread pool", e.to_string()))?.install(|| {
            let report =
                Collapse::new(CollapseConfig::default())?.observe(0, std::slice::from_ref(&z), None, None)?;
            Ok(report.values.into_iter().map(|(_, value)| value.to_bits()).collect())
        })
    };
    assert_eq!(run(1)?, run(3)?);
    Ok(())
}

#[test]
fn a_resumed_monitor_goes_on_where_it_stood() -> Result<()> {
    let zero = [make(8, 4, 1, |_, _, _| 0.0)?];
    let mut straight = Collapse::new(CollapseConfig::default())?;
    for step in 0..2 {
        straight.observe(step, &zero, None, None)?;
    }
    let text = serde_json::to_string(&straight.state()).unwrap_or_default();
    let mut resumed = Collapse::new(CollapseConfig::default())?;
    resumed.load_state(serde_json::from_str(&text).map_err(|e| Error::format("state", e))?);
    for step in 2..5 {
        let report = resumed.observe(step, &zero, None, None)?;
        assert_eq!(report.warnings.len(), usize::from(step == 2), "step {step}");
        assert_eq!(report, straight.observe(step, &zero, None, None)?);
    }
    Ok(())
}
