//! Single convolutions, forward and backward, in GFLOP/s of the direct form. The backward pass includes what Candle
//! does around it: turning the output and the gradients between memory orders.

use anyhow::Result;
use candle_core::Var;
use contrastive_core::kernels::{ConvSettings, FeatureMap, conv2d};
use serde_json::json;

use super::normal;
use crate::measure::{Timing, time};

/// A convolution of a network: channels in, side of the input, channels out, side of the kernel, stride, and how often
/// the network has it.
type Layer = (usize, usize, usize, usize, usize, usize);

const RESNET_18: &[Layer] = &[
    (3, 32, 64, 3, 1, 1),
    (64, 32, 64, 3, 1, 4),
    (64, 32, 128, 3, 2, 1),
    (128, 16, 128, 3, 1, 3),
    (64, 32, 128, 1, 2, 1),
    (128, 16, 256, 3, 2, 1),
    (256, 8, 256, 3, 1, 3),
    (128, 16, 256, 1, 2, 1),
    (256, 8, 512, 3, 2, 1),
    (512, 4, 512, 3, 1, 3),
    (256, 8, 512, 1, 2, 1),
];

const RESNET_50: &[Layer] = &[
    (3, 224, 64, 7, 2, 1),
    (64, 56, 64, 1, 1, 1),
    (64, 56, 64, 3, 1, 3),
    (64, 56, 256, 1, 1, 4),
    (256, 56, 64, 1, 1, 2),
    (256, 56, 128, 1, 1, 1),
    (128, 56, 128, 3, 2, 1),
    (128, 28, 512, 1, 1, 4),
    (256, 56, 512, 1, 2, 1),
    (512, 28, 128, 1, 1, 3),
    (128, 28, 128, 3, 1, 3),
    (512, 28, 256, 1, 1, 1),
    (256, 28, 256, 3, 2, 1),
    (256, 14, 1024, 1, 1, 6),
    (512, 28, 1024, 1, 2, 1),
    (1024, 14, 256, 1, 1, 5),
    (256, 14, 256, 3, 1, 5),
    (1024, 14, 512, 1, 1, 1),
    (512, 14, 512, 3, 2, 1),
    (512, 7, 2048, 1, 1, 3),
    (1024, 14, 2048, 1, 2, 1),
    (2048, 7, 512, 1, 1, 2),
    (512, 7, 512, 3, 1, 2),
];

/// The sum over the layers of forward and backward, each layer as often as the network has it.
fn convolutions(layers: &[Layer], batch: usize, repeats: usize) -> Result<Timing> {
    let (mut rows, mut total, mut flops, mut peak) = (Vec::new(), 0.0, 0.0, None::<f64>);
    for &(c, side, o, k, stride, count) in layers {
        let settings = ConvSettings::square(stride, k / 2);
        let (x, w) = (normal("x", &[batch, c, side, side])?, normal("w", &[o, c, k, k])?);
        let (x, w) = (Var::from_tensor(&x)?, Var::from_tensor(&(w * 0.05)?)?);
        let (plain_x, plain_w) = (FeatureMap::new(&x.as_detached_tensor())?, w.as_detached_tensor());
        // The image itself needs no gradient.
        let input = if c == 3 { plain_x.clone() } else { FeatureMap::new(&x)? };
        let forward = time(batch, repeats, || {
            conv2d(&plain_x, &plain_w, None, settings)?;
            Ok(())
        })?;
        let both = time(batch, repeats, || {
            conv2d(&input, &w, None, settings)?.tensor()?.backward()?;
            Ok(())
        })?;
        let higher = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        peak = higher(peak, higher(forward.peak_rss_mb, both.peak_rss_mb));
        let backward = (both.ms - forward.ms).max(1e-6);
        let out = (side + 2 * (k / 2) - k) / stride + 1;
        let gflop = 2.0 * (batch * o * out * out * c * k * k) as f64 / 1e9;
        let gflop_backward = if c == 3 { gflop } else { 2.0 * gflop };
        total += both.ms * count as f64;
        flops += (gflop + gflop_backward) * count as f64;
        rows.push(json!({
            "shape": format!("[{batch},{c},{side},{side}]->{o} k{k} s{stride}"),
            "count": count,
            "fwd_ms": forward.ms,
            "bwd_ms": backward,
            "fwd_gflops": gflop / forward.ms * 1e3,
            "bwd_gflops": gflop_backward / backward * 1e3,
        }));
    }
    let mut timing = Timing::from_samples(batch, vec![total]);
    timing.peak_rss_mb = peak;
    Ok(timing.with("gflops", flops / total * 1e3).with("shapes", rows))
}

pub(super) fn conv_64(batch: usize, repeats: usize) -> Result<Timing> {
    convolutions(&RESNET_18[1..2], batch, repeats).map(|mut timing| {
        // One layer, once.
        timing.ms /= RESNET_18[1].5 as f64;
        timing
    })
}

pub(super) fn conv_r18(batch: usize, repeats: usize) -> Result<Timing> {
    convolutions(RESNET_18, batch, repeats)
}

pub(super) fn conv_r50(batch: usize, repeats: usize) -> Result<Timing> {
    convolutions(RESNET_50, batch, repeats)
}
