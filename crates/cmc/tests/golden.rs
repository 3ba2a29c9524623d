//! The objective, its gradients and the banks' updates against the official code's formulas
//! (`fixtures/make_golden.py`).

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor, Var};
use contrastive_cmc::loss::{estimate_z, in_batch, local_global, nce, places, sampled_softmax};
use contrastive_cmc::{Contrast, ContrastConfig, Form, Graph};
use contrastive_core::dist::single;
use contrastive_core::tensor::{GradCheck, check_gradients, l2_normalize};
use contrastive_testing as testing;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    temperature: f64,
    rows: Vec<u32>,
    z: [f64; 2],
    losses: HashMap<String, Values>,
    updated: [Vec<f64>; 2],
    patches: Values,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    gradients: [Vec<f64>; 2],
}

fn golden() -> Result<Golden> {
    Ok(serde_json::from_str(include_str!("fixtures/golden.json"))?)
}

fn views() -> Result<[Var; 2]> {
    Ok([Var::from_tensor(&testing::sine(0..2)?)?, Var::from_tensor(&testing::sine(4..6)?)?])
}

/// The objective with banks as in the fixture.
fn contrast(form: Form, temperature: f64) -> Result<Contrast> {
    let config = ContrastConfig { temperature, form, bank_momentum: 0.5, graph: Graph::Full };
    let mut contrast = Contrast::new(config, &["a", "b"], 8, 0)?;
    contrast.prepare(16, &Device::Cpu)?;
    let mut state: HashMap<String, Tensor> = contrast.state()?.into_iter().collect();
    state.insert("bank.a".into(), testing::cosine(0..16)?);
    state.insert("bank.b".into(), testing::cosine(16..32)?);
    contrast.load_state(&state)?;
    Ok(contrast)
}

fn matches(what: &str, loss: &Tensor, of: [&Var; 2], expected: &Values) -> Result<()> {
    let value = testing::value(loss)?;
    assert!((value - expected.loss).abs() < 2e-5, "{what}: {value}, expected {}", expected.loss);
    let gradients = loss.backward()?;
    for (var, expected) in of.into_iter().zip(&expected.gradients) {
        let gradient = gradients.get(var).ok_or_else(|| anyhow!("no gradient of {what}"))?;
        testing::assert_close(what, gradient, expected, 5e-5)?;
    }
    Ok(())
}

#[test]
fn losses_and_gradients_match_the_official_formulas() -> Result<()> {
    let golden = golden()?;
    let t = golden.temperature;
    let [a, b] = views()?;
    let rows = Tensor::from_slice(&golden.rows, (2, 4), &Device::Cpu)?;
    let banks = [testing::cosine(0..16)?, testing::cosine(16..32)?];
    let mut z = Vec::new();
    for (view, bank, expected) in [(&a, &banks[1], golden.z[0]), (&b, &banks[0], golden.z[1])] {
        let got = estimate_z(view, bank, &rows, t, &single())?;
        assert!((f64::from(got) / expected - 1.0).abs() < 1e-5, "Z {got}, expected {expected}");
        z.push(got);
    }
    let sum = (nce(&a, &banks[1], &rows, t, z[0])?.loss + nce(&b, &banks[0], &rows, t, z[1])?.loss)?;
    matches("nce", &sum, [&a, &b], &golden.losses["nce"])?;
    let sum =
        (sampled_softmax(&a, &banks[1], &rows, t)?.loss + sampled_softmax(&b, &banks[0], &rows, t)?.loss)?;
    matches("sampled_softmax", &sum, [&a, &b], &golden.losses["sampled_softmax"])?;
    matches("in_batch", &in_batch(&a, &b, t, &single())?.loss, [&a, &b], &golden.losses["in_batch"])?;
    // Through the objective with its banks.
    let contrast = contrast(Form::Softmax { negatives: 0 }, t)?;
    let out = contrast.compare(
        &[a.as_tensor().clone(), b.as_tensor().clone()],
        &[3, 9],
        &single(),
        &testing::progress(0),
    )?;
    matches("full_softmax", &out.loss, [&a, &b], &golden.losses["full_softmax"])
}

