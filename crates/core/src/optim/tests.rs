use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::nn::{Init, ParamStore};
use crate::rng::{Key, Purpose};
use crate::train::Progress;

#[derive(serde::Deserialize)]
struct Golden {
    shapes: HashMap<String, Vec<usize>>,
    rates: Vec<f64>,
    start: HashMap<String, Vec<f32>>,
    gradients: Vec<HashMap<String, Vec<f32>>>,
    cases: Vec<Case>,
    cosine: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Case {
    config: OptimizerConfig,
    after: [HashMap<String, Vec<f64>>; 2],
}

fn golden() -> Result<Golden> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optim/optim.json");
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, e))
}

impl Golden {
    fn store(&self) -> Result<ParamStore> {
        let store = ParamStore::new(0, &Device::Cpu);
        let mut names: Vec<_> = self.shapes.keys().collect();
        names.sort();
        for name in names {
            let shape = self.shapes[name].as_slice();
            store.builder().param(name, shape, Init::Const(0.0))?;
            let start = Tensor::from_vec(self.start[name].clone(), shape, &Device::Cpu)?;
            if let Some(entry) = store.get(name) {
                entry.var.set(&start)?;
            }
        }
        Ok(store)
    }

    fn gradients(&self, step: usize) -> Result<Gradients> {
        let mut named = Vec::new();
        for (name, values) in &self.gradients[step] {
            let shape = self.shapes[name].as_slice();
            named.push((name.clone(), Tensor::from_vec(values.clone(), shape, &Device::Cpu)?));
        }
        Ok(Gradients::from_named(named))
    }
}

fn values(store: &ParamStore) -> Result<Vec<(String, Vec<f32>)>> {
    store.tensors().into_iter().map(|(n, t)| Ok((n, t.flatten_all()?.to_vec1::<f32>()?))).collect()
}

fn bits(store: &ParamStore) -> Result<Vec<u32>> {
    Ok(values(store)?.into_iter().flat_map(|(_, v)| v).map(f32::to_bits).collect())
}

