//! To a folder and to a stand-in of the Hub.

#[path = "../../../crates/core/tests/support/hub.rs"]
mod stand_in;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stand_in::{COMMIT, Request, Response, StandIn};

use super::*;
use crate::embed::tests::encoder;

fn arguments(folder: &Path) -> Arguments {
    Arguments {
        run: None,
        weights: Some(folder.join("net")),
        to: None,
        folder: Some(folder.join("out")),
        licence: None,
        results: Vec::new(),
        private: true,
        message: "first".into(),
    }
}

fn results(path: &Path) -> Result<()> {
    let row = json!({
        "method": "simclr", "recipe": "smoke", "dataset": "digits|test", "protocol": "knn-k20-t0.07-v1", "metric": "top1",
        "unit": "%", "value": 84.84, "paper": null, "seed": 3, "seconds": 1.0, "config_hash": "c0ffee",
        "data_hash": "da7a", "version": "0.1.0", "device": "cpu", "missing": null,
    });
    let other = json!({"method": "byol", "dataset": "none"});
    let mut other_row = row.clone();
    for (key, value) in other.as_object().into_iter().flatten() {
        other_row[key] = value.clone();
    }
    Ok(std::fs::write(path, json!([row, other_row]).to_string())?)
}

#[test]
fn a_folder_has_encoder_and_card() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    results(&folder.path().join("results.json"))?;
    let arguments =
        Arguments { results: vec![folder.path().join("results.json")], ..arguments(folder.path()) };
    let hub = HubSettings::from_lookup(|_| None);
    assert_eq!(push(&arguments, &hub)?.len(), 2);
    let card = std::fs::read_to_string(folder.path().join("out/README.md"))?;
    assert!(card.starts_with("---\nlibrary_name: candle\nlicense: cc0-1.0\n"), "{card}");
    for part in [
        "| digits\\|test | knn-k20-t0.07-v1 | top1 | 84.8 % | 3 | c0ffee | da7a | 0.1.0 |",
        "| method | simclr |",
        "| network | online |",
        "| backbone | resnet18-cifar |",
        "image-feature-extraction",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert!(!card.contains("byol") && !card.contains(&*folder.path().to_string_lossy()), "{card}");
    let read = Pretrained::open(&folder.path().join("out"), Hints::default())?;
    assert_eq!(read.manifest.map(|m| m.licence).as_deref(), Some("CC0-1.0"));
    // Twice the same bytes.
    let before = std::fs::read(folder.path().join("out/encoder.safetensors"))?;
    push(&arguments, &hub)?;
    assert!(before == std::fs::read(folder.path().join("out/encoder.safetensors"))?);
    let own = Arguments { licence: Some("Owner's: \"own\" words".into()), ..arguments };
    push(&own, &hub)?;
    let card = std::fs::read_to_string(folder.path().join("out/README.md"))?;
    assert!(card.contains("license: other\nlicense_name: \"Owner's: \\\"own\\\" words\"\n"), "{card}");
    Ok(())
}

#[test]
fn without_a_licence_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    let path = folder.path().join("net/encoder.safetensors");
    let (tensors, manifest) = load_encoder(&path)?;
    let manifest = Manifest { licence: "unspecified".into(), ..manifest.context("manifest")? };
    save_encoder(&path, &tensors.into_iter().collect::<Vec<_>>(), &manifest)?;
    let hub = HubSettings::from_lookup(|_| None);
    let error = push(&arguments(folder.path()), &hub).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("--licence"), "{error}");
    assert!(!folder.path().join("out").exists());
    Ok(())
}

