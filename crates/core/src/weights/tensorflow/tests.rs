//! Broken checkpoints. Whole ones, which TensorFlow wrote, are read by `contrastive-simclr`'s tests.

use super::*;

/// A block of entries without shared beginnings, and its trailer.
fn block(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in entries {
        bytes.extend([0, key.len() as u8, value.len() as u8]);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    bytes.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend([0; 5]);
    bytes
}

/// A table with one block.
fn index(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = block(entries);
    let data = [0, (bytes.len() - 5) as u8];
    let at = bytes.len() as u8;
    let top = block(&[(b"z", &data)]);
    let mut footer = vec![0, 0, at, (top.len() - 5) as u8];
    footer.resize(40, 0);
    bytes.extend(top);
    bytes.extend(footer);
    bytes.extend(0xdb47_7524_8b80_fb57_u64.to_le_bytes());
    bytes
}

const HEADER: (&[u8], &[u8]) = (b"", &[8, 1]);

fn write(entries: &[(&[u8], &[u8])], data: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.ckpt");
    std::fs::write(folder.path().join("x.ckpt.index"), index(entries)).unwrap();
    std::fs::write(folder.path().join("x.ckpt.data-00000-of-00001"), data).unwrap();
    (folder, path)
}

#[test]
fn what_a_checkpoint_claims_is_held_against_its_files() {
    let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    // f32, one dimension of 2, offset 0, 8 bytes.
    let sound: &[u8] = &[8, 1, 18, 4, 18, 2, 8, 2, 40, 8];
    let (_folder, path) = write(&[HEADER, (b"v", sound)], &floats);
    let bundle = Bundle::open(&path).unwrap();
    assert!(Bundle::is(&path) && Bundle::is(bundle.path()) && !Bundle::is(&path.with_extension("none")));
    assert_eq!(bundle.read("v").unwrap().to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    assert!(bundle.read("w").unwrap_err().to_string().contains("`w`"));
    let cases: [(&str, &[u8], &str); 7] = [
        ("beyond the data", &[8, 1, 18, 4, 18, 2, 8, 2, 32, 4, 40, 8], "ends before"),
        (
            "offset near 2^64",
            &[8, 1, 18, 4, 18, 2, 8, 2, 32, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 40, 8],
            "ends before",
        ),
        ("size and shape", &[8, 1, 18, 4, 18, 2, 8, 2, 40, 4], "4 bytes"),
        ("huge size", &[8, 1, 18, 8, 18, 6, 8, 255, 255, 255, 255, 15, 40, 8], "8 bytes"),
        ("text", &[8, 7, 18, 4, 18, 2, 8, 2, 40, 8], "element type"),
        ("shard", &[8, 1, 18, 4, 18, 2, 8, 2, 24, 3, 40, 8], "part 3"),
        ("slices", &[8, 1, 58, 0], "slices"),
    ];
    for (what, entry, word) in cases {
        let (_folder, path) = write(&[HEADER, (b"v", entry)], &floats);
        let error = Bundle::open(&path).and_then(|bundle| bundle.read("v")).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("x.ckpt"), "{what}: {error}");
    }
    let (_folder, path) = write(&[(b"v", sound)], &floats);
    assert!(Bundle::open(&path).unwrap_err().to_string().contains("header"));
    let (_folder, path) = write(&[(b"", &[8, 1, 16, 1])], &floats);
    assert!(Bundle::open(&path).unwrap_err().to_string().contains("little-endian"));
}

#[test]
fn every_truncation_and_bit_flip_is_an_error_or_a_checkpoint() {
    let sound: &[u8] = &[8, 1, 18, 4, 18, 2, 8, 2, 40, 8];
    let whole = index(&[HEADER, (b"v", sound), (b"w", sound)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.index");
    let attempt = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(bundle) = Bundle::open(&path) {
            bundle.variables().keys().for_each(|name| drop(bundle.read(name)));
        }
    };
    (0..whole.len()).for_each(|length| attempt(&whole[..length]));
    for place in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << bit;
            attempt(&bytes);
        }
    }
}
