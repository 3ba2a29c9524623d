//! Assignments, loss and gradients against the official code's formula and lightly's loss, which agree
//! (`fixtures/make_golden.py`).

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor, Var};
use contrastive_core::dist::single;
use contrastive_core::tensor::l2_normalize;
use contrastive_swav::loss::swav_loss;
use contrastive_swav::sinkhorn::{assign, sinkhorn};
use contrastive_testing::assert_close;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    assignments: Vec<f64>,
    batch: Values,
    queue: Values,
}

#[derive(Deserialize)]
struct Values {
    loss: Vec<f64>,
    grad_x: Vec<f64>,
    grad_c: Vec<f64>,
}

/// Samples, views and the rows of a queue in the script.
const N: usize = 6;
const V: usize = 3;
const Q: usize = 12;

/// The script's tables.
fn table(rows: usize, f: impl Fn(f64, f64) -> f64) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * 8).map(|i| f((i / 8) as f64, (i % 8) as f64) as f32).collect();
    Ok(Tensor::from_vec(values, (rows, 8), &Device::Cpu)?)
}

fn inputs() -> Result<(Var, Tensor, Var)> {
    let x = table(V * N, |i, j| (8.0 * i + j + 1.0).sin())?;
    let queue = table(2 * Q, |i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0).cos())?;
    let c = table(5, |i, j| (1.3 * (8.0 * i + j) + 2.0).cos())?;
    Ok((Var::from_tensor(&x)?, l2_normalize(&queue)?, Var::from_tensor(&l2_normalize(&c)?)?))
}

#[test]
fn assignments_match_their_peers() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    let (x, _, c) = inputs()?;
    let scores = l2_normalize(&x.narrow(0, 0, N)?)?.matmul(&c.t()?)?;
    let q = sinkhorn(&scores, 0.05, 3, &single())?;
    assert_close("assignments", &q, &golden.assignments, 2e-6)
}

#[test]
fn loss_and_gradients_match_their_peers() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    for (with_queue, expected) in [(false, golden.batch), (true, golden.queue)] {
        let (x, queue, c) = inputs()?;
        let scores = l2_normalize(&x)?.matmul(&c.t()?)?;
        let assignments = (0..2)
            .map(|view| {
                let past = queue.narrow(0, view * Q, Q)?.matmul(&c.as_detached_tensor().t()?)?;
                let own = scores.narrow(0, view * N, N)?;
                assign(&own, with_queue.then_some(&past), 0.05, 3, &single())
            })
            .collect::<contrastive_core::Result<Vec<_>>>()?;
        let loss = swav_loss(&scores, &assignments, 0.1)?;
        assert_close("loss", &loss, &expected.loss, 2e-5)?;
        let gradients = loss.backward()?;
        for (name, var, expected) in [("x", &x, &expected.grad_x), ("c", &c, &expected.grad_c)] {
            let gradient = gradients.get(var).ok_or_else(|| anyhow!("no gradient of {name}"))?;
            assert_close(name, gradient, expected, 2e-5)?;
        }
    }
    Ok(())
}
