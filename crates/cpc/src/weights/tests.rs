use candle_core::Device;
use contrastive_core::nn::Mode;
use contrastive_core::weights::load_encoder;
use contrastive_testing::formula;

use super::*;

#[derive(serde::Deserialize)]
struct Golden {
    samples: usize,
    width: usize,
    channel: Network,
    batch: Network,
}

#[derive(serde::Deserialize)]
struct Network {
    contexts: Vec<f32>,
    shapes: BTreeMap<String, Vec<usize>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/fixtures/cpc_audio.json")).expect("cpc_audio.json")
}

impl Network {
    /// The tensors of the formula in `make_cpc_audio.py`.
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, shape) in &self.shapes {
            let fan_in: usize = shape.iter().skip(1).product();
            let scale = |u: f64| match name.as_str() {
                _ if name.ends_with("running_var") => 1.0 + 0.5 * u,
                _ if name.contains("conv") && name.ends_with("weight") => u * (6.0 / fan_in as f64).sqrt(),
                _ if name.contains("batchNorm") && name.ends_with("weight") => 1.0 + 0.25 * u,
                _ => 0.25 * u,
            };
            let count = shape.iter().product();
            let values: Vec<f32> = formula(name, count).into_iter().map(|u| scale(u) as f32).collect();
            tensors.insert(name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?);
        }
        Ok(tensors)
    }
}

/// The contexts of the fixture's wave form.
fn contexts(golden: &Golden, run: &SpeechRun, tensors: &HashMap<String, Tensor>) -> Result<Vec<f32>> {
    let mut method = SpeechCpc::new(run.method.clone(), 0, &Device::Cpu)?;
    method.load_backbone(tensors, Path::new("cpc_audio.pt"))?;
    let x: Vec<f32> = formula("input", golden.samples).into_iter().map(|u| u as f32).collect();
    let x = Tensor::from_vec(x, (1, 1, golden.samples), &Device::Cpu)?;
    Ok(method.model().codes(&x, &Mode::eval())?.contexts.flatten_all()?.to_vec1()?)
}

fn assert_same(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= 1e-4 * largest, "{ours} {theirs}");
    }
}

#[test]
fn a_checkpoint_of_cpc_audio_has_pytorchs_contexts() -> anyhow::Result<()> {
    let golden = golden();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cpc_audio.pt");
    let folder = tempfile::tempdir()?;
    let (run, encoder) = convert_cpc_audio(&mut Checkpoint::open(&file)?, folder.path())?;
    assert_eq!(run.method.encoder.norm, Norm::Channel);
    assert_eq!((run.method.context.cell, run.method.context.width), (CellKind::Lstm, golden.width));
    // What lies in the folder is all that is needed.
    let (tensors, manifest) = load_encoder(&encoder)?;
    let manifest = manifest.expect("a manifest");
    assert_eq!((manifest.method.as_str(), manifest.backbone.as_str()), ("cpc-speech", "conv6x5-lstm5"));
    let read: SpeechRun = contrastive_core::train::config::read(&folder.path().join("config.toml"))?;
    assert_eq!(read, run);
    assert_same(&contexts(&golden, &read, &tensors)?, &golden.channel.contexts);
    Ok(())
}

#[test]
fn biases_before_batch_norms_are_not_lost() -> anyhow::Result<()> {
    let golden = golden();
    let (encoder, context, tensors) = from_cpc_audio(&golden.batch.tensors()?).map_err(anyhow::Error::msg)?;
    assert_eq!((encoder.norm, context.cell, context.layers), (Norm::Batch, CellKind::Gru, 2));
    let mut run = recipe::preset("cpc-audio")?;
    (run.method.encoder, run.method.context) = (encoder, context);
    assert_same(&contexts(&golden, &run, &tensors)?, &golden.batch.contexts);
    Ok(())
}

#[test]
fn other_networks_are_refused_in_words() -> Result<()> {
    let whole = golden().channel.tensors()?;
    let without = |prefix: &str| -> BTreeMap<String, Tensor> {
        whole
            .iter()
            .filter(|(name, _)| !name.starts_with(prefix))
            .map(|(n, t)| (n.clone(), t.clone()))
            .collect()
    };
    assert!(from_cpc_audio(&without("gAR")).is_err_and(|e| e.contains("GRU or LSTM")));
    assert!(from_cpc_audio(&without("gEncoder")).is_err_and(|e| e.contains("conv0")));
    let mut instance = whole.clone();
    let one = instance["gEncoder.conv0.bias"].clone();
    instance.insert("gEncoder.batchNorm0.weight".into(), one);
    assert!(from_cpc_audio(&instance).is_err_and(|e| e.contains("instance norm")));
    Ok(())
}
