use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::super::{ImageFolder, InMemory, Source, Split, Subset, Unlabelled, cifar_binary, embedded, open};
use super::{error_text, fixture, tagged};
use crate::augment::Image;

fn copy(name: &str, to: &Path) {
    fs::create_dir_all(to.parent().expect("parent")).expect("folder");
    fs::copy(fixture("decode").join(name), to).expect("copy");
}

#[test]
fn embedded_sets_have_their_sizes_and_labels() {
    let signs = embedded::sign_digits(Split::Train).expect("train");
    assert_eq!((signs.len(), signs.classes(), signs.name()), (1649, 10, "sign-digits-train"));
    let first: Vec<_> = (0..4).map(|i| signs.label(i)).collect();
    assert_eq!(first, [Some(6), Some(1), Some(8), Some(9)]);
    let image = signs.sample(1648).expect("image");
    assert_eq!((image.width, image.height, image.channels), (32, 32, 3));
    assert_eq!(embedded::sign_digits(Split::Test).expect("test").len(), 413);

    let train = embedded::fashion_mnist(Split::Train).expect("train");
    let test = embedded::fashion_mnist(Split::Test).expect("test");
    for (set, each) in [(&train, 200), (&test, 50)] {
        let mut counts = [0; 10];
        set.labels().expect("labels").iter().for_each(|&l| counts[l as usize] += 1);
        assert_eq!(counts, [each; 10]);
        assert!(set.images().iter().all(|i| (i.width, i.height, i.channels) == (28, 28, 1)));
    }
    // Tiles neither bleed nor shift: garments touch the frame's corners almost never.
    let corners = train.images().iter().filter(|i| i.data[0] == 0 && i.data[28 * 28 - 28] == 0).count();
    assert!(corners > 1800, "{corners}");
    assert_ne!(train.fingerprint(), test.fingerprint());
    assert_eq!(train.fingerprint(), embedded::fashion_mnist(Split::Train).expect("again").fingerprint());
}

#[test]
fn memory_checks_labels_and_fingerprints_everything() {
    let images = || vec![tagged(2, 3, 0), tagged(2, 3, 1)];
    let set = InMemory::labelled("set", images(), vec![0, 1], 2).expect("set");
    let text = error_text(InMemory::labelled("set", images(), vec![0, 2], 2));
    assert_eq!(text, "set: label 2 of sample 1 is out of range for 2 classes");
    assert!(error_text(InMemory::labelled("set", images(), vec![0], 2)).contains("1 labels for 2 images"));
    assert!(error_text(InMemory::unlabelled("set", vec![])).contains("no images"));
    assert!(error_text(set.sample(2)).contains("index 2"));

    let mut other_pixel = images();
    other_pixel[1].data[0] = 7;
    let other_shape = vec![tagged(2, 3, 0), Image { width: 3, height: 2, ..tagged(2, 3, 1) }];
    let others = [
        InMemory::labelled("set", other_pixel, vec![0, 1], 2),
        InMemory::labelled("set", other_shape, vec![0, 1], 2),
        InMemory::labelled("set", images(), vec![1, 1], 2),
        InMemory::labelled("set", images(), vec![0, 1], 3),
        InMemory::unlabelled("set", images()),
    ];
    for (i, other) in others.into_iter().enumerate() {
        assert_ne!(set.fingerprint(), other.expect("set").fingerprint(), "{i}");
    }
    let renamed = InMemory::labelled("elsewhere", images(), vec![0, 1], 2).expect("set");
    assert_eq!(set.fingerprint(), renamed.fingerprint());
}

#[test]
fn subsets_map_indices_and_balance_classes() {
    let images = (0..12).map(|i| tagged(1, 1, i)).collect();
    let labels = (0..12).map(|i| i % 3).collect();
    let set = Arc::new(InMemory::labelled("set", images, labels, 3).expect("set"));
    let subset = Subset::new(set.clone(), vec![5, 2, 5]).expect("subset");
    assert_eq!((subset.len(), subset.label(0), subset.classes()), (3, Some(2), 3));
    assert_eq!(subset.sample(1).expect("sample").data[0], 2);
    assert_eq!(subset.sample_name(1), "set[2]");
    assert!(error_text(Subset::new(set.clone(), vec![12])).contains("index 12"));
    assert!(error_text(Subset::new(set.clone(), vec![])).contains("at least one"));

    let balanced = Subset::class_balanced(set.clone(), 2, 1).expect("balanced");
    let mut labels: Vec<_> = (0..6).filter_map(|i| balanced.label(i)).collect();
    labels.sort_unstable();
    assert_eq!(labels, [0, 0, 1, 1, 2, 2]);
    assert!(balanced.indices().is_sorted());
    let again = Subset::class_balanced(set.clone(), 2, 1).expect("balanced");
    assert_eq!(balanced.fingerprint(), again.fingerprint());
    let seeds: Vec<_> = (0..8)
        .map(|s| Subset::class_balanced(set.clone(), 2, s).expect("subset").indices().to_vec())
        .collect();
    assert!(seeds.iter().any(|s| s != &seeds[0]));
    assert!(error_text(Subset::class_balanced(set.clone(), 5, 1)).contains("class 0 has 4 samples"));

    let hidden = Unlabelled(set);
    assert_eq!((hidden.label(0), hidden.classes(), hidden.len()), (None, 0, 12));
    assert!(error_text(Subset::class_balanced(hidden, 1, 1)).contains("needs labels"));
}

