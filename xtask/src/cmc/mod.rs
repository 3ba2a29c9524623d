//! `cargo xtask reproduce cmc`: beside the method on images, its experiments on scenes of several views. What is measured
//! is the crate's; here it is called, and its numbers become rows and tables.

mod crd;
mod distance;
mod negatives;
pub mod pages;
mod video;
mod views;

use anyhow::{Result, bail};
use candle_core::Device;

use crate::cpc::Session;
use crate::results;

/// The method on images, and the name for it and all parts together.
pub const GROUP: &str = "cmc";

/// A part of the reproduction that can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Segmentation from L by the number of views.
    Views,
    /// Core view against full graph, view by view.
    Graph,
    /// Predicting a view against contrasting with it.
    Predictive,
    /// NCE and softmax by the number of negatives.
    Negatives,
    /// What two patches share, by their distance.
    Distance,
    /// Distillation of a teacher into a student.
    Crd,
    /// Frames against later ones and against motion, on videos at hand.
    Video,
}

impl Part {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 7] =
        [Self::Views, Self::Graph, Self::Predictive, Self::Negatives, Self::Distance, Self::Crd, Self::Video];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Views => "cmc-views",
            Self::Graph => "cmc-graph",
            Self::Predictive => "cmc-predictive",
            Self::Negatives => "cmc-negatives",
            Self::Distance => "cmc-distance",
            Self::Crd => "cmc-crd",
            Self::Video => "cmc-video",
        }
    }
}

/// The names of the parts.
pub fn names() -> impl Iterator<Item = &'static str> {
    Part::ALL.into_iter().map(Part::name)
}

/// The parts among names, and what else there is; the group's name stands for the method on images as well.
pub fn split<'a>(names: &[&'a str]) -> (Vec<Part>, Vec<&'a str>) {
    let whole = names.contains(&GROUP);
    let parts = Part::ALL.into_iter().filter(|part| whole || names.contains(&part.name())).collect();
    let own = |name: &str| Part::ALL.iter().any(|part| part.name() == name);
    (parts, names.iter().copied().filter(|name| !own(name)).collect())
}

/// Runs parts one after another. What one has measured stays when another fails.
pub fn run(session: &Session, parts: &[Part], device: &Device) -> Result<()> {
    if !device.is_cpu() {
        bail!("{}: it is measured on the CPU only; leave --device out", parts[0].name());
    }
    // Rendered or read once, and only where it is needed.
    let mut made = None;
    for part in parts {
        println!("== {}, tier {}", part.name(), session.tier());
        match (part, &session.data) {
            (Part::Video, None) => println!("left out: it needs videos, --data DIR"),
            (Part::Video, Some(data)) => video::kinds(session, data)?,
            (Part::Views, _) => lab(&mut made, session)?.by_number()?,
            (Part::Graph, _) => lab(&mut made, session)?.by_graph()?,
            (Part::Predictive, _) => lab(&mut made, session)?.against_prediction()?,
            (_, Some(_)) => println!("left out: it has data of its own, call it without --data"),
            (Part::Negatives, None) => negatives::by_number(session)?,
            (Part::Distance, None) => distance::by_distance(session)?,
            (Part::Crd, None) => crd::pairs(session)?,
        }
    }
    let path = session.out.join(pages::RESULTS);
    print!("{}", pages::tables(&results::read(&path)?));
    println!("{}", path.display());
    Ok(())
}

/// Epochs of a run that has `all` in tier `small`. A quarter shows in minutes that everything runs and roughly what comes
/// of it.
fn epochs(session: &Session, all: u64) -> u64 {
    if session.small { all.max(1) } else { (all / 4).max(1) }
}

/// The scenes of a session, made when they are first asked for.
fn lab<'l, 's>(made: &'l mut Option<views::Lab<'s>>, session: &'s Session) -> Result<&'l mut views::Lab<'s>> {
    match made {
        Some(lab) => Ok(lab),
        none => Ok(none.insert(views::Lab::new(session)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_methods() {
        let (parts, others) = split(&["references", "cmc-graph", "simclr"]);
        assert_eq!((parts, others), (vec![Part::Graph], vec!["references", "simclr"]));
        let (parts, others) = split(&["cmc"]);
        assert_eq!((parts.as_slice(), others.as_slice()), (&Part::ALL[..], &[GROUP][..]));
    }
}
