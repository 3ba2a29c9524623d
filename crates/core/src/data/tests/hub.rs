use std::fs;
use std::path::{Path, PathBuf};

use super::super::hub::{HubDataset, HubSettings};
use super::super::{InMemory, ParquetColumns, ParquetImages, Source, Split, open, open_parquet};
use super::{error_text, fixture};

fn lookup<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

fn offline(cache: &Path) -> HubSettings {
    let cache = cache.to_string_lossy().into_owned();
    HubSettings::from_lookup(|name| match name {
        "HF_HUB_CACHE" => Some(cache.clone()),
        "HF_HUB_OFFLINE" => Some("1".to_owned()),
        _ => None,
    })
}

/// The rows must be Pillow's pixels, which a transposition or a channel swap would change.
fn assert_is_fixture(set: &InMemory) {
    let expected = fs::read(fixture("cifar_like.bin")).expect("pixels");
    let labels: Vec<u32> = (0..8).map(|k| 3 * k % 10).collect();
    assert_eq!(set.labels(), Some(&labels[..]));
    assert_eq!(set.classes(), 10);
    let mut at = 0;
    for (row, image) in set.images().iter().enumerate() {
        assert_eq!((image.width, image.height), if row == 6 { (20, 12) } else { (32, 32) });
        let wanted = &expected[at..at + image.data.len()];
        let worst = image.data.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
        assert!(worst <= if row == 5 { 2 } else { 0 }, "row {row} is off by {worst}");
        at += image.data.len();
    }
    assert_eq!(at, expected.len());
}

#[test]
fn parquet_rows_are_pillows_pixels() {
    let file = fixture("cifar_like.parquet");
    assert_is_fixture(&open_parquet("set", std::slice::from_ref(&file), None).expect("detected"));
    assert_is_fixture(
        &open_parquet("set", std::slice::from_ref(&file), Some(&HubDataset::Cifar10.columns()))
            .expect("named"),
    );
    let twice = open_parquet("set", &[file.clone(), file], None).expect("two files");
    assert_eq!(twice.len(), 16);
}

#[test]
fn parquet_images_are_read_when_they_are_asked_for() {
    let file = fixture("cifar_like.parquet");
    let whole = open_parquet("set", &[file.clone(), file.clone(), file.clone()], None).expect("whole");
    let lazy =
        ParquetImages::open("set", vec![file.clone(), file.clone(), file.clone()], None).expect("lazy");
    assert_eq!((lazy.len(), lazy.classes()), (24, 10));
    // Forth and back over the borders of files.
    for index in (0..24).chain((0..24).rev()) {
        assert_eq!(lazy.sample(index).expect("image"), whole.images()[index]);
        assert_eq!(lazy.label(index), whole.label(index));
    }
    assert_eq!(lazy.sample_name(9), "cifar_like.parquet[1]");
    assert!(error_text(lazy.sample(24)).contains("24"));
    let one = ParquetImages::at(&file, Split::Train).expect("file").expect("parquet");
    assert_eq!((one.len(), one.name()), (8, "cifar_like"));
    assert_ne!(one.fingerprint(), lazy.fingerprint());
    assert!(error_text(ParquetImages::open("set", vec![], None)).contains("no images"));
    let text = error_text(ParquetImages::open("set", vec![fixture("cifar_like.bin")], None));
    assert!(text.contains("cifar_like.bin"), "{text}");
}

/// A cache as `huggingface_hub` writes it (refs, and snapshots by commit) that holds a fixture as `file` of `repo`.
fn fake_cache(root: &Path, repo: &str, revision: &str, file: &str, content: &str) {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repo = root.join(format!("datasets--{}", repo.replace('/', "--")));
    let reference = repo.join("refs").join(revision);
    fs::create_dir_all(reference.parent().expect("parent")).expect("refs");
    fs::write(reference, commit).expect("ref");
    let target = repo.join("snapshots").join(commit).join(file);
    fs::create_dir_all(target.parent().expect("parent")).expect("snapshot");
    fs::copy(fixture(content), target).expect("copy");
}

