//! Pickles of arrays that Python wrote (`make_arrays.py`), and some that nobody should have written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use serde::Deserialize;

use crate::weights::torch::Checkpoint;
use crate::{Error, Result};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

#[derive(Deserialize)]
struct Expected {
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[test]
fn arrays_are_pythons_for_every_protocol() -> Result<()> {
    let text = std::fs::read_to_string(fixture("arrays.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    for protocol in [2, 4, 5] {
        let mut file = Checkpoint::open(fixture(&format!("arrays_p{protocol}.pkl")))?;
        let tables = file.tables().clone();
        let mut found = 0;
        for (place, table) in &tables {
            for (name, stored) in table {
                // dill describes the optimiser's tuple too, which pickle only names.
                if place.starts_with("experiment_state/opt_state") {
                    assert_eq!(protocol, 2);
                    continue;
                }
                let Some(expected) = expected.get(&format!("{place} {name}")) else {
                    // Random numbers' key, whose type Candle has not.
                    assert_eq!((place.as_str(), name.as_str(), stored.dtype()), ("", "rng", None));
                    continue;
                };
                let tensor = file.read(stored)?;
                assert_eq!(tensor.dims(), expected.shape, "{protocol}: {place} {name}");
                let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                for (ours, theirs) in values.iter().zip(&expected.values) {
                    assert!(
                        (ours - theirs).abs() <= 1e-8 * theirs.abs().max(1.0),
                        "{place} {name}: {ours} {theirs}"
                    );
                }
                found += 1;
            }
        }
        assert_eq!(found, expected.len(), "protocol {protocol}: {tables:?}");
    }
    Ok(())
}

fn open(bytes: &[u8]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.pkl");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[track_caller]
fn refuses(bytes: &[u8], word: &str) {
    match open(bytes) {
        Err(Error::Format { path, reason }) => {
            assert!(path.ends_with("hostile.pkl") && !reason.contains('\n'), "{reason}");
            assert!(reason.contains(word), "`{word}` is not in `{reason}`");
        }
        other => panic!("{word}: {other:?}"),
    }
}

/// `{"x": array}` with this state.
fn array(code: &str, shape: &[u8], columns: bool, data: &[u8]) -> Vec<u8> {
    let text = |t: &str| [b"X".as_slice(), &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let shape: Vec<u8> = shape.iter().flat_map(|&d| [b'K', d]).collect();
    let parts: [&[u8]; 12] = [
        b"\x80\x03}",
        &text("x"),
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01(",
        &shape,
        b"tcnumpy\ndtype\n(",
        &text(code),
        b"tR",
        if columns { b"\x88" } else { b"\x89" },
        b"B",
        &(data.len() as u32).to_le_bytes(),
        data,
        b"tbs.",
    ];
    parts.concat()
}

#[test]
fn broken_arrays_are_refused_in_words() -> Result<()> {
    let whole = array("<f4", &[2, 3], true, &[0; 24]);
    let mut file = open(&whole)?;
    let stored = file.tables()[""]["x"].clone();
    assert_eq!(file.read(&stored)?.dims(), [2, 3]);
    refuses(&array("<f4", &[2, 3], false, &[0; 20]), "20 bytes for 6 elements");
    refuses(&array("<f4", &[255, 255, 255, 255, 255, 255, 255, 255, 255], false, &[0; 4]), "too large");
    refuses(&array(">f4", &[1], false, &[0; 4]), "little-endian");
    refuses(&whole[..whole.len() - 30], "early");
    refuses(b"\x80\x02}.", "without numpy's arrays");
    refuses(b"\x80\x02cos\nsystem\n.", "`os.system`");
    // Beside arrays nothing else is let through.
    refuses(b"\x80\x02cnumpy\nload\n.", "`numpy.load`");
    refuses(&[b"\x80\x05\x8e".as_slice(), &u64::MAX.to_le_bytes()].concat(), "early");
    // A text of 16 MiB and more is passed over, not read.
    let long = [b"\x80\x02X".as_slice(), &(17u32 << 20).to_le_bytes(), &vec![b'x'; 17 << 20], b"."].concat();
    refuses(&long, "without numpy's arrays");
    Ok(())
}

#[test]
fn characters_are_bytes() {
    let text: String = (0..=255u8).map(char::from).collect();
    assert_eq!(super::characters(text.as_bytes()), Some((0..=255).collect()));
    for broken in ["\u{100}".as_bytes(), b"\xc3", b"\xff"] {
        assert_eq!(super::characters(broken), None);
    }
}
