//! The method's own losses, pure functions: patches of one view against whole images of another, and the predictive
//! baselines. The losses over banks and over batches are [`contrastive_core::loss`]'s.

use candle_core::{D, DType, Tensor};
use contrastive_core::dist::{Comm, all_gather_with_grad};
use contrastive_core::loss::{ContrastiveLoss, InBatch, info_nce_in_batch};
use contrastive_core::tensor::{inner_products, l2_normalize};
use contrastive_core::{Error, Result};

pub use contrastive_core::loss::{estimate_z, full_softmax, nce, sampled_softmax};

/// `L(V1, V2)` within the batch: each view's unit embeddings `[B, D]` look for their own among the other's of all ranks. The
/// sum of both directions, and the mean of their accuracies.
///
/// # Errors
/// As [`info_nce_in_batch`].
pub fn in_batch(first: &Tensor, second: &Tensor, temperature: f64, comm: &Comm) -> Result<ContrastiveLoss> {
    let unit = InBatch { normalize: false, ..InBatch::default() };
    let there = info_nce_in_batch(first, second, temperature, unit, comm)?;
    let back = info_nce_in_batch(second, first, temperature, unit, comm)?;
    Ok(ContrastiveLoss {
        loss: (there.loss + back.loss)?,
        accuracy: ((there.accuracy + back.accuracy)? * 0.5)?,
    })
}

/// Patches against whole images, within the batch, as Deep InfoMax has it (Hjelm et al. 2019; section 4.4 of the paper):
/// `local` `[B, D, h, w]` holds a vector for each place of one view, `global` `[B, D]` one for each image in the other
/// view, or in the same. Rows are scaled to unit length. The sum of two means:
///
/// - every place looks for its own image among the images of all ranks;
/// - every image looks for each of its places among that one and all places of all other images.
///
/// # Errors
/// Shapes that do not fit, a rank that is gone, a temperature that is not positive.
pub fn local_global(
    global: &Tensor,
    local: &Tensor,
    temperature: f64,
    comm: &Comm,
) -> Result<ContrastiveLoss> {
    let (batch, dim) = global.dims2()?;
    let &[n, d, h, w] = local.dims() else {
        return Err(Error::shape("local_global", "[B, D, h, w] for the local view", local.dims()));
    };
    if n != batch || d != dim || batch == 0 || h * w == 0 {
        return Err(Error::shape("local_global", format!("[{batch}, {dim}, h, w]"), local.dims()));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::config("temperature", format!("must be above 0 and finite, got {temperature}")));
    }
    let places = h * w;
    let global = l2_normalize(global)?;
    let local = local.reshape((batch, dim, places))?.transpose(1, 2)?.contiguous()?;
    let local = l2_normalize(&local.reshape((batch * places, dim))?)?; // [BP, D]
    let (globals, locals) = (all_gather_with_grad(&global, comm)?, all_gather_with_grad(&local, comm)?);
    let images = globals.dim(0)?;
    let first = comm.rank() * batch;
    // Places of this rank against all images.
    let logits = (inner_products(&local, &globals)? / temperature)?; // [BP, N]
    let own: Vec<u32> = (0..batch * places).map(|row| (first + row / places) as u32).collect();
    let there = own_among(&logits, &own)?;
    // Images of this rank against all places.
    let logits = (inner_products(&global, &locals)? / temperature)?.reshape((batch, images, places))?;
    let own: Vec<u32> = (0..batch).map(|row| (first + row) as u32).collect();
    let mask = one_hot(&own, images, &logits)?.unsqueeze(2)?; // [B, N, 1]
    let positive = logits.broadcast_mul(&mask)?.sum(1)?; // [B, P]
    let others = logits.broadcast_add(&(&mask * -1e9)?)?.flatten_from(1)?; // [B, N P]
    let highest = others.max_keepdim(1)?.detach();
    let sum = others.broadcast_sub(&highest)?.exp()?.sum_keepdim(1)?; // [B, 1]
    // log(e^p + Σ e^n) − p, from the larger of the two.
    let top = positive.detach().broadcast_maximum(&highest)?;
    let all = ((&positive - &top)?.exp()? + sum.broadcast_mul(&highest.broadcast_sub(&top)?.exp()?)?)?;
    let back = ((all.log()? + &top)? - &positive)?.mean_all()?;
    let right = positive.detach().broadcast_gt(&highest)?.to_dtype(DType::F32)?.mean_all()?;
    Ok(ContrastiveLoss { loss: (there.loss + back)?, accuracy: ((there.accuracy + right)? * 0.5)? })
}

