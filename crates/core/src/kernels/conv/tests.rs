use candle_core::{Device, Var};

use super::*;
use crate::kernels::{Precision, with_precision};
use crate::rng::{Key, Purpose};
use crate::tensor::{GradCheck, check_gradients};

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(1, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn conv(x: &Tensor, w: &Tensor, settings: ConvSettings) -> Result<Tensor> {
    conv2d(&FeatureMap::new(x)?, w, None, settings)?.tensor()
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?)
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (values(a)?, values(b)?);
    let scale = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= 3e-5 * scale, "{what}, element {i}: {a} and {b}");
    }
    Ok(())
}

/// x, w, stride, padding, groups: stems, 1x1 with and without stride, rectangular maps and kernels, groups, depthwise,
/// sides with different remainders, maps small enough to share a product and large enough to be cut.
const CASES: [([usize; 4], [usize; 4], [usize; 3]); 15] = [
    ([2, 3, 8, 8], [4, 3, 3, 3], [1, 1, 1]),
    ([2, 3, 9, 7], [4, 3, 7, 7], [2, 3, 1]),
    ([3, 4, 8, 7], [6, 4, 3, 3], [2, 1, 1]),
    ([2, 4, 7, 8], [6, 4, 3, 3], [2, 0, 1]),
    ([2, 6, 5, 6], [4, 6, 1, 1], [1, 0, 1]),
    ([20, 6, 4, 4], [4, 6, 1, 1], [1, 0, 1]),
    ([2, 6, 5, 6], [4, 6, 1, 1], [2, 0, 1]),
    ([2, 6, 6, 5], [4, 3, 3, 3], [1, 1, 2]),
    ([2, 6, 6, 5], [6, 1, 3, 3], [2, 1, 6]),
    ([2, 2, 6, 5], [3, 2, 2, 3], [1, 1, 1]),
    ([2, 2, 6, 9], [3, 2, 3, 2], [3, 2, 1]),
    ([33, 5, 4, 4], [7, 5, 3, 3], [1, 1, 1]),
    ([19, 5, 4, 4], [7, 5, 3, 3], [2, 1, 1]),
    ([2, 2, 40, 40], [3, 2, 3, 3], [1, 2, 1]),
    ([1, 2, 3, 3], [3, 2, 1, 1], [1, 1, 1]),
];

#[test]
fn agrees_with_the_twin() -> Result<()> {
    for (x, w, [stride, padding, groups]) in CASES {
        let what = format!("{x:?} {w:?} stride {stride} padding {padding} groups {groups}");
        let (x, w) = (Var::from_tensor(&random("x", &x)?)?, Var::from_tensor(&random("w", &w)?)?);
        let settings = ConvSettings::square(stride, padding).groups(groups);
        let ours = conv(&x, &w, settings)?;
        let twin = conv2d(&FeatureMap(Form::Plain(x.as_tensor().clone())), &w, None, settings)?.tensor()?;
        assert_close(&ours, &twin, &what)?;
        let weights = random("dy", ours.dims())?;
        let ours = (ours * &weights)?.sum_all()?.backward()?;
        let twin = (twin * &weights)?.sum_all()?.backward()?;
        for (name, var) in [("dx", &x), ("dw", &w)] {
            let (Some(a), Some(b)) = (ours.get(var), twin.get(var)) else { panic!("{what}: no {name}") };
            assert_close(a, b, &format!("{what}, {name}"))?;
        }
    }
    Ok(())
}

#[test]
fn gradients_agree_with_differences() -> Result<()> {
    for (x, w, [stride, padding, groups]) in CASES {
        if x[0] > 3 {
            continue;
        }
        let inputs = [random("x", &x)?, random("w", &w)?];
        check_gradients(&inputs, GradCheck::default(), |t| {
            conv(&t[0], &t[1], ConvSettings::square(stride, padding).groups(groups))
        })?;
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_threads() -> Result<()> {
    let mut seen = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        seen.push(pool.install(|| -> Result<_> {
            let mut all = Vec::new();
            for (stride, size, groups) in
                [(1, 33, 1), (2, 33, 1), (1, 4, 1), (2, 4, 1), (1, 33, 4), (2, 33, 4), (1, 4, 4), (2, 4, 4)]
            {
                let x = Var::from_tensor(&random("x", &[37, 8, size, size])?)?;
                let w = Var::from_tensor(&random("w", &[12, 8 / groups, 3, 3])?)?;
                let y = conv(&x, &w, ConvSettings::square(stride, 1).groups(groups))?;
                let grads = y.sqr()?.sum_all()?.backward()?;
                all.push(values(&y)?);
                for var in [&x, &w] {
                    all.push(values(grads.get(var).expect("gradient"))?);
                }
            }
            Ok(all)
        })?);
    }
    assert!(seen[0] == seen[1]);
    Ok(())
}

#[test]
fn constant_inputs_get_no_gradient() -> Result<()> {
    let x = random("x", &[2, 3, 5, 5])?;
    let w = Var::from_tensor(&random("w", &[4, 3, 3, 3])?)?;
    let grads = conv(&x, &w, ConvSettings::default())?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_none() && grads.get(&w).is_some());
    Ok(())
}

#[test]
fn refuses_what_does_not_fit() -> Result<()> {
    let x = random("x", &[2, 3, 5, 5])?;
    for (shape, groups, stride) in
        [([4, 4, 3, 3], 1, 1), ([4, 3, 6, 6], 1, 1), ([4, 1, 3, 3], 3, 1), ([4, 3, 3, 3], 1, 0)]
    {
        let w = random("w", &shape)?;
        assert!(conv(&x, &w, ConvSettings::square(stride, 0).groups(groups)).is_err(), "{shape:?}");
    }
    Ok(())
}

/// Precisions differ as much as they say, and the gradient goes the way of the forward pass.
#[test]
fn precisions_round_as_they_say() -> Result<()> {
    let error = |precision: Precision, kernel: usize| -> Result<f32> {
        let x = Var::from_tensor(&random("x", &[2, 48, 12, 12])?)?;
        let w = Var::from_tensor(&random("w", &[64, 48, kernel, kernel])?)?;
        let settings = ConvSettings::square(1, kernel / 2);
        let twin = conv2d(&FeatureMap(Form::Plain(x.as_tensor().clone())), &w, None, settings)?.tensor()?;
        let ours = with_precision(precision, || conv(&x, &w, settings))?;
        let worst = |a: &Tensor, b: &Tensor| -> Result<f32> {
            let scale = b.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
            Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? / scale)
        };
        let mut error = worst(&ours, &twin)?;
        let dy = random("dy", ours.dims())?;
        let (ours, twin) = ((ours * &dy)?.sum_all()?.backward()?, (twin * &dy)?.sum_all()?.backward()?);
        for var in [&x, &w] {
            error = error.max(worst(ours.get(var).expect("ours"), twin.get(var).expect("twin"))?);
        }
        Ok(error)
    };
    for kernel in [1, 3] {
        assert!(error(Precision::F32, kernel)? < 1e-4);
        assert!(error(Precision::F32Exact, kernel)? < 1e-5);
    }
    let rounded = error(Precision::Bf16, 1)?;
    assert!((1e-4..3e-2).contains(&rounded), "{rounded}");
    assert!(error(Precision::Bf16, 3)? < 1e-4);
    Ok(())
}
