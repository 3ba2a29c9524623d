//! Files that torch.save wrote, and files that nobody should have written.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::Deserialize;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

#[derive(Deserialize)]
struct Expected {
    shape: Vec<usize>,
    values: Vec<f64>,
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[test]
fn types_and_views_are_torchs() -> Result<()> {
    let text = std::fs::read_to_string(fixture("types.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    for file in ["types.pth", "types_legacy.pth", "types_protocol4.pth"] {
        let mut checkpoint = Checkpoint::open(fixture(file))?;
        let places: Vec<&String> = checkpoint.tables().keys().collect();
        assert_eq!(places, ["a/b/1", "values"], "{file}");
        let table = checkpoint.tables()["values"].clone();
        assert_eq!(table.len(), expected.len());
        for (name, expected) in &expected {
            let stored = &table[name];
            let tensor = checkpoint.read(stored)?;
            assert_eq!((stored.shape(), tensor.dims()), (&expected.shape[..], &expected.shape[..]), "{name}");
            assert_eq!(stored.dtype(), Some(tensor.dtype()));
            assert_eq!(values(&tensor)?, expected.values, "{file} {name}");
        }
        let types = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "u8", "bool"];
        let found: Vec<DType> = types.iter().filter_map(|name| table[*name].dtype()).collect();
        use DType::{BF16, F16, F32, F64, I16, I32, I64, U8};
        assert_eq!(found, [F64, F32, F16, BF16, I64, I32, I16, U8, U8]);
    }
    Ok(())
}

#[test]
fn settings_and_foreign_objects_are_skipped() -> Result<()> {
    let dino = Checkpoint::open(fixture("dino_full.pth"))?;
    let places: Vec<&String> = dino.tables().keys().collect();
    assert_eq!(places, ["dino_loss", "student", "teacher"]);
    let instdisc = Checkpoint::open(fixture("instdisc_legacy.pth"))?;
    let places: Vec<&String> = instdisc.tables().keys().collect();
    assert_eq!(places, ["", "state_dict"]);
    Ok(())
}

/// A pickle of protocol 2 with this body.
fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// A zip archive as PyTorch's.
fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// `{"x": tensor}` with a storage `0` of `whole` floats.
fn tensor(whole: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let number = |n: i32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let tuple = |items: &[i32]| {
        let items: Vec<u8> = items.iter().flat_map(|&n| number(n)).collect();
        [b"(".as_slice(), &items, b"t"].concat()
    };
    let text = |t: &str| [b"X".as_slice(), &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        number(whole),
        b"tQ".to_vec(),
    ];
    let view = [number(offset), tuple(shape), tuple(strides), b"\x89Nt".to_vec()];
    let body = [
        b"}".to_vec(),
        text("x"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.concat(),
        view.concat(),
        b"Rs".to_vec(),
    ];
    pickle(&body.concat())
}

fn open(bytes: &[u8]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.pth");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[track_caller]
fn refuses(bytes: &[u8], words: &[&str]) {
    match open(bytes) {
        Err(Error::Format { path, reason }) => {
            assert!(path.ends_with("hostile.pth"));
            for word in words {
                assert!(reason.contains(word), "`{word}` is not in `{reason}`");
            }
            assert!(!reason.contains('\n'), "{reason}");
        }
        other => panic!("{words:?}: {other:?}"),
    }
}

/// The pickle in an archive, with one storage of four floats.
fn archive(pickle: &[u8]) -> Vec<u8> {
    zipped(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
}

#[test]
fn nothing_outside_the_list_is_read() -> Result<()> {
    let call = |module: &str, name: &str| {
        let text = format!("c{module}\n{name}\n(X\x04\x00\x00\x00exittR");
        archive(&pickle(text.as_bytes()))
    };
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("numpy", "load"),
    ] {
        refuses(&call(module, name), &[&format!("`{module}.{name}`"), "not on the list"]);
    }
    // By way of a stack.
    let stacked = b"\x8c\x02os\x8c\x06system\x93";
    refuses(&archive(&pickle(stacked)), &["`os.system`"]);
    refuses(&archive(&pickle(b"cos\nsy\x1b[2Jstem\n")), &["os.sy\\u{1b}[2Jstem"]);
    // Opcodes that make objects of classes, or names of Python by number.
    for op in [b"(ios\nsystem\n".as_slice(), b"(o", b"\x82\x01", b"P1\n", b"I1\n", b"V1\n", b"\x97"] {
        refuses(&archive(&pickle(op)), &["opcode", "not on the list"]);
    }
    // A storage cannot be called, nor an integer have attributes.
    refuses(&archive(&pickle(b"ctorch\nFloatStorage\n)R")), &["cannot be called"]);
    refuses(&archive(&pickle(b"K\x01}b")), &["has no attributes"]);
    // A name that a person has put on the list is skipped.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, call("my.code", "Bank")).unwrap();
    assert!(Checkpoint::open(&path).is_err());
    assert!(Checkpoint::open_skipping(&path, &["my.code.Bank".to_string()])?.tables().is_empty());
    Ok(())
}

#[test]
fn broken_pickles_are_refused() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "ends 1 bytes early"),
        (b"\x80", "ends 1 bytes early"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x80\x02.", "the stack is empty"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02(0.", "below a mark"),
        (b"\x80\x02K\x01(K\x02\x86.", "below a mark"),
        (b"\x80\x02h\x05.", "nothing is kept"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "early"),
        (b"\x80\x02X\xff\xff\xff\xff.", "too many"),
        (b"\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "early"),
        (b"\x80\x02X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02]K\x01K\x02s.", "takes no keys"),
        (b"\x80\x02}K\x01a.", "takes no items"),
        (b"\x80\x02K\x01Q.", "no tuple"),
        (b"\x80\x02ctorch", "does not end"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "a tensor needs"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.", "without a tensor"),
    ];
    for (bytes, word) in cases {
        refuses(&archive(bytes), &["pickle, byte", word]);
    }
}

#[test]
fn tensors_stay_within_their_storages() -> Result<()> {
    let mut right = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, archive(&tensor(4, 1, &[2], &[2]))).unwrap();
        Checkpoint::open(&path)?
    };
    let stored = right.tables()[""]["x"].clone();
    assert_eq!(values(&right.read(&stored)?)?, [0.0, 0.0]);
    let leaves = [
        (4, 1, &[4][..], &[1][..]),
        (4, 0, &[2, 2], &[1, 3]),
        (4, 5, &[1], &[1]),
        (4, 0, &[i32::MAX, i32::MAX], &[i32::MAX, i32::MAX]),
    ];
    for (whole, offset, shape, strides) in leaves {
        refuses(&archive(&tensor(whole, offset, shape, strides)), &["leaves its storage"]);
    }
    // A line of text would become eight exabytes.
    refuses(&archive(&tensor(4, 0, &[i32::MAX, i32::MAX, 2], &[0, 0, 0])), &["repeats a storage"]);
    refuses(&archive(&tensor(4, 0, &[i32::MAX; 3], &[0; 3])), &["too large"]);
    refuses(&archive(&tensor(4, 0, &[5], &[0])), &["repeats a storage"]);
    refuses(&archive(&tensor(4, 0, &[2], &[1, 1])), &["has strides"]);
    refuses(&archive(&tensor(4, -1, &[2], &[1])), &["-1 is no size"]);
    refuses(&archive(&tensor(4, 0, &[2], &[-1])), &["-1 is no size"]);
    refuses(&archive(&tensor(i32::MAX, 0, &[1], &[1])), &["storage `0` has 16 bytes"]);
    refuses(&zipped(&[("a/data.pkl", &tensor(4, 0, &[4], &[1]))]), &["storage `0` is missing"]);
    Ok(())
}

