//! Loss and gradient against the official code's formula and lightly's loss (`fixtures/make_golden.py`).

use anyhow::Result;
use candle_core::{Tensor, Var};
use contrastive_simsiam::loss::{negative_cosine, simsiam_loss};
use contrastive_testing::{assert_close, grid};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    official: Values,
    lightly: Values,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    grad_1: Vec<f64>,
    grad_2: Vec<f64>,
}

fn prediction(v: f64) -> Result<Var> {
    Ok(Var::from_tensor(&grid(|i, j| (8.0 * i + j + 1.0 + 3.0 * v).sin())?)?)
}

fn projection(v: f64) -> Result<Tensor> {
    grid(|i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0 + 5.0 * v).cos())
}

#[test]
fn the_loss_matches_its_peers() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    let (p1, p2) = (prediction(0.0)?, prediction(1.0)?);
    let loss = simsiam_loss([&p1, &p2], [&projection(0.0)?, &projection(1.0)?])?;
    let grads = loss.backward()?;
    for expected in [golden.official, golden.lightly] {
        assert_close("loss", &loss, &[expected.loss], 1e-5)?;
        for (var, expected) in [(&p1, &expected.grad_1), (&p2, &expected.grad_2)] {
            let gradient = grads.get(var).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
            assert_close("gradient", gradient, expected, 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn equal_and_opposite_rows_have_the_losses_minus_1_and_1() -> Result<()> {
    let x = grid(|i, j| (i + 2.0 * j).sin())?;
    assert_close("equal", &negative_cosine(&x, &(&x * 3.0)?)?, &[-1.0], 1e-5)?;
    assert_close("opposite", &negative_cosine(&x, &x.neg()?)?, &[1.0], 1e-5)?;
    assert!(negative_cosine(&x, &x.narrow(0, 0, 5)?).is_err());
    Ok(())
}
