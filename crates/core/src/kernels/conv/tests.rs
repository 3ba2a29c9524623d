use candle_core::{DType, Device, Var};

use super::*;
use crate::kernels::precision::{Precision, with_precision};
use crate::kernels::test_support::{assert_same, assert_within, values};
use crate::rng::{Key, Purpose};
use crate::tensor::{GradCheck, check_gradients};

pub(super) fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(1, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn conv(x: &Tensor, w: &Tensor, settings: ConvSettings) -> Result<Tensor> {
    conv2d(&FeatureMap::new(x)?, w, None, settings)?.tensor()
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
    assert_within(3e-5, 1e-6, a, b, what)
}

/// x, w, stride, padding, groups: stems, 1x1 with and without stride, rectangular maps and kernels, groups, depthwise,
/// sides with different remainders, maps small enough to share a product and large enough to be cut.
pub(super) const CASES: [([usize; 4], [usize; 4], [usize; 3]); 15] = [
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

/// Strides and paddings that differ by side and axis: x, w, stride, padding, groups. The last one has a stride beyond
/// the kernel, the one before it padding beyond the kernel.
pub(super) const UNEVEN: [([usize; 4], [usize; 4], ConvSettings); 6] = [
    ([2, 3, 9, 8], [4, 3, 3, 3], ConvSettings { stride: [2, 1], padding: [1, 0, 2, 1], groups: 1 }),
    ([2, 4, 7, 11], [6, 2, 2, 4], ConvSettings { stride: [1, 3], padding: [0, 1, 1, 2], groups: 2 }),
    ([3, 2, 1, 12], [3, 2, 1, 5], ConvSettings { stride: [1, 2], padding: [0, 0, 3, 0], groups: 1 }),
    ([2, 4, 6, 6], [4, 1, 3, 3], ConvSettings { stride: [2, 2], padding: [0, 1, 0, 1], groups: 4 }),
    ([2, 3, 5, 4], [2, 3, 2, 2], ConvSettings { stride: [2, 2], padding: [3, 4, 4, 3], groups: 1 }),
    ([2, 3, 9, 8], [2, 3, 2, 1], ConvSettings { stride: [3, 4], padding: [1, 0, 0, 2], groups: 1 }),
];

#[test]
fn uneven_sides_agree_with_the_twin() -> Result<()> {
    for (x, w, settings) in UNEVEN {
        assert_same(
            &[random("x", &x)?, random("w", &w)?],
            |t| conv(&t[0], &t[1], settings),
            |t| conv2d(&FeatureMap(Form::Plain(t[0].clone())), &t[1], None, settings)?.tensor(),
        )?;
    }
    Ok(())
}

#[test]
fn the_twin_agrees_with_differences() -> Result<()> {
    for (x, w, settings) in UNEVEN {
        check_gradients(&[random("x", &x)?, random("w", &w)?], GradCheck::default(), |t| {
            conv2d(&FeatureMap(Form::Plain(t[0].clone())), &t[1], None, settings)?.tensor()
        })?;
    }
    Ok(())
}

/// Operands of a comparison between the CPU operation and another one.
pub(super) struct Case<'a> {
    pub x: [usize; 4],
    pub w: [usize; 4],
    pub settings: ConvSettings,
    pub dtype: DType,
    /// The device of the other operation.
    pub device: &'a Device,
    /// Allowed error of an element, relative to the largest one.
    pub tolerance: f32,
}

impl Case<'_> {
    /// Asserts that value, input gradient and weight gradient of the other operation are those of the CPU operation
    /// for the same numbers.
    pub(super) fn check(&self, other: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
        let shapes: [(&str, &[usize]); 2] = [("x", &self.x), ("w", &self.w)];
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (name, shape) in shapes {
            let rounded = random(name, shape)?.to_dtype(self.dtype)?;
            ours.push(Var::from_tensor(&rounded.to_dtype(DType::F32)?)?);
            theirs.push(Var::from_tensor(&rounded.to_device(self.device)?)?);
        }
        let y = with_precision(Precision::F32Exact, || conv(&ours[0], &ours[1], self.settings))?;
        let y_other = other(&theirs[0], &theirs[1])?;
        let dy = random("dy", y.dims())?.to_dtype(self.dtype)?;
        let grads = (&y * dy.to_dtype(DType::F32)?)?.sum_all()?.backward()?;
        let grads_other = (&y_other * dy.to_device(self.device)?)?.sum_all()?.backward()?;
        let mut pairs = vec![("y", y.detach(), y_other.detach())];
        for (name, ours, theirs) in [("dx", &ours[0], &theirs[0]), ("dw", &ours[1], &theirs[1])] {
            match (grads.get(ours), grads_other.get(theirs)) {
                (Some(ours), Some(theirs)) => pairs.push((name, ours.clone(), theirs.clone())),
                _ => panic!("no {name}"),
            }
        }
        for (name, ours, theirs) in pairs {
            let Self { x, w, settings, dtype, tolerance, .. } = self;
            let what = format!("{name} of {x:?} {w:?} {settings:?} {dtype:?}");
            assert_eq!((ours.dims(), theirs.dtype()), (theirs.dims(), *dtype), "{what}");
            let ours = values(&ours)?;
            let theirs = values(&theirs.to_dtype(DType::F32)?)?;
            let scale = ours.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                let close = (ours - theirs).abs() <= tolerance * scale;
                assert!(close, "{what}, element {i}: {theirs} for {ours}, largest {scale}");
            }
        }
        Ok(())
    }
}