#[test]
fn pickles_that_grow_are_refused() {
    // A dictionary that holds itself.
    refuses(&archive(&pickle(b"}q\x00X\x01\x00\x00\x00ah\x00s")), &["deep"]);
    // Lists of ten lists of ten lists ...
    let mut laughs = b"]q\x00".to_vec();
    for level in 0..30u8 {
        laughs.extend([b']', b'q', level + 1, b'(']);
        laughs.extend([b'h', level].repeat(10));
        laughs.push(b'e');
    }
    refuses(&archive(&pickle(&laughs)), &["more than"]);
    refuses(&archive(&pickle(&b"N".repeat(2_000_000))), &["more than 1048576 values"]);
    // One tensor's arguments, used again and again.
    let one = tensor(4, 0, &[1], &[1]);
    let call = one.windows(2).position(|w| w == b"ct").unwrap();
    let arguments = &one[call + b"ctorch._utils\n_rebuild_tensor_v2\n".len()..one.len() - 3];
    let start = [b"]ctorch._utils\n_rebuild_tensor_v2\nq\x00".as_slice(), arguments, b"q\x01R("].concat();
    let body = [start, b"h\x00h\x01R".repeat(70_000), b"e".to_vec()].concat();
    refuses(&archive(&pickle(&body)), &["more than 65536 tensors"]);
    refuses(&archive(&vec![b'N'; 17 << 20]), &["`data.pkl` has 17825792 bytes"]);
}