#[test]
fn folders_with_and_without_labels() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path();
    for name in
        ["dog/b.JPG", "dog/deep/a.jpeg", "cat/z.png", "cat-b/1.webp", "empty/note.txt", "dog/.hidden.png"]
    {
        let kind = if name.ends_with("webp") { "lossless.webp" } else { "rgb.png" };
        copy(kind, &root.join(name));
    }
    let set = ImageFolder::open(root).expect("folder");
    let names: Vec<_> = (0..set.len()).map(|i| set.sample_name(i)).collect();
    assert_eq!(names, ["cat-b/1.webp", "cat/z.png", "dog/b.JPG", "dog/deep/a.jpeg"]);
    assert_eq!(set.class_names(), ["cat", "cat-b", "dog"]);
    let labels: Vec<_> = (0..4).filter_map(|i| set.label(i)).collect();
    assert_eq!(labels, [1, 0, 2, 2]);
    // The extension says JPEG, the content is PNG.
    assert_eq!(set.sample(2).expect("sniffed"), set.sample(1).expect("png"));

    let before = set.fingerprint();
    assert_eq!(before, set.fingerprint());
    let moved = tempfile::tempdir().expect("folder");
    for name in ["cat/z.png", "cat-b/1.webp", "dog/b.JPG", "dog/deep/a.jpeg"] {
        copy(if name.ends_with("webp") { "lossless.webp" } else { "rgb.png" }, &moved.path().join(name));
    }
    assert_eq!(before, ImageFolder::open(moved.path()).expect("moved").fingerprint());
    copy("rgba.png", &root.join("cat/z.png"));
    assert_ne!(before, ImageFolder::open(root).expect("changed").fingerprint());

    // An image beside the class folders, or a single sub-folder: no labels.
    copy("gray.png", &root.join("loose.png"));
    let mixed = ImageFolder::open(root).expect("mixed");
    assert_eq!((mixed.len(), mixed.classes(), mixed.label(0)), (5, 0, None));
    assert_eq!(mixed.sample(4).expect("gray").channels, 3, "folders give RGB");
    let single = ImageFolder::open(root.join("dog")).expect("single");
    assert_eq!((single.len(), single.classes(), single.name()), (2, 0, "dog"));
}

#[test]
fn binary_cifar_planes_become_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let inner = folder.path().join("cifar-100-binary");
    fs::create_dir(&inner).expect("folder");
    let mut record = vec![3, 42];
    for channel in 0..3 {
        record.extend((0..1024).map(|i| (channel * 80 + i % 32 + i / 32) as u8));
    }
    fs::write(inner.join("train.bin"), record.repeat(2)).expect("write");
    let set = cifar_binary(folder.path(), Split::Train).expect("set").expect("found");
    assert_eq!((set.len(), set.classes(), set.label(0)), (2, 100, Some(42)));
    let image = set.sample(1).expect("image");
    // Row 5, column 20.
    assert_eq!(image.data[(5 * 32 + 20) * 3..][..3], [25, 105, 185]);
    assert!(cifar_binary(folder.path(), Split::Test).expect("none").is_none());

    fs::write(inner.join("train.bin"), &record[..100]).expect("write");
    assert!(error_text(cifar_binary(folder.path(), Split::Train)).contains("not whole cifar100 records"));
    record[1] = 100;
    fs::write(inner.join("train.bin"), &record).expect("write");
    let text = error_text(open(folder.path(), Split::Train));
    assert!(
        text.contains("train.bin") && text.contains("label 100") && text.contains("100 classes"),
        "{text}"
    );
    fs::write(folder.path().join("data_batch_1.bin"), vec![0; 3073]).expect("write");
    assert!(error_text(cifar_binary(folder.path(), Split::Train)).contains("data_batch_2.bin"));
}

#[test]
fn open_finds_split_folders() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"] {
        copy("rgb.png", &folder.path().join(name));
    }
    let train = open(folder.path(), Split::Train).expect("train");
    assert_eq!((train.len(), train.classes(), train.name()), (2, 2, "train"));
    assert_eq!(open(folder.path(), Split::Test).expect("test").sample_name(0), "a/3.png");
    let flat = open(folder.path().join("train"), Split::Train).expect("flat");
    assert_eq!(flat.len(), 2);
    assert!(error_text(open(folder.path().join("train"), Split::Test)).contains("no test part"));
}
