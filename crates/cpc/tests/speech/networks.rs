//! Encoder and context network: what they see, and the same on a stream.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::nn::Mode;
use contrastive_core::train::Method;
use contrastive_cpc::speech::streaming::Stream;
use contrastive_cpc::speech::{CellKind, Codes, EncoderConfig, Norm, SpeechCpc};

use super::{tiny, values, wave};

fn method(change: impl FnOnce(&mut contrastive_cpc::speech::SpeechConfig)) -> Result<SpeechCpc> {
    let mut config = tiny()?.method;
    change(&mut config);
    Ok(SpeechCpc::new(config, 3, &Device::Cpu)?)
}

fn codes(method: &SpeechCpc, x: &Tensor) -> Result<[Vec<Vec<f32>>; 2]> {
    let Codes { frames, contexts } = method.model().codes(x, &Mode::eval())?;
    Ok([frames.squeeze(0)?.to_vec2()?, contexts.squeeze(0)?.to_vec2()?])
}

/// A context must not hear what it is to predict: samples behind the last one that frame t sees leave contexts up to t as
/// they are, and that sample itself does not.
#[test]
fn contexts_do_not_hear_the_future() -> Result<()> {
    for encoder in [EncoderConfig::paper(8), EncoderConfig::greedy_infomax(8)] {
        let method = method(|config| config.encoder = encoder.clone())?;
        let x = wave(4800)?;
        let [frames, contexts] = codes(&method, &x)?;
        for t in [0, 7, 13] {
            let end = t * encoder.hop() + encoder.receptive_field() - encoder.lead();
            let mut samples = values(&x)?;
            samples[end..].iter_mut().for_each(|x| *x = 1.0 - *x);
            let behind = Tensor::from_vec(samples.clone(), (1, 1, 4800), &Device::Cpu)?;
            let [new_frames, new_contexts] = codes(&method, &behind)?;
            assert_eq!(new_frames[..=t], frames[..=t], "frames up to {t}");
            assert_eq!(new_contexts[..=t], contexts[..=t], "contexts up to {t}");
            assert_ne!(new_contexts[t + 1], contexts[t + 1]);
            samples[end - 1] += 5.0;
            let within = Tensor::from_vec(samples, (1, 1, 4800), &Device::Cpu)?;
            let [_, heard] = codes(&method, &within)?;
            assert_ne!(heard[t], contexts[t], "context {t} hears its last sample");
            if t > 0 {
                assert_eq!(heard[t - 1], contexts[t - 1]);
            }
        }
    }
    Ok(())
}

fn assert_near(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < 1e-5 * expected.abs().max(1.0), "{what}, {i}: {got}, {expected}");
    }
}

#[test]
fn a_stream_gives_what_the_whole_gives() -> Result<()> {
    let paper = EncoderConfig::paper(8);
    let cases = [
        (paper.clone(), CellKind::Gru, 1),
        (EncoderConfig { norm: Norm::Batch, ..paper.clone() }, CellKind::Lstm, 2),
        (EncoderConfig::greedy_infomax(8), CellKind::Lstm, 1),
        (EncoderConfig { paddings: vec![0; 5], ..paper }, CellKind::Gru, 2),
    ];
    for (encoder, cell, layers) in cases {
        let method = method(|config| {
            config.encoder = encoder.clone();
            (config.context.cell, config.context.layers) = (cell, layers);
        })?;
        // No whole number of hops.
        let samples = 5000;
        let x = wave(samples)?;
        let whole = method.model().codes(&x, &Mode::eval())?;
        let all = values(&x)?;
        for chunk in [1, 7, 160, 161, 997, 5000] {
            let mut stream = Stream::new(method.model(), &Device::Cpu)?;
            let mut parts = Vec::new();
            for samples in all.chunks(chunk) {
                parts.extend(stream.push(samples)?);
            }
            let heard: usize =
                parts.iter().map(|part: &Codes| part.frames.dim(1)).sum::<candle_core::Result<usize>>()?;
            // Everything that does not reach beyond the end is out already.
            let complete = (samples + encoder.lead() - encoder.receptive_field()) / encoder.hop() + 1;
            assert_eq!(heard, complete, "chunks of {chunk}");
            parts.extend(stream.finish()?);
            let join = |f: fn(&Codes) -> &Tensor| -> Result<Vec<f32>> {
                let parts: Vec<&Tensor> = parts.iter().map(f).collect();
                values(&Tensor::cat(&parts, 1)?)
            };
            let what = format!("{cell:?}, chunks of {chunk}");
            assert_near(&what, &join(|part| &part.frames)?, &values(&whole.frames)?);
            assert_near(&what, &join(|part| &part.contexts)?, &values(&whole.contexts)?);
        }
    }
    Ok(())
}

#[test]
fn encoders_are_named_as_documented_and_load_again() -> Result<()> {
    let first = method(|config| config.encoder.norm = Norm::Batch)?;
    let names: Vec<String> = first.backbone().into_iter().map(|(name, _)| name).collect();
    for name in
        ["encoder.conv0.weight", "encoder.norm4.running_var", "context.weight_hh_l0", "context.bias_ih_l0"]
    {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|n| n.contains("predictor") || n.contains("conv0.bias")), "{names:?}");
    let mut config = tiny()?.method;
    config.encoder.norm = Norm::Batch;
    let mut second = SpeechCpc::new(config, 77, &Device::Cpu)?;
    let x = wave(4800)?;
    assert_ne!(values(&first.features(&x)?)?, values(&second.features(&x)?)?);
    second.load_backbone(&first.backbone().into_iter().collect(), std::path::Path::new("first"))?;
    assert_eq!(values(&first.features(&x)?)?, values(&second.features(&x)?)?);
    Ok(())
}