#[test]
fn archives_are_held_against_the_file() {
    let good = tensor(4, 0, &[4], &[1]);
    assert!(open(&archive(&good)).is_ok());
    refuses(b"", &["empty"]);
    refuses(b"hello, world", &["neither"]);
    refuses(b"PK\x03\x04", &["zip"]);
    refuses(&zipped(&[("a/x", b"")]), &["without `data.pkl`"]);
    refuses(&zipped(&[("a/data.pkl", &good), ("b/data.pkl", &good)]), &["two entries"]);
    refuses(&zipped(&[("a/data.pkl", &good), ("a/constants.pkl", b"")]), &["TorchScript"]);
    refuses(&zipped(&[("a/data.pkl", &good), ("a/byteorder", b"big")]), &["little-endian"]);
    for name in ["../x", "a/../../x", "/etc/passwd", "..\\x"] {
        refuses(&zipped(&[("a/data.pkl", &good), (name, b"x")]), &["points outside"]);
    }
    // A compressed entry, as a bomb would have: method 8 in both headers.
    let mut bomb = archive(&good);
    for (mark, place) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let at = bomb.windows(4).rposition(|w| w == mark).unwrap();
        bomb[at + place] = 8;
    }
    refuses(&bomb, &["compressed"]);
    // Sizes that are not true.
    let mut large = archive(&good);
    let at = large.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    large[at + 20..at + 28].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f].repeat(2));
    refuses(&large, &["leaves the file"]);
    let mut tar = vec![0; 600];
    tar[257..262].copy_from_slice(b"ustar");
    refuses(&tar, &["0.1.10"]);
}

#[test]
fn every_truncation_and_many_bit_flips_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    for name in ["types.pth", "types_legacy.pth"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let read_all = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut file = Checkpoint::open(&path)?;
            for stored in file.tables().clone().values().flat_map(|t| t.values()) {
                file.read(stored)?;
            }
            Ok::<(), Error>(())
        };
        read_all(&whole).unwrap();
        for length in 0..whole.len() {
            let result = read_all(&whole[..length]);
            assert!(matches!(result, Err(Error::Format { .. })), "{name}: length {length}: {result:?}");
        }
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            let _ = read_all(&bytes);
        }
    }
}

#[test]
fn old_files_are_held_against_their_length() {
    let whole = std::fs::read(fixture("types_legacy.pth")).unwrap();
    refuses(&pickle(b"K\x01"), &["not from torch.save"]);
    refuses(&whole[..20], &["early"]);
    refuses(&whole[..whole.len() - 1], &["ends within storage"]);
}

#[test]
fn tensors_that_share_a_storage_stay_small() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(
        &path,
        zipped(&[("a/data.pkl", &tensor(4000, 0, &[4000], &[1])), ("a/data/0", &[0; 16_000])]),
    )
    .unwrap();
    let file = Checkpoint::open(&path)?;
    let stored = &file.tables()[""]["x"];
    file.check_size([stored; 4])?;
    let error = file.check_size([stored; 5]).unwrap_err().to_string();
    assert!(error.contains("would become 80000"), "{error}");
    Ok(())
}
