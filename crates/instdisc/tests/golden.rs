//! The losses, their gradients and the bank's update against the official code's formulas (`fixtures/make_golden.py`).

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor, Var};
use contrastive_core::dist::single;
use contrastive_core::state::MemoryBank;
use contrastive_instdisc::loss::{estimate_z, full_softmax, nce, proximal, sampled_softmax};
use contrastive_testing as testing;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    temperature: f64,
    rows: Vec<u32>,
    z: f64,
    losses: HashMap<String, Values>,
    updated: Vec<f64>,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    gradient: Vec<f64>,
}

fn golden() -> Result<Golden> {
    Ok(serde_json::from_str(include_str!("fixtures/golden.json"))?)
}

/// Features `[2, 8]`, bank `[16, 8]`, rows `[2, 4]`.
fn inputs(golden: &Golden) -> Result<(Var, Tensor, Tensor)> {
    let rows = Tensor::from_slice(&golden.rows, (2, 4), &Device::Cpu)?;
    Ok((Var::from_tensor(&testing::sine(0..2)?)?, testing::cosine(0..16)?, rows))
}

/// The numbers that this project's notes on the method hold, computed apart from the script.
const REFERENCE: [(&str, f64); 4] = [
    ("nce_with_eps", 5.222890),
    ("nce", 5.222888),
    ("sampled_softmax", 3.969787),
    ("full_softmax", 5.103236),
];

#[test]
fn losses_and_gradients_match_the_official_formulas() -> Result<()> {
    let golden = golden()?;
    let (f, bank, rows) = inputs(&golden)?;
    let t = golden.temperature;
    let z = estimate_z(&f, &bank, &rows, t, &single())?;
    assert!((f64::from(z) - golden.z).abs() < 1e-3 && (golden.z - 288.902075).abs() < 1e-5, "Z {z}");
    let nce = nce(&f, &bank, &rows, t, z)?.loss;
    let cases = [
        ("nce", &nce, 1e-5),
        // The stable form leaves out the eps.
        ("nce_with_eps", &nce, 2e-5),
        ("sampled_softmax", &sampled_softmax(&f, &bank, &rows, t)?.loss, 1e-5),
        ("full_softmax", &full_softmax(&f, &bank, &[3, 9], t)?.loss, 1e-5),
        ("proximal", &proximal(&f, &bank.index_select(&rows.narrow(1, 0, 1)?.squeeze(1)?, 0)?)?, 1e-5),
    ];
    for (name, loss, tolerance) in cases {
        let expected = &golden.losses[name];
        let value = testing::value(loss)?;
        assert!((value - expected.loss).abs() < tolerance, "{name}: {value}, expected {}", expected.loss);
        let grads = loss.backward()?;
        let gradient = grads.get(&f).ok_or_else(|| anyhow!("no gradient of {name}"))?;
        testing::assert_close(name, gradient, &expected.gradient, 2.0 * tolerance)?;
    }
    for (name, value) in REFERENCE {
        assert!((golden.losses[name].loss - value).abs() < 1e-6, "{name}: the script and the notes differ");
    }
    Ok(())
}

#[test]
fn the_bank_s_update_matches_the_official_formula() -> Result<()> {
    let golden = golden()?;
    let (f, bank, _) = inputs(&golden)?;
    let mut memory = MemoryBank::new("bank", [16, 8], 0, &Device::Cpu)?;
    memory.load_state(&HashMap::from([("bank".to_string(), bank)]))?;
    memory.update(&[3, 9], &f, 0.5)?;
    let updated = memory.gather(&[3, 9])?;
    testing::assert_close("bank", &updated, &golden.updated, 1e-6)?;
    let first = updated.narrow(0, 0, 1)?.narrow(1, 0, 4)?;
    testing::assert_close("row 3", &first, &[0.189035, 0.100419, -0.229038, -0.562765], 1e-6)
}

/// A row of the first batch as the official code sees it, far from 0: neither branch of the softplus overflows.
#[test]
fn extreme_scores_stay_finite() -> Result<()> {
    let golden = golden()?;
    let (f, bank, rows) = inputs(&golden)?;
    let out = nce(&f, &bank, &rows, 1e-3, 1.0)?;
    let gradient = out.loss.backward()?.get(&f).ok_or_else(|| anyhow!("no gradient"))?.sum_all()?;
    assert!(testing::value(&out.loss)?.is_finite() && testing::value(&gradient)?.is_finite());
    Ok(())
}
