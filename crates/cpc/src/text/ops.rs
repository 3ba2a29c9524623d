//! Operations on sentences of different lengths: the vectors of neighbouring words, and means over words.
//!
//! Sentences lie one behind the other without padding, so that no work is done for words that are not there and no
//! padding can reach a result. On the CPU, in `f32`, both are operations of our own; elsewhere they are compositions of
//! Candle's.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use contrastive_core::{Error, Result};
use rayon::prelude::*;

/// Sentences one behind the other: the numbers of their words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    numbers: Vec<u32>,
    /// Where each sentence ends.
    ends: Vec<usize>,
    /// The numbers of the sentence that each word is in.
    owners: Vec<u32>,
}

impl Packed {
    /// These sentences, which may be empty.
    pub fn new<'a>(sentences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut packed = Self { numbers: Vec::new(), ends: Vec::new(), owners: Vec::new() };
        for sentence in sentences {
            packed.owners.resize(packed.owners.len() + sentence.len(), packed.ends.len() as u32);
            packed.numbers.extend_from_slice(sentence);
            packed.ends.push(packed.numbers.len());
        }
        packed
    }

    /// The sentences of `[..., W]` numbers below `vocabulary`, each up to its first negative number
    /// ([`PADDING`](super::windows::PADDING)).
    ///
    /// # Errors
    /// [`Error::Data`] naming a number that no word has.
    pub fn from_padded(x: &Tensor, vocabulary: usize) -> Result<Self> {
        let width = x.dims().last().copied().unwrap_or(1).max(1);
        let host = x.detach().to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?;
        let values = host.flatten_all()?.to_vec1::<f32>()?;
        let mut sentences = Vec::with_capacity(values.len() / width);
        for row in values.chunks_exact(width) {
            let mut sentence = Vec::with_capacity(width);
            // NaN is no padding and no number.
            for &value in row.iter().take_while(|value| value.is_nan() || **value >= 0.0) {
                let known = value < vocabulary as f32 && value.fract() == 0.0;
                if !known {
                    let reason = format!("{value} is no word of a vocabulary of {vocabulary}");
                    return Err(Error::data("sentences", reason));
                }
                sentence.push(value as u32);
            }
            sentences.push(sentence);
        }
        Ok(Self::new(sentences.iter().map(Vec::as_slice)))
    }

    /// S, the number of sentences.
    pub fn sentences(&self) -> usize {
        self.ends.len()
    }

    /// M, the number of words in all of them.
    pub fn words(&self) -> usize {
        self.numbers.len()
    }

    fn range(&self, sentence: usize) -> std::ops::Range<usize> {
        let start = sentence.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[sentence]
    }

    /// The word at offset `j` of the window of `kernel` words around `word`, if it is in the same sentence.
    fn neighbour(&self, word: usize, j: usize, kernel: usize) -> Option<usize> {
        let at = (word + j).checked_sub((kernel - 1) / 2)?;
        (self.owners.get(at) == Some(&self.owners[word])).then_some(at)
    }
}

/// For every word the vectors of the `k` words around it, zeros beyond its sentence's ends: `[M, E k]` from `table`
/// `[V, E]`, the element of vector component `e` and offset `j` at `e k + j`, as a convolution's weight `[O, E, k]` has
/// them. `(k − 1) / 2` words (rounded down) are those before, PyTorch's `padding="same"`.
///
/// # Errors
/// [`Error::Shape`] for another shape of the table, [`Error::Data`] for a number beyond it.
pub fn word_windows(table: &Tensor, packed: &Arc<Packed>, kernel: usize) -> Result<Tensor> {
    let &[v, e] = table.dims() else {
        return Err(Error::shape("word vectors", "[V, E]", table.dims()));
    };
    if let Some(number) = packed.numbers.iter().find(|&&number| number as usize >= v) {
        return Err(Error::data("word vectors", format!("word {number} is out of range for {v}")));
    }
    if kernel == 0 || packed.words() == 0 || e == 0 {
        let expected = "a kernel of 1 or more, words, and vectors that are not empty";
        return Err(Error::shape("word vectors", expected, &[packed.words(), e, kernel]));
    }
    if table.device().is_cpu() && table.dtype() == DType::F32 {
        let op = WindowsOp { packed: packed.clone(), v, e, kernel };
        return Ok(table.contiguous()?.apply_op1(op)?);
    }
    composed_windows(table, packed, kernel)
}

fn composed_windows(table: &Tensor, packed: &Packed, kernel: usize) -> Result<Tensor> {
    let (v, e) = table.dims2()?;
    let m = packed.words();
    let row = |i: usize| match packed.neighbour(i / kernel, i % kernel, kernel) {
        Some(word) => packed.numbers[word],
        None => v as u32,
    };
    let rows: Vec<u32> = (0..m * kernel).map(row).collect();
    let rows = Tensor::from_vec(rows, m * kernel, table.device())?;
    let zeros = Tensor::zeros((1, e), table.dtype(), table.device())?;
    let vectors = Tensor::cat(&[table, &zeros], 0)?.index_select(&rows, 0)?.reshape((m, kernel, e))?;
    Ok(vectors.transpose(1, 2)?.contiguous()?.reshape((m, e * kernel))?)
}

struct WindowsOp {
    packed: Arc<Packed>,
    v: usize,
    e: usize,
    kernel: usize,
}

