//! Transfer, retrieval, clustering and t-SNE against scikit-learn.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::rng::{Key, Purpose};

fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/eval/further.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn numbers(golden: &HashMap<String, Tensor>, name: &str) -> Vec<f64> {
    golden[name].flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn integers(golden: &HashMap<String, Tensor>, name: &str) -> Vec<u32> {
    numbers(golden, name).iter().map(|&x| x as u32).collect()
}

fn set(golden: &HashMap<String, Tensor>, name: &str) -> Features {
    Features::from_tensor(name, &golden[name], integers(golden, &format!("{name}_labels"))).unwrap()
}

fn threads<T: Send>(n: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

fn close(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance, "{what}, element {i}: {g}, expected {e}");
    }
}

/// `classes` clouds in `dim` dimensions; of far ones every pair is `2 * spread` apart or more.
fn clouds(n: usize, dim: usize, classes: usize, spread: f64) -> Features {
    let mut stream = Key::new(4, Purpose::Data).stream();
    let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
    let mut value = |label: u32, d: usize| {
        let centre = if d == label as usize { spread } else { 0.0 };
        (centre + stream.normal()) as f32
    };
    let data = labels.iter().flat_map(|&l| (0..dim).map(|d| value(l, d)).collect::<Vec<_>>()).collect();
    Features::new("clouds", data, dim, labels).unwrap()
}

#[test]
fn recall_agrees_with_scikit_learn() {
    let golden = golden();
    let features = set(&golden, "recall.x");
    let metrics = Protocol::RetrievalRecallV1.evaluate(&features, &features).unwrap();
    let values: Vec<f64> = metrics.iter().map(|m| m.value).collect();
    close(&values, &numbers(&golden, "recall.at"), 1e-12, "recall");
    assert_eq!(metrics[0].name, "recall@1");
    assert!(values[0] > 0.2 && values[0] < 0.9, "neither trivial nor hopeless: {values:?}");
}

#[test]
fn a_sample_is_never_its_own_neighbour() {
    // Copies and a class with a single member.
    let data = [[1f32, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.2]].concat();
    let features = Features::new("copies", data, 2, vec![0, 0, 0, 1, 2]).unwrap();
    assert_eq!(recall_at(&features, &[1, 100]), [0.6, 0.6]);
    let swapped = Features { labels: vec![0, 1, 2, 0, 1], ..features };
    assert_eq!(recall_at(&swapped, &[1, 4, 0]), [0.0, 0.8, 0.0]);
}

#[test]
fn kmeans_agrees_with_scikit_learn() {
    let golden = golden();
    let features = set(&golden, "kmeans.x");
    let start = numbers(&golden, "kmeans.start").iter().map(|&x| x as f32).collect();
    let config = KMeansConfig { tolerance: 0.0, ..KMeansConfig::v1(4) };
    let found = cluster::lloyd(&features, start, &config);
    assert_eq!(found.labels, integers(&golden, "kmeans.found"));
    close(&[found.inertia], &numbers(&golden, "kmeans.inertia"), 1e-3, "inertia");
    // Other random beginnings, so perhaps another of the good minima.
    let best = kmeans(&features, &config).unwrap();
    close(&[best.inertia], &numbers(&golden, "kmeans.best"), 3.0, "best of several beginnings");
    assert_eq!(threads(1, || kmeans(&features, &config).unwrap()), best);
    assert_eq!(threads(3, || kmeans(&features, &config).unwrap()), best);
}

#[test]
fn clusters_without_samples_begin_anew_and_bad_counts_are_named() {
    let features = clouds(30, 3, 3, 20.0);
    // Two centres nobody is near to.
    let mut start = features.row(0).to_vec();
    start.extend([900f32; 6]);
    let found = cluster::lloyd(&features, start, &KMeansConfig::v1(3));
    for cluster in 0..3 {
        assert!(found.labels.contains(&cluster) && found.centres[3 * cluster as usize] < 100.0, "{found:?}");
    }
    let one = Features { data: vec![2.0; 12], n: 4, dim: 3, labels: vec![0, 1, 0, 1] };
    assert_eq!(kmeans(&one, &KMeansConfig::v1(3)).unwrap().inertia, 0.0);
    for clusters in [0, 31] {
        let error = kmeans(&features, &KMeansConfig::v1(clusters)).unwrap_err().to_string();
        assert!(error.contains("kmeans.clusters") && error.contains("1..=30"), "{error}");
    }
    let none = KMeansConfig { restarts: 0, ..KMeansConfig::v1(2) };
    assert!(kmeans(&features, &none).unwrap_err().to_string().contains("kmeans.restarts"));
}

