use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::*;
use crate::{Error, Result};

fn sample() -> Result<Vec<(String, Tensor)>> {
    let cpu = &Device::Cpu;
    let x = Tensor::new(&[[1.5f32, -2.0, 0.25], [4.0, 5.0, 6.0]], cpu)?;
    let mut all = vec![
        ("scalar".to_string(), Tensor::new(7i64, cpu)?),
        ("empty".to_string(), Tensor::zeros((0, 3), DType::F32, cpu)?),
        ("view \"é\"".to_string(), x.t()?),
        ("bytes".to_string(), Tensor::new(&[1u8, 2, 255], cpu)?),
        ("ids".to_string(), Tensor::new(&[u32::MAX, 0], cpu)?),
    ];
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        all.push((format!("{dtype:?}"), x.to_dtype(dtype)?));
    }
    Ok(all)
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn round_trip_is_exact_and_order_free() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let mut tensors = sample()?;
    let metadata = json!({"z": 1, "a": {"y": [1.5, null], "b": "text"}});
    save(&a, &tensors, &metadata)?;
    tensors.reverse();
    save(&b, &tensors, &json!({"a": {"b": "text", "y": [1.5, null]}, "z": 1}))?;
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());

    let (back, read) = load(&a)?;
    assert_eq!(read, metadata);
    assert_eq!(back.len(), tensors.len());
    for (name, tensor) in &tensors {
        assert_eq!((back[name].dims(), back[name].dtype()), (tensor.dims(), tensor.dtype()), "{name}");
    }
    let pairs = tensors.iter().map(|(n, t)| (n.as_str(), t));
    assert_eq!(digest(pairs)?, digest(back.iter().map(|(n, t)| (n.as_str(), t)))?);
    // Candle's own reader agrees.
    let theirs = candle_core::safetensors::load(&a, &Device::Cpu)?;
    assert_eq!(theirs["view \"é\""].to_vec2::<f32>()?, [[1.5, 4.0], [-2.0, 5.0], [0.25, 6.0]]);
    assert_eq!(theirs["scalar"].to_scalar::<i64>()?, 7);
    assert_eq!(entries(folder.path()), ["a.safetensors", "b.safetensors"]);
    Ok(())
}

