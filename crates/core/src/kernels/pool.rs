//! Max pooling and global average pooling.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::map::{FeatureMap, Form, Native, Output, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::parallel::{self, Disjoint};
use super::simd::vectorized;
use super::{gemm, storage};
use crate::{Error, Result};

/// Largest value of each window: `[N, C, H, W]` to `[N, C, OH, OW]` with
/// `OH = floor((H + 2 * padding - kernel) / stride) + 1`. Padding counts as minus infinity. The gradient goes to the
/// first maximum of a window in row-major order, as in PyTorch.
///
/// # Errors
/// [`Error::Shape`] for another rank, a map smaller than the kernel, or padding above half the kernel.
pub fn max_pool2d(x: &FeatureMap, kernel: usize, stride: usize, padding: usize) -> Result<FeatureMap> {
    let dims = x.dims();
    let &[n, c, h, w] = dims.as_slice() else {
        return Err(Error::shape("max_pool2d", "[N, C, H, W]", &dims));
    };
    if kernel == 0 || stride == 0 || padding * 2 > kernel || kernel > 15 {
        let expected = "kernel of 1 to 15, stride of at least 1, padding of at most half the kernel";
        return Err(Error::shape("max_pool2d", expected, &[kernel, stride, padding]));
    }
    if h.min(w) + 2 * padding < kernel {
        return Err(Error::shape("max_pool2d", format!("at least {kernel} x {kernel}"), &dims));
    }
    let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let window = Window { kernel, stride, padding, h, w, c, oh: out(h), ow: out(w) };
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => Form::Plain(composed_max(x, &window)?),
        Form::Native(x) => Form::Native(native_max(x, n, window)?),
    }))
}

#[derive(Debug, Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
    h: usize,
    w: usize,
    c: usize,
    oh: usize,
    ow: usize,
}

fn composed_max(x: &Tensor, window: &Window) -> Result<Tensor> {
    let Window { kernel, stride, padding, oh, ow, .. } = *window;
    let (n, c) = (x.dim(0)?, x.dim(1)?);
    let mut padded = x.clone();
    if padding > 0 {
        for axis in [2, 3] {
            let mut shape = padded.dims().to_vec();
            shape[axis] = padding;
            let border = Tensor::full(f32::NEG_INFINITY, shape, x.device())?.to_dtype(x.dtype())?;
            padded = Tensor::cat(&[&border, &padded, &border], axis)?;
        }
    }
    let index = |first: usize, count: usize| {
        let places: Vec<u32> = (0..count).map(|i| (first + i * stride) as u32).collect();
        Tensor::from_vec(places, count, x.device())
    };
    let mut taps = Vec::with_capacity(kernel * kernel);
    for ky in 0..kernel {
        let rows = padded.index_select(&index(ky, oh)?, 2)?;
        for kx in 0..kernel {
            taps.push(rows.index_select(&index(kx, ow)?, 3)?);
        }
    }
    let taps = Tensor::stack(&taps, 4)?.contiguous()?;
    let first = taps.detach().argmax_keepdim(4)?;
    Ok(taps.gather(&first, 4)?.reshape((n, c, oh, ow))?)
}

fn native_max(x: &Native, n: usize, window: Window) -> Result<Native> {
    let (size, outputs) = (window.h * window.w * window.c, window.oh * window.ow * window.c);
    let mut y = Buffer::new(n * outputs);
    // For each output element the place of its maximum inside the window.
    let mut places = vec![0u8; n * outputs];
    if outputs > 0 {
        let images = x.values.par_chunks_exact(size).zip(y.par_chunks_exact_mut(outputs));
        images.zip(places.par_chunks_exact_mut(outputs)).for_each(|((x, y), places)| {
            pool_image(window, x, y, places);
        });
    }
    let dims = vec![n, window.oh, window.ow, window.c];
    Native::make(dims, y, |to| x.token.apply_op1(MaxPoolOp { n, window, places, from: x.slot.clone(), to }))
}

