//! One step: gradients, ranks, negatives.

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;
use contrastive_cpc::speech::{CellKind, SpeechCpc, SpeechRun};
use contrastive_cpc::{NegativesConfig, Scheme};
use contrastive_testing as testing;

use super::{batch, tiny, values};

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for (cell, scheme) in [(CellKind::Gru, Scheme::MixedSpeaker), (CellKind::Lstm, Scheme::CurrentSequence)] {
        let mut run = tiny()?;
        run.method.context.cell = cell;
        run.method.objective.negatives.scheme = scheme;
        // Small layers are all kinks: PyTorch's beginnings leave too little for differences in single precision.
        let mut method = SpeechCpc::new(run.method.clone(), 5, &Device::Cpu)?;
        let places = [
            ("backbone.encoder.conv4.weight", 11),
            ("backbone.encoder.conv4.bias", 2),
            ("backbone.context.weight_ih_l0", 7),
            ("backbone.context.weight_hh_l0", 10),
            ("backbone.context.bias_ih_l0", 1),
            ("backbone.context.bias_hh_l0", 14),
            ("predictor.0.weight", 3),
            ("predictor.2.weight", 17),
        ];
        testing::assert_gradients(&mut method, &batch(&run)?, &[], &places)?;
    }
    Ok(())
}

fn share(batch: &Batch, rank: usize, size: usize) -> Result<Batch> {
    let n = batch.len() / size;
    let views =
        batch.views.iter().map(|v| Ok(v.narrow(0, rank * n, n)?.contiguous()?)).collect::<Result<_>>()?;
    let part = rank * n..(rank + 1) * n;
    let labels = batch.labels.as_ref().map(|labels| labels[part.clone()].to_vec());
    Ok(Batch { views, indices: batch.indices[part].to_vec(), labels })
}

/// Loss and named gradients of a step, averaged over ranks.
#[allow(clippy::type_complexity)]
fn step(run: &SpeechRun, batch: &Batch, comm: &Comm) -> Result<(f64, Vec<(String, Vec<f32>)>)> {
    let mut method = SpeechCpc::new(run.method.clone(), 5, &Device::Cpu)?;
    let out = method.step(batch, comm, &testing::progress(3))?;
    let gradients = Gradients::of(method.params(), &out.loss)?.average(comm)?;
    let sum = comm.all_reduce_sum(&out.loss.detach().reshape(1)?)?.to_vec1::<f32>()?[0];
    let named =
        gradients.iter().map(|(name, g)| Ok((name.to_string(), values(g)?))).collect::<Result<_>>()?;
    Ok((f64::from(sum) / comm.size() as f64, named))
}

/// Negatives of the sequence itself do not depend on the other ranks; the paper takes the others from each device's own
/// batch, where two ranks are not one.
#[test]
fn ranks_do_not_change_a_step_of_the_current_sequence() -> Result<()> {
    for count in [None, Some(5)] {
        let mut run = tiny()?;
        run.method.objective.negatives = NegativesConfig { scheme: Scheme::CurrentSequence, count };
        let whole = batch(&run)?;
        let (loss, expected) = testing::deep(|| step(&run, &whole, &single()))?;
        let threads: Vec<_> = in_process(2)
            .into_iter()
            .map(|comm| {
                let (run, part) = (run.clone(), share(&whole, comm.rank(), 2)?);
                Ok(std::thread::spawn(move || step(&run, &part, &comm)))
            })
            .collect::<Result<_>>()?;
        for thread in threads {
            let (rank_loss, gradients) = thread.join().map_err(|_| anyhow!("a rank panicked"))??;
            assert!((rank_loss - loss).abs() < 1e-5, "{rank_loss} {loss}");
            for ((name, got), (_, expected)) in gradients.iter().zip(&expected) {
                let scale = expected.iter().fold(1e-4f32, |m, g| m.max(g.abs()));
                let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(worst < 1e-3 * scale, "{name}: {worst} of {scale}");
            }
        }
    }
    Ok(())
}

/// Same-speaker negatives need the speakers, and batches of one speaker have them all.
#[test]
fn schemes_of_speakers_take_the_labels() -> Result<()> {
    let mut run = tiny()?;
    run.method.objective.negatives.scheme = Scheme::SameSpeakerExcludingCurrent;
    run.windows.one_speaker_batches = true;
    let one_speaker = batch(&run)?;
    let labels = one_speaker.labels.clone().expect("labels");
    assert!(labels.iter().all(|label| *label == labels[0]));
    let mut method = SpeechCpc::new(run.method.clone(), 5, &Device::Cpu)?;
    method.step(&one_speaker, &single(), &testing::progress(0))?;
    let nameless = Batch { labels: None, ..one_speaker };
    let refused = method.step(&nameless, &single(), &testing::progress(0)).expect_err("refused").to_string();
    assert!(refused.contains("speaker"), "{refused}");
    Ok(())
}

/// With fresh networks the loss is that of guessing, and a constant encoder stays there: what is told apart is content.
#[test]
fn a_constant_encoder_guesses() -> Result<()> {
    let run = tiny()?;
    let batch = batch(&run)?;
    let mut method = SpeechCpc::new(run.method.clone(), 5, &Device::Cpu)?;
    let guess = (4.0 * 32f64).ln();
    let fresh = testing::value(&method.step(&batch, &single(), &testing::progress(0))?.loss)?;
    assert!((fresh - guess).abs() < 0.2, "{fresh}, guessing is {guess}");
    for entry in method.params().parameters() {
        if entry.name.starts_with("backbone.encoder") {
            let value = if entry.name.ends_with("bias") { 0.1f32 } else { 0.0 };
            entry.var.set(&Tensor::full(value, entry.var.shape(), &Device::Cpu)?)?;
        }
    }
    let out = method.step(&batch, &single(), &testing::progress(0))?;
    assert!((testing::value(&out.loss)? - guess).abs() < 1e-4);
    let accuracy = out.terms.iter().find(|(name, _)| name == "accuracy").expect("accuracy").1;
    assert_eq!(accuracy, 0.0, "ties are no successes");
    Ok(())
}
