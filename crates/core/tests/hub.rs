//! The Hub, as it should be and otherwise, in a stand-in on this machine.

#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used)]

#[path = "support/hub.rs"]
mod stand_in;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use contrastive_core::data::hub::HubSettings;
use contrastive_core::weights::{Hints, Pretrained};
use serde_json::{Value, json};
use stand_in::{COMMIT, Request, Response, StandIn, repository};

fn settings(cache: &Path, hub: &StandIn) -> HubSettings {
    let mut settings = HubSettings::from_lookup(|name| match name {
        "HF_HUB_CACHE" => Some(cache.to_string_lossy().into_owned()),
        "HF_TOKEN" => Some("hf_secret".to_string()),
        _ => None,
    });
    settings.endpoint = hub.endpoint.clone();
    settings.retries = 0;
    settings
}

fn fixture() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights/timm_vit");
    let read = |name: &str| (name.to_string(), std::fs::read(folder.join(name)).unwrap());
    let card = b"---\nlicense: apache-2.0\n---\n# A model\n".to_vec();
    vec![read("config.json"), read("model.safetensors"), ("README.md".into(), card)]
}

/// Every file and link below a folder, by its path.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(place) = left.pop() {
        for entry in std::fs::read_dir(&place).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn load(settings: &HubSettings) -> Result<Pretrained, String> {
    Pretrained::from_hub("owner/name", "main", settings, Hints::default()).map_err(|e| e.to_string())
}

#[test]
fn a_model_comes_once_and_then_from_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let hub = StandIn::new(repository(fixture()));
    let come = Arc::new(AtomicU64::new(0));
    let told = come.clone();
    let mut settings = settings(cache.path(), &hub);
    settings.progress = Some(Arc::new(move |name, done, _| {
        if name == "model.safetensors" {
            told.store(done, Ordering::SeqCst);
        }
    }));
    let read = load(&settings).unwrap();
    assert_eq!(read.commit.as_deref(), Some(COMMIT));
    assert_eq!(read.licence.as_deref(), Some("apache-2.0"));
    assert_eq!((read.preprocessing.resize, read.preprocessing.crop), (Some(35), Some(32)));
    assert_eq!(come.load(Ordering::SeqCst), fixture()[1].1.len() as u64);
    let first = hub.lines().len();
    assert!(hub.seen.lock().unwrap().iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(load(&settings).unwrap().commit.as_deref(), Some(COMMIT));
    assert_eq!(hub.lines().len(), first, "{:?}", hub.lines());
    // Python's layout: names of commits, links to contents.
    let there = files(&cache.path().join("models--owner--name"));
    assert!(there.contains(&"refs/main".to_string()), "{there:?}");
    assert!(there.contains(&format!(".no_exist/{COMMIT}/encoder.safetensors")), "{there:?}");
    assert!(there.contains(&format!("snapshots/{COMMIT}/model.safetensors")), "{there:?}");
    drop(hub);
    settings.offline = true;
    assert_eq!(load(&settings).unwrap().tensors.len(), read.tensors.len());
    // A network that is gone does not take away what is there.
    let config = cache.path().join("models--owner--name/.no_exist").join(COMMIT).join("encoder.safetensors");
    std::fs::remove_file(config).unwrap();
    settings.offline = false;
    assert!(load(&settings).is_ok());
    let other =
        Pretrained::from_hub("owner/other", "main", &settings, Hints::default()).unwrap_err().to_string();
    assert!(other.contains("owner/other") && other.contains("the download failed"), "{other}");
}

/// What a Hub does wrong: a name, its answers, and a word of the error.
type Case = (&'static str, Box<dyn Fn(&Request) -> Response + Send>, &'static str);

