//! Convolution as matrix products over windows, for tensors of any device and type.
//!
//! Everything here is views, strided copies and Candle's matrix product, so the one formulation serves CUDA without
//! cuDNN, Metal, and other types on the CPU, and the tests of the CPU cover it. Candle's own backward does not do:
//! its input gradient is a direct loop per output element on every device, its weight gradient becomes one where the
//! `cudnn` feature is on, it takes one stride and padding for both axes, and it computes the input gradient of images
//! too. Kernels of our own in CUDA C were decided against: Candle loads PTX, but making it needs a toolkit at build
//! time or NVRTC with its headers at run time, and what they would save is one pass over the windows.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Layout, MetalStorage, Result as CandleResult, Shape,
    Tensor, bail,
};

use super::shape::ConvShape;
use crate::Result;

/// The convolution without bias of `x` `[N, C, H, W]` with `w` `[O, C/g, kh, kw]`, both contiguous.
pub(super) fn conv(x: &Tensor, w: &Tensor, shape: ConvShape) -> Result<Tensor> {
    let y = forward(&x.detach(), &w.detach(), &shape)?;
    Ok(x.apply_op2(w, ConvOp { shape, y: Mutex::new(Some(y)) })?)
}

/// Puts the product into the graph. Its forward pass is the copy that brings the result into memory order.
struct ConvOp {
    shape: ConvShape,
    /// The result until it is copied, as a view `[N, O, OH, OW]`.
    y: Mutex<Option<Tensor>>,
}

impl ConvOp {
    fn result(&self) -> CandleResult<Tensor> {
        match self.y.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(y) => Ok(y),
            None => bail!("a convolution was applied twice"),
        }
    }
}

/// The storage of a tensor's elements in logical order, by the named variant of Candle's storage.
macro_rules! own_copy {
    ($x:expr, $variant:ident) => {{
        let x = $x;
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            candle_core::Storage::$variant(storage) => Ok((gather(storage, layout)?, x.shape().clone())),
            _ => bail!("operands of a convolution lie on different devices"),
        }
    }};
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d_products"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        own_copy!(self.result()?, Cpu)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        own_copy!(self.result()?, Cuda)
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> CandleResult<(MetalStorage, Shape)> {
        own_copy!(self.result()?, Metal)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (tracked_x, tracked_w) = (x.track_op(), w.track_op());
        let (x, w, dy) = (x.detach(), w.detach(), dy.detach());
        let dx = tracked_x.then(|| backward_data(&dy, &w, &self.shape)).transpose()?;
        let dw = tracked_w.then(|| backward_weight(&x, &dy, &self.shape)).transpose()?;
        Ok((dx, dw))
    }
}

/// The elements that a layout names, in its order, in memory of their own. The layout may name elements repeatedly.
fn gather<S>(source: &S, layout: &Layout) -> CandleResult<S>
where
    S: BackendStorage<Device: BackendDevice<Storage = S>>,
{
    // SAFETY: the copy writes every element before anything reads one.
    let mut copy = unsafe { source.device().alloc_uninit(layout.shape(), source.dtype())? };
    source.copy_strided_src(&mut copy, 0, layout)?;
    Ok(copy)
}

/// How windows lie on a map that is large enough for all of them.
#[derive(Debug, Clone, Copy)]
struct Windows {
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Windows down and across.
    count: [usize; 2],
}

impl Windows {
    /// Rows or columns that the windows reach over.
    fn reach(&self, axis: usize) -> usize {
        (self.count[axis] - 1) * self.stride[axis] + self.kernel[axis]
    }
}

/// Copies the windows of a map `[N, C, H, W]` to `[C, kh, kw, N, OH, OW]`. That is one strided copy whose layout
/// names overlapping elements, so that it needs nothing of a device but Candle's copy.
struct Unfold(Windows);

