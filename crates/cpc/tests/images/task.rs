//! The pretext task: gradients, ranks, targets, negatives, crops.

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use contrastive_core::nn::{Mode, ParamStore};
use contrastive_core::rng::{Key, Purpose};
use contrastive_cpc::images::task::contrast_rows;
use contrastive_cpc::images::{Grids, ImagesConfig, ImagesCpc, Negatives, RowsConfig};
use contrastive_cpc::{Predictor, Product};
use contrastive_testing as testing;

use super::{noise, tiny, values};

const NEGATIVES: [Negatives; 4] = [
    Negatives::All {},
    Negatives::SameImage {},
    Negatives::Drawn { count: 5 },
    Negatives::Blind { count: 5 },
];

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for negatives in NEGATIVES {
        for context in [true, false] {
            let mut config = tiny()?.method;
            config.objective.negatives = negatives;
            config.patch_crop = Some(7);
            let mut places = vec![
                ("backbone.layer3.0.conv3.bias", 3),
                ("backbone.layer3.0.shortcut.weight", 40),
                ("predictor.0.weight", 17),
                ("predictor.2.weight", 900),
            ];
            if context {
                places.extend([
                    ("context.blocks.1.conv4.weight", 11),
                    ("context.blocks.1.conv4.bias", 6),
                    ("context.blocks.1.conv3.weight", 5),
                ]);
            } else {
                config.context = None;
            }
            let mut method = ImagesCpc::new(config, 5, &Device::Cpu)?;
            testing::assert_gradients(&mut method, &testing::batch(3, &[32])?, &[], &places)?;
        }
    }
    Ok(())
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    for negatives in NEGATIVES {
        let mut run = tiny()?;
        run.method.objective.negatives = negatives;
        run.method.patch_crop = Some(6);
        // The rate of the shared steps is one for SGD; Adam divides by gradients that may be rounding alone.
        run.optim.optimizer = contrastive_core::optim::OptimizerConfig::Sgd(Default::default());
        testing::assert_ranks(&run, 4, &[32], &[2, 4])?;
    }
    Ok(())
}

/// With `W_k` that passes contexts on, and contexts that are made of the targets so many rows below, every prediction finds
/// its target: rows, columns and samples are the right ones.
#[test]
fn targets_are_in_the_same_column_further_down() -> Result<()> {
    let (n, rows, columns, d) = (2, 5, 3, 40);
    let vectors = (noise("z", &[n, rows, columns, d])? * 2.0)?;
    for (skip, steps) in [(0, 1), (1, 1), (3, 1)] {
        let below = skip + steps;
        // Row r holds what stands at r + below; rows without a target hold nothing.
        let empty = Tensor::zeros((n, below, columns, d), candle_core::DType::F32, &Device::Cpu)?;
        let contexts = Tensor::cat(&[&vectors.narrow(1, below, rows - below)?, &empty], 1)?;
        let store = ParamStore::new(0, &Device::Cpu);
        let predictor = Predictor::new(&store.builder(), d, d, steps)?;
        for entry in store.parameters() {
            entry.var.set(&Tensor::eye(d, candle_core::DType::F32, &Device::Cpu)?)?;
        }
        for negatives in [Negatives::All {}, Negatives::Drawn { count: 9 }] {
            let config = RowsConfig { steps, skip, negatives, product: Product::Sum };
            let grids = Grids { vectors: vectors.clone(), contexts: contexts.clone() };
            let key = Key::new(1, Purpose::Negatives);
            let contrast = contrast_rows(&config, &predictor, &grids, &[4, 9], key, &Mode::eval())?;
            let step = contrast.steps[0];
            assert_eq!((step.accuracy, step.predictions), (1.0, n * (rows - below) * columns), "{config:?}");
        }
        let config = RowsConfig { steps, skip: rows, negatives: Negatives::All {}, product: Product::Sum };
        let grids = Grids { vectors: vectors.clone(), contexts };
        let key = Key::new(1, Purpose::Negatives);
        let refused = contrast_rows(&config, &predictor, &grids, &[4, 9], key, &Mode::eval());
        assert!(refused.expect_err("refused").to_string().contains("grids have 5 rows"));
    }
    Ok(())
}

