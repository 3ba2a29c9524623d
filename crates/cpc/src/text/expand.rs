//! Words that training never saw, as in skip-thought: word vectors of another source (word2vec) are mapped to the
//! encoder's by linear regression on the words that both know. Known words keep their own vectors.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use contrastive_core::{Error, Result};
use rayon::prelude::*;

use super::vocabulary::{UNKNOWN, Vocabulary};

/// Word vectors of another source, in the order of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct WordVectors {
    words: Vec<String>,
    data: Vec<f32>,
    dim: usize,
}

impl WordVectors {
    /// Reads word2vec's text format: a line of the number of words and of dimensions (which may be missing, as in GloVe's
    /// files), then on every line a word and its numbers. Words get small letters; of several that become one the first
    /// stays.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming file and line.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::format(path, "is not UTF-8 text"))?;
        Self::parse(&text).map_err(|reason| Error::format(path, reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut all = Self { words: Vec::new(), data: Vec::new(), dim: 0 };
        let mut seen = std::collections::HashSet::new();
        for (i, line) in text.lines().enumerate() {
            let mut fields = line.split_ascii_whitespace();
            let Some(word) = fields.next() else { continue };
            let numbers: Vec<f32> = fields
                .map(|field| field.parse::<f32>().ok().filter(|x| x.is_finite()))
                .collect::<Option<_>>()
                .ok_or_else(|| format!("line {}: expected a word and finite numbers", i + 1))?;
            // A line of two numbers at the beginning is the header.
            if i == 0 && numbers.len() == 1 && word.parse::<usize>().is_ok() {
                continue;
            }
            if all.dim == 0 {
                all.dim = numbers.len();
            }
            if numbers.len() != all.dim || numbers.is_empty() {
                let (line, got, dim) = (i + 1, numbers.len(), all.dim);
                return Err(format!("line {line}: {got} numbers where the first word has {dim}"));
            }
            let word = word.to_lowercase();
            if seen.insert(word.clone()) {
                all.words.push(word);
                all.data.extend(numbers);
            }
        }
        if all.words.is_empty() { Err("holds no word vectors".to_string()) } else { Ok(all) }
    }

    /// The number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }
}

/// `vocabulary` with the words of `vectors` that it lacks behind it, and the word vectors `[V', E]` of all: those of
/// `table` `[V, E]` for the known ones, for the others the least-squares map (with an intercept) of theirs, fitted to the
/// words that both know.
///
/// # Errors
/// [`Error::Data`] with fewer shared words than the map has inputs, or where theirs do not span their space.
pub fn expand(
    vocabulary: &Vocabulary,
    table: &Tensor,
    vectors: &WordVectors,
) -> Result<(Vocabulary, Tensor)> {
    let (_, e) = table.dims2()?;
    let host = table.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let own = host.narrow(0, 0, vocabulary.len())?.to_vec2::<f32>()?;
    let known = |i: usize| vocabulary.number(&vectors.words[i]).filter(|_| vectors.words[i] != UNKNOWN);
    let shared: Vec<(usize, usize)> =
        (0..vectors.len()).filter_map(|i| Some((i, known(i)? as usize))).collect();
    let inputs = vectors.dim + 1;
    if shared.len() < inputs {
        let reason = format!("{} words are shared; the map needs {inputs} or more", shared.len());
        return Err(Error::data("word vectors", reason));
    }
    let extended = |i: usize| -> Vec<f64> {
        vectors.row(i).iter().map(|&x| f64::from(x)).chain(std::iter::once(1.0)).collect()
    };
    let x: Vec<Vec<f64>> = shared.iter().map(|&(i, _)| extended(i)).collect();
    // Row a of XᵀX and XᵀY side by side.
    let mut equations: Vec<Vec<f64>> = (0..inputs)
        .into_par_iter()
        .map(|a| {
            let mut sums = vec![0f64; inputs + e];
            for (x, &(_, number)) in x.iter().zip(&shared) {
                let (left, right) = sums.split_at_mut(inputs);
                left.iter_mut().zip(x).for_each(|(sum, other)| *sum += x[a] * other);
                right.iter_mut().zip(&own[number]).for_each(|(sum, &y)| *sum += x[a] * f64::from(y));
            }
            sums
        })
        .collect();
    solve(&mut equations)?;
    let fresh: Vec<usize> =
        (0..vectors.len()).filter(|&i| vocabulary.number(&vectors.words[i]).is_none()).collect();
    let mapped: Vec<Vec<f32>> = fresh
        .par_iter()
        .map(|&i| {
            let mut y = vec![0f64; e];
            for (x, equation) in extended(i).iter().zip(&equations) {
                y.iter_mut().zip(&equation[inputs..]).for_each(|(y, w)| *y += x * w);
            }
            y.into_iter().map(|y| y as f32).collect()
        })
        .collect();
    let words =
        vocabulary.words()[1..].iter().cloned().chain(fresh.iter().map(|&i| vectors.words[i].clone()));
    let expanded = Vocabulary::new(words)?;
    let data: Vec<f32> = own.into_iter().chain(mapped).flatten().collect();
    Ok((expanded.clone(), Tensor::from_vec(data, (expanded.len(), e), table.device())?))
}

/// Solves symmetric positive definite equations in place: each row has its coefficients and, behind them, the right-hand
/// sides, which become the solutions.
fn solve(equations: &mut [Vec<f64>]) -> Result<()> {
    let n = equations.len();
    for pivot in 0..n {
        let (before, rest) = equations.split_at_mut(pivot + 1);
        let row = &before[pivot];
        let largest = rest.iter().map(|r| r[pivot].abs()).fold(row[pivot].abs(), f64::max);
        // A pivot that rounding has left stands for a direction that no word has.
        if row[pivot].is_nan() || row[pivot] <= 1e-10 * largest.max(1e-300) {
            let reason = "those of the shared words do not span their space";
            return Err(Error::data("word vectors", reason));
        }
        rest.par_iter_mut().for_each(|other| {
            let factor = other[pivot] / row[pivot];
            other[pivot..].iter_mut().zip(&row[pivot..]).for_each(|(a, b)| *a -= factor * b);
        });
    }
    for pivot in (0..n).rev() {
        let (before, rest) = equations.split_at_mut(pivot);
        let row = &mut rest[0];
        let scale = 1.0 / row[pivot];
        row[n..].iter_mut().for_each(|y| *y *= scale);
        before.par_iter_mut().for_each(|other| {
            let factor = other[pivot];
            other[n..].iter_mut().zip(&row[n..]).for_each(|(a, b)| *a -= factor * b);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::rng::{Key, Purpose};

    fn normal(name: &str, n: usize) -> Vec<f32> {
        let mut stream = Key::new(4, Purpose::Data).name(name).stream();
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    /// Word vectors whose images under a known map are the encoder's.
    #[test]
    fn a_linear_map_is_found_and_known_words_stay() -> Result<()> {
        let (dim, e) = (5, 3);
        let words: Vec<String> = (0..40).map(|i| format!("w{i}")).collect();
        let vectors = WordVectors { words: words.clone(), data: normal("vectors", 40 * dim), dim };
        let (map, intercept) = (normal("map", dim * e), normal("intercept", e));
        let image = |i: usize| -> Vec<f32> {
            let x = vectors.row(i);
            (0..e).map(|j| intercept[j] + (0..dim).map(|d| x[d] * map[d * e + j]).sum::<f32>()).collect()
        };
        let vocabulary = Vocabulary::new(words[..30].iter().cloned())?;
        let mut rows = vec![vec![7.0; e]];
        rows.extend((0..30).map(image));
        // A table with rows that the vocabulary does not use.
        rows.extend([vec![9.0; e], vec![9.0; e]]);
        let table = Tensor::from_vec(rows.concat(), (33, e), &Device::Cpu)?;
        let (expanded, all) = expand(&vocabulary, &table, &vectors)?;
        assert_eq!((expanded.len(), all.dims()), (41, &[41, e][..]));
        let all = all.to_vec2::<f32>()?;
        assert_eq!(all[..31], rows[..31], "known words keep their own");
        #[allow(clippy::needless_range_loop)]
        for i in 30..40 {
            let number = expanded.number(&words[i]).expect("added") as usize;
            let gap = all[number].iter().zip(image(i)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(gap < 1e-4, "{i}: {gap}");
        }
        let few = Vocabulary::new(words[..4].iter().cloned())?;
        let refused = expand(&few, &table, &vectors).expect_err("refused").to_string();
        assert!(refused.contains("4 words are shared"), "{refused}");
        let flat = WordVectors { data: vec![0.5; 200], ..vectors };
        assert!(expand(&vocabulary, &table, &flat).is_err(), "one point spans nothing");
        Ok(())
    }

    #[test]
    fn files_with_and_without_a_header() {
        let parsed = WordVectors::parse("3 2\nThe 1 2\ncat -0.5 3e-1\nthe 9 9\n").expect("word2vec");
        assert_eq!((parsed.len(), parsed.row(0), parsed.row(1)), (2, &[1f32, 2.0][..], &[-0.5f32, 0.3][..]));
        assert_eq!(WordVectors::parse("a 1 2\nb 3 4").expect("GloVe").words, ["a", "b"]);
        for (text, fault) in [
            ("a 1 2\nb 3", "line 2: 1 numbers where the first word has 2"),
            ("a 1 x", "line 1"),
            ("a 1 NaN", "line 1"),
            ("2 2\n", "no word vectors"),
        ] {
            let refused = WordVectors::parse(text).expect_err("refused");
            assert!(refused.contains(fault), "{refused}");
        }
    }
}
