//! Whole runs: resume, learning, the patches that units see.

use anyhow::Result;
use candle_core::Device;
use contrastive_core::data::decode::decode;
use contrastive_core::data::{InMemory, Split, embedded};
use contrastive_core::nn::Mode;
use contrastive_cpc::images::units::{UnitSearch, top_patches, write_grid};
use contrastive_cpc::images::{ImagesCpc, Negatives, recipe};
use contrastive_testing as testing;

use super::{small, tiny, values};

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let mut run = tiny()?;
    run.method.patch_crop = Some(7);
    run.method.objective.negatives = Negatives::Drawn { count: 6 };
    testing::assert_resumes(run)
}

/// A short form of the preset.
#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("images-smoke")?;
    run.train.epochs = 6;
    testing::assert_learns(&run, 0.03)
}

fn few() -> Result<InMemory> {
    let all = embedded::sign_digits(Split::Test)?;
    Ok(InMemory::unlabelled("few", all.images()[..5].to_vec())?)
}

#[test]
fn units_show_the_patches_that_drive_them() -> Result<()> {
    let run = small()?;
    let method = ImagesCpc::new(run.method.clone(), 1, &Device::Cpu)?;
    let encoder = &method.model().encoder;
    let search = UnitSearch { units: vec![5, 100], count: 6, one_per_image: false };
    let found = top_patches(encoder, few()?, &run.eval, &search, &Device::Cpu, 1)?;

    let batch = contrastive_core::data::SequentialLoader::new(few()?, run.eval.clone(), 5, 0)?;
    let x = batch.batches().next().expect("a batch")?.views.remove(0);
    let vectors = encoder.vectors(&x, None, &Mode::eval())?;
    for (patches, unit) in found.iter().zip([5, 100]) {
        let mut expected = values(&vectors.narrow(3, unit, 1)?)?;
        expected.sort_by(|a, b| b.total_cmp(a));
        let got: Vec<f32> = patches.iter().map(|p| p.activation).collect();
        assert_eq!(got, expected[..6]);
        for patch in patches {
            let at = vectors.get(patch.sample as usize)?.get(patch.row)?.get(patch.column)?;
            assert_eq!(values(&at)?[unit], patch.activation);
            let pixel = values(&x.get(patch.sample as usize)?.get(0)?.narrow(0, patch.row * 4, 1)?)?;
            let gray = (pixel[patch.column * 4] * run.eval.std[0] + run.eval.mean[0]) * 255.0;
            assert!((f32::from(patch.pixels[0]) - gray).abs() < 0.6 && patch.pixels.len() == 8 * 8 * 3);
        }
    }

    let search = UnitSearch { one_per_image: true, ..search };
    let single = top_patches(encoder, few()?, &run.eval, &search, &Device::Cpu, 0)?;
    for (patches, all) in single.iter().zip(&found) {
        let mut samples: Vec<u64> = patches.iter().map(|p| p.sample).collect();
        samples.sort_unstable();
        assert_eq!((samples, &patches[0]), (vec![0, 1, 2, 3, 4], &all[0]));
    }

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("units.png");
    write_grid(&path, &found, 2)?;
    let picture = decode(&std::fs::read(&path)?, &path)?;
    assert_eq!((picture.width, picture.height), (6 * 10 + 2, 2 * 10 + 2));
    let pixel = |x: usize, y: usize| picture.data[(y * picture.width + x) * 3];
    assert_eq!((pixel(0, 0), pixel(2, 2)), (255, found[0][0].pixels[0]));
    assert_eq!(pixel(12 + 7, 12 + 3), found[1][1].pixels[(3 * 8 + 7) * 3]);

    let beyond = UnitSearch { units: vec![128], ..search };
    assert!(top_patches(encoder, few()?, &run.eval, &beyond, &Device::Cpu, 0).is_err());
    assert!(write_grid(&path, &[], 2).is_err());
    Ok(())
}