#[derive(Debug)]
struct MaxPoolOp {
    n: usize,
    window: Window,
    places: Vec<u8>,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp1 for MaxPoolOp {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, _dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let window = self.window;
        let (size, outputs) = (window.h * window.w * window.c, window.oh * window.ow * window.c);
        let dy = self.to.take(self.n * outputs);
        let mut dx = Buffer::zeros(self.n * size);
        let out = Disjoint::new(&mut dx);
        parallel::for_each(self.n, |i| {
            // SAFETY: images are disjoint.
            let dx = unsafe { out.slice(i * size, size) };
            let range = i * outputs..(i + 1) * outputs;
            window.for_each_pixel(|pixel, windows| {
                let at = range.start + pixel * window.c..range.start + (pixel + 1) * window.c;
                for (tap, input) in windows {
                    let dx = &mut dx[input * window.c..(input + 1) * window.c];
                    spread(&self.places[at.clone()], tap, &dy[at.clone()], dx);
                }
            });
        });
        self.from.add(dx);
        token_gradient(token)
    }
}

impl Window {
    /// Calls `f(output pixel, (place in the window, input pixel)...)` for every window of an image, in row-major order.
    fn for_each_pixel(self, mut f: impl FnMut(usize, &mut dyn Iterator<Item = (u8, usize)>)) {
        let range = |o: usize, side: usize| {
            let start = o * self.stride;
            (start.saturating_sub(self.padding), (start + self.kernel - self.padding).min(side))
        };
        for oy in 0..self.oh {
            let (y0, y1) = range(oy, self.h);
            for ox in 0..self.ow {
                let (x0, x1) = range(ox, self.w);
                let mut taps = (y0..y1)
                    .flat_map(|y| (x0..x1).map(move |x| y * self.w + x))
                    .enumerate()
                    .map(|(tap, input)| (tap as u8, input));
                f(oy * self.ow + ox, &mut taps);
            }
        }
    }
}

fn pool_image(window: Window, x: &[f32], y: &mut [f32], places: &mut [u8]) {
    let c = window.c;
    window.for_each_pixel(|pixel, taps| {
        let at = pixel * c..(pixel + 1) * c;
        let (y, places) = (&mut y[at.clone()], &mut places[at]);
        for (tap, input) in taps {
            let x = &x[input * c..(input + 1) * c];
            if tap == 0 {
                y.copy_from_slice(x);
                places.fill(0);
            } else {
                keep_larger(x, tap, y, places);
            }
        }
    });
}

vectorized! {
    /// NaN counts as larger than all.
    fn keep_larger(x: &[f32], tap: u8, y: &mut [f32], places: &mut [u8]) {
        for ((x, y), place) in x.iter().zip(y).zip(places) {
            let larger = *x > *y || (x.is_nan() && !y.is_nan());
            *y = if larger { *x } else { *y };
            *place = if larger { tap } else { *place };
        }
    }

    /// Adds the gradients of the outputs whose maximum is this tap.
    fn spread(places: &[u8], tap: u8, dy: &[f32], dx: &mut [f32]) {
        for ((place, dy), dx) in places.iter().zip(dy).zip(dx) {
            *dx += if *place == tap { *dy } else { 0.0 };
        }
    }
}

/// The mean over height and width: `[N, C, H, W]` to `[N, C]`.
///
/// # Errors
/// [`Error::Shape`] for another rank or an empty map.
pub fn global_avg_pool(x: &FeatureMap) -> Result<Tensor> {
    let dims = x.dims();
    let &[n, c, h, w] = dims.as_slice() else {
        return Err(Error::shape("global_avg_pool", "[N, C, H, W]", &dims));
    };
    if h * w == 0 || c == 0 {
        return Err(Error::shape("global_avg_pool", "[N, C, H, W] with C, H, W > 0", &dims));
    }
    match &x.0 {
        Form::Plain(x) => Ok(x.contiguous()?.reshape((n, c, h * w))?.mean(2)?),
        Form::Native(x) => {
            let pixels = h * w;
            let mut out = vec![0f32; n * c];
            out.par_chunks_exact_mut(c).zip(x.values.par_chunks_exact(pixels * c)).for_each(|(means, x)| {
                gemm::add_rows(x, means);
                means.iter_mut().for_each(|mean| *mean /= pixels as f32);
            });
            Ok(x.token.apply_op1(AveragePoolOp {
                n,
                c,
                pixels,
                out: Output::new(out),
                slot: x.slot.clone(),
            })?)
        }
    }
}

