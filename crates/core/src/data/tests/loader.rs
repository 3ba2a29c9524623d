use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{
    Array, Batch, Batches, InMemory, Loader, LoaderOptions, SequentialLoader, Source, Transform,
};
use super::{error_text, tagged};
use crate::augment::Image;
use crate::rng::Key;
use crate::{Error, Result};

/// The pixels as `[C, H, W]`.
pub(super) struct Pixels;

impl Transform<Image> for Pixels {
    fn apply(&self, image: &Image, _key: Key) -> Result<Vec<Array>> {
        let Image { width, height, channels, .. } = *image;
        let plane = width * height;
        let data = (0..channels * plane).map(|i| f32::from(image.data[i % plane * channels + i / plane]));
        Ok(vec![Array { shape: vec![channels, height, width], data: data.collect() }])
    }
}

/// Two views: pixels plus keyed noise, and noise alone.
struct Noisy;

impl Transform<Image> for Noisy {
    fn apply(&self, image: &Image, key: Key) -> Result<Vec<Array>> {
        let mut first = Pixels.apply(image, key)?.remove(0);
        let mut noise = key.view(0).stream();
        first.data.iter_mut().for_each(|v| *v += noise.unit() as f32);
        let mut other = key.view(1).stream();
        let second = Array { shape: vec![2], data: vec![other.unit() as f32, other.unit() as f32] };
        Ok(vec![first, second])
    }
}

pub(super) fn options(batch_size: usize, seed: u64) -> LoaderOptions {
    LoaderOptions { workers: 2, ..LoaderOptions::new(batch_size, seed) }
}

fn set(count: u8) -> Arc<InMemory> {
    let images = (0..count).map(|i| tagged(4, 3, i)).collect();
    let labels = (0..u32::from(count)).map(|i| i % 5).collect();
    Arc::new(InMemory::labelled("set", images, labels, 5).expect("set"))
}

type Bytes = Vec<(Vec<u64>, Option<Vec<u32>>, Vec<Vec<f32>>)>;

fn bytes(batches: impl Iterator<Item = Result<Batch>>) -> Bytes {
    let values = |batch: &Batch| {
        let flat =
            |t: &candle_core::Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
        batch.views.iter().map(flat).collect()
    };
    batches.map(|b| b.expect("batch")).map(|b| (b.indices.clone(), b.labels.clone(), values(&b))).collect()
}

#[test]
fn batches_of_one_group_each() {
    // Labels are 0..5 in turn: groups of 5, 5, 5, 4 and 4.
    let groups: Vec<u32> = (0..23).map(|i| i % 5).collect();
    let loader = |size| Loader::new(set(23), Noisy, options(size, 9)).and_then(|l| l.grouped(&groups));
    let two = loader(2).expect("loader");
    assert_eq!(two.steps_per_epoch(), 10);
    let epochs = [0, 1].map(|epoch| bytes(two.epoch(epoch, 0)));
    assert_eq!(bytes(two.epoch(1, 4)), epochs[1][4..]);
    assert_ne!(epochs[0], epochs[1]);
    for epoch in &epochs {
        let mut seen: Vec<u64> = epoch.iter().flat_map(|batch| batch.0.clone()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((epoch.len(), seen.len()), (10, 20), "no sample twice");
        for (indices, labels, _) in epoch {
            assert_eq!(indices[0] % 5, indices[1] % 5);
            let labels = labels.as_ref().expect("labels");
            assert_eq!(labels[0], labels[1]);
        }
    }
    // Only three groups fill a batch of five.
    assert_eq!(loader(5).expect("loader").steps_per_epoch(), 3);
    assert!(error_text(loader(6)).contains("no group has the 6 samples"));
    let few = Loader::new(set(23), Noisy, options(2, 9)).and_then(|l| l.grouped(&groups[..4]));
    assert!(error_text(few).contains("groups of 4 samples for 23"));
}

#[test]
fn batches_do_not_depend_on_workers_or_prefetch() {
    let mut all = Vec::new();
    for (workers, prefetch) in [(0, 1), (1, 1), (2, 3), (4, 0), (4, 100)] {
        let options = LoaderOptions { workers, prefetch, ..options(4, 9) };
        let loader = Loader::new(set(23), Noisy, options).expect("loader");
        assert_eq!(loader.steps_per_epoch(), 5);
        all.push([bytes(loader.epoch(0, 0)), bytes(loader.epoch(1, 0))]);
        // Resume in the middle.
        assert_eq!(bytes(loader.epoch(1, 3)), all[0][1][3..]);
        assert_eq!(loader.epoch(1, 5).count(), 0);
        assert_eq!(loader.epoch(1, 500).count(), 0);
    }
    assert!(all.iter().all(|epochs| epochs == &all[0]));
    let [first, second] = &all[0];
    assert_eq!(first.len(), 5);
    let order = |epoch: &Bytes| epoch.iter().flat_map(|b| b.0.clone()).collect::<Vec<_>>();
    assert_ne!(order(first), order(second));
    let mut seen = order(first);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 20, "no sample twice");
    for (indices, labels, views) in first {
        let wanted: Vec<u32> = indices.iter().map(|&i| i as u32 % 5).collect();
        assert_eq!(labels.as_ref(), Some(&wanted));
        for (k, &index) in indices.iter().enumerate() {
            assert_eq!(views[0][k * 36].floor(), index as f32, "the red plane names the sample");
            // Row 1, column 2 of the blue plane.
            assert_eq!(views[0][k * 36 + 24 + 6].floor(), 2.0);
        }
    }
    let other = Loader::new(set(23), Noisy, options(4, 10)).expect("loader");
    assert_ne!(bytes(other.epoch(0, 0)), *first, "the seed matters");
    assert_eq!(other.identity(), ("set".to_owned(), set(23).fingerprint()));
}

