//! Against PyTorch's `nn.GRU` and `nn.LSTM` (`fixtures/nn/make_recurrent.py`).

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::*;
use crate::nn::ParamStore;
use crate::nn::tests::tensor;
use crate::optim::Gradients;

const N: usize = 3;
const T: usize = 7;
const INPUTS: usize = 5;
const WIDTH: usize = 6;

fn close(what: &str, got: &Tensor, expected: &Value) -> Result<()> {
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    let expected: Vec<f64> = serde_json::from_value(expected.clone()).expect("numbers");
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let gap = (f64::from(*got) - expected).abs();
        assert!(gap < 2e-6 * expected.abs().max(1.0), "{what}[{i}]: {got}, PyTorch has {expected}");
    }
    Ok(())
}

#[test]
fn equal_pytorchs() -> Result<()> {
    let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/nn/recurrent.json"))
        .expect("recurrent.json");
    for (name, gates) in [("gru", 3), ("lstm", 4)] {
        let case = &fixture[name];
        let params = ParamStore::new(0, &Device::Cpu);
        let b = params.builder();
        let layer: Box<dyn Recurrent> = match name {
            "gru" => Box::new(Gru::new(&b, INPUTS, WIDTH, 0)?),
            _ => Box::new(Lstm::new(&b, INPUTS, WIDTH, 0)?),
        };
        let weights: HashMap<String, Tensor> = params
            .tensors()
            .into_iter()
            .map(|(name, t)| Ok((name.clone(), tensor(&name, t.dims())?)))
            .collect::<Result<_>>()?;
        assert_eq!(weights["weight_ih_l0"].dims(), [gates * WIDTH, INPUTS]);
        params.load(&weights, "fixture")?;
        let x = tensor("x", &[N, T, INPUTS])?;
        let state = tensor("state", &[N, layer.states()])?;
        let mode = Mode::train(&crate::dist::single());
        let run = |state| -> Result<_> {
            let carried = Carried { state, resets: None };
            let (y, last) = layer.run(&FeatureMap::from_rows(&x)?, carried, &mode)?;
            Ok((y.rows()?, last))
        };
        close("output", &run(None)?.0, &case["from_zeros"])?;
        let (y, last) = run(Some(&state))?;
        close("output", &y, &case["output"])?;
        close("last states", &last, &case["last"])?;
        let loss = (y * tensor("dy", &[N, T, WIDTH])?)?.sum_all()?;
        let gradients = Gradients::of(&params, &loss)?;
        for (name, gradient) in gradients.iter() {
            close(name, gradient, &case["gradients"][name])?;
        }
        assert_eq!(gradients.iter().count(), 4);
    }
    Ok(())
}