impl Unfold {
    fn layout(&self, x: &Layout) -> CandleResult<Layout> {
        let Windows { kernel: [kh, kw], stride: [down, across], count: [oh, ow] } = self.0;
        let (&[n, c, h, w], &[by_n, by_c, by_h, by_w]) = (x.dims(), x.stride()) else {
            bail!("windows need [N, C, H, W], got {:?}", x.dims());
        };
        if self.0.reach(0) > h || self.0.reach(1) > w {
            bail!("{:?} reach over the map {h} x {w}", self.0);
        }
        let shape = Shape::from(vec![c, kh, kw, n, oh, ow]);
        Ok(Layout::new(shape, vec![by_c, by_h, by_w, by_n, down * by_h, across * by_w], x.start_offset()))
    }

    fn unfold<S>(&self, x: &S, layout: &Layout) -> CandleResult<(S, Shape)>
    where
        S: BackendStorage<Device: BackendDevice<Storage = S>>,
    {
        let layout = self.layout(layout)?;
        Ok((gather(x, &layout)?, layout.shape().clone()))
    }
}

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.unfold(x, layout)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        self.unfold(x, layout)
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> CandleResult<(MetalStorage, Shape)> {
        self.unfold(x, layout)
    }
}

/// Places `start..start + len` along an axis, with zeros where the tensor has none.
fn section(x: &Tensor, axis: usize, start: isize, len: usize) -> CandleResult<Tensor> {
    let extent = x.dim(axis)?;
    let from = extent.min(start.max(0) as usize);
    let to = extent.min((start + len as isize).max(0) as usize).max(from);
    if from == to {
        let mut dims = x.dims().to_vec();
        dims[axis] = len;
        return Tensor::zeros(dims, x.dtype(), x.device());
    }
    let before = (from as isize - start) as usize;
    x.narrow(axis, from, to - from)?.pad_with_zeros(axis, before, len - before - (to - from))
}

/// The part of the padded input that the windows reach over.
fn reached(x: &Tensor, shape: &ConvShape) -> CandleResult<(Tensor, Windows)> {
    let windows = Windows { kernel: [shape.kh, shape.kw], stride: shape.stride, count: [shape.oh, shape.ow] };
    let [top, _, left, _] = shape.padding;
    let x = section(x, 2, -(top as isize), windows.reach(0))?;
    Ok((section(&x, 3, -(left as isize), windows.reach(1))?, windows))
}

/// Sums of `x` `[N, C, H, W]` under windows, weighted by `w` `[O, C/g, kh, kw]`: a view `[N, O, OH, OW]`.
fn correlate(x: &Tensor, w: &Tensor, groups: usize, windows: Windows) -> CandleResult<Tensor> {
    let ((n, c, _, _), (o, per_group, kh, kw)) = (x.dims4()?, w.dims4()?);
    let [oh, ow] = windows.count;
    if groups == 1 && windows.kernel == [1, 1] && windows.stride == [1, 1] {
        // The map is its own windows: a product per sample leaves everything where it is.
        let x = x.reshape((n, c, oh * ow))?;
        let w = w.reshape((1, o, c))?.broadcast_as((n, o, c))?;
        return w.matmul(&x)?.reshape((n, o, oh, ow));
    }
    let terms = per_group * kh * kw;
    let columns = x.apply_op1_no_bwd(&Unfold(windows))?.reshape((groups, terms, n * oh * ow))?;
    let y = w.reshape((groups, o / groups, terms))?.matmul(&columns)?;
    y.reshape((o, n, oh, ow))?.transpose(0, 1)
}

fn forward(x: &Tensor, w: &Tensor, shape: &ConvShape) -> CandleResult<Tensor> {
    let (x, windows) = reached(x, shape)?;
    correlate(&x, w, shape.groups, windows)
}

/// One axis of the input gradient of a strided convolution: the inputs whose place in the padded input leaves `rest`
/// when divided by the stride. They meet only every stride-th tap of the kernel, and meet those as in a dense
/// convolution with the kernel turned around.
struct Residue {
    /// Taps, last one first.
    taps: Vec<u32>,
    /// First output that the first input meets; below 0 where there is none.
    start: isize,
    /// Inputs.
    count: usize,
}

