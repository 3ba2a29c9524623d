//! Runs on scenes of several views.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use candle_core::{Device, Tensor};
use contrastive_cmc::Graph;
use contrastive_cmc::loss::Distance;
use contrastive_cmc::views::segment::{self, Subject};
use contrastive_cmc::views::{Between, Task, View, ViewsCmc, ViewsConfig, ViewsRun, recipe, rooms, run};
use contrastive_core::data::{Batch, Source, Split};
use contrastive_core::dist::{Comm, in_process, run_in_process, single};
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::Method;
use contrastive_testing as testing;

fn config(channels: &[usize], task: Task) -> ViewsConfig {
    let views = channels.iter().enumerate().map(|(i, &c)| View::new(&format!("v{i}"), c)).collect();
    ViewsConfig { views, width: 4, output: 8, task, sync_batch_norm: true }
}

/// Eight samples of noise, one tensor for each view; the last holds labels below `classes` where there are any.
fn batch(channels: &[usize], classes: Option<u32>) -> Result<Batch> {
    let wave = |c: usize, f: f64| -> Result<Tensor> {
        let values: Vec<f32> =
            (0..8 * c * 256).map(|i| (f * f64::from(i as u32 % 7919)).sin() as f32).collect();
        Ok(Tensor::from_vec(values, (8, c, 16, 16), &Device::Cpu)?)
    };
    let mut views: Vec<Tensor> =
        channels.iter().enumerate().map(|(i, &c)| wave(c, 0.7 + 0.3 * i as f64)).collect::<Result<_>>()?;
    if let Some(classes) = classes {
        let labels: Vec<f32> = (0..8 * 256u32).map(|i| (i * i % 31 % classes) as f32).collect();
        views.push(Tensor::from_vec(labels, (8, 1, 16, 16), &Device::Cpu)?);
    }
    Ok(Batch { views, indices: (0..8).collect(), labels: None })
}

/// Every task with its views.
fn tasks() -> Vec<(Vec<usize>, Task, Option<u32>)> {
    let contrast = |graph, between| Task::Contrast { temperature: 0.5, graph, between };
    let (alike, windows) = (Between::Alike, Between::PatchesAndWindows);
    vec![
        (vec![1], contrast(Graph::Core, windows), None),
        (vec![1, 2, 3], contrast(Graph::Core, windows), None),
        (vec![1, 2, 3], contrast(Graph::Full, alike), None),
        (vec![2, 2], contrast(Graph::Core, Between::Windows), None),
        (vec![1, 3], Task::Predict { distance: Distance::L1 }, None),
        (vec![1, 3], Task::Predict { distance: Distance::L2 }, None),
        (vec![1, 2], Task::PredictCells { cells: 3 }, None),
        (vec![1], Task::Label { classes: 4 }, Some(4)),
    ]
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for (channels, task, classes) in tasks() {
        let mut method = ViewsCmc::new(config(&channels, task), 5, &Device::Cpu)?;
        // A prediction uses no head.
        let (without, place): (&[&str], _) = match task {
            Task::Contrast { .. } => (&[], [("head.v0.global.0.weight", 3)]),
            _ => (&["head."], [("decoder.out.bias", 1)]),
        };
        testing::assert_gradients(&mut method, &batch(&channels, classes)?, without, &place)?;
    }
    Ok(())
}

#[test]
fn ranks_do_not_change_the_loss() -> Result<()> {
    let loss = |config: &ViewsConfig, batch: &Batch, comm: &Comm| -> Result<f64> {
        let mut method = ViewsCmc::new(config.clone(), 5, &Device::Cpu)?;
        testing::value(&method.step(batch, comm, &testing::progress(0))?.loss)
    };
    for (channels, task, classes) in tasks() {
        let (config, whole) = (config(&channels, task), batch(&channels, classes)?);
        let alone = loss(&config, &whole, &single())?;
        let threads: Vec<_> = in_process(2)
            .into_iter()
            .map(|comm| -> Result<_> {
                let part = |x: &Tensor| Ok(x.narrow(0, comm.rank() * 4, 4)?.contiguous()?);
                let views = whole.views.iter().map(part).collect::<Result<_>>()?;
                let first = comm.rank() as u64 * 4;
                let own = Batch { views, indices: (first..first + 4).collect(), labels: None };
                let config = config.clone();
                Ok(std::thread::spawn(move || loss(&config, &own, &comm)))
            })
            .collect::<Result<_>>()?;
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| anyhow!("a rank panicked"))?? / 2.0;
        }
        assert!((sum - alone).abs() < 1e-4 * alone.abs().max(1.0), "{task:?}: {sum}, alone {alone}");
    }
    Ok(())
}

