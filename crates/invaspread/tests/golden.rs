//! The criterion and its gradient against the official code's formula (`fixtures/make_golden.py`).

use anyhow::{Result, anyhow};
use candle_core::{Tensor, Var};
use contrastive_core::dist::single;
use contrastive_invaspread::loss::invaspread_loss;
use contrastive_testing as testing;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    temperature: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    negative_weight: f64,
    positive: f64,
    negative: f64,
    grad_a: Vec<f64>,
    grad_b: Vec<f64>,
}

fn close(what: &str, got: &Tensor, expected: f64, tolerance: f64) -> Result<()> {
    let got = testing::value(got)?;
    assert!((got - expected).abs() < tolerance, "{what}: {got}, expected {expected}");
    Ok(())
}

#[test]
fn the_criterion_and_its_one_sided_gradient_match_the_official_formula() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    for case in golden.cases {
        let (a, b) = (Var::from_tensor(&testing::sine(0..4)?)?, Var::from_tensor(&testing::cosine(0..4)?)?);
        let out = invaspread_loss(&a, &b, golden.temperature, case.negative_weight, &single())?;
        close("invariant part", &out.positive, case.positive, 1e-5)?;
        close("spreading part", &out.negative, case.negative, 1e-5)?;
        close("loss", &out.loss, case.positive + case.negative, 1e-5)?;
        let grads = out.loss.backward()?;
        for (name, var, expected) in [("grad_a", &a, &case.grad_a), ("grad_b", &b, &case.grad_b)] {
            let gradient = grads.get(var).ok_or_else(|| anyhow!("no gradient"))?;
            testing::assert_close(name, gradient, expected, 2e-5)?;
        }
    }
    Ok(())
}

#[test]
fn the_reference_s_numbers() -> Result<()> {
    let out = invaspread_loss(&testing::sine(0..4)?, &testing::cosine(0..4)?, 0.1, 1.0, &single())?;
    close("loss", &out.loss, 6.052180, 2e-6)?;
    close("invariant part", &out.positive, 4.065141, 2e-6)?;
    close("spreading part", &out.negative, 1.987040, 2e-6)
}

/// Where the official code's loss is infinite: a negative that is nearly the row itself, at a low temperature.
#[test]
fn a_negative_of_probability_one_leaves_the_loss_finite() -> Result<()> {
    let x1 = Var::from_tensor(&Tensor::cat(&[&testing::sine(0..1)?, &testing::sine(0..1)?], 0)?)?;
    let x2 = testing::cosine(0..2)?;
    let out = invaspread_loss(&x1, &x2, 0.01, 1.0, &single())?;
    assert!(testing::value(&out.loss)?.is_finite());
    let grads = out.loss.backward()?;
    let gradient = grads.get(&x1).ok_or_else(|| anyhow!("no gradient"))?.abs()?.sum_all()?;
    assert!(testing::value(&gradient)?.is_finite());
    Ok(())
}