impl Residue {
    fn new(rest: usize, stride: usize, kernel: usize, first: usize, end: usize) -> Self {
        let taps: Vec<u32> = (rest..kernel).step_by(stride).map(|tap| tap as u32).rev().collect();
        Self { start: first as isize + 1 - taps.len() as isize, count: end - first, taps }
    }
}

/// `dx` from `dy` `[N, O, OH, OW]`. One product per pair of residues: together they multiply as often as the forward
/// pass does, and every input is written once.
fn backward_data(dy: &Tensor, w: &Tensor, shape: &ConvShape) -> CandleResult<Tensor> {
    let &ConvShape { n, h, w: width, c, o, kh, kw, stride, padding, groups, .. } = shape;
    let ([down, across], [top, _, left, _]) = (stride, padding);
    // Inputs and outputs change places.
    let w = w.reshape((groups, o / groups, c / groups, kh * kw))?.transpose(1, 2)?;
    let w = w.reshape((c, o / groups, kh, kw))?;
    // The input starts within these strides of the padded one and ends before those.
    let (first_row, first_column) = (top / down, left / across);
    let (end_row, end_column) = ((top + h).div_ceil(down), (left + width).div_ceil(across));
    let mut rows = Vec::with_capacity(down);
    for rest in 0..down {
        let vertical = Residue::new(rest, down, kh, first_row, end_row);
        let mut columns = Vec::with_capacity(across);
        for rest in 0..across {
            let horizontal = Residue::new(rest, across, kw, first_column, end_column);
            columns.push(part(dy, &w, groups, [&vertical, &horizontal])?);
        }
        rows.push(Tensor::stack(&columns, 4)?);
    }
    // Residues come between the strides: [N, C, strides down, residue, strides across, residue].
    let (rows_all, columns_all) = ((end_row - first_row) * down, (end_column - first_column) * across);
    let dx = Tensor::stack(&rows, 3)?.reshape((n, c, rows_all, columns_all))?;
    dx.narrow(2, top - first_row * down, h)?.narrow(3, left - first_column * across, width)?.contiguous()
}

/// The input gradient at one pair of residues.
fn part(dy: &Tensor, w: &Tensor, groups: usize, axes: [&Residue; 2]) -> CandleResult<Tensor> {
    let windows = Windows {
        kernel: axes.map(|axis| axis.taps.len()),
        stride: [1, 1],
        count: axes.map(|axis| axis.count),
    };
    if windows.kernel.contains(&0) {
        let [down, across] = windows.count;
        return Tensor::zeros((dy.dim(0)?, w.dim(0)?, down, across), dy.dtype(), dy.device());
    }
    let (mut w, mut dy) = (w.clone(), dy.clone());
    for (axis, residue) in axes.into_iter().enumerate() {
        if residue.taps.len() > 1 || w.dim(2 + axis)? > 1 {
            let taps = Tensor::new(residue.taps.as_slice(), w.device())?;
            w = w.index_select(&taps, 2 + axis)?;
        }
        dy = section(&dy, 2 + axis, residue.start, windows.reach(axis))?;
    }
    correlate(&dy, &w, groups, windows)
}

/// `dw` `[O, C/g, kh, kw]`: one product over all places of all samples.
fn backward_weight(x: &Tensor, dy: &Tensor, shape: &ConvShape) -> CandleResult<Tensor> {
    let &ConvShape { n, c, o, kh, kw, groups, oh, ow, .. } = shape;
    let (x, windows) = reached(x, shape)?;
    let places = n * oh * ow;
    let columns = x.apply_op1_no_bwd(&Unfold(windows))?.reshape((groups, c / groups * kh * kw, places))?;
    let dy = dy.transpose(0, 1)?.contiguous()?.reshape((groups, o / groups, places))?;
    dy.matmul(&columns.transpose(1, 2)?)?.reshape((o, c / groups, kh, kw))
}
