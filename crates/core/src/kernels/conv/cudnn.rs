//! Convolution on CUDA by cuDNN: all three passes, where Candle has the forward one only.
//!
//! Handles and descriptors belong to a thread, so what is worked out for a convolution is kept per thread: a run has
//! few shapes and meets each of them in every step. Kernels go to the stream of Candle's device like Candle's own.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnDataType, CudnnError,
    FilterDescriptor, TensorDescriptor, sys,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaStorageSlice, DeviceId};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, DType, Layout, Result as CandleResult, Shape, Tensor,
    WithDType, bail,
};

use super::shape::ConvShape;
use crate::Result;
use crate::kernels::precision::{Precision, precision};

/// Whether cuDNN is the way to go. It counts elements in 32 bits.
pub(super) fn takes(x: &Tensor, shape: &ConvShape) -> bool {
    let padded = shape.n
        * shape.c
        * (shape.h + shape.padding[0] + shape.padding[1])
        * (shape.w + shape.padding[2] + shape.padding[3]);
    x.device().is_cuda()
        && matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && padded.max(shape.outputs()).max(shape.weights()) <= i32::MAX as usize
        && shape.inputs() > 0
        && shape.weights() > 0
}

/// The convolution without bias of `x` `[N, C, H, W]` with `w` `[O, C/g, kh, kw]`, both contiguous.
pub(super) fn conv(x: &Tensor, w: &Tensor, shape: &ConvShape) -> Result<Tensor> {
    let [top, bottom, left, right] = shape.padding;
    // TF32 is what PyTorch uses for convolutions of f32, too, unless told otherwise.
    let exact = precision() == Precision::F32Exact;
    if top == bottom && left == right {
        return Ok(x.apply_op2(w, ConvOp { shape: *shape, exact, pass: Pass::Forward })?);
    }
    let x = x.pad_with_zeros(2, top, bottom)?.pad_with_zeros(3, left, right)?.contiguous()?;
    let (h, width) = (shape.h + top + bottom, shape.w + left + right);
    let shape = ConvShape { h, w: width, padding: [0; 4], ..*shape };
    Ok(x.apply_op2(w, ConvOp { shape, exact, pass: Pass::Forward })?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// `y` from `x` and `w`.
    Forward,
    /// `dx` from `dy` and `w`.
    Data,
    /// `dw` from `x` and `dy`.
    Weight,
}

/// One pass over two contiguous operands; the forward pass has a backward.
#[derive(Debug, Clone, Copy)]
struct ConvOp {
    shape: ConvShape,
    /// Whether products of `f32` must not be rounded to TF32.
    exact: bool,
    pass: Pass,
}

impl ConvOp {
    /// Result extents.
    fn dims(&self) -> Vec<usize> {
        let ConvShape { n, h, w, c, o, kh, kw, groups, oh, ow, .. } = self.shape;
        match self.pass {
            Pass::Forward => vec![n, o, oh, ow],
            Pass::Data => vec![n, c, h, w],
            Pass::Weight => vec![o, c / groups, kh, kw],
        }
    }

    fn run<T: Element>(
        &self,
        a: &CudaSlice<T>,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let device = &b.device;
        let (a, b) = (view(a, a_layout)?, view(b.as_cuda_slice::<T>()?, b_layout)?);
        let ConvShape { groups, .. } = self.shape;
        let (x, w, y) = (self.shape.inputs(), self.shape.weights(), self.shape.outputs());
        let expected = match self.pass {
            Pass::Forward => (x, w),
            Pass::Data => (y, w),
            Pass::Weight => (x, y),
        };
        if (a_layout.shape().elem_count(), b_layout.shape().elem_count()) != expected {
            bail!("convolution of {groups} groups got {:?} and {:?}", a_layout.dims(), b_layout.dims());
        }
        let dims = Shape::from(self.dims());
        // SAFETY: the pass writes every element, as it does not add to what is there.
        let mut out = unsafe { device.alloc::<T>(dims.elem_count())? };
        let plan = Plan::<T>::of(device, self)?;
        // SAFETY: the extents agree with the descriptors, which were made from the same shape.
        unsafe {
            match self.pass {
                Pass::Forward => plan.forward(device, &a, &b, &mut out)?,
                Pass::Data => plan.backward_data(device, &a, &b, &mut out)?,
                Pass::Weight => plan.backward_weight(device, &a, &b, &mut out)?,
            }
        }
        Ok((CudaStorage::wrap_cuda_slice(out, device.clone()), dims))
    }
}

fn view<'a, T>(slice: &'a CudaSlice<T>, layout: &Layout) -> CandleResult<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(slice.slice(start..end)),
        None => bail!("cuDNN needs contiguous operands here, got strides {:?}", layout.stride()),
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d_cudnn"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        bail!("cuDNN has no convolution on the CPU")
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        match &a.slice {
            CudaStorageSlice::F32(a) => self.run(a, a_layout, b, b_layout),
            CudaStorageSlice::F16(a) => self.run(a, a_layout, b, b_layout),
            CudaStorageSlice::BF16(a) => self.run(a, a_layout, b, b_layout),
            _ => bail!("cuDNN convolves f32, f16 and bf16 here"),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let with = |pass| Self { pass, ..*self };
        let dx = x.track_op().then(|| dy.apply_op2_no_bwd(w, &with(Pass::Data))).transpose()?;
        let dw = w.track_op().then(|| x.apply_op2_no_bwd(&dy, &with(Pass::Weight))).transpose()?;
        Ok((dx, dw))
    }
}

