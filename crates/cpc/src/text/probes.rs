//! What vectors of sentences know: logistic regression on sets of labelled sentences, as in the paper's table 5.
//!
//! A set is a file of lines `label <tab> fold <tab> text` under a header: MR, CR, Subj and MPQA are divided into ten folds,
//! each of which is the test of a probe trained on the others; TREC is divided into `train` and `test`.

use std::path::Path;

use contrastive_core::eval::{Features, LogisticConfig, LogisticFit, Standardizer, fit_logistic};
use contrastive_core::{Error, Result};

use super::corpus::Text;
use super::embedder::SentenceFeatures;

/// How a set is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Division {
    /// The fold of every sentence.
    Folds(Vec<u32>),
    /// Whether a sentence is in the test part.
    Split(Vec<bool>),
}

/// Sentences with labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledSentences {
    name: String,
    texts: Vec<String>,
    labels: Vec<u32>,
    division: Division,
}

impl LabelledSentences {
    /// Reads a file; the name is the file's without its ending.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming file and line.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::parse(name, &text).map_err(|reason| Error::format(path, reason))
    }

    fn parse(name: String, text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let folds = match lines.next() {
            Some("label\tfold\ttext") => true,
            Some("label\tsplit\ttext") => false,
            _ => return Err("line 1: expected label, fold (or split) and text with tabs between".to_string()),
        };
        let (mut texts, mut labels) = (Vec::new(), Vec::new());
        let (mut fold_of, mut tested) = (Vec::new(), Vec::new());
        for (i, line) in lines.enumerate() {
            let fields: Vec<&str> = line.splitn(3, '\t').collect();
            let &[label, part, text] = fields.as_slice() else {
                return Err(format!("line {}: expected three fields with tabs between", i + 2));
            };
            let fault = |what: &str| format!("line {}: {what}", i + 2);
            labels.push(label.parse().map_err(|_| fault(&format!("`{label}` is no label (0, 1, ...)")))?);
            if folds {
                fold_of.push(part.parse().map_err(|_| fault(&format!("`{part}` is no fold (0, 1, ...)")))?);
            } else {
                tested.push(match part {
                    "train" => false,
                    "test" => true,
                    _ => return Err(fault(&format!("`{part}` is neither train nor test"))),
                });
            }
            texts.push(text.to_string());
        }
        let division = if folds { Division::Folds(fold_of) } else { Division::Split(tested) };
        let set = Self { name, texts, labels, division };
        if set.divisions().iter().any(|(train, test)| train.len() < 2 || test.is_empty())
            || set.divisions().is_empty()
        {
            return Err("a training or test part is empty".to_string());
        }
        Ok(set)
    }

    /// Sentences in their order with their labels, divided into so many folds of neighbours.
    ///
    /// # Errors
    /// [`Error::Data`] for fewer than two folds or fewer sentences than two for each.
    pub fn folded(name: impl Into<String>, sentences: Vec<(String, u32)>, folds: usize) -> Result<Self> {
        let name = name.into();
        let count = sentences.len();
        if folds < 2 || count < 2 * folds {
            let reason = format!("{count} sentences do not make {folds} folds");
            return Err(Error::data(name, reason));
        }
        let (texts, labels) = sentences.into_iter().unzip();
        let division = Division::Folds((0..count).map(|i| (i * folds / count) as u32).collect());
        Ok(Self { name, texts, labels, division })
    }

    /// What can be asked of the prose that comes with the crate: whether somebody says a sentence or the narrator does
    /// ([`Text::dialogue`]), in ten folds of neighbouring sentences.
    ///
    /// # Errors
    /// None that the shipped text can cause.
    pub fn dialogue() -> Result<Self> {
        let sentences = Text::prose().dialogue().into_iter().map(|(text, said)| (text, u32::from(said)));
        Self::folded("dialogue", sentences.collect(), 10)
    }

    /// The name in tables.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sentences.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The labels.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Training and test sentences of every probe.
    fn divisions(&self) -> Vec<(Vec<usize>, Vec<usize>)> {
        let parts =
            |test: &dyn Fn(usize) -> bool| (0..self.texts.len()).partition::<Vec<_>, _>(|&i| !test(i));
        match &self.division {
            Division::Folds(folds) => {
                let mut names = folds.clone();
                names.sort_unstable();
                names.dedup();
                names.iter().map(|fold| parts(&|i| folds[i] == *fold)).collect()
            }
            Division::Split(tested) => vec![parts(&|i| tested[i])],
        }
    }
}

/// How probes are fitted: on features standardised by the training part, with the strength of the l2 penalty that is best
/// on a tenth of the training part, then on all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeConfig {
    /// Inverse strengths (scikit-learn's C) to choose from, rising; one that stands alone is taken as it is.
    pub strengths: Vec<f64>,
    /// Iterations of L-BFGS at most.
    pub max_iterations: usize,
    /// Converged when no element of the objective's gradient exceeds this.
    pub tolerance: f64,
}

impl Default for ProbeConfig {
    /// C = 1e-4, 1e-3, 1e-2, 1e-1; 200 iterations; tolerance 1e-4.
    fn default() -> Self {
        Self { strengths: vec![1e-4, 1e-3, 1e-2, 1e-1], max_iterations: 200, tolerance: 1e-4 }
    }
}

/// One in how many training sentences are held out to choose the strength.
const HELD_OUT: usize = 10;