/// Places against places, within the batch: each place of `first` `[B, D, h, w]` looks for the same place of the same scene
/// among all places of all scenes in `second`, and the other way. Of every `stride` rows and columns one is taken, from
/// the corner on. Where a view is about places (depth, normals) this asks for what is *there*, not for which scene it is.
///
/// # Errors
/// Shapes that differ, no place left; as [`in_batch`].
pub fn places(
    first: &Tensor,
    second: &Tensor,
    (stride, [top, left]): (usize, [usize; 2]),
    temperature: f64,
    comm: &Comm,
) -> Result<ContrastiveLoss> {
    let (_, _, h, w) = first.dims4()?;
    if first.dims() != second.dims() || stride == 0 || top >= h || left >= w {
        return Err(Error::shape(
            "places",
            format!("{:?}, and a corner inside", first.dims()),
            second.dims(),
        ));
    }
    let device = first.device();
    let taken = |start: usize, length: usize| -> Result<Tensor> {
        let places: Vec<u32> = (start..length).step_by(stride).map(|i| i as u32).collect();
        let count = places.len();
        Ok(Tensor::from_vec(places, count, device)?)
    };
    let (down, across) = (taken(top, h)?, taken(left, w)?);
    let rows = |x: &Tensor| -> Result<Tensor> {
        let x = x.index_select(&down, 2)?.index_select(&across, 3)?;
        l2_normalize(&x.permute((0, 2, 3, 1))?.contiguous()?.flatten(0, 2)?)
    };
    in_batch(&rows(first)?, &rows(second)?, temperature, comm)
}

fn one_hot(own: &[u32], columns: usize, like: &Tensor) -> Result<Tensor> {
    let mut mask = vec![0f32; own.len() * columns];
    own.iter().enumerate().for_each(|(row, &column)| mask[row * columns + column as usize] = 1.0);
    Ok(Tensor::from_vec(mask, (own.len(), columns), like.device())?.to_dtype(like.dtype())?)
}

/// Cross-entropy of logits `[M, N]`, and how often the own one is the largest.
fn own_among(logits: &Tensor, own: &[u32]) -> Result<ContrastiveLoss> {
    let loss = contrastive_core::loss::cross_entropy(logits, own)?;
    let own = Tensor::from_vec(own.to_vec(), own.len(), logits.device())?;
    let right = logits.detach().argmax(D::Minus1)?.eq(&own)?;
    Ok(ContrastiveLoss { loss, accuracy: right.to_dtype(DType::F32)?.mean_all()? })
}

/// How a predicted view is held against the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// The mean absolute difference.
    L1,
    /// The mean squared difference.
    L2,
}

/// View prediction (section 3.1 of the paper): the mean over all elements of `|ẑ − z|` or `(ẑ − z)²`. Shapes are equal.
///
/// # Errors
/// Shapes that differ.
pub fn regression(predicted: &Tensor, target: &Tensor, distance: Distance) -> Result<Tensor> {
    if predicted.dims() != target.dims() {
        return Err(Error::shape("view prediction", format!("{:?}", target.dims()), predicted.dims()));
    }
    let difference = (predicted - target.detach())?;
    Ok(match distance {
        // Not Candle's `abs`, whose slope at 0 is 1.
        Distance::L1 => (&difference * difference.detach().sign()?)?.mean_all()?,
        Distance::L2 => difference.sqr()?.mean_all()?,
    })
}

/// The cross-entropy of class scores `[N, K, H, W]` with a class for each pixel, `[N H W]` row by row: labels, or colours
/// that [`quantise`] has put into cells.
///
/// # Errors
/// Another number of classes or pixels.
pub fn pixel_cross_entropy(scores: &Tensor, classes: &[u32]) -> Result<Tensor> {
    let (n, k, h, w) = scores.dims4()?;
    if classes.len() != n * h * w {
        return Err(Error::shape("pixel cross-entropy", format!("{} classes", n * h * w), &[classes.len()]));
    }
    let rows = scores.reshape((n, k, h * w))?.transpose(1, 2)?.contiguous()?.reshape((n * h * w, k))?;
    contrastive_core::loss::cross_entropy(&rows, classes)
}