#[test]
fn patches_match_loops_over_them() -> Result<()> {
    let golden = golden()?;
    let [global, _] = views()?;
    let values: Vec<f32> = (0..96).map(|i| (1.3 * f64::from(i) + 0.3).sin() as f32).collect();
    let local = Var::from_tensor(&Tensor::from_vec(values, (2, 8, 2, 3), &Device::Cpu)?)?;
    let loss = local_global(&global, &local, golden.temperature, &single())?.loss;
    matches("patches", &loss, [&global, &local], &golden.patches)
}

#[test]
fn the_banks_updates_match_the_official_formula() -> Result<()> {
    let golden = golden()?;
    let views = views()?.map(|view| view.as_tensor().clone());
    let mut contrast = contrast(Form::Nce { negatives: 3 }, golden.temperature)?;
    let compared = contrast.compare(&views, &[3, 9], &single(), &testing::progress(0))?;
    contrast.remember(&compared, &views, &[3, 9], &single())?;
    contrast.update()?;
    for (bank, expected) in contrast.banks().iter().zip(&golden.updated) {
        testing::assert_close("bank", &bank.gather(&[3, 9])?, expected, 1e-6)?;
    }
    Ok(())
}

/// Each pair of the graph is one term, and the sum is over pairs.
#[test]
fn graphs_sum_their_pairs() -> Result<()> {
    let t = 0.2;
    let views = [testing::sine(0..4)?, testing::sine(4..8)?, testing::cosine(0..4)?];
    let of = |graph, names: &[&str], views: &[Tensor]| -> Result<_> {
        let config = ContrastConfig { temperature: t, form: Form::InBatch {}, bank_momentum: 0.5, graph };
        let contrast = Contrast::new(config, names, 8, 0)?;
        Ok(contrast.compare(views, &[0, 1, 2, 3], &single(), &testing::progress(0))?)
    };
    let full = of(Graph::Full, &["a", "b", "c"], &views)?;
    let core = of(Graph::Core, &["a", "b", "c"], &views)?;
    assert_eq!((full.pairs.len(), core.pairs.len()), (3, 2));
    assert!((testing::value(&full.loss)? - full.pairs.iter().sum::<f64>()).abs() < 1e-4);
    assert_eq!(full.pairs[..2], core.pairs[..]);
    let last = of(Graph::Core, &["b", "c"], &views[1..])?;
    assert!((full.pairs[2] - last.pairs[0]).abs() < 1e-5);
    assert!(of(Graph::Core, &["b", "b"], &views[1..]).is_err());
    Ok(())
}

/// Places are told apart as embeddings are: with one place of each scene the loss is the one between embeddings.
#[test]
fn places_are_embeddings() -> Result<()> {
    let comm = single();
    let wave = |shape: (usize, usize, usize, usize), f: f64| -> Result<Tensor> {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f64> = (0..count).map(|i| (f * i as f64 + 0.3).sin()).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    let inputs = [wave((2, 4, 3, 3), 0.7)?, wave((2, 4, 3, 3), 1.3)?];
    check_gradients(&inputs, GradCheck::default(), |x| {
        Ok(places(&x[0], &x[1], (2, [0, 1]), 0.3, &comm)?.loss)
    })?;
    let (a, b) = (wave((5, 4, 2, 3), 0.7)?, wave((5, 4, 2, 3), 1.3)?);
    let corner = |x: &Tensor| -> Result<Tensor> {
        Ok(l2_normalize(&x.narrow(2, 1, 1)?.narrow(3, 1, 1)?.flatten_from(1)?.contiguous()?)?)
    };
    let out = places(&a, &b, (2, [1, 1]), 0.2, &comm)?;
    let expected = in_batch(&corner(&a)?, &corner(&b)?, 0.2, &comm)?;
    assert!((out.loss - expected.loss)?.to_scalar::<f64>()?.abs() < 1e-9);
    assert!(places(&a, &b, (0, [0, 0]), 0.2, &comm).is_err());
    assert!(places(&a, &b, (2, [2, 0]), 0.2, &comm).is_err());
    Ok(())
}