#[test]
fn a_hub_that_answers_otherwise_is_told_and_leaves_nothing() {
    let normal = || repository(fixture());
    let always = |status: u16| -> Box<dyn Fn(&Request) -> Response + Send> {
        Box::new(move |_| Response::new(status, "words of the server"))
    };
    // Changes the answer to a request whose method and path have these parts.
    let instead = |method: &'static str,
                   part: &'static str,
                   change: fn(Response) -> Response|
     -> Box<dyn Fn(&Request) -> Response + Send> {
        let normal = normal();
        Box::new(move |request| {
            let response = normal(request);
            let hit = request.method == method && request.path.contains(part);
            if hit { change(response) } else { response }
        })
    };
    let entry = |change: fn(&mut Value)| -> Box<dyn Fn(&Request) -> Response + Send> {
        let normal = normal();
        Box::new(move |request| {
            let response = normal(request);
            if !request.path.contains("paths-info") {
                return response;
            }
            let mut entries: Value = serde_json::from_slice(&response.body).unwrap();
            entries.as_array_mut().unwrap().iter_mut().for_each(change);
            Response::json(&entries)
        })
    };
    let sha = |sha: &'static str| -> Box<dyn Fn(&Request) -> Response + Send> {
        let normal = normal();
        Box::new(move |request| match request.path.contains("/revision/") {
            true => Response::json(&json!({"id": "owner/name", "sha": sha})),
            false => normal(request),
        })
    };
    let cases: Vec<Case> = vec![
        ("401", always(401), "HF_TOKEN"),
        ("403", always(403), "no access"),
        ("404", always(404), "not found"),
        ("429", always(429), "too many requests"),
        ("500", always(500), "500"),
        ("no JSON", Box::new(|_| Response::new(200, "<html>")), "failed"),
        ("500 instead of the file", instead("GET", "model.safetensors", |_| Response::new(500, "x")), "500"),
        (
            "half a file",
            instead("GET", "model.safetensors", |mut r| {
                r.body.truncate(r.body.len() / 2);
                r
            }),
            "failed",
        ),
        (
            "half a file without a length",
            instead("GET", "model.safetensors", |mut r| {
                r.body.truncate(r.body.len() / 2);
                r.announced = None;
                r
            }),
            "bytes came of",
        ),
        (
            "another file",
            instead("GET", "model.safetensors", |_| Response::new(200, "hello")),
            "5 bytes came of",
        ),
        (
            "another content",
            entry(|e| e["lfs"] = json!({"sha256": "00".repeat(32), "size": e["size"]})),
            "not the bytes",
        ),
        ("a content's name that leads out", entry(|e| e["oid"] = "../../evil".into()), "names its content"),
        ("a commit that leads out", sha("../../../../evil/evil/evil/evil/evil"), "names the commit"),
        ("no commit", sha(""), "names the commit"),
        (
            "a redirect to elsewhere",
            instead("GET", "model.safetensors", |_| {
                Response::new(302, "").with("Location", "http://127.0.0.1:9/elsewhere")
            }),
            "failed",
        ),
    ];
    for (what, answer, word) in cases {
        let parent = tempfile::tempdir().unwrap();
        let cache = parent.path().join("cache");
        let hub = StandIn::new(answer);
        let error = load(&settings(&cache, &hub)).unwrap_err();
        assert!(
            error.contains("owner/name") && error.contains(word) && !error.contains('\n'),
            "{what}: {error}"
        );
        assert!(!error.contains("hf_secret"), "{what}: {error}");
        // Settings may have come whole; weights, half files and names of commits have not.
        let partial = |path: &&String| {
            path.contains("model.safetensors")
                || path.contains(".tmp-")
                || path.contains("refs/")
                || path.contains("incomplete")
        };
        let left = files(parent.path());
        assert!(!left.iter().any(|path| partial(&path) && !path.contains(".no_exist")), "{what}: {left:?}");
        assert!(left.iter().all(|path| path.starts_with("cache/models--owner--name/")), "{what}: {left:?}");
    }
}

/// A file may lie elsewhere, as the Hub's own do, but the token is for the Hub alone.
#[test]
fn a_redirect_does_not_carry_the_token_away() {
    let weights = fixture()[1].1.clone();
    let elsewhere = StandIn::new(move |_| Response::new(200, weights.clone()));
    // Another name of the same machine: for a client another host.
    let away = elsewhere.endpoint.replace("127.0.0.1", "localhost") + "/blob";
    let normal = repository(fixture());
    let hub = StandIn::new(move |request| {
        let response = normal(request);
        if request.method == "GET" && request.path.ends_with("model.safetensors") {
            return Response::new(302, "").with("Location", &away);
        }
        response
    });
    let cache = tempfile::tempdir().unwrap();
    load(&settings(cache.path(), &hub)).unwrap();
    let seen = elsewhere.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|r| r.header("authorization").is_none()), "{seen:?}");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let hub = StandIn::new(repository(fixture()));
    let settings = settings(cache.path(), &hub);
    for (repo, revision) in [
        ("../x", "main"),
        ("owner/..", "main"),
        ("a/b/c", "main"),
        ("/etc", "main"),
        ("owner/na\\me", "main"),
        ("owner/name", "../../x"),
        ("owner/name", "/main"),
        ("owner/name", ""),
    ] {
        let error =
            Pretrained::from_hub(repo, revision, &settings, Hints::default()).unwrap_err().to_string();
        assert!(error.contains("config key `hub."), "{repo} {revision}: {error}");
    }
    assert!(hub.lines().is_empty() && files(cache.path()).is_empty());
    // What stands in the cache is believed no more than what a server says.
    let folder = cache.path().join("models--owner--name/refs");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("main"), "../../../../etc").unwrap();
    assert_eq!(load(&settings).unwrap().commit.as_deref(), Some(COMMIT));
}
