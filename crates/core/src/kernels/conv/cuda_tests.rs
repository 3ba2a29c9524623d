//! The twin on a CUDA device against the CPU operation. Without a device these tests say so and pass.

use candle_core::{DType, Device, Tensor, Var};

use super::tests::{CASES, Case, UNEVEN, random};
use super::{ConvSettings, ConvShape, conv2d, products};
use crate::Result;
use crate::kernels::FeatureMap;
use crate::kernels::precision::{Precision, with_precision};
use crate::tensor::{GradCheck, check_gradients};

fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped, no CUDA device: {error}");
            None
        }
    }
}

/// Small shapes of every kind, and some of those that networks have.
fn shapes() -> Vec<([usize; 4], [usize; 4], ConvSettings)> {
    let square = |stride, padding, groups| ConvSettings::square(stride, padding).groups(groups);
    let mut all: Vec<_> = CASES
        .into_iter()
        .map(|(x, w, [stride, padding, groups])| (x, w, square(stride, padding, groups)))
        .chain(UNEVEN)
        .collect();
    all.extend([
        ([8, 3, 64, 64], [64, 3, 7, 7], square(2, 3, 1)),
        ([8, 3, 32, 32], [64, 3, 3, 3], square(1, 1, 1)),
        ([8, 64, 32, 32], [64, 64, 3, 3], square(1, 1, 1)),
        ([8, 64, 32, 32], [128, 64, 3, 3], square(2, 1, 1)),
        ([8, 64, 32, 32], [128, 64, 1, 1], square(2, 0, 1)),
        ([8, 256, 14, 14], [64, 256, 1, 1], square(1, 0, 1)),
        ([8, 64, 15, 15], [64, 4, 3, 3], square(2, 1, 16)),
        ([8, 64, 15, 15], [64, 1, 7, 7], square(1, 3, 64)),
    ]);
    all
}

fn conv(x: &Tensor, w: &Tensor, settings: ConvSettings) -> Result<Tensor> {
    conv2d(&FeatureMap::new(x)?, w, None, settings)?.tensor()
}

/// Compares all three passes with those of the CPU, over all shapes.
fn check(
    precision: Precision,
    dtype: DType,
    tolerance: f32,
    other: impl Fn(&Tensor, &Tensor, ConvSettings) -> Result<Tensor>,
) -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (x, w, settings) in shapes() {
        let case = Case { x, w, settings, dtype, device: &device, tolerance };
        case.check(|x, w| with_precision(precision, || other(x, w, settings)))?;
    }
    Ok(())
}

#[test]
fn exact_f32_agrees_with_the_cpu() -> Result<()> {
    check(Precision::F32Exact, DType::F32, 1e-4, conv)
}

#[test]
fn tf32_agrees_with_the_cpu() -> Result<()> {
    check(Precision::F32, DType::F32, 5e-3, conv)
}

#[test]
fn half_types_agree_with_the_cpu() -> Result<()> {
    check(Precision::F32, DType::F16, 1e-2, conv)?;
    check(Precision::F32, DType::BF16, 4e-2, conv)
}

#[test]
fn products_agree_with_the_cpu() -> Result<()> {
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 1e-2), (DType::BF16, 4e-2)] {
        check(Precision::F32, dtype, tolerance, |x, w, settings| {
            let ConvSettings { stride, padding, groups } = settings;
            let (n, c, h, width) = x.dims4()?;
            products::conv(x, w, ConvShape::new([n, c, h, width], w.dims(), stride, padding, groups)?)
        })?;
    }
    Ok(())
}

#[test]
fn gradients_agree_with_differences() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (x, w, settings) in shapes() {
        if x[0] * x[1] > 16 {
            continue;
        }
        let inputs = [random("x", &x)?.to_device(&device)?, random("w", &w)?.to_device(&device)?];
        with_precision(Precision::F32Exact, || {
            check_gradients(&inputs, GradCheck::default(), |t| conv(&t[0], &t[1], settings))
        })?;
    }
    Ok(())
}

/// A strided view as input, a strided gradient, a bias, and a second step from what the first one kept.
#[test]
fn views_and_bias_agree_with_the_cpu() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let run = |device: &Device| -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        for _ in 0..2 {
            let x = Var::from_tensor(&random("x", &[6, 5, 3, 7])?.to_device(device)?)?;
            let w = Var::from_tensor(&random("w", &[4, 5, 3, 3])?.to_device(device)?)?;
            let bias = Var::from_tensor(&random("bias", &[4])?.to_device(device)?)?;
            let view = x.permute((2, 1, 3, 0))?.narrow(3, 1, 5)?;
            let settings = ConvSettings::square(2, 1);
            let y = conv2d(&FeatureMap::new(&view)?, &w, Some(&bias), settings)?.tensor()?;
            let grads = y.transpose(2, 3)?.contiguous()?.sqr()?.sum_all()?.backward()?;
            all.push(y.flatten_all()?.to_vec1::<f32>()?);
            for var in [&x, &w, &bias] {
                let Some(gradient) = grads.get(var) else { panic!("no gradient") };
                all.push(gradient.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok(all)
    };
    let (ours, theirs) = with_precision(Precision::F32Exact, || (run(&Device::Cpu), run(&device)));
    for (ours, theirs) in ours?.into_iter().zip(theirs?) {
        let scale = ours.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-4 * scale));
    }
    Ok(())
}

#[test]
fn constant_inputs_get_no_gradient() -> Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let x = random("x", &[2, 3, 5, 5])?.to_device(&device)?;
    let w = Var::from_tensor(&random("w", &[4, 3, 3, 3])?.to_device(&device)?)?;
    let grads = conv(&x, &w, ConvSettings::default())?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_none() && grads.get(&w).is_some());
    Ok(())
}