/// Element types that cuDNN is given. Sums are `f32` for all of them.
trait Element: CudaDType + CudnnDataType + DeviceRepr + WithDType {
    /// Unit of the tensor cores that products may use.
    fn math(exact: bool) -> sys::cudnnMathType_t;
}

impl<T: CudaDType + CudnnDataType + DeviceRepr + WithDType> Element for T {
    fn math(exact: bool) -> sys::cudnnMathType_t {
        match T::DTYPE {
            // The default lets products of f32 be rounded to TF32.
            DType::F32 if exact => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            DType::F32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        }
    }
}

/// Workspace beyond which the heuristics' choice is not worth its memory.
const WORKSPACE: usize = 1 << 31;

/// An algorithm and the bytes of workspace that it needs.
type Choice<A> = Cell<Option<(A, usize)>>;

/// What is kept for one convolution: descriptors, and the algorithm of every pass that has run.
struct Plan<T> {
    x: TensorDescriptor<T>,
    w: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
    conv: ConvDescriptor<f32>,
    forward: Choice<sys::cudnnConvolutionFwdAlgo_t>,
    data: Choice<sys::cudnnConvolutionBwdDataAlgo_t>,
    weight: Choice<sys::cudnnConvolutionBwdFilterAlgo_t>,
}

type Key = (DeviceId, DType, ConvShape, bool);

thread_local! {
    static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::default();
    static PLANS: RefCell<HashMap<Key, Rc<dyn Any>>> = RefCell::default();
}

/// This thread's handle for a device.
fn handle(device: &CudaDevice) -> CandleResult<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream())?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}

impl<T: Element> Plan<T> {
    /// This thread's plan.
    fn of(device: &CudaDevice, op: &ConvOp) -> CandleResult<Rc<Self>> {
        let key = (device.id(), T::DTYPE, op.shape, op.exact);
        let known = PLANS.with_borrow(|plans| plans.get(&key).cloned());
        if let Some(plan) = known.and_then(|plan| plan.downcast::<Self>().ok()) {
            return Ok(plan);
        }
        let plan = Rc::new(Self::new(&handle(device)?, &op.shape, op.exact)?);
        PLANS.with_borrow_mut(|plans| plans.insert(key, plan.clone()));
        Ok(plan)
    }

    fn new(cudnn: &Arc<Cudnn>, shape: &ConvShape, exact: bool) -> CandleResult<Self> {
        let &ConvShape { n, h, w, c, o, kh, kw, stride, padding, groups, oh, ow } = shape;
        let nchw = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        let padding = [padding[0], padding[2]];
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut conv =
            cudnn.create_conv2d::<f32>(padding.map(|p| p as i32), stride.map(|s| s as i32), [1, 1], mode)?;
        conv.set_group_count(groups as i32)?;
        conv.set_math_type(T::math(exact))?;
        Ok(Self {
            x: cudnn.create_4d_tensor(nchw, [n, c, h, w].map(|d| d as i32))?,
            w: cudnn.create_4d_filter(nchw, [o, c / groups, kh, kw].map(|d| d as i32))?,
            y: cudnn.create_4d_tensor(nchw, [n, o, oh, ow].map(|d| d as i32))?,
            conv,
            forward: Cell::default(),
            data: Cell::default(),
            weight: Cell::default(),
        })
    }

