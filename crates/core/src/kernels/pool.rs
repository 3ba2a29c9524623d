//! Max pooling and global average pooling.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::{is_native, parallel, storage};
use crate::{Error, Result};

/// Largest value of each window: `[N, C, H, W]` to `[N, C, OH, OW]` with
/// `OH = floor((H + 2 * padding - kernel) / stride) + 1`. Padding counts as minus infinity. The gradient goes to the
/// first maximum of a window in row-major order, as in PyTorch.
///
/// # Errors
/// [`Error::Shape`] for another rank, a map smaller than the kernel, or padding above half the kernel.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else { return Err(Error::shape("max_pool2d", "[N, C, H, W]", x.dims())) };
    if kernel == 0 || stride == 0 || padding * 2 > kernel {
        let expected = "kernel and stride of at least 1, padding of at most half the kernel";
        return Err(Error::shape("max_pool2d", expected, &[kernel, stride, padding]));
    }
    if h.min(w) + 2 * padding < kernel {
        return Err(Error::shape("max_pool2d", format!("at least {kernel} x {kernel}"), x.dims()));
    }
    let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let window = Window { kernel, stride, padding, h, w, oh: out(h), ow: out(w) };
    if is_native(x) {
        return Ok(x.contiguous()?.apply_op1(MaxPoolOp { window, places: Mutex::new(Vec::new()) })?);
    }
    composed_max(x, &window)
}

#[derive(Debug, Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
    h: usize,
    w: usize,
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

#[derive(Debug)]
struct MaxPoolOp {
    window: Window,
    /// For each output element the place of its maximum inside the input plane.
    places: Mutex<Vec<u32>>,
}

