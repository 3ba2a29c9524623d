//! Loss and gradient against the official code's formula and lightly's loss (`fixtures/make_golden.py`).

use anyhow::Result;
use candle_core::Var;
use contrastive_byol::LossForm;
use contrastive_byol::loss::{byol_loss, regression_loss};
use contrastive_testing::{assert_close, grid};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    paper: Values,
    cosine: Values,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    grad_1: Vec<f64>,
    grad_2: Vec<f64>,
}

#[test]
fn both_forms_match_their_peers() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    let prediction = |v: f64| {
        Ok::<_, anyhow::Error>(Var::from_tensor(&grid(|i, j| (8.0 * i + j + 1.0 + 3.0 * v).sin())?)?)
    };
    let projection = |v: f64| grid(|i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0 + 5.0 * v).cos());
    for (form, expected) in [(LossForm::Paper, golden.paper), (LossForm::Cosine, golden.cosine)] {
        let (q1, q2) = (prediction(0.0)?, prediction(1.0)?);
        let loss = byol_loss([&q1, &q2], [&projection(0.0)?, &projection(1.0)?], form)?;
        assert_close("loss", &loss, &[expected.loss], 1e-5)?;
        let grads = loss.backward()?;
        for (var, expected) in [(&q1, &expected.grad_1), (&q2, &expected.grad_2)] {
            let gradient = grads.get(var).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
            assert_close("gradient", gradient, expected, 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn equal_and_opposite_rows_have_the_losses_0_and_4() -> Result<()> {
    let x = grid(|i, j| (i + 2.0 * j).sin())?;
    assert_close("equal", &regression_loss(&x, &(&x * 3.0)?)?, &[0.0], 1e-5)?;
    assert_close("opposite", &regression_loss(&x, &x.neg()?)?, &[4.0], 1e-5)?;
    assert!(regression_loss(&x, &x.narrow(0, 0, 5)?).is_err());
    Ok(())
}