#[test]
fn the_twin_takes_other_types() -> Result<()> {
    for (dtype, tolerance) in [(DType::F64, 1e-5), (DType::F16, 5e-3), (DType::BF16, 4e-2)] {
        for (x, w, settings) in UNEVEN {
            let case = Case { x, w, settings, dtype, device: &Device::Cpu, tolerance };
            case.check(|x, w| conv2d(&FeatureMap(Form::Plain(x.clone())), w, None, settings)?.tensor())?;
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
    let twin = conv2d(&FeatureMap(Form::Plain(x.clone())), &w, None, ConvSettings::default())?.tensor()?;
    let grads = twin.sum_all()?.backward()?;
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

/// x, w, stride and padding: CPC's speech encoder on few channels, windows that leave a rest, one-sided padding, a single
/// row too long for one unit of work.
#[allow(clippy::type_complexity)]
const SEQUENCES: [([usize; 3], [usize; 3], usize, [usize; 2]); 8] = [
    ([3, 1, 640], [8, 1, 10], 5, [3, 3]),
    ([3, 8, 128], [9, 8, 8], 4, [2, 2]),
    ([2, 40, 33], [33, 40, 4], 2, [1, 1]),
    ([2, 5, 31], [6, 5, 4], 2, [2, 1]),
    ([2, 5, 9], [6, 5, 3], 1, [2, 0]),
    ([4, 3, 12], [2, 3, 1], 1, [0, 0]),
    ([1, 2, 5], [3, 2, 7], 3, [1, 4]),
    ([1, 2, 2100], [3, 2, 4], 2, [1, 1]),
];

/// The definition, in double precision.
fn plain_conv1d(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: [usize; 2],
) -> Result<Vec<f64>> {
    let ((n, c, t), (o, _, k)) = (x.dims3()?, w.dims3()?);
    let (x, w, bias) = (values(x)?, values(w)?, values(bias)?);
    let steps = (t + padding[0] + padding[1] - k) / stride + 1;
    let mut out = Vec::new();
    for (i, row, step) in (0..n).flat_map(|i| (0..o).flat_map(move |r| (0..steps).map(move |s| (i, r, s)))) {
        let mut sum = f64::from(bias[row]);
        for (channel, tap) in (0..c).flat_map(|channel| (0..k).map(move |tap| (channel, tap))) {
            if let Some(at) = (step * stride + tap).checked_sub(padding[0]).filter(|at| *at < t) {
                sum += f64::from(x[(i * c + channel) * t + at]) * f64::from(w[(row * c + channel) * k + tap]);
            }
        }
        out.push(sum);
    }
    Ok(out)
}

#[test]
fn sequences_agree_with_the_definition_the_twin_and_differences() -> Result<()> {
    for (x, w, stride, padding) in SEQUENCES {
        let what = format!("{x:?} {w:?} stride {stride} padding {padding:?}");
        let inputs = [random("x", &x)?, random("w", &w)?, random("b", &w[..1])?];
        let ours =
            |t: &[Tensor]| conv1d(&FeatureMap::new(&t[0])?, &t[1], t.get(2), stride, padding)?.tensor();
        let y = ours(&inputs)?;
        let expected = plain_conv1d(&inputs[0], &inputs[1], &inputs[2], stride, padding)?;
        for (i, (y, expected)) in values(&y)?.iter().zip(&expected).enumerate() {
            assert!((f64::from(*y) - expected).abs() < 1e-4, "{what}: element {i}: {y}, not {expected}");
        }
        assert_same(&inputs, ours, |t| {
            let x = FeatureMap(Form::Plain(t[0].clone()));
            conv1d(&x, &t[1], t.get(2), stride, padding)?.tensor()
        })?;
        check_gradients(&inputs, GradCheck { probes: 12, ..GradCheck::default() }, ours)?;
        // The same as a sequence, for recurrent layers.
        let map = conv1d(&FeatureMap::new(&inputs[0])?, &inputs[1], None, stride, padding)?;
        let (sequence, tensor) = (map.sequence()?.rows()?, map.tensor()?.transpose(1, 2)?);
        assert_eq!(values(&sequence)?, values(&tensor)?, "{what}");
    }
    let x = FeatureMap::new(&random("x", &[2, 3, 5])?)?;
    for (w, bias) in [(&[4usize, 2, 3][..], 4), (&[4, 3, 6], 4), (&[4, 3, 3], 5), (&[4, 3], 4)] {
        assert!(conv1d(&x, &random("w", w)?, Some(&random("b", &[bias])?), 1, [0, 0]).is_err(), "{w:?}");
    }
    Ok(())
}