fn small() -> Result<ViewsRun> {
    let mut run = recipe::preset("rooms-smoke")?;
    run.method.width = 4;
    (run.train.epochs, run.train.batch_size) = (2, 16);
    Ok(run)
}

/// Tensors by name.
type Values = Vec<(String, Vec<f32>)>;

/// Parameters after a run on 48 rooms.
fn trained(run: &ViewsRun, workers: usize) -> Result<(ViewsCmc, Values)> {
    let scenes = Arc::new(rooms::rooms(Split::Train, 48, 40)?);
    let folder = tempfile::tempdir()?;
    let options = RunOptions { workers, ..RunOptions::new(folder.path().join("run")) };
    let (method, _) = run::fit(run, scenes, options)?;
    let values = values_of(&method)?;
    Ok((method, values))
}

fn values_of(method: &ViewsCmc) -> Result<Values> {
    let tensors = method.params().tensors();
    tensors.into_iter().map(|(name, t)| Ok((name, t.flatten_all()?.to_vec1::<f32>()?))).collect()
}

#[test]
fn runs_on_rooms_are_the_same_for_any_number_of_workers() -> Result<()> {
    let run = small()?;
    assert!(trained(&run, 0)?.1 == trained(&run, 2)?.1);
    Ok(())
}

/// Each rank trains on its part of every batch: the parameters of one rank, to rounding.
#[test]
fn a_run_on_two_ranks_is_that_on_one() -> Result<()> {
    let mut run = small()?;
    (run.train.epochs, run.optim.lr) = (1, 1e-4);
    let scenes = Arc::new(rooms::rooms(Split::Train, 48, 40)?);
    let folder = tempfile::tempdir()?;
    let mut all = run_in_process(2, |comm| {
        let options = RunOptions { workers: 1, comm, ..RunOptions::new(folder.path().join("run")) };
        Ok(run::fit(&run, scenes.clone(), options)?.0)
    })?;
    let (second, first) = (all.pop().map(|m| values_of(&m)), all.pop().map(|m| values_of(&m)));
    let (Some(first), Some(second)) = (first.transpose()?, second.transpose()?) else { bail!("two ranks") };
    for (other, gap, what) in [(second, 0.0, "the other rank"), (trained(&run, 1)?.1, 1e-3, "one rank")] {
        assert_eq!(first.len(), other.len());
        for ((name, a), (_, b)) in first.iter().zip(&other) {
            let most = b.iter().fold(1e-2f32, |most, x| most.max(x.abs()));
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(worst <= gap * most, "{name} differs by {worst} of {most} from {what}");
        }
    }
    Ok(())
}

#[test]
fn rooms_have_four_views_and_labels_and_pixels_can_be_classified() -> Result<()> {
    let (train, test) = (rooms::rooms(Split::Train, 24, 40)?, rooms::rooms(Split::Test, 8, 40)?);
    assert_eq!(train.views().iter().map(|v| v.channels).collect::<Vec<_>>(), [1, 2, 1, 3]);
    assert_ne!(train.fingerprint(), test.fingerprint());
    for scene in train.scenes() {
        let within = |view: usize, low: f32, high: f32| {
            assert!(scene.views[view].data.iter().all(|v| (low..=high).contains(v)), "view {view}");
        };
        within(0, -1.0, 1.0);
        within(1, -1.1, 1.1);
        // Inverse metres, less a half.
        within(2, -0.5, 1e3);
        within(3, -1.0, 1.0);
    }
    let method = ViewsCmc::new(small()?.method, 0, &Device::Cpu)?;
    let subject = |scenes| Subject { scenes, column: 0, window: 32 };
    let metrics = segment::evaluate(&method.nets()[0].stages, subject(&train), subject(&test))?;
    // Floor and walls alone are a third of the pixels.
    assert!(metrics[0].value > 0.3 && metrics[1].value > 0.03, "{metrics:?}");
    Ok(())
}

