//! What the tests of operations share.

use candle_core::{Device, Tensor, Var};

use crate::Result;
use crate::rng::{Key, Purpose};

/// Normal values that depend on the name alone.
pub(crate) fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(4, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Asserts that two functions have the same values and gradients up to rounding.
pub(crate) fn assert_same(
    inputs: &[Tensor],
    ours: impl Fn(&[Tensor]) -> Result<Tensor>,
    twin: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (ours, twin) = (ours(&tracked)?, twin(&tracked)?);
    assert_close(&ours, &twin, "value")?;
    let dy = random("dy", ours.dims())?;
    let (ours, twin) = ((ours * &dy)?.sum_all()?.backward()?, (twin * &dy)?.sum_all()?.backward()?);
    for (i, x) in tracked.iter().enumerate() {
        match (ours.get(x), twin.get(x)) {
            (Some(ours), Some(twin)) => assert_close(ours, twin, &format!("gradient {i}"))?,
            (ours, twin) => panic!("gradient {i}: {} against {}", ours.is_some(), twin.is_some()),
        }
    }
    Ok(())
}

/// Asserts that two tensors are equal up to rounding.
pub(crate) fn assert_close(ours: &Tensor, twin: &Tensor, what: &str) -> Result<()> {
    assert_within(2e-5, 1e-3, ours, twin, what)
}

/// Asserts that two tensors differ by at most `tolerance` of the largest element of `twin`, or of `floor` where that is
/// more.
pub(crate) fn assert_within(
    tolerance: f32,
    floor: f32,
    ours: &Tensor,
    twin: &Tensor,
    what: &str,
) -> Result<()> {
    assert_eq!(ours.dims(), twin.dims(), "{what}");
    let (ours, twin) = (values(ours)?, values(twin)?);
    let scale = twin.iter().fold(floor, |m, v| m.max(v.abs()));
    for (i, (ours, twin)) in ours.iter().zip(&twin).enumerate() {
        assert!((ours - twin).abs() <= tolerance * scale, "{what}, element {i}: {ours} and {twin}");
    }
    Ok(())
}

/// The elements in order.
pub(crate) fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?)
}