/// The share of test sentences that probes get right: over all folds together, or on the test part of the given split.
///
/// # Errors
/// No strength, features that are not finite, a regression that diverges.
pub fn accuracy(
    config: &ProbeConfig,
    encoder: &dyn SentenceFeatures,
    set: &LabelledSentences,
) -> Result<f64> {
    let all = Features::new(&set.name, encoder.features(&set.texts)?, encoder.width(), set.labels.clone())?;
    let (mut right, mut total) = (0.0, 0);
    for (train, test) in set.divisions() {
        let strength = match config.strengths.as_slice() {
            [] => return Err(Error::config("probe.strengths", "needs one or more")),
            [one] => *one,
            several => choose(config, several, &all, &train)?,
        };
        let score = score(config, &[strength], &all, &train, &test)?[0];
        right += score * test.len() as f64;
        total += test.len();
    }
    Ok(right / total.max(1) as f64)
}

/// The strength that is best on every tenth sentence of `train`; the strongest penalty of several.
fn choose(config: &ProbeConfig, strengths: &[f64], all: &Features, train: &[usize]) -> Result<f64> {
    let part = |held_out: bool| -> Vec<usize> {
        let chosen = train.iter().enumerate().filter(|(i, _)| i.is_multiple_of(HELD_OUT) == held_out);
        chosen.map(|(_, &row)| row).collect()
    };
    let scores = score(config, strengths, all, &part(false), &part(true))?;
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        best = if *score > scores[best] { i } else { best };
    }
    Ok(strengths[best])
}

/// The accuracy on `test` behind training on `train`, for every strength.
fn score(
    config: &ProbeConfig,
    strengths: &[f64],
    all: &Features,
    train: &[usize],
    test: &[usize],
) -> Result<Vec<f64>> {
    let select = |rows: &[usize]| {
        let data = rows.iter().flat_map(|&i| all.row(i)).copied().collect();
        Features::new("sentences", data, all.dim, rows.iter().map(|&i| all.labels[i]).collect())
    };
    let (train, test) = (select(train)?, select(test)?);
    let standard = Standardizer::fit(&train)?;
    let (train, test) = (standard.apply(&train)?, standard.apply(&test)?);
    let ProbeConfig { max_iterations, tolerance, .. } = *config;
    let mut last: Option<LogisticFit> = None;
    let mut scores = Vec::with_capacity(strengths.len());
    for &c in strengths {
        let settings = LogisticConfig { c, max_iterations, tolerance };
        let fit = fit_logistic(&train, all.classes(), &settings, last.as_ref())?;
        scores.push(fit.classifier().predict(&test)?.top(1));
        last = Some(fit);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::embedder::BagOfWords;

    #[test]
    fn sets_are_read_and_faults_named() {
        let read = |text: &str| LabelledSentences::parse("set".to_string(), text);
        let folds =
            read("label\tfold\ttext\n0\t0\tgood , yes\n1\t1\tbad\n1\t0\tworse\n0\t1\tfine\n").expect("folds");
        assert_eq!(folds.divisions(), [(vec![1, 3], vec![0, 2]), (vec![0, 2], vec![1, 3])]);
        let split = read("label\tsplit\ttext\n0\ttrain\ta\n1\ttest\tb\n1\ttrain\tc\n").expect("split");
        assert_eq!(split.divisions(), [(vec![0, 2], vec![1])]);
        for (text, fault) in [
            ("0\t0\ta\n", "line 1"),
            ("label\tfold\ttext\n0\t1\n", "line 2: expected three"),
            ("label\tfold\ttext\n-1\t1\ta\n", "`-1` is no label"),
            ("label\tfold\ttext\n1\tx\ta\n", "`x` is no fold"),
            ("label\tsplit\ttext\n1\tdev\ta\n", "`dev` is neither"),
            ("label\tsplit\ttext\n1\ttest\ta\n", "empty"),
            ("label\tfold\ttext\n", "empty"),
        ] {
            let refused = read(text).expect_err("refused");
            assert!(refused.contains(fault), "{refused}");
        }
    }

    #[test]
    fn folds_hold_neighbours() -> Result<()> {
        let sentences = |n: u32| (0..n).map(|i| (format!("s{i}"), i % 2)).collect::<Vec<_>>();
        let set = LabelledSentences::folded("set", sentences(5), 2)?;
        assert_eq!(set.divisions(), [(vec![3, 4], vec![0, 1, 2]), (vec![0, 1, 2], vec![3, 4])]);
        assert!(LabelledSentences::folded("set", sentences(3), 2).is_err());
        assert_eq!(LabelledSentences::dialogue()?.divisions().len(), 10);
        Ok(())
    }

    /// Sentences that one word decides.
    #[test]
    fn a_bag_of_words_finds_the_word_that_decides() -> Result<()> {
        let mut text = "label\tfold\ttext\n".to_string();
        for i in 0..200 {
            let (label, fold) = (i % 2, i / 2 % 10);
            let word = ["dull", "fine"][label];
            text += &format!("{label}\t{fold}\tw{} {word} w{}\n", i * 7 % 13, i * 5 % 11);
        }
        let set = LabelledSentences::parse("set".to_string(), &text).map_err(|e| Error::data("set", e))?;
        let bag = BagOfWords::new(set.texts(), 50)?;
        assert_eq!(accuracy(&ProbeConfig::default(), &bag, &set)?, 1.0);
        let blind = BagOfWords::new(set.texts(), 1)?;
        assert!(accuracy(&ProbeConfig::default(), &blind, &set)? < 0.8);
        let none = ProbeConfig { strengths: Vec::new(), ..ProbeConfig::default() };
        assert!(accuracy(&none, &bag, &set).is_err());
        Ok(())
    }
}