#[test]
fn settings_that_do_not_fit_are_named() -> Result<()> {
    let refused = |change: fn(&mut ViewsRun)| -> Result<String> {
        let mut run = small()?;
        change(&mut run);
        Ok(run.check().err().map(|e| e.to_string()).unwrap_or_default())
    };
    assert!(refused(|run| run.window = 30)?.contains("window"));
    assert!(refused(|run| run.method.views.clear())?.contains("method.views"));
    assert!(
        refused(|run| run.method.task = Task::Predict { distance: Distance::L1 })?.contains("method.views")
    );
    let named = refused(|run| {
        run.method.task = Task::Contrast { temperature: 0.0, graph: Graph::Core, between: Between::Alike };
    })?;
    assert!(named.contains("method.task.temperature"), "{named}");
    let scenes = rooms::rooms(Split::Test, 1, 40)?;
    let mut run = small()?;
    run.method.views[1].name = "smell".into();
    let error = run::window(&run, &scenes).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("smell") && error.contains("depth"), "{error}");
    for (name, _) in recipe::PRESETS {
        recipe::preset(name)?.check()?;
    }
    assert!(recipe::preset("nonsense").is_err());
    Ok(())
}

fn save(
    path: &std::path::Path,
    [width, height]: [u32; 2],
    channels: usize,
    value: impl Fn(u32, u32) -> [u8; 3],
) -> Result<()> {
    let color = if channels == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
    let pixels = (0..width * height).flat_map(|i| value(i % width, i / width)[..channels].to_vec());
    std::fs::create_dir_all(path.parent().ok_or_else(|| anyhow!("no folder"))?)?;
    Ok(image::save_buffer(path, &pixels.collect::<Vec<u8>>(), width, height, color)?)
}

#[test]
fn folders_of_aligned_pictures_are_scenes() -> Result<()> {
    use contrastive_cmc::views::folder::rgbd;
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    for name in ["a.png", "b.png"] {
        save(&root.join("rgb").join(name), [6, 4], 3, |x, _| [255, 0, (x * 40) as u8])?;
        save(&root.join("depth").join(name), [6, 4], 1, |_, y| [(y * 85) as u8; 3])?;
        save(&root.join("label").join(name), [6, 4], 1, |x, _| [(x / 3) as u8; 3])?;
    }
    let scenes = rgbd(root, 2)?;
    assert_eq!(scenes.views().iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["L", "ab", "depth"]);
    let scene = &scenes.scenes()[1];
    // Pure red is (53.24, 80.09, 67.20).
    assert!(
        (scene.views[0].data[0] - 0.0648).abs() < 1e-3 && (scene.views[1].data[24] - 0.7304).abs() < 1e-3
    );
    assert_eq!(scene.views[2].data[..7], [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, 85.0 / 127.5 - 1.0]);
    assert_eq!(scene.labels.as_deref().map(|l| l[..6].to_vec()), Some(vec![0, 0, 0, 1, 1, 1]));
    assert!(rgbd(root, 1).is_err_and(|e| e.to_string().contains("label 1")));
    save(&root.join("depth/b.png"), [5, 4], 1, |_, _| [0; 3])?;
    assert!(rgbd(root, 2).is_err_and(|e| e.to_string().contains("5x4")));
    std::fs::remove_file(root.join("depth/b.png"))?;
    assert!(rgbd(root, 2).is_err_and(|e| e.to_string().contains("b.png") && e.to_string().contains("depth")));
    Ok(())
}

/// Frames that move to the right by a pixel each: the first channel of every field says so.
#[test]
fn folders_of_frames_are_moments() -> Result<()> {
    use contrastive_cmc::flow::TvL1;
    use contrastive_cmc::flow::clips::{clips, columns, moment};
    use contrastive_cmc::views::Scenes;
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    for t in 0..8u32 {
        let value = |x: u32, y: u32| {
            let (x, y) = (f64::from(x) - f64::from(t), f64::from(y));
            [(127.0 + 50.0 * ((0.5 * x).sin() + (0.4 * y + 0.2 * x).cos())) as u8; 3]
        };
        save(&root.join(format!("walk/one/{t:04}.png")), [40, 32], 3, value)?;
    }
    std::fs::create_dir_all(root.join("run/empty"))?;
    let (clips, classes) = clips(root)?;
    assert_eq!(
        (clips.len(), clips[0].class, classes.as_slice()),
        (1, 1, &["run".to_string(), "walk".into()][..])
    );
    let scene = moment(&clips[0].read()?, 4, 2, &TvL1::default())?;
    let motion = &scene.views[2];
    assert_eq!(motion.shape, [20, 32, 40]);
    let middle = |channel: usize| motion.data[(channel * 32 + 16) * 40 + 20] * 20.0;
    assert!((middle(8) - 1.0).abs() < 0.2 && middle(9).abs() < 0.2, "{} {}", middle(8), middle(9));
    let set = Scenes::new("clips", columns(), vec![scene], 0)?;
    assert_eq!(set.views()[2].channels, 20);
    assert!(contrastive_cmc::flow::clips::clips(&root.join("walk")).is_err());
    Ok(())
}
