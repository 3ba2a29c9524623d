//! Masks, PyTorch's values, names.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::single;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::kernels::FeatureMap;
use contrastive_core::nn::{MapModule, Mode, ParamStore, PatchInit, PatchNetConfig, PatchStem};
use contrastive_core::optim::Gradients;
use contrastive_core::tensor::{GradCheck, check_gradients};
use contrastive_core::train::Method;
use contrastive_cpc::Product;
use contrastive_cpc::images::{ImagesConfig, ImagesCpc, Negatives, RowContext, RowContextConfig, RowsConfig};
use contrastive_testing as testing;
use serde::Deserialize;

use super::{noise, tiny, values};

fn context(blocks: usize) -> Result<RowContext> {
    let store = ParamStore::new(7, &Device::Cpu);
    Ok(RowContext::new(&store.builder(), 6, &RowContextConfig { blocks, width: 8 })?)
}

fn contexts(network: &RowContext, x: &Tensor) -> Result<Tensor> {
    Ok(network.forward_map(&FeatureMap::new(x)?, &Mode::eval())?.tensor()?)
}

/// `x` with another value everywhere in a row, or in one column of it.
fn perturbed(x: &Tensor, row: usize, column: Option<usize>) -> Result<Tensor> {
    let dims = x.dims4()?;
    let data = values(x)?.into_iter().enumerate().map(|(i, v)| {
        let (r, c) = (i / dims.3 % dims.2, i % dims.3);
        if r == row && column.is_none_or(|column| column == c) { v + 3.0 } else { v }
    });
    Ok(Tensor::from_vec(data.collect::<Vec<_>>(), x.shape(), &Device::Cpu)?)
}

/// Which rows of two maps are the same bits.
fn same_rows(a: &Tensor, b: &Tensor) -> Result<Vec<bool>> {
    (0..a.dim(2)?)
        .map(|row| {
            let of = |x: &Tensor| -> Result<Vec<u32>> {
                Ok(values(&x.narrow(2, row, 1)?)?.iter().map(|v| v.to_bits()).collect())
            };
            Ok(of(a)? == of(b)?)
        })
        .collect()
}

#[test]
fn contexts_see_their_own_row_and_those_above() -> Result<()> {
    let x = noise("grid", &[2, 6, 7, 5])?;
    for blocks in [1, 3, 5] {
        let network = context(blocks)?;
        let whole = contexts(&network, &x)?;
        for row in 0..7 {
            let changed = contexts(&network, &perturbed(&x, row, None)?)?;
            // One row further down with every block, none above, and the row itself.
            let want: Vec<bool> = (0..7).map(|r| r < row || r > row + blocks).collect();
            assert_eq!(same_rows(&whole, &changed)?, want, "{blocks} blocks, row {row}");
        }
    }
    // Along a row all columns are seen.
    let network = context(3)?;
    let (whole, changed) = (contexts(&network, &x)?, contexts(&network, &perturbed(&x, 2, Some(0))?)?);
    let last = |x: &Tensor| -> Result<Vec<f32>> { values(&x.narrow(2, 2, 1)?.narrow(3, 3, 1)?) };
    assert_ne!(last(&whole)?, last(&changed)?);
    Ok(())
}

/// A pixel of a patch below reaches no context of the rows above, through the whole network.
#[test]
fn pixels_below_do_not_reach_contexts_above() -> Result<()> {
    let method = ImagesCpc::new(tiny()?.method, 3, &Device::Cpu)?;
    let x = noise("pixels", &[1, 3, 32, 32])?;
    // Row 3 of patches are pixel rows 12 to 19; row 4 begins with 16. Pixel row 20 belongs to rows 4 and 5.
    let changed = perturbed(&x, 20, None)?;
    let of = |x: &Tensor| -> Result<Tensor> {
        Ok(method.model().grids(x, None, &Mode::eval())?.contexts.permute((0, 3, 1, 2))?.contiguous()?)
    };
    let same = same_rows(&of(&x)?, &of(&changed)?)?;
    assert_eq!(same[..5], [true, true, true, true, false]);
    Ok(())
}

#[test]
fn the_contexts_gradient_is_what_differences_give() -> Result<()> {
    let network = context(2)?;
    // A short step, so that few of the ReLUs change sides on the way.
    let settings = GradCheck { step: 1e-3, ..GradCheck::default() };
    check_gradients(&[noise("x", &[2, 6, 4, 3])?], settings, |x| {
        network.forward_map(&FeatureMap::new(&x[0])?, &Mode::eval())?.tensor()
    })?;
    Ok(())
}

