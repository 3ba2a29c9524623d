//! Moving numbers between GPUs. Everything here runs on the thread that owns the communicator of NCCL.

use candle_core::cuda_backend::CudaDType;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, NcclType, group_end, group_start};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Storage, Tensor};
use contrastive_core::Result;

/// How numbers move.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// Each rank's r-th share goes to rank r.
    AllToAll,
    /// All numbers go to all ranks.
    Gather,
    /// Those of one rank go to all.
    Broadcast(usize),
}

/// A tensor on its way and the room for what comes. Made and taken apart on the caller's thread: memory of the GPU is
/// taken and given back in the order of a thread's own work.
pub struct Numbers<T> {
    from: Tensor,
    into: CudaSlice<T>,
}

/// Numbers of some type.
pub enum Data {
    F32(Numbers<f32>),
    F64(Numbers<f64>),
    I64(Numbers<i64>),
    U32(Numbers<u32>),
    U8(Numbers<u8>),
}

impl Data {
    /// `x` on the GPU `device`, one number at least, and room for `times` as many.
    pub fn of(x: &Tensor, times: usize, device: &CudaDevice) -> Result<Self> {
        let x = x.to_device(&Device::Cuda(device.clone()))?.flatten_all()?.contiguous()?;
        let room = x.elem_count() * times;
        Ok(match x.dtype() {
            DType::F64 => Self::F64(Numbers { from: x, into: device.alloc_zeros(room)? }),
            DType::I64 => Self::I64(Numbers { from: x, into: device.alloc_zeros(room)? }),
            DType::U32 => Self::U32(Numbers { from: x, into: device.alloc_zeros(room)? }),
            DType::U8 => Self::U8(Numbers { from: x, into: device.alloc_zeros(room)? }),
            // Exact for the half types, whose sums gain from it.
            _ => Self::F32(Numbers { from: x.to_dtype(DType::F32)?, into: device.alloc_zeros(room)? }),
        })
    }

    /// What came, as a tensor on the GPU.
    pub fn tensor(self, dims: &[usize], device: &CudaDevice) -> Tensor {
        fn wrapped<T: CudaDType>(numbers: Numbers<T>, dims: &[usize], device: &CudaDevice) -> Tensor {
            let storage = CudaStorage::wrap_cuda_slice(numbers.into, device.clone());
            Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false)
        }
        match self {
            Self::F32(numbers) => wrapped(numbers, dims, device),
            Self::F64(numbers) => wrapped(numbers, dims, device),
            Self::I64(numbers) => wrapped(numbers, dims, device),
            Self::U32(numbers) => wrapped(numbers, dims, device),
            Self::U8(numbers) => wrapped(numbers, dims, device),
        }
    }

    /// Queues the collective on the communicator's stream. The reason in words if NCCL refuses.
    pub fn exchange(&mut self, comm: &Comm, call: Call) -> Result<(), String> {
        match self {
            Self::F32(numbers) => exchange(comm, call, numbers),
            Self::F64(numbers) => exchange(comm, call, numbers),
            Self::I64(numbers) => exchange(comm, call, numbers),
            Self::U32(numbers) => exchange(comm, call, numbers),
            Self::U8(numbers) => exchange(comm, call, numbers),
        }
    }
}

/// NCCL's word: its error prints as nothing but its own name.
pub fn reason(error: NcclError) -> String {
    format!("NCCL says {:?}; NCCL_DEBUG=WARN tells more", error.0)
}

fn exchange<T: CudaDType + NcclType>(
    comm: &Comm,
    call: Call,
    numbers: &mut Numbers<T>,
) -> Result<(), String> {
    let (storage, layout) = numbers.from.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { return Err("the tensor left the GPU".to_string()) };
    let all = storage.as_cuda_slice::<T>().map_err(|e| e.to_string())?;
    let (start, n) = (layout.start_offset(), layout.shape().elem_count());
    let from = all.slice(start..start + n);
    let into = &mut numbers.into;
    match call {
        Call::Gather => comm.all_gather(&from, into).map(drop),
        Call::Broadcast(root) => comm.broadcast(Some(&from), into, root as i32).map(drop),
        Call::AllToAll => {
            let share = n / comm.world_size();
            group_start().map_err(reason)?;
            let queued = (0..comm.world_size()).try_for_each(|rank| {
                let part = rank * share..(rank + 1) * share;
                comm.send(&from.slice(part.clone()), rank as i32)?;
                comm.recv(&mut into.slice_mut(part), rank as i32).map(drop)
            });
            // Also after an error: a group that stays open swallows all further calls.
            let ended = group_end().map(drop);
            queued.and(ended)
        }
    }
    .map_err(reason)
}
