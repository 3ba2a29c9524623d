//! Collectives of NCCL. A GPU takes one rank, so a machine with one GPU has a world of one.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::{Comm, all_gather_with_grad, single};
use contrastive_nccl::{Launch, World, visible};

use crate::WAIT;

fn outcomes(comm: &Comm, device: &Device) -> contrastive_core::Result<Vec<Vec<f32>>> {
    let mut all = Vec::new();
    for dtype in [DType::F32, DType::F64, DType::I64, DType::U32, DType::U8, DType::BF16] {
        for dims in [&[1][..], &[3], &[5, 7], &[0, 4], &[300, 401]] {
            let n: usize = dims.iter().product();
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 89) as f32).collect();
            // A slice that does not begin where its memory does.
            let x = Tensor::from_vec(x, dims, device)?.to_dtype(dtype)?;
            let x = if dims == [5, 7] { x.narrow(0, 2, 3)? } else { x };
            for found in [comm.all_reduce_sum(&x)?, comm.all_gather(&x)?, comm.broadcast(&x, 0)?] {
                assert_eq!((found.dtype(), found.dims()), (x.dtype(), x.dims()));
                all.push(found.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
            }
        }
    }
    let x = candle_core::Var::from_tensor(&Tensor::arange(0f32, 12., device)?.reshape((3, 4))?)?;
    let gradients = all_gather_with_grad(x.as_tensor(), comm)?.sqr()?.sum_all()?.backward()?;
    if let Some(gradient) = gradients.get(x.as_tensor()) {
        all.push(gradient.flatten_all()?.to_vec1()?);
    }
    comm.barrier()?;
    Ok(all)
}

#[test]
fn a_world_of_one_gpu_computes_what_a_single_rank_does() -> Result<()> {
    if visible().unwrap_or(0) == 0 {
        eprintln!("no GPU: not run");
        return Ok(());
    }
    let device = Device::new_cuda(0)?;
    let launch = Launch {
        rank: 0,
        size: 1,
        local_rank: 0,
        address: "127.0.0.1".to_string(),
        port: crate::free_port()?,
    };
    let world = World::join(&launch, &device, WAIT * 60)?;
    let comm = world.comm();
    ensure!(outcomes(&comm, &device)? == outcomes(&single(), &device)?, "other numbers than a single rank's");
    // Tensors of the host go over the GPU and come back.
    ensure!(outcomes(&comm, &Device::Cpu)? == outcomes(&single(), &device)?, "other numbers from the host");
    drop(comm);
    world.finish()?;
    Ok(())
}

#[test]
fn a_rank_without_a_gpu_is_refused() {
    let launch = Launch { rank: 0, size: 1, local_rank: 0, address: "127.0.0.1".to_string(), port: 1 };
    let refused = World::join(&launch, &Device::Cpu, WAIT);
    let text = refused.map_or_else(|e| e.to_string(), |_| String::new());
    assert!(text.contains("config key `device`") && text.contains("cuda:N"), "{text}");
}
