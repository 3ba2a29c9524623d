use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::linear::train_from;
use super::*;
use crate::data::Batch;
use crate::rng::{Key, Purpose};

type Golden = HashMap<String, Tensor>;

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/eval/eval.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn numbers(golden: &Golden, name: &str) -> Vec<f64> {
    golden[name].flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn integers(golden: &Golden, name: &str) -> Vec<u32> {
    numbers(golden, name).iter().map(|&x| x as u32).collect()
}

fn set(golden: &Golden, name: &str) -> Features {
    Features::from_tensor(name, &golden[name], integers(golden, &format!("{name}_labels"))).unwrap()
}

/// `classes` noisy clusters; the centres are the same for every seed.
fn blobs(seed: u64, n: usize, dim: usize, classes: usize, spread: f64) -> Features {
    let mut stream = Key::new(0, Purpose::Data).name("centres").stream();
    let centres: Vec<f64> = (0..classes * dim).map(|_| spread * stream.normal()).collect();
    let mut stream = Key::new(seed, Purpose::Data).stream();
    let labels: Vec<u32> = (0..n).map(|_| stream.below(classes as u64) as u32).collect();
    let data = labels
        .iter()
        .flat_map(|&label| centres[label as usize * dim..][..dim].to_vec())
        .map(|centre| (centre + stream.normal()) as f32)
        .collect();
    Features::new("blobs", data, dim, labels).unwrap()
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

#[test]
fn protocols_have_names_and_unknown_ones_are_refused() {
    for protocol in Protocol::all() {
        assert_eq!(Protocol::parse(protocol.name()).unwrap(), *protocol);
    }
    let error = Protocol::parse("knn").unwrap_err().to_string();
    assert!(error.contains("`knn`") && error.contains("linear-lbfgs-v1"), "{error}");
}

#[test]
fn knn_agrees_with_lightly() {
    let golden = golden();
    let (train, test) = (set(&golden, "knn.train"), set(&golden, "knn.test"));
    for (name, protocol, knn) in [
        ("knn.k200", Protocol::KnnK200T01V1, Knn { k: 200, temperature: 0.1 }),
        ("knn.k20", Protocol::KnnK20T007V1, Knn { k: 20, temperature: 0.07 }),
    ] {
        let order = integers(&golden, name);
        let predictions = knn.predict(&train, &test);
        let (mut top1, mut top5) = (0, 0);
        for (i, outcome) in predictions.outcomes().iter().enumerate() {
            let expected = &order[i * 7..(i + 1) * 7];
            assert_eq!(outcome.predicted, expected[0], "{name}, query {i}");
            let place = expected.iter().position(|&c| c == test.labels[i]).unwrap();
            // Classes without a vote tie at 0, where lightly's order is arbitrary: compare only up to there.
            if outcome.rank as usize != place {
                assert!(knn.k == 20 && place > 2, "{name}, query {i}: {} {place}", outcome.rank);
            }
            top1 += usize::from(place == 0);
            top5 += usize::from(place < 5);
        }
        let metrics = protocol.evaluate(&train, &test).unwrap();
        assert_eq!(metric(&metrics, "top1"), Some(top1 as f64 / 60.0));
        assert_eq!(metric(&metrics, "k"), Some(knn.k as f64));
        if knn.k == 200 {
            assert_eq!(metric(&metrics, "top5"), Some(top5 as f64 / 60.0));
        }
        assert!(top1 > 20, "the fixture must be neither trivial nor hopeless: {top1}");
    }
}

#[test]
fn nearest_is_exact_for_any_threads_and_breaks_ties_by_index() {
    // Sizes that leave ragged tiles and blocks; small integers so that many similarities tie exactly.
    let (n, q, dim, k) = (2500, 300, 5, 37);
    let mut stream = Key::new(5, Purpose::Data).stream();
    let mut draw = |n: usize| -> Features {
        let data = (0..n * dim).map(|_| stream.below(5) as f32 - 2.0).collect();
        Features::new("integers", data, dim, vec![0; n]).unwrap()
    };
    let (train, queries) = (draw(n), draw(q));
    let one = threads(1, || nearest(&train, &queries, k));
    assert_eq!(one, threads(3, || nearest(&train, &queries, k)));
    for (i, near) in one.iter().enumerate() {
        let mut all: Vec<(f32, u32)> = (0..n)
            .map(|t| {
                let dot: f32 = train.row(t).iter().zip(queries.row(i)).map(|(a, b)| a * b).sum();
                (dot + 0.0, t as u32)
            })
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let got: Vec<(f32, u32)> = near.iter().map(|n| (n.similarity, n.index)).collect();
        assert_eq!(got, all[..k], "query {i}");
    }
    let few = nearest(&train, &queries, 10_000);
    assert!(few.iter().all(|near| near.len() == n), "k is capped");
}

#[test]
fn logistic_regression_agrees_with_scikit_learn() {
    let golden = golden();
    for (name, classes) in [("multi", 4), ("binary", 2)] {
        let at = |part: &str| format!("lr.{name}.{part}");
        let (train, test) = (set(&golden, &at("train")), set(&golden, &at("test")));
        let standard = Standardizer::fit(&train).unwrap().apply(&train).unwrap();
        let wide: Vec<f64> = standard.data.iter().map(|&x| f64::from(x)).collect();
        close(&wide, &numbers(&golden, &at("standardized")), 2e-6, "standardised");

        let config = LogisticConfig { tolerance: 1e-9, ..LogisticConfig::v1() };
        let fit = fit_logistic(&standard, classes, &config, None).unwrap();
        assert!(fit.converged, "{fit:?}");
        let column =
            |values: &[f64], c: usize| -> Vec<f64> { values.chunks(classes).map(|row| row[c]).collect() };
        let (coef, intercept) = (numbers(&golden, &at("coef")), numbers(&golden, &at("intercept")));
        if classes == 2 {
            let difference: Vec<f64> =
                column(&fit.weight, 1).iter().zip(column(&fit.weight, 0)).map(|(a, b)| a - b).collect();
            close(&difference, &coef, 1e-5, "coefficients");
            close(&[fit.bias[1] - fit.bias[0]], &intercept, 1e-5, "intercept");
        } else {
            for c in 0..classes {
                close(
                    &column(&fit.weight, c),
                    &coef[c * train.dim..(c + 1) * train.dim],
                    1e-5,
                    "coefficients",
                );
            }
            let mean = fit.bias.iter().sum::<f64>() / classes as f64;
            let mean_golden = intercept.iter().sum::<f64>() / classes as f64;
            let centred: Vec<f64> = fit.bias.iter().map(|b| b - mean + mean_golden).collect();
            close(&centred, &intercept, 1e-5, "intercepts");
        }
        let metrics = Protocol::LinearLbfgsV1.evaluate(&train, &test).unwrap();
        close(&[metrics[0].value], &numbers(&golden, &at("accuracy")), 1e-12, "accuracy");
        assert_eq!(metric(&metrics, "converged"), Some(1.0));
        // The default tolerance stops close to the minimum, and never below it.
        let objective = metric(&metrics, "objective").unwrap();
        assert!((0.0..1e-5).contains(&(objective - fit.objective)), "{objective} {}", fit.objective);
    }
}

#[test]
fn sgd_agrees_with_pytorch() {
    let golden = golden();
    let train = set(&golden, "sgd.train");
    let orders = integers(&golden, "sgd.orders");
    let transposed = |name: &str| -> Vec<f64> {
        let w = numbers(&golden, name);
        (0..6).flat_map(|d| (0..3).map(move |c| (c, d))).map(|(c, d)| w[c * 6 + d]).collect()
    };
    let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
    for (name, nesterov, weight_decay) in [("plain", false, 0.0), ("nesterov", true, 1e-2)] {
        let start = LinearClassifier {
            dim: 6,
            classes: 3,
            weight: narrow(&transposed("sgd.weight")),
            bias: narrow(&numbers(&golden, "sgd.bias")),
        };
        let config =
            LinearConfig { epochs: 4, batch: 40, lr: 0.2, nesterov, weight_decay, ..LinearConfig::v1() };
        let order =
            |epoch: usize| orders[epoch * 101..(epoch + 1) * 101].iter().map(|&i| i as usize).collect();
        let fit = train_from(&train, start, &config, order).unwrap();
        let weight = format!("sgd.{name}.weight");
        close(&wide(&fit.classifier.weight), &transposed(&weight), 2e-6, &weight);
        close(&wide(&fit.classifier.bias), &numbers(&golden, &format!("sgd.{name}.bias")), 2e-6, "bias");
        let (tensor, _) = fit.classifier.tensors().unwrap();
        assert_eq!(tensor.dims(), [3, 6]);
    }
}

#[test]
fn every_protocol_learns_and_is_the_same_for_any_number_of_threads() {
    let (train, test) = (blobs(1, 900, 12, 6, 0.8), blobs(2, 300, 12, 6, 0.8));
    for protocol in Protocol::all() {
        let one = threads(1, || protocol.evaluate(&train, &test).unwrap());
        let three = threads(3, || protocol.evaluate(&train, &test).unwrap());
        assert_eq!(one, three, "{protocol}");
        let top1 = metric(&one, "top1").unwrap();
        assert!(top1 > 0.75 && top1 < 1.0, "{protocol}: {top1}");
        assert!(metric(&one, "top5").unwrap() > top1, "{protocol}");
        assert_eq!(one[0].name, "top1");
    }
}

#[test]
fn published_settings_run_and_divergence_is_named() {
    let train = blobs(1, 200, 6, 3, 1.0).l2_normalized();
    for config in [LinearConfig::moco(), LinearConfig::simclr()] {
        let metrics = evaluate_linear(&config, &train, &train).unwrap();
        assert!(metric(&metrics, "top1").unwrap() > 0.6, "{config:?} {metrics:?}");
    }
    let wild = LinearConfig { lr: 1e38, ..LinearConfig::v1() };
    let error = evaluate_linear(&wild, &train, &train).unwrap_err().to_string();
    assert!(error.contains("linear probe's loss is not finite"), "{error}");
    let none = LinearConfig { epochs: 0, ..LinearConfig::v1() };
    assert!(evaluate_linear(&none, &train, &train).is_err());
}

#[test]
fn sweep_visits_every_strength_and_warm_starts_change_nothing() {
    let (train, test) = (blobs(1, 300, 8, 4, 0.6), blobs(2, 200, 8, 4, 0.6));
    let strengths = simclr_strengths();
    assert_eq!(strengths.len(), 45);
    assert!((strengths[0] - 1e-6).abs() < 1e-12 && (strengths[44] - 1e5).abs() < 1e-6);
    let points = lbfgs_sweep(&train, &test, &strengths, &LogisticConfig::v1()).unwrap();
    assert!(points.iter().zip(&strengths).all(|(p, l2)| p.l2 == *l2 && p.converged), "{points:?}");
    // A fit that starts at its neighbour's solution ends where a fit from zero ends.
    let config = LogisticConfig { c: 1.0 / strengths[24], tolerance: 1e-8, ..LogisticConfig::v1() };
    let cold = fit_logistic(&train, 4, &config, None).unwrap();
    let other = fit_logistic(&train, 4, &LogisticConfig { c: 1e-3, ..config }, None).unwrap();
    let warm = fit_logistic(&train, 4, &config, Some(&other)).unwrap();
    close(&warm.weight, &cold.weight, 1e-5, "warm start");
}

#[test]
fn faults_of_the_data_are_named() {
    let good = blobs(1, 20, 3, 2, 1.0);
    let refuse = |train: &Features, test: &Features, word: &str| {
        for protocol in Protocol::all() {
            let error = protocol.evaluate(train, test).unwrap_err();
            assert!(matches!(error, Error::Data { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    };
    let empty = Features { data: vec![], n: 0, dim: 3, labels: vec![] };
    refuse(&empty, &good, "train features: empty");
    refuse(&good, &empty, "test features: empty");
    refuse(&Features { labels: vec![], ..good.clone() }, &good, "labels are missing");
    refuse(&good, &Features { labels: vec![0; 3], ..good.clone() }, "3 labels for 20 samples");
    refuse(&good, &blobs(1, 20, 4, 2, 1.0), "width 4");
    refuse(&Features { labels: vec![1; 20], ..good.clone() }, &good, "only one class");
    let mut broken = good.clone();
    broken.data[3 * 7 + 2] = f32::NAN;
    refuse(&good, &broken, "test features: sample 7, dimension 2 is NaN");
    broken.data[3 * 7 + 2] = 0.0;
    broken.labels[4] = u32::MAX;
    refuse(&broken, &good, "sample 4: label 4294967295");
}

#[test]
fn extraction_gathers_batches_on_the_host() {
    let batch = |n: usize, labels: Option<Vec<u32>>| {
        let x = Tensor::arange(0f32, (n * 12) as f32, &Device::Cpu).unwrap().reshape((n, 3, 2, 2)).unwrap();
        labelled(Batch { views: vec![x], indices: (0..n as u64).collect(), labels })
    };
    let mean = |x: &Tensor| Ok(x.mean((2, 3))?);
    let features = extract("train", mean, [batch(2, Some(vec![4, 5])), batch(1, Some(vec![6]))]).unwrap();
    assert_eq!((features.n, features.dim), (3, 3));
    assert_eq!(features.labels, [4, 5, 6]);
    assert_eq!(features.row(1), [13.5, 17.5, 21.5]);
    assert_eq!(features.to_tensor(&Device::Cpu).unwrap().dims(), [3, 3]);
    let error = extract("train", mean, [batch(2, None)]).unwrap_err().to_string();
    assert!(error.contains("labels are missing"), "{error}");
    assert!(extract("train", mean, [batch(2, Some(vec![1]))]).is_err());
    assert!(extract("train", mean, []).unwrap_err().to_string().contains("empty"));
}

#[test]
fn cache_returns_what_was_stored_and_recomputes_on_any_difference() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FeatureCache::new(folder.path().join("features"));
    let key = CacheKey { checkpoint: "a1".into(), data: "b2".into(), preprocessing: "resize".into() };
    let (first, second) = (blobs(1, 10, 4, 3, 1.0), blobs(2, 10, 4, 3, 1.0));
    let fail = || Err(Error::data("test", "must not be computed"));
    assert_eq!(cache.get_or_compute("train", &key, || Ok(first.clone())).unwrap(), first);
    assert_eq!(cache.get_or_compute("train", &key, fail).unwrap(), first);
    assert!(cache.get_or_compute("test", &key, fail).is_err(), "another set is another file");
    for other in [
        CacheKey { checkpoint: "a2".into(), ..key.clone() },
        CacheKey { data: "b3".into(), ..key.clone() },
        CacheKey { preprocessing: "crop".into(), ..key.clone() },
    ] {
        cache.get_or_compute("train", &key, || Ok(first.clone())).unwrap();
        assert_eq!(cache.get_or_compute("train", &other, || Ok(second.clone())).unwrap(), second);
        assert_eq!(cache.get_or_compute("train", &other, fail).unwrap(), second);
    }
    let bytes = std::fs::read(cache.path("train")).unwrap();
    std::fs::write(cache.path("train"), &bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(cache.get_or_compute("train", &key, || Ok(first.clone())).unwrap(), first);
    let files: Vec<_> = std::fs::read_dir(folder.path().join("features")).unwrap().collect();
    assert_eq!(files.len(), 1, "no temporary file stays");
}

#[test]
fn online_probe_learns_and_resumes_to_the_bit() {
    let train = blobs(1, 512, 10, 5, 1.0);
    let tensor = train.to_tensor(&Device::Cpu).unwrap();
    let step = |probe: &mut OnlineProbe, i: usize| {
        let rows = tensor.narrow(0, i * 128 % 512, 128).unwrap();
        probe.update(&rows, &train.labels[i * 128 % 512..][..128]).unwrap()
    };
    let make = || OnlineProbe::new(10, 5, &OnlineConfig::default(), 7).unwrap();
    let mut whole = make();
    let first = step(&mut whole, 0);
    assert!((first.loss - 5f64.ln()).abs() < 1.0 && first.accuracy < 0.6, "{first:?}");
    for i in 1..20 {
        step(&mut whole, i);
    }
    let mut resumed = OnlineProbe::new(10, 5, &OnlineConfig::default(), 8).unwrap();
    let state: HashMap<String, Tensor> = whole.state().unwrap().into_iter().collect();
    assert_eq!(state["momentum/weight"].dims(), [5, 10]);
    resumed.load_state(&state).unwrap();
    for i in 20..40 {
        assert_eq!(step(&mut whole, i), step(&mut resumed, i), "step {i}");
    }
    let bytes = |probe: &OnlineProbe| -> Vec<Vec<u32>> {
        let state = probe.state().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        state.iter().map(|(_, t)| flat(t).iter().map(|x| x.to_bits()).collect()).collect()
    };
    assert_eq!(bytes(&whole), bytes(&resumed));
    let mut again = make();
    threads(3, || {
        for i in 0..40 {
            step(&mut again, i);
        }
    });
    assert_eq!(bytes(&whole), bytes(&again), "threads");
    assert!(metric(&whole.evaluate(&train).unwrap(), "top1").unwrap() > 0.8);
}

#[test]
fn online_probe_refuses_what_does_not_fit_and_leaves_the_graph_alone() {
    let mut probe = OnlineProbe::new(4, 3, &OnlineConfig::default(), 0).unwrap();
    let before: Vec<_> = probe.state().unwrap().iter().map(|(_, t)| t.to_string()).collect();
    let x = candle_core::Var::from_vec(vec![1f32; 8], (2, 4), &Device::Cpu).unwrap();
    assert!(probe.update(&x, &[0, 3]).unwrap_err().to_string().contains("label 3"));
    assert!(probe.update(&x, &[0]).is_err());
    assert!(probe.update_slice(&[f32::NAN; 4], &[0]).unwrap_err().to_string().contains("dimension 0 is NaN"));
    assert!(probe.update(&x.reshape((4, 2)).unwrap(), &[0; 4]).is_err());
    let after: Vec<_> = probe.state().unwrap().iter().map(|(_, t)| t.to_string()).collect();
    assert_eq!(before, after);
    assert!(OnlineProbe::new(4, 1, &OnlineConfig::default(), 0).is_err());
    let mut state: HashMap<String, Tensor> = probe.state().unwrap().into_iter().collect();
    state.remove("momentum/bias");
    assert!(probe.load_state(&state).unwrap_err().to_string().contains("`momentum/bias` is missing"));
    // Features that are part of a graph are read; the values they came from stay as they are.
    let y = (x.as_tensor() * 2.0).unwrap();
    probe.update(&y, &[0, 1]).unwrap();
    assert_eq!(x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), vec![1f32; 8]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), vec![2f32; 8]);
}
