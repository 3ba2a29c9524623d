//! Feature maps between operations.
//!
//! Candle's backward clears a full-size tensor and adds to it for every edge of the graph, and it knows one memory
//! order. On the CPU a [`FeatureMap`] therefore keeps its values and its gradient beside the graph, channels last and
//! in pooled memory; what Candle differentiates is a *token* of one element that stands for the map. Tokens give the
//! order of the backward pass. An operation's backward takes the gradient of its output from that output's [`Slot`]
//! and adds to the slots of its inputs in place. Elsewhere a feature map is an ordinary tensor.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use super::memory::Buffer;
use super::parallel::{self, Disjoint};
use super::simd::vectorized;
use super::{is_native, storage};
use crate::{Error, Result};

/// The output of a layer and the input of the next one.
///
/// On the CPU, in `f32`, its values lie channels last beside Candle's graph; elsewhere it is an ordinary tensor.
/// Made from a tensor by [`FeatureMap::new`] or [`FeatureMap::from_rows`], turned back by [`FeatureMap::tensor`] or
/// [`FeatureMap::rows`]. Both are part of the graph.
#[derive(Debug, Clone)]
pub struct FeatureMap(pub(super) Form);

#[derive(Debug, Clone)]
pub(super) enum Form {
    Plain(Tensor),
    Native(Native),
}

/// A map on the CPU.
#[derive(Debug, Clone)]
pub(super) struct Native {
    /// One element that stands for the map in Candle's graph; its value means nothing.
    pub token: Tensor,
    /// Extents in memory order: samples first, channels last.
    pub dims: Vec<usize>,
    pub values: Arc<Buffer>,
    pub slot: Arc<Slot>,
    /// How to make the values anew from others that are kept anyway.
    pub recipe: Option<Arc<dyn Recompute>>,
}

/// Values that cost less to make anew in the backward pass than to keep.
pub(super) trait Recompute: std::fmt::Debug + Send + Sync {
    fn values(&self) -> Buffer;
}

/// Where the gradient of a map is gathered.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Buffer>>);

impl Slot {
    /// The whole gradient, once every user of the map has added its part. Zeros of `len` where none did.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        gathered.unwrap_or_else(|| Buffer::zeros(len))
    }

    /// Adds a part that lies in memory of its own.
    pub(super) fn add(&self, part: Buffer) {
        self.update(|gathered| match gathered {
            None => part,
            Some(mut sum) => {
                add(&part, &mut sum);
                sum
            }
        });
    }

    /// Lets `f` add a part to what has been gathered, if anything has.
    pub(super) fn update(&self, f: impl FnOnce(Option<Buffer>) -> Buffer) {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *gathered = Some(f(gathered.take()));
    }
}

/// Values that the backward pass of an operation needs, given back to the pool as soon as it has used them. As in
/// PyTorch, a graph can be differentiated once.
#[derive(Debug)]
pub(super) struct Kept(Mutex<Option<Source>>);

#[derive(Debug)]
enum Source {
    Values(Arc<Buffer>),
    Recipe(Arc<dyn Recompute>),
}

impl Kept {
    /// Keeps these values themselves.
    pub(super) fn new(values: &Arc<Buffer>) -> Self {
        Self(Mutex::new(Some(Source::Values(values.clone()))))
    }

    /// Keeps the recipe of a map, or its values where there is none.
    pub(super) fn of(map: &Native) -> Self {
        match &map.recipe {
            Some(recipe) => Self(Mutex::new(Some(Source::Recipe(recipe.clone())))),
            None => Self::new(&map.values),
        }
    }

    pub(super) fn take(&self) -> candle_core::Result<Arc<Buffer>> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Source::Values(values)) => Ok(values),
            Some(Source::Recipe(recipe)) => Ok(Arc::new(recipe.values())),
            None => Err(candle_core::Error::msg("backward was called twice on one graph")),
        }
    }
}

/// The finished values of an operation whose output is a tensor.
#[derive(Debug)]
pub(super) struct Output(Mutex<Vec<f32>>);

impl Output {
    pub(super) fn new(values: Vec<f32>) -> Self {
        Self(Mutex::new(values))
    }

    /// What the forward pass returns.
    pub(super) fn storage(&self, shape: &Shape) -> (CpuStorage, Shape) {
        let values = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (CpuStorage::F32(values), shape.clone())
    }
}