#[test]
fn offline_cache_is_enough() {
    for (revision, file) in [
        ("main", "plain_text/train-00000-of-00001.parquet"),
        ("refs/convert/parquet", "plain_text/train/0000.parquet"),
    ] {
        let cache = tempfile::tempdir().expect("folder");
        fake_cache(cache.path(), "uoft-cs/cifar10", revision, file, "cifar_like.parquet");
        let set = HubDataset::Cifar10.load(Split::Train, &offline(cache.path())).expect(revision);
        assert_eq!(set.name(), "cifar10-train");
        assert_is_fixture(&set);

        let text = error_text(HubDataset::Cifar10.load(Split::Test, &offline(cache.path())));
        for part in
            ["uoft-cs/cifar10", "plain_text/test-00000-of-00001.parquet", "HF_HUB_OFFLINE", "hf download"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// Red of the script's picture, which grows from left to right.
fn red(x: usize, side: usize) -> u8 {
    (255.0 * x as f64 / (side - 1) as f64).round() as u8
}

#[test]
fn every_named_set_loads_from_the_home_of_the_hub() {
    let home = tempfile::tempdir().expect("folder");
    let root = home.path().to_string_lossy().into_owned();
    let settings = HubSettings::from_lookup(lookup(&[("HF_HOME", &root), ("HF_HUB_OFFLINE", "1")]));
    let gray = ("mnist_like.parquet", 28, 1, vec![9, 6, 3, 0], 10);
    for (set, repo, config, (content, side, channels, labels, classes)) in [
        (
            HubDataset::Cifar100,
            "uoft-cs/cifar100",
            "cifar100",
            ("cifar100_like.parquet", 32, 3, vec![0, 33, 66, 99], 100),
        ),
        (HubDataset::Mnist, "ylecun/mnist", "mnist", gray.clone()),
        (HubDataset::FashionMnist, "zalando-datasets/fashion_mnist", "fashion_mnist", gray),
    ] {
        assert!(error_text(set.load(Split::Test, &settings)).contains(repo));
        let file = format!("{config}/test-00000-of-00001.parquet");
        fake_cache(&home.path().join("hub"), repo, "main", &file, content);
        let data = set.load(Split::Test, &settings).expect(repo);
        assert_eq!((data.name(), data.classes()), (&*format!("{}-test", set.name()), classes));
        assert_eq!(data.labels(), Some(&labels[..]), "{repo}");
        for image in data.images() {
            assert_eq!((image.width, image.height, image.channels), (side, side, channels), "{repo}");
            // Rows are rows: a transposed image grows from top to bottom.
            for (x, y) in [(0, 0), (1, side - 1), (side - 1, 0), (side / 2, 3)] {
                assert_eq!(image.data[(y * side + x) * channels], red(x, side), "{repo} {x} {y}");
            }
        }
    }
}

#[test]
fn a_dead_network_is_one_line() {
    let cache = tempfile::tempdir().expect("folder");
    // Port 9 of the loopback interface refuses at once.
    let settings =
        HubSettings { endpoint: "http://127.0.0.1:9".to_owned(), offline: false, ..offline(cache.path()) };
    let text = error_text(settings.model_files("owner/name", "main", &[&["model.safetensors"]]));
    assert!(text.contains("owner/name") && text.contains("`model.safetensors`"), "{text}");
    assert!(text.contains("the download failed"), "{text}");
}

#[test]
fn settings_follow_the_environment() {
    let plain = HubSettings::from_lookup(lookup(&[("HOME", "/h")]));
    assert_eq!(plain.cache_dir, PathBuf::from("/h/.cache/huggingface/hub"));
    assert_eq!(
        (plain.endpoint.as_str(), plain.offline, &plain.token),
        ("https://huggingface.co", false, &None)
    );
    for (pairs, wanted) in [
        (&[("HF_HOME", "/x")][..], "/x/hub"),
        (&[("HF_HOME", "~/x"), ("HOME", "/h")], "/h/x/hub"),
        (&[("XDG_CACHE_HOME", "/c")], "/c/huggingface/hub"),
        (&[("HF_HOME", "/x"), ("HF_HUB_CACHE", "/y")], "/y"),
        (&[("HF_HOME", "/x"), ("HUGGINGFACE_HUB_CACHE", "/z"), ("HF_HUB_CACHE", "")], "/z"),
    ] {
        assert_eq!(HubSettings::from_lookup(lookup(pairs)).cache_dir, PathBuf::from(wanted), "{pairs:?}");
    }
    for (value, on) in [("1", true), ("TRUE", true), ("yes", true), ("0", false), ("", false)] {
        assert_eq!(HubSettings::from_lookup(lookup(&[("HF_HUB_OFFLINE", value)])).offline, on, "{value}");
    }
    let home = tempfile::tempdir().expect("folder");
    fs::write(home.path().join("token"), "from-file\n").expect("token");
    let home = home.path().to_string_lossy().into_owned();
    let token = |pairs: &[(&str, &str)]| HubSettings::from_lookup(lookup(pairs)).token;
    assert_eq!(token(&[("HF_HOME", &home)]).as_deref(), Some("from-file"));
    assert_eq!(token(&[("HF_HOME", &home), ("HF_TOKEN", "direct")]).as_deref(), Some("direct"));
    assert_eq!(token(&[("HF_HOME", &home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    let shown = format!("{:?}", HubSettings::from_lookup(lookup(&[("HF_TOKEN", "secret")])));
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(HubDataset::from_name("fashion-mnist"), Some(HubDataset::FashionMnist));
}

#[test]
fn hostile_parquet_is_an_error() {
    let good = fs::read(fixture("cifar_like.parquet")).expect("fixture");
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("train-00000-of-00001.parquet");
    let attempt = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("write");
        open_parquet("set", std::slice::from_ref(&path), None)
    };
    for len in [0, 1, 4, 100, good.len() / 2, good.len() - 8, good.len() - 1] {
        let text = error_text(attempt(&good[..len]));
        assert!(text.contains("train-00000-of-00001.parquet"), "{text}");
    }
    let text = error_text(open(folder.path(), Split::Train));
    assert!(text.contains("train-00000-of-00001.parquet"), "{text}");
    // Flips everywhere: a set or an error, never a panic that gets out.
    for at in (0..good.len()).step_by(97) {
        let mut hostile = good.clone();
        hostile[at] ^= 0xa5;
        if let Err(error) = attempt(&hostile) {
            assert!(error.to_string().contains("parquet"), "{error}");
        }
    }
}

#[test]
fn columns_and_labels_are_checked() {
    let files = [fixture("cifar_like.parquet")];
    let columns = |image: &str, label: &str, classes| ParquetColumns {
        image: image.to_owned(),
        label: label.to_owned(),
        classes,
    };
    let text = |columns| error_text(open_parquet("set", &files, Some(&columns)));
    let missing = text(columns("image", "label", 10));
    assert!(missing.contains("no image column `image` (found img.bytes, img.path, label)"), "{missing}");
    assert!(text(columns("img", "coarse", 10)).contains("no label column `coarse`"));
    assert!(text(columns("label", "label", 10)).contains("not binary"));
    let range = text(columns("img", "label", 9));
    assert!(range.contains("label 9 of sample 3 is out of range for 9 classes"), "{range}");
    assert!(error_text(open_parquet("set", &[], None)).contains("no images"));
}

/// The real layout, where the `CONTRASTIVE_DATA` folder holds `cifar10/` and the Hub cache `hub/`.
#[test]
fn shared_cifar_loads() {
    let Some(root) = std::env::var_os("CONTRASTIVE_DATA").map(PathBuf::from) else {
        println!("skipped: CONTRASTIVE_DATA is not set");
        return;
    };
    let direct = open(root.join("cifar10"), Split::Test).expect("folder");
    let home = root.to_string_lossy().into_owned();
    let settings = HubSettings::from_lookup(lookup(&[("HF_HOME", &home), ("HF_HUB_OFFLINE", "1")]));
    let cached = HubDataset::Cifar10.load(Split::Test, &settings).expect("cache");
    assert_eq!((direct.len(), direct.classes(), cached.len()), (10_000, 10, 10_000));
    assert_eq!(direct.fingerprint(), cached.fingerprint());
    let mut counts = [0; 10];
    cached.labels().expect("labels").iter().for_each(|&l| counts[l as usize] += 1);
    assert_eq!(counts, [1000; 10]);
    assert!(cached.images().iter().all(|i| (i.width, i.height, i.channels) == (32, 32, 3)));
}