#[test]
fn mutual_information_agrees_with_scikit_learn() {
    let golden = golden();
    let (a, b) = (integers(&golden, "nmi.a"), integers(&golden, "nmi.b"));
    let values: Vec<f64> =
        a.chunks(200).zip(b.chunks(200)).map(|(a, b)| normalized_mutual_information(a, b)).collect();
    close(&values, &numbers(&golden, "nmi.value"), 1e-12, "normalised mutual information");
    let metrics = Protocol::ClusterNmiV1.evaluate(&clouds(2, 2, 2, 1.0), &clouds(90, 5, 3, 9.0)).unwrap();
    assert!(metric(&metrics, "nmi").unwrap() > 0.99, "{metrics:?}");
    assert_eq!(metric(&metrics, "clusters"), Some(3.0));
}

#[test]
fn the_sweep_agrees_with_scikit_learn() {
    let golden = golden();
    let (train, test) = (set(&golden, "sweep.train"), set(&golden, "sweep.test"));
    let config = LogisticConfig { tolerance: 1e-9, max_iterations: 20_000, ..LogisticConfig::v1() };
    let points = lbfgs_sweep(&train, &test, &simclr_strengths(), &config).unwrap();
    let top1: Vec<f64> = points.iter().map(|p| p.top1).collect();
    let expected = numbers(&golden, "sweep.top1");
    close(&top1, &expected, 1e-12, "top-1 for each strength");
    assert!(expected[0] != expected[44], "the strengths must matter: {expected:?}");
}

#[test]
fn transfer_chooses_on_held_out_samples_and_fits_all() {
    let golden = golden();
    let (train, test) = (set(&golden, "sweep.train"), set(&golden, "sweep.test"));
    let one = threads(1, || Protocol::TransferLbfgsV1.evaluate(&train, &test).unwrap());
    assert_eq!(threads(3, || Protocol::TransferLbfgsV1.evaluate(&train, &test).unwrap()), one);
    let l2 = metric(&one, "l2").unwrap();
    assert!(simclr_strengths().contains(&l2), "{l2}");
    let config = LogisticConfig { c: 1.0 / l2, ..LogisticConfig::v1() };
    let fit = fit_logistic(&train, 4, &config, None).unwrap();
    assert_eq!(metric(&one, "top1"), Some(fit.classifier().predict(&test).unwrap().top(1)));
    // The test set must not decide: other test labels, the same strength.
    let other = Features { labels: vec![0; test.n], ..test.clone() };
    let metrics = Protocol::TransferLbfgsV1.evaluate(&train, &other).unwrap();
    assert_eq!(metric(&metrics, "l2"), Some(l2));
    let lonely = Features { labels: (0..train.n as u32).collect(), ..train };
    let error = Protocol::TransferLbfgsV1.evaluate(&lonely, &test).unwrap_err().to_string();
    assert!(error.contains("no class has two samples"), "{error}");
}

#[test]
fn the_further_protocols_have_names_and_name_faults() {
    for protocol in Protocol::further() {
        assert_eq!(Protocol::parse(protocol.name()).unwrap(), *protocol);
        assert!(!Protocol::all().contains(protocol));
        let one_class = Features { labels: vec![1; 20], ..clouds(20, 3, 2, 1.0) };
        let error = protocol.evaluate(&one_class, &one_class).unwrap_err().to_string();
        assert!(error.contains("only one class"), "{protocol}: {error}");
        let empty = Features { data: vec![], n: 0, dim: 3, labels: vec![] };
        let error = protocol.evaluate(&clouds(20, 3, 2, 1.0), &empty).unwrap_err().to_string();
        assert!(error.contains("test features: empty"), "{protocol}: {error}");
    }
    assert!(Protocol::parse("nmi").unwrap_err().to_string().contains("cluster-nmi-v1"));
}