/// What an operation returns as the gradient of a token: something for Candle to pass on, or nothing outside a graph.
pub(super) fn token_gradient(token: &Tensor) -> candle_core::Result<Option<Tensor>> {
    token.track_op().then(|| token.zeros_like()).transpose()
}

/// What the forward pass of an operation on tokens returns.
pub(super) fn token_storage() -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![0.0]), 1.into())
}

impl Native {
    /// The map that an operation made: `attach` gets the slot of the map and applies the operation to its operands'
    /// tokens.
    pub(super) fn make(
        dims: Vec<usize>,
        values: Buffer,
        attach: impl FnOnce(Arc<Slot>) -> candle_core::Result<Tensor>,
    ) -> Result<Self> {
        let slot = Arc::new(Slot::default());
        Ok(Self { token: attach(slot.clone())?, dims, values: Arc::new(values), slot, recipe: None })
    }

    pub(super) fn channels(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Everything but channels.
    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.channels().max(1)
    }

    /// Extents with channels second.
    fn logical(&self) -> Vec<usize> {
        let mut dims = self.dims.clone();
        if let Some(channels) = dims.pop() {
            dims.insert(1.min(dims.len()), channels);
        }
        dims
    }
}

impl FeatureMap {
    /// The map of a tensor `[N, C, ...]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than two axes.
    pub fn new(x: &Tensor) -> Result<Self> {
        let &[n, c, ref spatial @ ..] = x.dims() else {
            return Err(Error::shape("feature map", "[N, C, ...]", x.dims()));
        };
        if !is_native(x) {
            return Ok(Self(Form::Plain(x.clone())));
        }
        let mut dims = vec![n];
        dims.extend_from_slice(spatial);
        dims.push(c);
        Self::enter(x, dims, Order { n, outer: c, inner: spatial.iter().product() })
    }

    /// The map of a tensor `[..., C]`, whose memory order already has channels last.
    ///
    /// # Errors
    /// [`Error::Shape`] for a scalar.
    pub fn from_rows(x: &Tensor) -> Result<Self> {
        let Some(&c) = x.dims().last() else {
            return Err(Error::shape("feature map", "[..., C]", x.dims()));
        };
        if !is_native(x) {
            return Ok(Self(Form::Plain(x.clone())));
        }
        let rows = x.elem_count() / c.max(1);
        Self::enter(x, x.dims().to_vec(), Order { n: rows, outer: c, inner: 1 })
    }

    fn enter(x: &Tensor, dims: Vec<usize>, order: Order) -> Result<Self> {
        let mut values = Buffer::new(x.elem_count());
        storage::with(x, |x| {
            order.turn(x, &mut values);
            Ok(())
        })?;
        let map = Native::make(dims, values, |slot| {
            if x.track_op() {
                x.apply_op1(EnterOp { order, slot })
            } else {
                Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)
            }
        })?;
        Ok(Self(Form::Native(map)))
    }

    /// The tensor `[N, C, ...]` of a map made by [`FeatureMap::new`].
    ///
    /// # Errors
    /// Candle's.
    pub fn tensor(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Plain(x) => Ok(x.clone()),
            Form::Native(map) => {
                let n = map.dims.first().copied().unwrap_or(1);
                let c = map.channels();
                let order = Order { n, outer: map.values.len() / (n * c).max(1), inner: c };
                map.leave(map.logical(), order)
            }
        }
    }

    /// The tensor `[..., C]` of a map made by [`FeatureMap::from_rows`].
    ///
    /// # Errors
    /// Candle's.
    pub fn rows(&self) -> Result<Tensor> {
        match &self.0 {
            Form::Plain(x) => Ok(x.clone()),
            Form::Native(map) => {
                map.leave(map.dims.clone(), Order { n: map.rows(), outer: map.channels(), inner: 1 })
            }
        }
    }

    /// The map `[N, T, C]`, as [`FeatureMap::from_rows`] makes them, of a map `[N, C, T]` made by [`FeatureMap::new`]: what
    /// layers over the steps of a sequence take.
    ///
    /// # Errors
    /// [`Error::Shape`] for other than three axes.
    pub fn sequence(&self) -> Result<Self> {
        let dims = self.dims();
        if dims.len() != 3 {
            return Err(Error::shape("sequence", "[N, C, T]", &dims));
        }
        match &self.0 {
            Form::Plain(x) => Ok(Self(Form::Plain(x.transpose(1, 2)?.contiguous()?))),
            // It lies in memory like that already.
            Form::Native(_) => Ok(self.clone()),
        }
    }

    /// The map `[N, C, T]` of a map `[N, T, C]`: what [`FeatureMap::sequence`] undoes.
    ///
    /// # Errors
    /// [`Error::Shape`] for other than three axes.
    pub fn channels_first(&self) -> Result<Self> {
        match &self.0 {
            Form::Plain(x) if x.rank() == 3 => Ok(Self(Form::Plain(x.transpose(1, 2)?.contiguous()?))),
            Form::Native(map) if map.dims.len() == 3 => Ok(self.clone()),
            _ => Err(Error::shape("channels first", "[N, T, C]", &self.dims())),
        }
    }

    /// Extents as a tensor would have them: `[N, C, ...]`.
    pub fn dims(&self) -> Vec<usize> {
        match &self.0 {
            Form::Plain(x) => x.dims().to_vec(),
            Form::Native(map) => map.logical(),
        }
    }
}