impl CustomOp1 for MaxPoolOp {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, dims) = (storage::slice(x, layout)?, layout.dims());
        let window = &self.window;
        let (plane, pixels) = (window.h * window.w, window.oh * window.ow);
        let planes = dims[0] * dims[1];
        let mut places = vec![0u32; planes * pixels];
        let cells: Vec<Mutex<&mut [u32]>> = places.chunks_mut(pixels).map(Mutex::new).collect();
        let pool = |i: usize, out: &parallel::Output| {
            let mut places = cells[i].lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: planes are disjoint.
            let out = unsafe { out.slice(i * pixels, pixels) };
            pool_plane(window, &x[i * plane..(i + 1) * plane], |j, value, place| {
                out[j].write(value);
                places[j] = place as u32;
            });
        };
        // SAFETY: all planes are visited, and each visit writes all its pixels.
        let out =
            unsafe { parallel::build(planes * pixels, |out| parallel::for_each(planes, |i| pool(i, out))) };
        drop(cells);
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        Ok((CpuStorage::F32(out), (dims[0], dims[1], window.oh, window.ow).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (plane, pixels) = (self.window.h * self.window.w, self.window.oh * self.window.ow);
        let planes = x.dim(0)? * x.dim(1)?;
        let dx = storage::with(dy, |dy| {
            let spread = |i: usize, out: &parallel::Output| {
                // SAFETY: planes are disjoint.
                let dx = unsafe { out.slice(i * plane, plane) };
                for value in dx.iter_mut() {
                    value.write(0.0);
                }
                let range = i * pixels..(i + 1) * pixels;
                for (&place, &dy) in places[range.clone()].iter().zip(&dy[range]) {
                    // SAFETY: cleared in the loop above.
                    unsafe { *dx[place as usize].assume_init_mut() += dy };
                }
            };
            // SAFETY: all planes are visited, and each visit clears its plane.
            Ok(unsafe {
                parallel::build(planes * plane, |out| parallel::for_each(planes, |i| spread(i, out)))
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Calls `found(output place, maximum, input place)` for every window of a plane. NaN counts as larger than all.
fn pool_plane(window: &Window, x: &[f32], mut found: impl FnMut(usize, f32, usize)) {
    let Window { kernel, stride, padding, h, w, oh, ow } = *window;
    let range = |o: usize, side: usize| {
        let start = o * stride;
        (start.saturating_sub(padding), (start + kernel - padding).min(side))
    };
    for oy in 0..oh {
        let (y0, y1) = range(oy, h);
        for ox in 0..ow {
            let (x0, x1) = range(ox, w);
            let mut place = y0 * w + x0;
            let mut best = x[place];
            for y in y0..y1 {
                for (i, &value) in x[y * w + x0..y * w + x1].iter().enumerate() {
                    if value > best || (value.is_nan() && !best.is_nan()) {
                        (best, place) = (value, y * w + x0 + i);
                    }
                }
            }
            found(oy * ow + ox, best, place);
        }
    }
}

/// The mean over height and width: `[N, C, H, W]` to `[N, C]`.
///
/// # Errors
/// [`Error::Shape`] for another rank or an empty map.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    let &[n, c, h, w] = x.dims() else {
        return Err(Error::shape("global_avg_pool", "[N, C, H, W]", x.dims()));
    };
    if h * w == 0 {
        return Err(Error::shape("global_avg_pool", "[N, C, H, W] with H, W > 0", x.dims()));
    }
    if is_native(x) {
        return Ok(x.contiguous()?.apply_op1(AveragePoolOp)?);
    }
    Ok(x.contiguous()?.reshape((n, c, h * w))?.mean(2)?)
}

#[derive(Debug)]
struct AveragePoolOp;

impl CustomOp1 for AveragePoolOp {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, dims) = (storage::slice(x, layout)?, layout.dims());
        let plane = dims[2] * dims[3];
        let mean = |p: &[f32]| (p.iter().map(|&v| f64::from(v)).sum::<f64>() / plane as f64) as f32;
        let average = |n: usize, out: &parallel::Output| {
            // SAFETY: samples are disjoint.
            let out = unsafe { out.slice(n * dims[1], dims[1]) };
            for (y, p) in out.iter_mut().zip(x[n * dims[1] * plane..].chunks_exact(plane)) {
                y.write(mean(p));
            }
        };
        // SAFETY: all samples and channels are written.
        let out = unsafe {
            parallel::build(dims[0] * dims[1], |out| parallel::for_each(dims[0], |n| average(n, out)))
        };
        Ok((CpuStorage::F32(out), (dims[0], dims[1]).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (n, c, h, w) = x.dims4()?;
        let plane = h * w;
        let dx = storage::with(dy, |dy| {
            let spread = |n: usize, out: &parallel::Output| {
                // SAFETY: samples are disjoint.
                let dx = unsafe { out.slice(n * c * plane, c * plane) };
                for (dx, dy) in dx.chunks_exact_mut(plane).zip(&dy[n * c..]) {
                    let value = dy / plane as f32;
                    for place in dx {
                        place.write(value);
                    }
                }
            };
            // SAFETY: all samples, channels and pixels are written.
            Ok(unsafe { parallel::build(n * c * plane, |out| parallel::for_each(n, |n| spread(n, out))) })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
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
                let ours = max_pool2d(&x, kernel, stride, padding)?;
                let (oh, ow) = (ours.dim(2)?, ours.dim(3)?);
                let twin = composed_max(&x, &Window { kernel, stride, padding, h, w, oh, ow })?;
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
                max_pool2d(&x[0], kernel, stride, padding)
            })?;
        }
        Ok(())
    }

    #[test]
    fn average_pool() -> Result<()> {
        let x = distinct(&[3, 4, 5, 3])?;
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let want = flat(&x.mean((2, 3))?)?;
        for (a, b) in flat(&global_avg_pool(&x)?)?.iter().zip(&want) {
            assert!((a - b).abs() < 1e-6);
        }
        check_gradients(&[x], GradCheck::default(), |x| global_avg_pool(&x[0]))
    }

    #[test]
    fn refuses_what_does_not_fit() -> Result<()> {
        let x = distinct(&[1, 1, 2, 2])?;
        assert!(max_pool2d(&x, 3, 2, 0).is_err());
        assert!(max_pool2d(&x, 2, 2, 2).is_err());
        assert!(max_pool2d(&x.flatten_all()?, 2, 2, 0).is_err());
        assert!(global_avg_pool(&x.flatten_all()?).is_err());
        Ok(())
    }
}
