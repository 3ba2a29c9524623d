//! Encoder, context network and one step: padding, PyTorch's values, gradients, the loss at the beginning.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, run_in_process, single};
use contrastive_core::nn::{Mode, ParamStore};
use contrastive_core::optim::Gradients;
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::Method;
use contrastive_cpc::text::config::SentenceConfig;
use contrastive_cpc::text::model::SentenceEncoder;
use contrastive_cpc::text::{TextCpc, recipe};
use contrastive_testing as testing;
use serde_json::Value;

use super::{batch, packed, tiny, values};

/// `[n, l, w]` numbers of words below `vocabulary` in sentences of 1 to `w` words.
fn windows(shape: [usize; 3], vocabulary: usize) -> Result<Tensor> {
    let [n, l, w] = shape;
    let mut stream = Key::new(9, Purpose::Data).stream();
    let mut data = Vec::new();
    for _ in 0..n * l {
        let words = 1 + stream.below(w as u64) as usize;
        data.extend((0..words).map(|_| stream.below(vocabulary as u64) as f32));
        data.resize(data.len() + w - words, -1.0);
    }
    Ok(Tensor::from_vec(data, (n, l, w), &Device::Cpu)?)
}

/// The encoding of a sentence depends on neither how much padding stands behind it nor which sentences are beside it.
#[test]
fn padding_does_not_change_a_sentence() -> Result<()> {
    for kernel in [1, 3, 4] {
        let mut config = tiny()?.method;
        config.encoder.kernel = kernel;
        let method = TextCpc::new(config, 3, &Device::Cpu)?;
        let sentence = [4f32, 9.0, 0.0, 17.0];
        let padded = |width: usize| -> Result<Tensor> {
            let mut data = sentence.to_vec();
            data.resize(width, -1.0);
            Ok(Tensor::from_vec(data, (1, width), &Device::Cpu)?)
        };
        let alone = values(&method.features(&padded(4)?)?)?;
        assert!(alone.iter().any(|x| *x > 0.0));
        assert_eq!(values(&method.features(&padded(32)?)?)?, alone);
        let others = Tensor::cat(&[windows([1, 5, 32], 60)?.squeeze(0)?, padded(32)?, padded(32)?], 0)?;
        let among = method.features(&others)?.to_vec2::<f32>()?;
        for row in &among[5..] {
            let gap = row.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(gap < 1e-6, "{gap}");
        }
        // What stands within a sentence does.
        let longer = Tensor::new(&[[4f32, 9.0, 0.0, 17.0, 0.0]], &Device::Cpu)?;
        assert_ne!(values(&method.features(&longer)?)?, alone);
    }
    Ok(())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn the_encoder_gives_pytorchs_values_and_gradients() -> Result<()> {
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/text/encoder.json"))?;
    let size = |name: &str| fixture[name].as_u64().expect("a size") as usize;
    let sentences: Vec<Vec<u32>> = serde_json::from_value(fixture["sentences"].clone())?;
    for case in fixture["cases"].as_array().expect("cases") {
        let config = SentenceConfig {
            vocabulary: size("vocabulary"),
            embedding: size("embedding"),
            deviation: 1.0,
            kernel: case["kernel"].as_u64().expect("a kernel") as usize,
            channels: size("channels"),
        };
        let params = ParamStore::new(0, &Device::Cpu);
        let encoder = SentenceEncoder::new(&params.builder(), &config)?;
        let names = [("embedding.weight", "table"), ("conv.weight", "weight"), ("conv.bias", "bias")];
        for (name, key) in names {
            let entry = params.get(name).expect("a parameter");
            let data: Vec<f32> = numbers(&case[key]).iter().map(|x| *x as f32).collect();
            entry.var.set(&Tensor::from_vec(data, entry.var.shape(), &Device::Cpu)?)?;
        }
        let z = encoder.forward(&packed(&sentences), &Mode::train(&single()))?;
        testing::assert_close("z", &z, &numbers(&case["z"]), 1e-5)?;
        let dz: Vec<f32> = numbers(&case["dz"]).iter().map(|x| *x as f32).collect();
        let loss = (&z * Tensor::from_vec(dz, z.shape(), &Device::Cpu)?)?.sum_all()?;
        let gradients = Gradients::of(&params, &loss)?;
        for (name, key) in names {
            let got = gradients.get(name).expect("a gradient");
            testing::assert_close(name, got, &numbers(&case[&format!("{key}_gradient")]), 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let run = tiny()?;
    let mut method = TextCpc::new(run.method, 5, &Device::Cpu)?;
    let places = [
        ("backbone.encoder.embedding.weight", 8),
        ("backbone.encoder.embedding.weight", 16),
        ("backbone.encoder.conv.weight", 11),
        ("backbone.encoder.conv.bias", 2),
        ("backbone.context.weight_ih_l0", 7),
        ("backbone.context.weight_hh_l0", 10),
        ("backbone.context.bias_hh_l0", 14),
        ("predictor.0.weight", 3),
        ("predictor.2.weight", 17),
    ];
    testing::assert_gradients(&mut method, &batch(&run)?, &[], &places)
}

/// A context must not read what it is to predict.
#[test]
fn contexts_do_not_read_ahead() -> Result<()> {
    let method = TextCpc::new(tiny()?.method, 3, &Device::Cpu)?;
    let x = windows([1, 6, 6], 60)?;
    let contexts = |x: &Tensor| -> Result<Vec<Vec<f32>>> {
        Ok(method.model().codes(x, &Mode::eval())?.contexts.squeeze(0)?.to_vec2()?)
    };
    let before = contexts(&x)?;
    for t in 0..5 {
        let mut data = values(&x)?;
        data[(t + 1) * 6] = 59.0 - data[(t + 1) * 6];
        let after = contexts(&Tensor::from_vec(data, (1, 6, 6), &Device::Cpu)?)?;
        assert_eq!(after[..=t], before[..=t]);
        assert_ne!(after[t + 1], before[t + 1]);
    }
    Ok(())
}

/// The paper's networks at a tenth of their widths: the loss begins at ln 320 + ln 256 + ln 192, where the authors' curve
/// does.
#[test]
fn fresh_networks_guess_among_the_targets_of_each_step() -> Result<()> {
    let mut config = recipe::preset("paper")?.method;
    config.encoder.vocabulary = 500;
    config.encoder.embedding = 62;
    config.encoder.channels = 240;
    config.context.width = 240;
    let mut method = TextCpc::new(config, 5, &Device::Cpu)?;
    let batch = Batch { views: vec![windows([64, 6, 32], 500)?], indices: (0..64).collect(), labels: None };
    let out = method.step(&batch, &single(), &testing::progress(0))?;
    let guess = 320f64.ln() + 256f64.ln() + 192f64.ln();
    assert!((guess - 16.6).abs() < 0.05);
    let loss = testing::value(&out.loss)?;
    assert!((loss - guess).abs() < 0.3, "{loss}, guessing is {guess}");
    for (k, candidates) in [(1, 320f64), (2, 256.0), (3, 192.0)] {
        let name = format!("step{k}/loss");
        let step = out.terms.iter().find(|(n, _)| *n == name).expect("a term").1;
        assert!((step - candidates.ln()).abs() < 0.15, "step {k}: {step}");
    }
    Ok(())
}

#[test]
fn shapes_and_words_that_do_not_fit_are_named() -> Result<()> {
    let method = TextCpc::new(tiny()?.method, 3, &Device::Cpu)?;
    let refused = method.features(&Tensor::new(&[[60f32, 1.0]], &Device::Cpu)?).expect_err("refused");
    assert!(refused.to_string().contains("60 is no word of a vocabulary of 60"), "{refused}");
    assert!(method.model().codes(&Tensor::new(&[[1f32]], &Device::Cpu)?, &Mode::eval()).is_err());
    let means = method.features(&windows([2, 3, 6], 60)?)?;
    assert_eq!(means.dims(), [2, 9]);
    Ok(())
}

/// Candidates are the sentences of all ranks.
#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let run = tiny()?;
    let whole = batch(&run)?;
    let step = |batch: &Batch, comm: &Comm| -> contrastive_core::Result<(f32, Vec<(String, Tensor)>)> {
        let mut method = TextCpc::new(run.method, 5, &Device::Cpu)?;
        let out = method.step(batch, comm, &testing::progress(3))?;
        let gradients = Gradients::of(method.params(), &out.loss)?.average(comm)?;
        let loss = comm.all_reduce_sum(&out.loss.detach().reshape(1)?)?.to_vec1::<f32>()?[0];
        let named = gradients.iter().map(|(name, g)| (name.to_string(), g.clone())).collect();
        Ok((loss / comm.size() as f32, named))
    };
    let (loss, expected) = step(&whole, &single())?;
    for size in [2, 4] {
        let found = run_in_process(size, |comm| {
            let rows = whole.len() / size;
            let own = comm.rank() * rows..(comm.rank() + 1) * rows;
            let views = whole.views.iter().map(|x| x.narrow(0, own.start, rows)?.contiguous());
            let views = views.collect::<candle_core::Result<_>>()?;
            step(&Batch { views, indices: whole.indices[own].to_vec(), labels: None }, &comm)
        })?;
        for (own, gradients) in &found {
            assert!((own - loss).abs() < 1e-5, "{size} ranks: {own}, one: {loss}");
            for ((name, a), (_, b)) in gradients.iter().zip(&expected) {
                let most =
                    |x: Tensor| -> Result<f32> { Ok(values(&x.abs()?)?.into_iter().fold(0.0, f32::max)) };
                let (gap, scale) = (most((a - b)?)?, most(b.clone())?.max(1e-4));
                assert!(gap < 1e-3 * scale, "{size} ranks: {name} differs by {gap} of {scale}");
            }
        }
    }
    Ok(())
}