#[test]
fn golden_values_fused_and_plain() -> Result<()> {
    let golden = golden()?;
    assert_eq!(golden.cases.len(), 19);
    for case in &golden.cases {
        for plain in [false, true] {
            let store = golden.store()?;
            let mut engine = case.config.engine(&store, &ParamGroups::new())?;
            if plain {
                engine = engine.into_plain()?;
            }
            for (step, &lr) in golden.rates.iter().enumerate() {
                engine.step(&golden.gradients(step)?, lr)?;
                let place = match step {
                    2 => 0,
                    5 => 1,
                    _ => continue,
                };
                for (name, got) in values(&store)? {
                    for (got, want) in got.iter().zip(&case.after[place][&name]) {
                        let error = (f64::from(*got) - want).abs();
                        let context = format!("{:?} plain {plain} step {step} {name}", case.config);
                        assert!(error <= 2e-6 * want.abs().max(0.5), "{context}: {got} {want}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn variants_differ_from_each_other() -> Result<()> {
    // Without this a fixture that left the variants alike would prove nothing.
    let golden = golden()?;
    let lars: Vec<_> = golden.cases.iter().filter(|c| matches!(c.config, OptimizerConfig::Lars(_))).collect();
    for (i, a) in lars.iter().enumerate() {
        for b in &lars[..i] {
            assert_ne!(a.after[1], b.after[1], "{:?} {:?}", a.config, b.config);
        }
    }
    assert!(!LarsVariant::SimClr.adapts("head_supervised.fc.weight", &[10, 512]));
    assert!(LarsVariant::Byol.adapts("head_supervised.fc.weight", &[10, 512]));
    Ok(())
}

#[test]
fn cosine_per_epoch_is_torchs() -> Result<()> {
    for (epoch, want) in golden()?.cosine.into_iter().enumerate() {
        let epoch = epoch as u64;
        let progress = Progress {
            seed: 0,
            step: epoch * 5,
            total_steps: 100,
            epoch,
            total_epochs: 20,
            steps_per_epoch: 5,
        };
        let got = Schedule::CosinePerEpoch {}.lr_at(&progress, 0.7);
        assert!((got - want).abs() < 1e-12, "epoch {epoch}: {got} {want}");
        assert!((cosine(0.7, 0.0, epoch as f64, 20.0) - want).abs() < 1e-12);
    }
    Ok(())
}

fn big_store() -> Result<ParamStore> {
    let store = ParamStore::new(3, &Device::Cpu);
    store.builder().param("conv.weight", (512, 300), Init::Normal(0.1))?;
    store.builder().param("bn.bias", 70, Init::Normal(0.1))?;
    Ok(store)
}

fn big_gradients(step: u64) -> Result<Gradients> {
    let mut stream = Key::new(5, Purpose::Data).sample(step).stream();
    let mut draw = |shape: &[usize]| -> Result<Tensor> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    Ok(Gradients::from_named(vec![
        ("conv.weight".into(), draw(&[512, 300])?),
        ("bn.bias".into(), draw(&[70])?),
    ]))
}

fn kinds() -> Vec<OptimizerConfig> {
    let lars = LarsConfig { weight_decay: 0.1, ..LarsConfig::new(LarsVariant::SimClr) };
    let adam = AdamConfig { weight_decay: 0.1, ..AdamConfig::default() };
    let sgd = SgdConfig { nesterov: true, weight_decay: 0.1, ..SgdConfig::default() };
    vec![
        OptimizerConfig::Sgd(sgd),
        OptimizerConfig::Lars(lars),
        OptimizerConfig::AdamW(adam.clone()),
        OptimizerConfig::Adam(adam),
        OptimizerConfig::RmsProp(RmsPropConfig { momentum: 0.5, ..RmsPropConfig::default() }),
    ]
}

#[test]
fn resumed_runs_have_the_same_bits() -> Result<()> {
    for config in kinds() {
        let straight = big_store()?;
        let mut optimizer = config.build(&straight, &ParamGroups::new())?;
        let mut saved = None;
        for step in 0..6 {
            if step == 3 {
                saved = Some((straight.clone().tensors(), optimizer.state()?));
                // The parameters change in place: copy them now, as a checkpoint would.
                if let Some((params, _)) = &mut saved {
                    for (_, tensor) in params.iter_mut() {
                        *tensor = tensor.copy()?;
                    }
                }
            }
            optimizer.step(&big_gradients(step)?, 0.1)?;
        }
        let resumed = big_store()?;
        let mut optimizer = config.build(&resumed, &ParamGroups::new())?;
        let Some((params, state)) = saved else { continue };
        resumed.load(&params.into_iter().collect(), "test")?;
        optimizer.load_state(&state.into_iter().collect())?;
        for step in 3..6 {
            optimizer.step(&big_gradients(step)?, 0.1)?;
        }
        assert_eq!(bits(&straight)?, bits(&resumed)?, "{config:?}");
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_thread_count() -> Result<()> {
    for config in kinds() {
        let run = |threads: usize| -> Result<Vec<u32>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| Error::data("thread pool", e.to_string()))?;
            pool.install(|| {
                let store = big_store()?;
                let mut optimizer = config.build(&store, &ParamGroups::new())?;
                for step in 0..2 {
                    optimizer.step(&big_gradients(step)?, 0.1)?;
                }
                bits(&store)
            })
        };
        assert_eq!(run(1)?, run(3)?, "{config:?}");
    }
    Ok(())
}

#[test]
fn clones_held_by_layers_see_the_update() -> Result<()> {
    let store = ParamStore::new(0, &Device::Cpu);
    let weight = store.builder().param("w", 2, Init::Const(1.0))?;
    let config = OptimizerConfig::Sgd(SgdConfig { momentum: 0.0, ..SgdConfig::default() });
    let mut optimizer = config.build(&store, &ParamGroups::new())?;
    let grads = weight.sqr()?.sum_all()?.backward()?;
    optimizer.step(&Gradients::new(&store, grads), 0.25)?;
    assert_eq!(weight.to_vec1::<f32>()?, [0.5, 0.5]);
    Ok(())
}

#[test]
fn groups_switch_decay_trust_rate_and_freezing() -> Result<()> {
    let store = ParamStore::new(0, &Device::Cpu);
    for name in ["a", "b", "c", "d", "e"] {
        store.builder().param(name, (1, 1), Init::Const(2.0))?;
    }
    let groups = ParamGroups::new()
        .no_decay(|name, _| name == "b")
        .lr_multiplier(10.0, |name, _| name == "c")
        .frozen(|name, _| name == "d")
        .fixed_lr(1.0, |name, _| name == "e");
    let config = OptimizerConfig::Sgd(SgdConfig { momentum: 0.0, nesterov: false, weight_decay: 0.5 });
    let mut optimizer = config.build(&store, &groups)?;
    let ones =
        |name: &str| -> Result<_> { Ok((name.to_string(), Tensor::ones((1, 1), DType::F32, &Device::Cpu)?)) };
    let all = ["a", "b", "c", "d", "e"].map(ones).into_iter().collect::<Result<Vec<_>>>()?;
    optimizer.step(&Gradients::from_named(all), 0.1)?;
    let got: Vec<f32> = values(&store)?.into_iter().map(|(_, v)| v[0]).collect();
    for (got, want) in got.iter().zip([1.8, 1.9, 0.0, 2.0, 0.0]) {
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
    // Trust off, decay on: a plain step with decay, whichever form the ratio would have had.
    for variant in [LarsVariant::MocoV3, LarsVariant::Swav] {
        let store = ParamStore::new(0, &Device::Cpu);
        store.builder().param("a", (1, 1), Init::Const(2.0))?;
        let config = OptimizerConfig::Lars(LarsConfig { weight_decay: 0.5, ..LarsConfig::new(variant) });
        let mut optimizer = config.build(&store, &ParamGroups::new().no_trust_ratio(|_, _| true))?;
        optimizer.step(&Gradients::from_named(vec![ones("a")?]), 0.1)?;
        assert!((values(&store)?[0].1[0] - 1.8).abs() < 1e-6);
    }
    Ok(())
}

#[test]
fn scheduled_weight_decay_and_missing_gradients() -> Result<()> {
    let store = ParamStore::new(0, &Device::Cpu);
    for name in ["a", "b"] {
        store.builder().param(name, 1, Init::Const(1.0))?;
    }
    let mut optimizer = OptimizerConfig::AdamW(AdamConfig::default()).build(&store, &ParamGroups::new())?;
    optimizer.set_weight_decay(0.5)?;
    assert!(optimizer.set_weight_decay(-1.0).is_err());
    let zero = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    optimizer.step(&Gradients::from_named(vec![("a".into(), zero)]), 0.1)?;
    // The decay alone moves `a`; `b` has no gradient and is not even decayed.
    let got = values(&store)?;
    assert!((got[0].1[0] - 0.95).abs() < 1e-6 && got[1].1[0] == 1.0, "{got:?}");
    let state: HashMap<String, Tensor> = optimizer.state()?.into_iter().collect();
    assert_eq!(state["step/a"].to_scalar::<i64>()?, 1);
    assert_eq!(state["step/b"].to_scalar::<i64>()?, 0);
    Ok(())
}

#[test]
fn state_that_does_not_fit_is_listed_and_changes_nothing() -> Result<()> {
    let store = big_store()?;
    let mut optimizer = OptimizerConfig::Adam(AdamConfig::default()).build(&store, &ParamGroups::new())?;
    let mut state: HashMap<String, Tensor> = optimizer.state()?.into_iter().collect();
    state.remove("exp_avg/bn.bias");
    state.insert("exp_avg_sq/bn.bias".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?);
    state.insert("momentum/bn.bias".into(), Tensor::zeros(70, DType::F32, &Device::Cpu)?);
    let message = optimizer.load_state(&state).err().map(|e| e.to_string()).unwrap_or_default();
    for part in ["missing: exp_avg/bn.bias", "exp_avg_sq/bn.bias: expected [70], got [3]", "momentum/bn.bias"]
    {
        assert!(message.contains(part), "{message}");
    }
    let wrong = Gradients::from_named(vec![("bn.bias".into(), Tensor::zeros(3, DType::F32, &Device::Cpu)?)]);
    let message = optimizer.step(&wrong, 0.1).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("bn.bias"), "{message}");
    Ok(())
}

#[test]
fn configs_are_read_strictly_and_name_the_key() -> Result<()> {
    let read = |text: &str| toml::from_str::<OptimizerConfig>(text);
    let lars = read("kind = \"lars\"\nvariant = \"moco-v3\"\nweight_decay = 1e-6");
    let want = LarsConfig { weight_decay: 1e-6, ..LarsConfig::new(LarsVariant::MocoV3) };
    assert_eq!(lars.ok(), Some(OptimizerConfig::Lars(want.clone())));
    assert_eq!(read("kind = \"adamw\"").ok(), Some(OptimizerConfig::AdamW(AdamConfig::default())));
    for text in [
        "kind = \"sgd\"\nmomentun = 0.9",
        "kind = \"adam\"\nmomentum = 0.9",
        "kind = \"lars\"",
        "kind = \"lars\"\nvariant = \"x\"",
        "kind = \"lion\"",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    let text = toml::to_string(&OptimizerConfig::Lars(want.clone())).unwrap_or_default();
    assert_eq!(read(&text).ok(), Some(OptimizerConfig::Lars(want.clone())));
    let faulty = [
        (OptimizerConfig::Sgd(SgdConfig { momentum: 1.0, ..Default::default() }), "optim.momentum"),
        (
            OptimizerConfig::Sgd(SgdConfig { momentum: 0.0, nesterov: true, weight_decay: 0.0 }),
            "optim.nesterov",
        ),
        (OptimizerConfig::Lars(LarsConfig { clip: true, ..want.clone() }), "optim.clip"),
        (OptimizerConfig::Lars(LarsConfig { trust_coefficient: 0.0, ..want }), "optim.trust_coefficient"),
        (OptimizerConfig::Adam(AdamConfig { betas: [0.9, 1.0], ..Default::default() }), "optim.betas[1]"),
        (
            OptimizerConfig::AdamW(AdamConfig { weight_decay: f64::NAN, ..Default::default() }),
            "optim.weight_decay",
        ),
    ];
    for (config, key) in faulty {
        let message = config.check("optim").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(
            message.contains(key) && (message.contains("must be") || message.contains("needs")),
            "{message}"
        );
    }
    Ok(())
}