#[test]
fn similarities_and_divergence_agree_with_scikit_learn() {
    let golden = golden();
    let features = set(&golden, "tsne.x");
    let n = features.n;
    let joint = tsne::joint(&features, 20.0);
    // scikit-learn keeps the pairs above the diagonal, and here every 37th of them. It computes them in f32.
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    let ours: Vec<f64> = pairs.step_by(37).map(|(i, j)| joint[i * n + j]).collect();
    let theirs = numbers(&golden, "tsne.p");
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() < 1e-4 * b.abs() + 1e-12, "pair {i}: {a} {b}");
    }
    assert!((joint.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let config = TsneConfig { perplexity: 20.0, ..TsneConfig::default() };
    let found = threads(1, || tsne(&features, &config).unwrap());
    let expected = numbers(&golden, "tsne.divergence")[0];
    assert!((found.divergence / expected - 1.0).abs() < 0.03, "{} {expected}", found.divergence);
    assert_eq!(threads(3, || tsne(&features, &config).unwrap()), found);
}

#[test]
fn separate_clouds_stay_separate() {
    let features = clouds(150, 20, 3, 12.0);
    let found = tsne(&features, &TsneConfig::default()).unwrap();
    let distance = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let (mut inside, mut between) = (0f64, f64::INFINITY);
    for (i, &a) in found.points.iter().enumerate() {
        for (j, &b) in found.points.iter().enumerate().skip(i + 1) {
            let d = distance(a, b);
            if features.labels[i] == features.labels[j] {
                inside = inside.max(d);
            } else {
                between = between.min(d);
            }
        }
    }
    assert!(between > 0.5 * inside, "the gap is {between}, a cloud {inside} wide");
    let points: Vec<f32> = found.points.iter().flat_map(|p| [p[0] as f32, p[1] as f32]).collect();
    let plane = Features::new("plane", points, 2, features.labels.clone()).unwrap();
    let same = nearest_is_same(&plane);
    assert_eq!(same, 1.0);
}

/// The fraction of samples whose nearest other one (Euclidean) is of their class.
fn nearest_is_same(f: &Features) -> f64 {
    let gap = |i: usize, j: usize| f.row(i).iter().zip(f.row(j)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let nearest = |i: usize| (0..f.n).filter(|&j| j != i).min_by(|&a, &b| gap(i, a).total_cmp(&gap(i, b)));
    let same = |i: usize| nearest(i).is_some_and(|j| f.labels[i] == f.labels[j]);
    (0..f.n).filter(|&i| same(i)).count() as f64 / f.n as f64
}

#[test]
fn tsne_takes_degenerate_sets_and_names_bad_settings() {
    let equal = Features { data: vec![1.0; 40], n: 20, dim: 2, labels: vec![0; 20] };
    let config = TsneConfig { perplexity: 5.0, iterations: 300, ..TsneConfig::default() };
    let found = tsne(&equal, &config).unwrap();
    assert!(found.divergence.is_finite() && found.points.iter().flatten().all(|x| x.is_finite()));
    let line = Features { data: (0..20).map(|i| i as f32).collect(), n: 20, dim: 1, labels: vec![0; 20] };
    let found = tsne(&line, &config).unwrap();
    assert!(found.points.iter().any(|p| p[1].abs() > 1e-3), "the second axis is used too");
    let refuse = |config: TsneConfig, word: &str| {
        let error = tsne(&line, &config).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refuse(TsneConfig::default(), "tsne.perplexity");
    refuse(TsneConfig { perplexity: f64::NAN, ..config }, "tsne.perplexity");
    refuse(TsneConfig { exaggeration: 0.0, ..config }, "tsne.exaggeration");
    let many = Features { data: vec![0.0; MANY], n: MANY, dim: 1, labels: vec![0; MANY] };
    assert!(tsne(&many, &config).unwrap_err().to_string().contains("at most 10000"));
}

const MANY: usize = 10_001;

#[test]
fn pooling_agrees_with_pytorch() {
    let golden = golden();
    for side in [1, 3, 4] {
        let pooled = crate::image_eval::adaptive_max_pool(&golden["pool.x"], side).unwrap();
        assert_eq!(pooled.dims(), [2, 3 * side * side]);
        let values: Vec<f64> = pooled.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        close(&values, &numbers(&golden, &format!("pool.{side}")), 0.0, "pooled");
    }
    assert!(crate::image_eval::adaptive_max_pool(&golden["pool.x"], 0).is_err());
    assert!(crate::image_eval::adaptive_max_pool(&golden["sweep.train"], 1).is_err());
}