/// A Hub that takes files into git, after `change` has had its word.
fn hub(change: impl Fn(&Request) -> Option<Response> + Send + 'static) -> StandIn {
    StandIn::new(move |request| {
        if let Some(response) = change(request) {
            return response;
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/api/repos/create") => Response::json(&json!({"url": "http://hub/owner/name"})),
            ("POST", "/api/models/owner/name/preupload/main") => {
                let asked = request.json();
                let mode = |file: &Value| json!({"path": file["path"], "uploadMode": "regular"});
                let files: Vec<Value> = asked["files"].as_array().into_iter().flatten().map(mode).collect();
                Response::json(&json!({"files": files}))
            }
            ("POST", "/api/models/owner/name/commit/main") => Response::json(
                &json!({"success": true, "commitOid": COMMIT, "commitUrl": "http://hub/commit"}),
            ),
            _ => Response::new(404, "no such place"),
        }
    })
}

fn settings(hub: &StandIn, token: Option<&str>) -> HubSettings {
    let mut settings = HubSettings::from_lookup(|_| None);
    settings.endpoint = hub.endpoint.clone();
    settings.token = token.map(String::from);
    settings.retries = 0;
    settings
}

#[test]
fn a_commit_has_every_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    let hub = hub(|_| None);
    let arguments = Arguments { to: Some("owner/name".into()), ..arguments(folder.path()) };
    let lines = push(&arguments, &settings(&hub, Some("hf_secret")))?;
    assert_eq!(
        lines.last().map(String::as_str),
        Some(&*format!("{}/owner/name: commit {COMMIT}", hub.endpoint))
    );
    let seen = hub.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    assert!(seen.iter().all(|r| r.header("authorization") == Some("Bearer hf_secret")));
    let created = seen.iter().find(|r| r.path.ends_with("create")).context("create")?.json();
    assert_eq!((&created["name"], &created["private"]), (&json!("name"), &json!(true)));
    let commit = seen.iter().find(|r| r.path.contains("/commit/")).context("commit")?;
    let mut names = Vec::new();
    for line in String::from_utf8(commit.body.clone())?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let value = &line["value"];
        if line["key"] == "header" {
            assert_eq!(value["summary"], "first");
            continue;
        }
        let name = value["path"].as_str().unwrap_or_default().to_string();
        let content = STANDARD.decode(value["content"].as_str().unwrap_or_default())?;
        assert!(content == std::fs::read(folder.path().join("out").join(&name))?, "{name}");
        names.push(name);
    }
    assert_eq!(names, ["encoder.safetensors", "README.md"]);
    Ok(())
}

#[test]
fn a_hub_that_refuses_is_quoted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    encoder(&folder.path().join("net"), 3)?;
    let arguments = Arguments { to: Some("owner/name".into()), folder: None, ..arguments(folder.path()) };
    let message = |settings: &HubSettings| {
        push(&arguments, settings).err().map(|e| format!("{e:#}")).unwrap_or_default()
    };
    for (status, word) in [(401, "HF_TOKEN"), (403, "no access"), (429, "too many requests"), (500, "500")] {
        for part in ["create", "preupload", "commit/main"] {
            let hub = hub(move |r| r.path.contains(part).then(|| Response::new(status, "words")));
            let error = message(&settings(&hub, Some("hf_secret")));
            assert!(error.contains("owner/name") && error.contains(word), "{status} {part}: {error}");
            assert!(!error.contains("hf_secret") && !error.contains('\n'), "{error}");
            let committed = hub.lines().iter().any(|line| line.contains("/commit/"));
            assert_eq!(committed, part == "commit/main", "{:?}", hub.lines());
        }
    }
    let hub = hub(|_| None);
    assert!(message(&settings(&hub, None)).contains("HF_TOKEN"));
    let offline = HubSettings { offline: true, ..settings(&hub, Some("x")) };
    assert!(message(&offline).contains("HF_HUB_OFFLINE"));
    let bad = Arguments { to: Some("owner/../name".into()), ..arguments };
    assert!(push(&bad, &settings(&hub, Some("x"))).is_err());
    assert!(hub.lines().is_empty(), "{:?}", hub.lines());
    Ok(())
}