impl Native {
    fn leave(&self, shape: Vec<usize>, order: Order) -> Result<Tensor> {
        let mut out = vec![0f32; self.values.len()];
        order.turn(&self.values, &mut out);
        let op = ExitOp { shape: shape.into(), order, out: Output::new(out), slot: self.slot.clone() };
        Ok(self.token.apply_op1(op)?)
    }
}

/// `n` matrices `[outer, inner]` that become `[inner, outer]`.
#[derive(Debug, Clone, Copy)]
struct Order {
    n: usize,
    outer: usize,
    inner: usize,
}

impl Order {
    fn turned(self) -> Self {
        Self { n: self.n, outer: self.inner, inner: self.outer }
    }

    /// Transposes every matrix of `src` into `dst`.
    fn turn(self, src: &[f32], dst: &mut [f32]) {
        const SIDE: usize = 16;
        let Self { n, outer, inner } = self;
        let size = outer * inner;
        if outer == 1 || inner == 1 || size == 0 {
            dst.copy_from_slice(src);
            return;
        }
        let out = Disjoint::new(dst);
        parallel::for_each(n, |i| {
            let src = &src[i * size..(i + 1) * size];
            // SAFETY: every matrix has its own place.
            let dst = unsafe { out.slice(i * size, size) };
            for first in (0..inner).step_by(SIDE) {
                for row in 0..outer {
                    for column in first..(first + SIDE).min(inner) {
                        dst[column * outer + row] = src[row * inner + column];
                    }
                }
            }
        });
    }
}

#[derive(Debug)]
struct EnterOp {
    order: Order,
    slot: Arc<Slot>,
}

impl CustomOp1 for EnterOp {
    fn name(&self) -> &'static str {
        "feature_map"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, _dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = self.slot.take(x.elem_count());
        let mut dx = vec![0f32; x.elem_count()];
        self.order.turned().turn(&gradient, &mut dx);
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[derive(Debug)]
struct ExitOp {
    shape: Shape,
    order: Order,
    out: Output,
    slot: Arc<Slot>,
}

impl CustomOp1 for ExitOp {
    fn name(&self) -> &'static str {
        "feature_map_tensor"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.out.storage(&self.shape))
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut part = Buffer::new(self.shape.elem_count());
        storage::with(dy, |dy| {
            self.order.turned().turn(dy, &mut part);
            Ok(())
        })?;
        self.slot.add(part);
        token_gradient(token)
    }
}

/// Elements of one unit of element-wise work.
const CHUNK: usize = 1 << 14;

/// Calls `f(first element, elements)` for every chunk of `out`.
pub(super) fn chunks(out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let len = out.len();
    let out = Disjoint::new(out);
    parallel::for_each(len.div_ceil(CHUNK), |i| {
        let start = i * CHUNK;
        // SAFETY: chunks do not overlap.
        f(start, unsafe { out.slice(start, CHUNK.min(len - start)) });
    });
}

/// `sum += part`.
pub(super) fn add(part: &[f32], sum: &mut [f32]) {
    chunks(sum, |start, sum| add_chunk(&part[start..], sum));
}

/// `target = momentum * target + (1 - momentum) * source`.
pub(crate) fn lerp(target: &mut [f32], source: &[f32], momentum: f32) {
    chunks(target, |start, target| lerp_chunk(target, &source[start..], momentum));
}

vectorized! {
    /// `sum += part` on this thread, as far as both go.
    pub(crate) fn add_chunk(part: &[f32], sum: &mut [f32]) {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }

    fn lerp_chunk(target: &mut [f32], source: &[f32], momentum: f32) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = momentum * *target + (1.0 - momentum) * source;
        }
    }
}