#[test]
fn ranks_share_the_batch() {
    let single = Loader::new(set(23), Noisy, options(6, 1)).expect("loader");
    let whole = bytes(single.epoch(2, 1));
    for world in [2, 3, 6] {
        let parts: Vec<Bytes> = (0..world)
            .map(|rank| {
                let options = LoaderOptions { rank, world, ..options(6, 1) };
                bytes(Loader::new(set(23), Noisy, options).expect("loader").epoch(2, 1))
            })
            .collect();
        for (step, batch) in whole.iter().enumerate() {
            let indices: Vec<u64> = parts.iter().flat_map(|p| p[step].0.clone()).collect();
            assert_eq!(indices, batch.0);
            for view in 0..2 {
                let values: Vec<f32> = parts.iter().flat_map(|p| p[step].2[view].clone()).collect();
                assert_eq!(values, batch.2[view]);
            }
        }
    }
}

#[test]
fn last_batch_and_order() {
    let options = LoaderOptions { drop_last: false, shuffle: false, ..options(4, 0) };
    let loader = Loader::new(set(10), Pixels, options).expect("loader");
    assert_eq!(loader.steps_per_epoch(), 3);
    let indices: Vec<_> = bytes(loader.epoch(0, 0)).into_iter().map(|b| b.0).collect();
    assert_eq!(indices, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);

    for workers in [0, 3] {
        let eval = SequentialLoader::new(set(10), Pixels, 4, workers).expect("loader");
        let batches: Vec<_> = eval.batches().collect::<Result<_>>().expect("batches");
        let dims: Vec<_> = batches.iter().map(|b| b.views[0].dims().to_vec()).collect();
        assert_eq!(dims, [[4, 3, 3, 4], [4, 3, 3, 4], [2, 3, 3, 4]]);
        assert_eq!(batches[2].labels.as_deref(), Some(&[3, 4][..]));
        assert_eq!(batches[2].len(), 2);
    }
}

#[test]
fn options_are_checked() {
    let text = |options| error_text(Loader::new(set(10), Pixels, options));
    assert_eq!(text(options(11, 0)), "set: a batch of 11 is larger than the 10 samples");
    assert!(text(options(0, 0)).contains("data.batch_size"));
    assert!(
        text(LoaderOptions { world: 3, ..options(4, 0) }).contains("4 does not divide evenly among 3 ranks")
    );
    assert!(text(LoaderOptions { rank: 2, world: 2, ..options(4, 0) }).contains("rank 2"));
    assert!(text(LoaderOptions { world: 2, drop_last: false, ..options(4, 0) }).contains("drop_last"));
    assert!(
        text(LoaderOptions { workers: usize::MAX, ..options(4, 0) })
            .contains("`data.workers`: must be at most")
    );
    assert!(error_text(SequentialLoader::new(set(1), Pixels, 0, 0)).contains("batch_size"));
    assert!(error_text(SequentialLoader::new(set(1), Pixels, 1, 4096)).contains("data.workers"));
}

