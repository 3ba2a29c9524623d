//! Losses, gradients and positions against the official code's forms (`fixtures/make_golden.py`).

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use contrastive_core::dist::single;
use contrastive_core::loss::ContrastiveLoss;
use contrastive_core::tensor::l2_normalize;
use contrastive_moco::loss::{queue_loss, v3_loss};
use contrastive_moco::vit::sin_cos;
use contrastive_testing::{assert_close, cosine, sine, value};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    queue: HashMap<String, Values>,
    v3: HashMap<String, Values>,
    sin_cos: Vec<f64>,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    gradient: Vec<f64>,
}

fn golden() -> Result<Golden> {
    Ok(serde_json::from_str(include_str!("fixtures/golden.json"))?)
}

/// Row `i` made `i + 1` times as long.
fn longer(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(0)?;
    let lengths: Vec<f32> = (1..=n).map(|i| i as f32).collect();
    Ok(x.broadcast_mul(&Tensor::from_vec(lengths, (n, 1), &Device::Cpu)?)?)
}

fn check(
    what: &str,
    query: &Tensor,
    expected: &Values,
    loss: impl Fn(&Tensor) -> Result<ContrastiveLoss>,
) -> Result<()> {
    let query = Var::from_tensor(query)?;
    let out = loss(query.as_tensor())?;
    let got = value(&out.loss)?;
    assert!((got - expected.loss).abs() < 1e-5, "{what}: {got}, expected {}", expected.loss);
    let grads = out.loss.backward()?;
    let gradient = grads.get(&query).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
    assert_close(what, gradient, &expected.gradient, 1e-5)
}

#[test]
fn queue_loss_is_the_official_codes() -> Result<()> {
    let golden = golden()?.queue;
    assert!((golden["0.07"].loss - 3.209926).abs() < 1e-6);
    let (keys, queue) = (cosine(0..4)?, cosine(4..10)?);
    for (temperature, expected) in &golden {
        let t = temperature.parse()?;
        let loss = |q: &Tensor| Ok(queue_loss(&l2_normalize(q)?, &keys, &queue, t)?);
        check(&format!("queue, {temperature}"), &longer(&sine(0..4)?)?, expected, loss)?;
    }
    Ok(())
}

#[test]
fn v3_loss_is_the_official_codes() -> Result<()> {
    let keys = Var::from_tensor(&longer(&cosine(0..6)?)?)?;
    for (temperature, expected) in &golden()?.v3 {
        let t = temperature.parse()?;
        let loss = |q: &Tensor| Ok(v3_loss(q, keys.as_tensor(), t, &single())?);
        check(&format!("v3, {temperature}"), &longer(&sine(0..6)?)?, expected, loss)?;
    }
    Ok(())
}

#[test]
fn keys_and_queue_are_constants() -> Result<()> {
    let [q, k, queue] =
        [sine(0..4)?, cosine(0..4)?, cosine(4..10)?].map(|x| Var::from_tensor(&x).expect("a variable"));
    let grads = queue_loss(q.as_tensor(), k.as_tensor(), queue.as_tensor(), 0.2)?.loss.backward()?;
    assert!(grads.get(&q).is_some() && grads.get(&k).is_none() && grads.get(&queue).is_none());
    let grads = v3_loss(q.as_tensor(), k.as_tensor(), 0.2, &single())?.loss.backward()?;
    assert!(grads.get(&q).is_some() && grads.get(&k).is_none());
    Ok(())
}

#[test]
fn positions_are_the_official_codes() -> Result<()> {
    let positions = sin_cos(3, 16, &Device::Cpu)?;
    assert_eq!(positions.dims(), [1, 10, 16]);
    assert_close("positions", &positions, &golden()?.sin_cos, 1e-6)
}
