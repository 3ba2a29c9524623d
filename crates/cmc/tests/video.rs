//! Runs on videos.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use contrastive_cmc::flow::recipe::preset;
use contrastive_cmc::flow::video::{MomentConfig, Moments};
use contrastive_core::data::Source;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::Method;

/// Clips of nine frames in which a pattern of its own moves to the right in one class, down in the other.
fn videos(root: &Path, clips: u32) -> Result<()> {
    for clip in 0..clips {
        for (class, [right, down]) in [("across", [1.0, 0.0]), ("down", [0.0, 1.0])] {
            let folder = root.join(class).join(format!("{clip:02}"));
            std::fs::create_dir_all(&folder)?;
            let f = 0.3 + 0.05 * f64::from(clip % 7);
            for t in 0..9u32 {
                let value = |i: u32| {
                    let x = f64::from(i % 48) - right * f64::from(t);
                    let y = f64::from(i / 48) - down * f64::from(t);
                    (127.0 + 55.0 * ((f * x + 0.1 * y).sin() + (f * y - 0.2 * x + f64::from(clip)).cos()))
                        as u8
                };
                let pixels: Vec<u8> = (0..48 * 40).flat_map(|i| [value(i); 3]).collect();
                let path = folder.join(format!("{t:03}.png"));
                image::save_buffer(path, &pixels, 48, 40, image::ExtendedColorType::Rgb8)?;
            }
        }
    }
    Ok(())
}

#[test]
fn moments_are_the_same_kept_or_not() -> Result<()> {
    let (folder, keep) = (tempfile::tempdir()?, tempfile::tempdir()?);
    videos(folder.path(), 1)?;
    let config = MomentConfig { per_clip: 2, later: 3, shorter: 32 };
    let plain = Moments::open(folder.path(), config, None)?;
    let kept = Moments::open(folder.path(), config, Some(keep.path()))?;
    assert_eq!((plain.len(), plain.classes(), plain.label(3)), (4, 2, Some(1)));
    for index in 0..4 {
        let scene = plain.sample(index)?;
        assert_eq!(scene, kept.sample(index)?);
        assert_eq!(scene, kept.sample(index)?, "read again");
        assert_eq!(scene.views[2].shape, [20, 32, 38]);
    }
    assert_eq!(std::fs::read_dir(keep.path())?.count(), 4);
    // What moves down has flow in the second channel of each field, a pixel of 40 being 0.8 of 32.
    let motion = &plain.sample(2)?.views[2].data;
    let middle = |channel: usize| motion[(channel * 32 + 16) * 38 + 19] * 20.0;
    assert!((middle(9) - 0.8).abs() < 0.25 && middle(8).abs() < 0.25, "{} {}", middle(8), middle(9));
    assert!(plain.sample(4).is_err());
    assert!(Moments::open(folder.path(), MomentConfig { per_clip: 0, ..config }, None).is_err());
    Ok(())
}

#[test]
fn videos_train_for_any_number_of_workers_and_clips_have_features() -> Result<()> {
    let (folder, runs) = (tempfile::tempdir()?, tempfile::tempdir()?);
    videos(folder.path(), 6)?;
    for name in ["small-motion", "small-frames"] {
        let mut run = preset(name)?;
        (run.train.epochs, run.train.batch_size) = (2, 6);
        let moments = Arc::new(Moments::open(folder.path(), run.moments, None)?);
        let mut features = Vec::new();
        for workers in [1, 3] {
            let options =
                RunOptions { workers, ..RunOptions::new(runs.path().join(format!("{name}{workers}"))) };
            let (method, _) = run.fit(moments.clone(), options)?;
            assert_eq!(method.views(), 1);
            features.push(run.features(&method, &moments)?);
        }
        assert_eq!((features[0].n, features[0].dim), (12, 2 * 128));
        assert_eq!(features[0].labels, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert_eq!(features[0].data, features[1].data);
    }
    Ok(())
}

#[test]
fn a_network_of_other_channels_is_refused() -> Result<()> {
    let mut run = preset("small-motion")?;
    run.method.backbone = preset("small-frames")?.method.backbone;
    let error = run.check().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("method.backbone.channels") && error.contains("20"), "{error}");
    let error = preset("small-motion").map(|mut run| {
        run.side = 40;
        run.check().err().map(|e| e.to_string()).unwrap_or_default()
    })?;
    assert!(error.contains("side"), "{error}");
    Ok(())
}