/// Refuses, panics or misbehaves at chosen samples (by their tag), and counts calls.
#[derive(Default)]
struct Trouble {
    refuse: Vec<u8>,
    panic: Option<u8>,
    odd: Option<u8>,
    broken: Option<u8>,
    calls: Arc<AtomicUsize>,
}

impl Transform<Image> for Trouble {
    fn apply(&self, image: &Image, key: Key) -> Result<Vec<Array>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let tag = image.data[0];
        assert_ne!(Some(tag), self.panic, "a bug in a transform");
        if self.refuse.contains(&tag) {
            return Err(Error::data("sample", "refused"));
        }
        if Some(tag) == self.broken {
            return Err(Error::shape("crop", "[H, W, 3]", &[1]));
        }
        if Some(tag) == self.odd {
            return Ok(vec![Array { shape: vec![1], data: vec![0.0] }]);
        }
        Pixels.apply(image, key)
    }
}

#[test]
fn trouble_ends_the_epoch_with_an_error() {
    for workers in [0, 1, 4] {
        let options = LoaderOptions { workers, shuffle: false, ..options(4, 0) };
        let run = |trouble: Trouble| {
            let loader = Loader::new(set(12), trouble, options.clone()).expect("loader");
            let results: Vec<_> = loader.epoch(0, 0).collect();
            assert_eq!(results.len(), 2, "one good batch, one error, then the end");
            assert!(results[0].is_ok());
            error_text(results.into_iter().nth(1).expect("second"))
        };
        let text = run(Trouble { panic: Some(5), ..Trouble::default() });
        assert!(text.contains("set[5]") && text.contains("panicked") && text.contains("a bug"), "{text}");
        let text = run(Trouble { odd: Some(6), ..Trouble::default() });
        assert_eq!(
            text,
            "set[6]: view 0 has shape [1] in a batch of shape [3, 3, 4]: resize and crop all images to one size"
        );
        let text = run(Trouble { broken: Some(7), ..Trouble::default() });
        assert!(text.contains("crop: expected shape"), "{text}");
    }
}

#[test]
fn refusals_are_replaced_in_training_and_left_out_in_evaluation() {
    for workers in [0, 2] {
        let trouble = || Trouble { refuse: vec![3, 4, 11], ..Trouble::default() };
        let options = LoaderOptions { workers, shuffle: false, ..options(4, 0) };
        let loader = Loader::new(set(12), trouble(), options).expect("loader");
        let indices: Vec<_> = bytes(loader.epoch(0, 0)).into_iter().map(|b| b.0).collect();
        assert_eq!(indices, [vec![0, 1, 2, 5], vec![5, 5, 6, 7], vec![8, 9, 10, 0]]);
        let names: Vec<_> = loader.skipped().list().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["set[3]", "set[4]", "set[11]"]);

        let eval = SequentialLoader::new(set(12), trouble(), 2, workers).expect("loader");
        let batches = bytes(eval.batches());
        let indices: Vec<_> = batches.iter().flat_map(|b| b.0.clone()).collect();
        assert_eq!(indices, [0, 1, 2, 5, 6, 7, 8, 9, 10]);
        assert_eq!(eval.skipped().count(), 3);
        let none = Trouble { refuse: (0..12).collect(), ..Trouble::default() };
        let eval = SequentialLoader::new(set(12), none, 5, workers).expect("loader");
        let results: Vec<_> = eval.batches().collect();
        assert_eq!(results.len(), 1);
        let text = error_text(results.into_iter().next().expect("one"));
        assert!(text.contains("none of the 12 samples"), "{text}");
    }
}

#[test]
fn dropping_early_and_resuming_do_no_needless_work() {
    let trouble = Trouble::default();
    let calls = trouble.calls.clone();
    let options = LoaderOptions { workers: 3, prefetch: 2, ..options(2, 0) };
    let loader = Loader::new(set(200), trouble, options).expect("loader");
    let mut epoch = loader.epoch(0, 0);
    epoch.next().expect("batch").expect("batch");
    drop(epoch);
    let after = calls.load(Ordering::SeqCst);
    assert!(after <= 6, "{after} samples for a batch of 2 and 2 batches ahead");
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(calls.load(Ordering::SeqCst), after, "the workers are gone");
    calls.store(0, Ordering::SeqCst);
    assert_eq!(loader.epoch(0, 98).count(), 2);
    assert_eq!(calls.load(Ordering::SeqCst), 4, "nothing before the step of resume");
}