/// Of 15 vectors, `Drawn` never finds the target among its negatives, `Blind` does: a tie with itself is no success.
#[test]
fn blind_draws_may_hit_the_target() -> Result<()> {
    let vectors = (noise("z", &[1, 5, 3, 30])? * 3.0)?;
    let empty = vectors.narrow(1, 0, 2)?.zeros_like()?;
    let grids = Grids { contexts: Tensor::cat(&[&vectors.narrow(1, 2, 3)?, &empty], 1)?, vectors };
    let store = ParamStore::new(0, &Device::Cpu);
    let predictor = Predictor::new(&store.builder(), 30, 30, 1)?;
    for entry in store.parameters() {
        entry.var.set(&Tensor::eye(30, candle_core::DType::F32, &Device::Cpu)?)?;
    }
    let accuracy = |negatives| -> Result<f64> {
        let config = RowsConfig { steps: 1, skip: 1, negatives, product: Product::Sum };
        let key = Key::new(1, Purpose::Negatives);
        Ok(contrast_rows(&config, &predictor, &grids, &[3], key, &Mode::eval())?.steps[0].accuracy)
    };
    assert_eq!(accuracy(Negatives::Drawn { count: 40 })?, 1.0);
    assert!(accuracy(Negatives::Blind { count: 40 })? < 0.5);
    Ok(())
}

#[test]
fn crops_depend_on_sample_and_step_alone() -> Result<()> {
    let config = ImagesConfig { patch_crop: Some(5), ..tiny()?.method };
    let method = ImagesCpc::new(config.clone(), 5, &Device::Cpu)?;
    let key = |step| Key::new(2, Purpose::Layer).epoch(step);
    let of = |names: &[u64], step| -> Result<Vec<[usize; 2]>> {
        Ok(method.crops([32, 32], names, key(step))?.expect("crops").corners)
    };
    let both = of(&[4, 8], 1)?;
    assert_eq!(both.len(), 2 * 49);
    assert_eq!(both[49..], of(&[8], 1)?);
    assert_ne!(both[49..], of(&[8], 2)?);
    // All of the four positions of each side occur.
    let mut seen: Vec<[usize; 2]> = both.clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 16);
    assert_eq!(seen[15], [3, 3]);
    // A step sees them, evaluation does not.
    let x = noise("x", &[2, 3, 32, 32])?;
    let crops = method.crops([32, 32], &[4, 8], key(1))?;
    let whole = method.model().grids(&x, None, &Mode::eval())?.vectors;
    assert_ne!(values(&whole)?, values(&method.model().grids(&x, crops.as_ref(), &Mode::eval())?.vectors)?);
    let none = ImagesCpc::new(ImagesConfig { patch_crop: None, ..config }, 5, &Device::Cpu)?;
    assert!(none.crops([32, 32], &[4], key(1))?.is_none());
    Ok(())
}

/// Contexts and vectors both have gradients: nothing is cut from the graph.
#[test]
fn gradients_reach_targets_and_contexts() -> Result<()> {
    let vectors = Var::from_tensor(&noise("z", &[2, 4, 2, 6])?)?;
    let contexts = Var::from_tensor(&noise("c", &[2, 4, 2, 6])?)?;
    let store = ParamStore::new(0, &Device::Cpu);
    let predictor = Predictor::new(&store.builder(), 6, 6, 2)?;
    let grids = Grids { vectors: vectors.as_tensor().clone(), contexts: contexts.as_tensor().clone() };
    let config = RowsConfig { steps: 2, skip: 1, negatives: Negatives::All {}, product: Product::Mean };
    let key = Key::new(1, Purpose::Negatives);
    let mode = Mode::train(&contrastive_core::dist::single());
    let loss = contrast_rows(&config, &predictor, &grids, &[0, 1], key, &mode)?.loss;
    let gradients = loss.backward()?;
    for var in [&vectors, &contexts] {
        let gradient = values(gradients.get(var.as_tensor()).expect("a gradient"))?;
        assert!(gradient.iter().any(|g| g.abs() > 1e-4));
    }
    Ok(())
}
