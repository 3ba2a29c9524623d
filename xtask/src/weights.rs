//! Weights on command lines: a file, a folder, or `hub:OWNER/NAME`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use contrastive_core::data::hub::HubSettings;
use contrastive_core::weights::{Hints, Pretrained};
use indicatif::{ProgressBar, ProgressStyle};

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
    let style = "{msg} [{bar:30}] {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)";
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
    let drawn = bar.clone();
    let mut settings = HubSettings::from_env();
    settings.progress = Some(Arc::new(move |name, done, all| {
        drawn.set_message(name.to_string());
        drawn.set_length(all);
        drawn.set_position(done);
    }));
    let read = Pretrained::from_hub(repo, revision, &settings, hints);
    bar.finish_and_clear();
    Ok(read?)
}
