//! Data sets by name or path.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use contrastive_core::augment::Image;
use contrastive_core::data::hub::{HubDataset, HubSettings};
use contrastive_core::data::{Source, Split, embedded, open};

/// Any source of images.
pub type Images = Arc<dyn Source<Sample = Image>>;

/// Opens `sign-digits` or `fashion-mnist-small` (embedded), a data set of the Hub (`cifar10`, `cifar100`, `mnist`,
/// `fashion-mnist`), or a path. A folder of that name wins over the Hub.
pub fn source(name: &str, split: Split) -> Result<Images> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(open(path, split)?);
    }
    match name {
        "sign-digits" => Ok(Arc::new(embedded::sign_digits(split)?)),
        "fashion-mnist-small" => Ok(Arc::new(embedded::fashion_mnist(split)?)),
        _ => match HubDataset::from_name(name) {
            Some(dataset) => Ok(Arc::new(dataset.load(split, &HubSettings::from_env())?)),
            None => Ok(open(path, split)?),
        },
    }
}
