//! The criterion of the official code: eq. 6 of the paper, with a gradient on one side.

use candle_core::{D, DType, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::tensor::inner_products;
use contrastive_core::{Error, Result};

/// A logit that no exponential sees, and finite, so that no `0 * inf` arises.
const EXCLUDED: f32 = -1e9;

/// The least `1 − P`: half a step of f32 below 1, so that only a P that rounds to 1 is touched.
const LEAST: f64 = 1.0 / (1u32 << 24) as f64;

/// What the criterion gives back.
#[derive(Debug, Clone)]
pub struct InvaSpreadLoss {
    /// The sum of both parts, a scalar to differentiate: the mean over this rank's 2B rows.
    pub loss: Tensor,
    /// The invariant part, cut from the graph.
    pub positive: Tensor,
    /// The spreading part, cut from the graph.
    pub negative: Tensor,
    /// The part of this rank's rows whose positive is more similar than each of their negatives, an f32 scalar cut from
    /// the graph.
    pub accuracy: Tensor,
}

/// The criterion of two views' *unit* embeddings `x1`, `x2`, each `[B, D]`, against all ranks' embeddings.
///
/// The second operand of every product is constant: each row is drawn towards where the other view stands, and does not
/// draw it. So the backward pass is not collective.
///
/// # Errors
/// Shapes that differ or are empty, a rank that is gone.
pub fn invaspread_loss(
    x1: &Tensor,
    x2: &Tensor,
    temperature: f64,
    negative_weight: f64,
    comm: &Comm,
) -> Result<InvaSpreadLoss> {
    if x1.dims() != x2.dims() {
        return Err(Error::shape("invaspread", format!("{:?} as the first view's", x1.dims()), x2.dims()));
    }
    let x = Tensor::cat(&[x1, x2], 0)?; // [2B, D]
    criterion(&x, &x.detach(), temperature, negative_weight, comm)
}

/// The criterion of the rows of `x` `[2B, D]`, one view below the other, against `constant`: the same rows for the
/// method, and on their own a function whose gradient is its derivative.
///
/// # Errors
/// As [`invaspread_loss`].
pub fn criterion(
    x: &Tensor,
    constant: &Tensor,
    temperature: f64,
    negative_weight: f64,
    comm: &Comm,
) -> Result<InvaSpreadLoss> {
    let (rows, _) = x.dims2()?;
    if rows == 0 || rows % 2 != 0 || x.dims() != constant.dims() {
        return Err(Error::shape(
            "invaspread",
            format!("[2B, D] as {:?}, B at least 1", x.dims()),
            constant.dims(),
        ));
    }
    let batch = rows / 2;
    let other = Tensor::cat(&[&constant.narrow(0, batch, batch)?, &constant.narrow(0, 0, batch)?], 0)?;
    let all = comm.all_gather(constant)?; // [2B R, D]
    let positive = ((x * other)?.sum(1)? / temperature)?; // [2B]
    let logits = (inner_products(x, &all)? / temperature)?; // [2B, 2B R]
    let logits = (logits + not_negatives(batch, comm, x)?)?;

    let most = logits.detach().max(D::Minus1)?.maximum(&positive.detach())?;
    let pos = (&positive - &most)?.exp()?;
    let neg = logits.broadcast_sub(&most.unsqueeze(1)?)?.exp()?; // 0 where not a negative
    let div = (&pos + (neg.sum(1)? * negative_weight)?)?;
    let invariant = (div.log()? + most - &positive)?.mean_all()?;
    let absent = (1.0 - neg.broadcast_div(&div.unsqueeze(1)?)?)?; // 1 − P
    let least = (absent.ones_like()? * LEAST)?;
    let spreading = (absent.maximum(&least)?.log()?.sum(1)?.mean_all()? * -negative_weight)?;

    let right = positive.detach().gt(&logits.detach().max(D::Minus1)?)?;
    Ok(InvaSpreadLoss {
        positive: invariant.detach(),
        negative: spreading.detach(),
        loss: (invariant + spreading)?,
        accuracy: right.to_dtype(DType::F32)?.mean_all()?,
    })
}

/// `[2B, 2B R]`: 0 for a row's negatives, [`EXCLUDED`] for itself and its other view.
fn not_negatives(batch: usize, comm: &Comm, like: &Tensor) -> Result<Tensor> {
    let (rows, columns) = (2 * batch, 2 * batch * comm.size());
    let first = comm.rank() * rows;
    let mut values = vec![0f32; rows * columns];
    for row in 0..rows {
        for column in [row, (row + batch) % rows] {
            values[row * columns + first + column] = EXCLUDED;
        }
    }
    Ok(Tensor::from_vec(values, (rows, columns), like.device())?.to_dtype(like.dtype())?)
}
