//! Presets.

use std::fmt::Debug;

use anyhow::Result;
use contrastive_core::experiment::{MethodConfig, RunConfig};
use contrastive_core::train::config::{layered, to_toml_string};

/// Every preset passes its own check and is the same after a way through TOML, and a name that is none is refused with
/// the names that are.
pub fn assert_presets<M: MethodConfig + PartialEq + Debug>(
    presets: &[(&str, &str)],
    preset: impl Fn(&str) -> contrastive_core::Result<RunConfig<M>>,
) -> Result<()> {
    for (name, _) in presets {
        let run = preset(name)?;
        run.check()?;
        assert_eq!(run, layered(&run, None, &[])?, "{name}: {}", to_toml_string(&run)?);
    }
    let refused = preset("nonsense").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(presets.iter().all(|(name, _)| refused.contains(name)), "{refused}");
    Ok(())
}
