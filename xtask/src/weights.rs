//! Weights on command lines: a file, a folder, or `hub:OWNER/NAME`.

use std::path::Path;

use anyhow::{Result, bail};
use contrastive_core::data::hub::HubSettings;
use contrastive_core::weights::{Hints, Pretrained};

/// Reads what `place` names; a repository of the Hub may have a revision behind an `@`.
pub fn pretrained(place: &str, heads: Option<usize>) -> Result<Pretrained> {
    let hints = Hints { heads, ..Hints::default() };
    let Some(repo) = place.strip_prefix("hub:") else {
        return Ok(Pretrained::open(Path::new(place), hints)?);
    };
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let parts: Vec<&str> = repo.split('/').collect();
    if parts.len() != 2 || parts.iter().any(|part| part.is_empty() || part.starts_with('.')) {
        bail!("`{place}` names no repository: `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`");
    }
    Ok(Pretrained::from_hub(repo, revision, &HubSettings::from_env(), hints)?)
}