#[derive(Deserialize)]
struct Golden {
    grid: [usize; 3],
    vectors: Vec<f64>,
    contexts: Vec<f64>,
    losses: Vec<f64>,
    accuracies: Vec<f64>,
    gradients: BTreeMap<String, [f64; 3]>,
}

/// The whole step against PyTorch: `tests/fixtures/make_images.py`.
#[test]
fn golden() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("../fixtures/images.json"))?;
    let config = ImagesConfig {
        encoder: PatchNetConfig {
            in_channels: 1,
            patch: 8,
            stride: 4,
            stem: PatchStem::Conv3,
            channels: 2,
            blocks: [2, 1, 1],
            init: PatchInit::Torch,
        },
        patch_crop: None,
        context: Some(RowContextConfig { blocks: 2, width: 4 }),
        objective: RowsConfig { steps: 2, skip: 1, negatives: Negatives::All {}, product: Product::Sum },
    };
    let method = ImagesCpc::new(config, 0, &Device::Cpu)?;
    let parameters = method.params().parameters();
    assert_eq!(parameters.len(), golden.gradients.len());
    for (i, entry) in parameters.iter().enumerate() {
        let dims = entry.var.dims();
        let fan_in = dims[1..].iter().product::<usize>() as f64;
        let scale = if dims.len() > 1 { 1.5 / fan_in.sqrt() } else { 0.1 };
        let data: Vec<f32> =
            (0..entry.var.elem_count()).map(|j| (scale * (0.7 * j as f64 + i as f64).sin()) as f32).collect();
        entry.var.set(&Tensor::from_vec(data, dims, &Device::Cpu)?)?;
    }
    let pixels: Vec<f32> =
        (0..640).map(|k| ((0.3 * f64::from(k)).sin() + (0.11 * f64::from(k)).cos()) as f32).collect();
    let x = Tensor::from_vec(pixels, (2, 1, 20, 16), &Device::Cpu)?;
    let batch = Batch { views: vec![x], indices: vec![0, 1], labels: None };
    let (contrast, grids) = method.contrast(&batch, [0, 0], &Mode::train(&single()))?;
    let [rows, columns, width] = golden.grid;
    assert_eq!(grids.vectors.dims(), [2, rows, columns, width]);
    let part = |x: &Tensor| -> Result<Tensor> { Ok(x.detach().get(1)?.narrow(0, 1, 2)?.contiguous()?) };
    testing::assert_close("vectors", &part(&grids.vectors)?, &golden.vectors, 2e-6)?;
    testing::assert_close("contexts", &part(&grids.contexts)?, &golden.contexts, 2e-6)?;
    for (step, (loss, accuracy)) in contrast.steps.iter().zip(golden.losses.iter().zip(&golden.accuracies)) {
        assert!((step.loss - loss).abs() < 1e-5 && (step.accuracy - accuracy).abs() < 1e-9, "{step:?}");
    }
    let gradients = Gradients::of(method.params(), &contrast.loss)?;
    for (name, [first, middle, last]) in &golden.gradients {
        let gradient = gradients.get(name).ok_or_else(|| anyhow!("no gradient of {name}"))?;
        let got = values(gradient)?;
        for (got, want) in [got[0], got[got.len() / 2], got[got.len() - 1]].iter().zip([first, middle, last])
        {
            assert!((f64::from(*got) - want).abs() < 2e-6 + 1e-4 * want.abs(), "{name}: {got}, {want}");
        }
    }
    Ok(())
}

#[test]
fn encoders_are_exported_by_name() -> Result<()> {
    let config = tiny()?.method;
    let first = config.build(1, &Device::Cpu)?;
    let mut second = config.build(2, &Device::Cpu)?;
    let x = noise("x", &[3, 3, 32, 32])?;
    let before = values(&first.features(&x)?)?;
    assert_eq!(before.len(), 3 * 32);
    assert_ne!(before, values(&second.features(&x)?)?);
    let exported = first.backbone();
    assert!(exported.iter().any(|(name, _)| name == "layer3.0.shortcut.bias"));
    assert!(exported.iter().all(|(name, _)| name.starts_with("conv1.") || name.starts_with("layer")));
    second.load_backbone(&exported.into_iter().collect(), std::path::Path::new("first"))?;
    assert_eq!(before, values(&second.features(&x)?)?);
    Ok(())
}