    /// `y = x * w`.
    ///
    /// # Safety
    /// The operands have the extents of the plan's shape.
    unsafe fn forward(
        &self,
        device: &CudaDevice,
        x: &CudaView<T>,
        w: &CudaView<T>,
        y: &mut CudaSlice<T>,
    ) -> CandleResult<()> {
        let pass = ConvForward { conv: &self.conv, x: &self.x, w: &self.w, y: &self.y };
        let fallback = sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
        let size = |algorithm| pass.get_workspace_size(algorithm);
        let (algorithm, mut workspace) =
            choose(device, &self.forward, || pass.pick_algorithm(), size, fallback)?;
        // SAFETY: the caller's promise.
        unsafe { pass.launch(algorithm, workspace.as_mut(), overwrite(), x, w, y)? };
        Ok(())
    }

    /// `dx` from `dy` and `w`.
    ///
    /// # Safety
    /// As [`Plan::forward`].
    unsafe fn backward_data(
        &self,
        device: &CudaDevice,
        dy: &CudaView<T>,
        w: &CudaView<T>,
        dx: &mut CudaSlice<T>,
    ) -> CandleResult<()> {
        let pass = ConvBackwardData { conv: &self.conv, dx: &self.x, w: &self.w, dy: &self.y };
        let fallback = sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
        let size = |algorithm| pass.get_workspace_size(algorithm);
        let (algorithm, mut workspace) =
            choose(device, &self.data, || pass.pick_algorithm(), size, fallback)?;
        // SAFETY: the caller's promise.
        unsafe { pass.launch(algorithm, workspace.as_mut(), overwrite(), dx, w, dy)? };
        Ok(())
    }

    /// `dw` from `x` and `dy`.
    ///
    /// # Safety
    /// As [`Plan::forward`].
    unsafe fn backward_weight(
        &self,
        device: &CudaDevice,
        x: &CudaView<T>,
        dy: &CudaView<T>,
        dw: &mut CudaSlice<T>,
    ) -> CandleResult<()> {
        let pass = ConvBackwardFilter { conv: &self.conv, x: &self.x, dw: &self.w, dy: &self.y };
        let fallback = sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
        let size = |algorithm| pass.get_workspace_size(algorithm);
        let (algorithm, mut workspace) =
            choose(device, &self.weight, || pass.pick_algorithm(), size, fallback)?;
        // SAFETY: the caller's promise.
        unsafe { pass.launch(algorithm, workspace.as_mut(), overwrite(), x, dw, dy)? };
        Ok(())
    }
}

/// Factors of the result and of what lay in its place.
fn overwrite<T: WithDType>() -> (T, T) {
    (T::from_f64(1.0), T::from_f64(0.0))
}

/// The algorithm that the heuristics put first, or the one that runs everywhere where theirs asks for more memory than
/// there is; and the workspace, if it needs any.
fn choose<A: Copy>(
    device: &CudaDevice,
    known: &Choice<A>,
    pick: impl Fn() -> Result<A, CudnnError>,
    size: impl Fn(A) -> Result<usize, CudnnError>,
    fallback: A,
) -> CandleResult<(A, Option<CudaSlice<u8>>)> {
    let first = match known.get() {
        Some(choice) => Ok(choice),
        None => pick().and_then(|algorithm| Ok((algorithm, size(algorithm)?))),
    };
    if let Ok((algorithm, bytes)) = first
        && bytes <= WORKSPACE
        && let Ok(workspace) = workspace(device, bytes)
    {
        known.set(Some((algorithm, bytes)));
        return Ok((algorithm, workspace));
    }
    let bytes = size(fallback)?;
    let workspace = workspace(device, bytes)?;
    known.set(Some((fallback, bytes)));
    Ok((fallback, workspace))
}

fn workspace(device: &CudaDevice, bytes: usize) -> CandleResult<Option<CudaSlice<u8>>> {
    if bytes == 0 {
        return Ok(None);
    }
    // SAFETY: cuDNN writes a workspace before it reads it.
    Ok(Some(unsafe { device.alloc::<u8>(bytes)? }))
}