/// The cell of each pixel on a grid of `cells` by `cells` over two channels in `[-1, 1]`: quantised ab. `colours`
/// `[N, 2, H, W]` to `N H W` numbers below `cells²`, row by row.
///
/// # Errors
/// Another number of channels, no cell.
pub fn quantise(colours: &Tensor, cells: usize) -> Result<Vec<u32>> {
    let (n, c, h, w) = colours.dims4()?;
    if c != 2 || cells == 0 {
        return Err(Error::shape("quantised colours", "[N, 2, H, W] and at least 1 cell", colours.dims()));
    }
    let values = colours.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let cell = |v: f32| (((v + 1.0) * 0.5 * cells as f32).max(0.0) as usize).min(cells - 1);
    let area = h * w;
    Ok((0..n * area)
        .map(|i| {
            let at = i / area * 2 * area + i % area;
            (cell(values[at]) * cells + cell(values[at + area])) as u32
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use contrastive_core::dist::single;
    use contrastive_core::tensor::{GradCheck, check_gradients};

    use super::*;

    fn wave(shape: &[usize], f: f64) -> Result<Tensor> {
        let count = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| (f * i as f64 + 0.3).sin()).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        let check = GradCheck::default();
        let comm = single();
        let inputs = [wave(&[3, 4], 0.7)?, wave(&[3, 4, 2, 2], 1.3)?];
        check_gradients(&inputs, check, |x| Ok(local_global(&x[0], &x[1], 0.3, &comm)?.loss))?;
        let inputs = [wave(&[3, 4], 0.7)?, wave(&[3, 4], 1.3)?];
        check_gradients(&inputs, check, |x| Ok(in_batch(&x[0], &x[1], 0.3, &comm)?.loss))?;
        // Far from the kink of the absolute value.
        let target = (wave(&[2, 2, 3, 3], 2.1)?.sign()? * 2.0)?;
        for distance in [Distance::L1, Distance::L2] {
            check_gradients(&[wave(&[2, 2, 3, 3], 0.9)?], check, |x| regression(&x[0], &target, distance))?;
        }
        let classes: Vec<u32> = (0..8).map(|i| i % 3).collect();
        check_gradients(&[wave(&[2, 3, 2, 2], 0.9)?], check, |x| pixel_cross_entropy(&x[0], &classes))
    }

    /// With one place per image it is the loss between embeddings.
    #[test]
    fn one_place_is_the_whole_image() -> Result<()> {
        let (a, b) = (wave(&[5, 4], 0.7)?, wave(&[5, 4], 1.3)?);
        let patches = local_global(&a, &b.reshape((5, 4, 1, 1))?, 0.2, &single())?;
        let whole = in_batch(&l2_normalize(&a)?, &l2_normalize(&b)?, 0.2, &single())?;
        let of = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(DType::F64)?.to_scalar::<f64>()?) };
        assert!((of(&patches.loss)? - of(&whole.loss)?).abs() < 1e-9);
        assert_eq!(of(&patches.accuracy)?, of(&whole.accuracy)?);
        Ok(())
    }

    #[test]
    fn colours_fall_into_cells() -> Result<()> {
        let colours = Tensor::new(&[[[[-1f32, 0.99]], [[1.0, -0.2]]]], &Device::Cpu)?;
        assert_eq!(quantise(&colours, 4)?, [3, 13]);
        assert!(quantise(&wave(&[1, 3, 2, 2], 1.0)?, 4).is_err());
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let comm = single();
        assert!(local_global(&wave(&[3, 4], 1.0)?, &wave(&[3, 5, 2, 2], 1.0)?, 0.1, &comm).is_err());
        assert!(local_global(&wave(&[3, 4], 1.0)?, &wave(&[3, 4, 2, 2], 1.0)?, 0.0, &comm).is_err());
        assert!(regression(&wave(&[2, 3], 1.0)?, &wave(&[3, 2], 1.0)?, Distance::L1).is_err());
        assert!(pixel_cross_entropy(&wave(&[1, 3, 2, 2], 1.0)?, &[0]).is_err());
        Ok(())
    }
}