#[derive(Debug)]
struct AveragePoolOp {
    n: usize,
    c: usize,
    pixels: usize,
    out: Output,
    slot: Arc<Slot>,
}

impl CustomOp1 for AveragePoolOp {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.out.storage(&(self.n, self.c).into()))
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Self { n, c, pixels, .. } = *self;
        let mut dx = Buffer::new(n * pixels * c);
        storage::with(dy, |dy| {
            let out = Disjoint::new(&mut dx);
            parallel::for_each(n, |i| {
                // SAFETY: samples are disjoint.
                let dx = unsafe { out.slice(i * pixels * c, pixels * c) };
                let part: Vec<f32> = dy[i * c..(i + 1) * c].iter().map(|dy| dy / pixels as f32).collect();
                dx.chunks_exact_mut(c).for_each(|row| row.copy_from_slice(&part));
            });
            Ok(())
        })?;
        self.slot.add(dx);
        token_gradient(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};
    use crate::tensor::{GradCheck, check_gradients};
    use candle_core::{Device, Var};

    /// Distinct values, so that no difference quotient crosses a tie.
    fn distinct(shape: &[usize]) -> Result<Tensor> {
        let n = shape.iter().product();
        let order = Key::new(3, Purpose::Data).stream().permutation(n);
        let values: Vec<f32> = order.iter().map(|&i| (i as f32 - n as f32 / 2.0) / 10.0).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    const CASES: [[usize; 7]; 5] = [
        [2, 3, 8, 8, 3, 2, 1],
        [1, 2, 7, 9, 3, 2, 1],
        [1, 2, 7, 9, 2, 2, 0],
        [1, 1, 5, 5, 3, 1, 1],
        [1, 1, 4, 4, 4, 4, 2],
    ];

    #[test]
    fn max_pool_agrees_with_the_twin_and_with_differences() -> Result<()> {
        for [n, c, h, w, kernel, stride, padding] in CASES {
            // Rounded values bring ties, where the first maximum must win in both.
            for x in [distinct(&[n, c, h, w])?, distinct(&[n, c, h, w])?.floor()?] {
                let x = Var::from_tensor(&x)?;
                let ours = max_pool2d(&FeatureMap::new(&x)?, kernel, stride, padding)?.tensor()?;
                let (oh, ow) = (ours.dim(2)?, ours.dim(3)?);
                let twin = composed_max(&x, &Window { kernel, stride, padding, h, w, c, oh, ow })?;
                let weights = distinct(ours.dims())?;
                let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
                assert_eq!(flat(&ours)?, flat(&twin)?);
                let ours = (ours * &weights)?.sum_all()?.backward()?;
                let twin = (twin * &weights)?.sum_all()?.backward()?;
                let (a, b) = (ours.get(&x).expect("gradient"), twin.get(&x).expect("gradient"));
                for (a, b) in flat(a)?.iter().zip(&flat(b)?) {
                    assert!((a - b).abs() < 1e-5);
                }
            }
            check_gradients(&[distinct(&[n, c, h, w])?], GradCheck::default(), |x| {
                max_pool2d(&FeatureMap::new(&x[0])?, kernel, stride, padding)?.tensor()
            })?;
        }
        Ok(())
    }

    #[test]
    fn average_pool() -> Result<()> {
        let x = distinct(&[3, 4, 5, 3])?;
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let want = flat(&x.mean((2, 3))?)?;
        for (a, b) in flat(&global_avg_pool(&FeatureMap::new(&x)?)?)?.iter().zip(&want) {
            assert!((a - b).abs() < 1e-6);
        }
        check_gradients(&[x], GradCheck::default(), |x| global_avg_pool(&FeatureMap::new(&x[0])?))
    }

    #[test]
    fn refuses_what_does_not_fit() -> Result<()> {
        let x = distinct(&[1, 1, 2, 2])?;
        let (map, flat) = (FeatureMap::new(&x)?, FeatureMap::new(&x.reshape((2, 2))?)?);
        assert!(max_pool2d(&map, 3, 2, 0).is_err());
        assert!(max_pool2d(&map, 2, 2, 2).is_err());
        assert!(max_pool2d(&flat, 2, 2, 0).is_err());
        assert!(global_avg_pool(&flat).is_err());
        Ok(())
    }
}