#[test]
fn canonical_json_sorts_at_every_depth() {
    let value = json!({"b": {"d": 1, "c": [{"f": 1, "e": 2}]}, "a": 0.1});
    assert_eq!(canonical_json(&value), r#"{"a":0.1,"b":{"c":[{"e":2,"f":1}],"d":1}}"#);
}

#[test]
fn digest_sees_every_part() -> Result<()> {
    let x = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
    let base = digest([("x", &x)])?;
    assert_ne!(base, digest([("y", &x)])?);
    assert_ne!(base, digest([("x", &x.reshape((2, 1))?)])?);
    assert_ne!(base, digest([("x", &(&x + 1.0)?)])?);
    assert_ne!(base, digest([("x", &x.to_dtype(DType::F64)?)])?);
    Ok(())
}

#[test]
fn two_tensors_of_one_name_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let x = Tensor::new(1f32, &Device::Cpu)?;
    let twice = [("x".to_string(), x.clone()), ("x".to_string(), x)];
    let error = save(&folder.path().join("a"), &twice, &json!({})).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert!(entries(folder.path()).is_empty());
    Ok(())
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn hostile_files_are_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.safetensors");
    let one = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("short", vec![1, 2, 3]),
        ("length 2^64-1", vec![0xff; 64]),
        ("length 2^63", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("length 90 MB", [&90_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("picture", b"\x89PNG\r\n\x1a\n0000IHDR".to_vec()),
        ("no JSON", with_header("hello", &[])),
        ("no UTF-8", [&4u64.to_le_bytes()[..], &[0xff, 0xfe, 0xff, 0xfe]].concat()),
        ("deep", with_header(&"[".repeat(100_000), &[])),
        ("trailing", with_header(one, &[0; 9])),
        ("truncated", with_header(one, &[0; 7])),
        (
            "shape and offsets",
            with_header(r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, &[0; 8]),
        ),
        (
            "overlap",
            with_header(
                r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                &[0; 12],
            ),
        ),
        ("backwards", with_header(r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, &[0; 8])),
        (
            "overflow",
            with_header(
                r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#,
                &[0; 8],
            ),
        ),
        (
            "overflow beside zero",
            with_header(
                r#"{"x":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}"#,
                &[],
            ),
        ),
        ("unknown type", with_header(r#"{"x":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8])),
        ("complex", with_header(r#"{"x":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#, &[0; 8])),
        ("large U64", with_header(r#"{"x":{"dtype":"U64","shape":[1],"data_offsets":[0,8]}}"#, &[0xff; 8])),
        ("metadata", with_header(r#"{"__metadata__":{"contrastive":"{"}}"#, &[])),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        match load(&path) {
            Err(Error::Format { path: named, .. }) => assert_eq!(named, path, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    std::fs::write(&path, with_header(r#"{"x":{"dtype":"U64","shape":[1],"data_offsets":[0,8]}}"#, &[1; 8]))
        .unwrap();
    assert_eq!(load(&path)?.0["x"].to_vec1::<i64>()?, [0x0101_0101_0101_0101]);
    assert!(matches!(load(&folder.path().join("absent")), Err(Error::Io { .. })));
    Ok(())
}

#[test]
fn every_truncation_and_many_bit_flips_never_panic() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    save(&path, &sample()?, &json!({"k": 1}))?;
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(matches!(load(&path), Err(Error::Format { .. })), "length {length}");
    }
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        std::fs::write(&path, bytes).unwrap();
        let _ = load(&path);
    }
    Ok(())
}

#[test]
fn a_failing_write_keeps_the_old_file_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, "old").unwrap();
    let error = write_atomically(&path, |file| {
        file.write_all(&[0; 3 << 20]).map_err(Error::io(&path))?;
        Err(Error::io(&path)(std::io::ErrorKind::StorageFull.into()))
    })
    .unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(entries(folder.path()), ["x"]);

    let absent = folder.path().join("no/such/folder/x");
    assert!(matches!(write_atomically(&absent, |_| Ok(())), Err(Error::Io { path, .. }) if path == absent));
    // A file where a folder should be: nobody can write there, not even the administrator.
    let below = path.join("y");
    assert!(matches!(write_atomically(&below, |_| Ok(())), Err(Error::Io { .. })));
}

const FULL_DISK: &str = "CONTRASTIVE_TEST_FULL_DISK";

/// The other half of [`full_disk`]: runs in a process whose files may not grow.
#[test]
fn full_disk_child() -> Result<()> {
    let Some(path) = std::env::var_os(FULL_DISK) else { return Ok(()) };
    let large = [("x".to_string(), Tensor::zeros(1 << 20, DType::F32, &Device::Cpu)?)];
    let error = save(Path::new(&path), &large, &json!({})).unwrap_err();
    assert!(matches!(&error, Error::Io { path: named, .. } if *named == *path), "{error}");
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let small = [("x".to_string(), Tensor::new(1f32, &Device::Cpu)?)];
    save(&path, &small, &json!({}))?;
    let old = std::fs::read(&path).unwrap();
    // With the signal ignored, a write beyond the limit fails as it does on a full disk.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact weights::tests::full_disk_child";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DISK, &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), old);
    assert_eq!(entries(folder.path()), ["x.safetensors"]);
    Ok(())
}

#[test]
fn manifest_round_trip() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("encoder.safetensors");
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: "toy".into(),
        branch: "online".into(),
        backbone: "linear".into(),
        preprocessing: "none".into(),
        data: DataIdentity { name: "digits".into(), fingerprint: "00ff".into() },
        licence: "CC0-1.0".into(),
        origin: None,
    };
    save_encoder(&path, &sample()?, &manifest)?;
    let (tensors, read) = load_encoder(&path)?;
    assert_eq!((tensors.len(), read), (sample()?.len(), Some(manifest.clone())));
    save_encoder(&path, &sample()?, &Manifest { version: 99, ..manifest })?;
    let error = load_encoder(&path).unwrap_err();
    assert!(error.to_string().contains("manifest version 99"), "{error}");
    candle_core::safetensors::save(&sample()?.into_iter().collect(), &path)?;
    assert_eq!(load_encoder(&path)?.1, None);
    Ok(())
}