impl WindowsOp {
    fn forward(&self, table: &[f32]) -> Vec<f32> {
        let Self { ref packed, e, kernel, .. } = *self;
        let mut out = vec![0f32; packed.words() * e * kernel];
        out.par_chunks_mut(e * kernel).enumerate().for_each(|(word, out)| {
            for j in 0..kernel {
                let Some(at) = packed.neighbour(word, j, kernel) else { continue };
                let vector = &table[packed.numbers[at] as usize * e..][..e];
                out[j..].iter_mut().step_by(kernel).zip(vector).for_each(|(out, x)| *out = *x);
            }
        });
        out
    }

    /// The gradient of the table: every row sums over the places of its word in their order, so that the bits do not
    /// depend on threads.
    fn backward(&self, dy: &[f32]) -> Vec<f32> {
        let Self { ref packed, v, e, kernel } = *self;
        let mut places: Vec<u32> = (0..packed.words() as u32).collect();
        places.sort_by_key(|&place| packed.numbers[place as usize]);
        let of = |number: usize| {
            let first = places.partition_point(|&p| (packed.numbers[p as usize] as usize) < number);
            let rest = &places[first..];
            &rest[..rest.iter().take_while(|&&p| packed.numbers[p as usize] as usize == number).count()]
        };
        let mut gradient = vec![0f32; v * e];
        gradient.par_chunks_mut(e).enumerate().for_each(|(number, row)| {
            for &place in of(number) {
                let place = place as usize;
                for j in 0..kernel {
                    // The word whose window has this place at offset j.
                    let Some(word) = (place + (kernel - 1) / 2).checked_sub(j) else { continue };
                    if word >= packed.words() || packed.neighbour(word, j, kernel) != Some(place) {
                        continue;
                    }
                    let dy = &dy[word * e * kernel..][..e * kernel];
                    row.iter_mut().zip(dy[j..].iter().step_by(kernel)).for_each(|(sum, dy)| *sum += dy);
                }
            }
        });
        gradient
    }
}

impl CustomOp1 for WindowsOp {
    fn name(&self) -> &'static str {
        "word_windows"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = self.forward(slice(table, layout)?);
        Ok((CpuStorage::F32(out), Shape::from((self.packed.words(), self.e * self.kernel))))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = self.backward(&dy.flatten_all()?.to_vec1::<f32>()?);
        Ok(Some(Tensor::from_vec(gradient, table.shape(), table.device())?))
    }
}

/// The mean over the words of each sentence: `[S, C]` from one row for every word `[M, C]`; zeros for an empty sentence.
///
/// # Errors
/// [`Error::Shape`] for another number of rows.
pub fn sentence_means(rows: &Tensor, packed: &Arc<Packed>) -> Result<Tensor> {
    let m = packed.words();
    let &[count, c] = rows.dims() else {
        return Err(Error::shape("sentence means", "[M, C]", rows.dims()));
    };
    if count != m || c == 0 {
        return Err(Error::shape("sentence means", format!("[{m}, C]"), rows.dims()));
    }
    if rows.device().is_cpu() && rows.dtype() == DType::F32 {
        return Ok(rows.contiguous()?.apply_op1(MeansOp { packed: packed.clone(), c })?);
    }
    composed_means(rows, packed)
}

fn composed_means(rows: &Tensor, packed: &Packed) -> Result<Tensor> {
    let (s, c) = (packed.sentences(), rows.dim(1)?);
    let owners = Tensor::from_slice(&packed.owners, packed.words(), rows.device())?;
    let sums = Tensor::zeros((s, c), rows.dtype(), rows.device())?.index_add(&owners, rows, 0)?;
    let shares: Vec<f32> = (0..s).map(|i| 1.0 / packed.range(i).len().max(1) as f32).collect();
    let shares = Tensor::from_vec(shares, (s, 1), rows.device())?.to_dtype(rows.dtype())?;
    Ok(sums.broadcast_mul(&shares)?)
}

struct MeansOp {
    packed: Arc<Packed>,
    c: usize,
}

impl CustomOp1 for MeansOp {
    fn name(&self) -> &'static str {
        "sentence_means"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, c) = (slice(rows, layout)?, self.c);
        let mut out = vec![0f32; self.packed.sentences() * c];
        out.par_chunks_mut(c).enumerate().for_each(|(sentence, out)| {
            let words = self.packed.range(sentence);
            let share = 1.0 / words.len().max(1) as f32;
            for row in rows[words.start * c..words.end * c].chunks_exact(c) {
                out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            out.iter_mut().for_each(|sum| *sum *= share);
        });
        Ok((CpuStorage::F32(out), Shape::from((self.packed.sentences(), c))))
    }

    fn bwd(&self, rows: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (dy, c) = (dy.flatten_all()?.to_vec1::<f32>()?, self.c);
        let mut gradient = vec![0f32; self.packed.words() * c];
        gradient.par_chunks_mut(c).zip(&self.packed.owners).for_each(|(row, &sentence)| {
            let sentence = sentence as usize;
            let share = 1.0 / self.packed.range(sentence).len() as f32;
            row.iter_mut().zip(&dy[sentence * c..]).for_each(|(x, dy)| *x = share * dy);
        });
        Ok(Some(Tensor::from_vec(gradient, rows.shape(), rows.device())?))
    }
}

/// The elements of a contiguous operand.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("expected a contiguous operand"),
    }
}

#[cfg(test)]
mod tests;
