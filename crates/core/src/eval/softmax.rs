//! Softmax regression on host buffers: loss and gradient of a block of rows, written out by hand.

use super::matrix::{Matrix, Scalar, product};
use super::skinny;

/// Buffers of one block of at most `rows` rows; made once and used again for every block.
pub(super) struct Block<T> {
    dim: usize,
    classes: usize,
    /// The rows, `[rows, dim]`: the caller's to fill.
    pub(super) x: Vec<T>,
    /// The label of each row; their number is the number of rows in use.
    pub(super) labels: Vec<u32>,
    /// Scores, then the gradient of the scores: `[rows, width]`.
    scores: Vec<T>,
    /// Elements from one row of scores to the next: more than the classes where there are few.
    width: usize,
    /// The weight and the gradient of the weight with padded rows, `[dim, width]`; empty where nothing is padded.
    padded: [Vec<T>; 2],
    /// Sum over rows of the gradient of the weight, `[dim, classes]`.
    pub(super) grad_weight: Vec<T>,
    /// Sum over rows of the gradient of the bias, `[classes]`.
    pub(super) grad_bias: Vec<T>,
    /// Sum over rows of the cross-entropy, in nats.
    pub(super) loss: f64,
    /// How many rows have their highest score at their label.
    pub(super) hits: usize,
}

impl<T: Scalar> Block<T> {
    pub(super) fn new(rows: usize, dim: usize, classes: usize) -> Self {
        let few = classes <= skinny::MOST;
        let width = if few { classes.next_multiple_of(T::LANES) } else { classes };
        let padded = || vec![T::ZERO; if few { dim * width } else { 0 }];
        Self {
            dim,
            classes,
            width,
            padded: [padded(), padded()],
            x: vec![T::ZERO; rows * dim],
            labels: Vec::with_capacity(rows),
            scores: vec![T::ZERO; rows * width],
            grad_weight: vec![T::ZERO; dim * classes],
            grad_bias: vec![T::ZERO; classes],
            loss: 0.0,
            hits: 0,
        }
    }

    /// Loss and gradient of the rows in use under `weight` `[dim, classes]` and `bias` `[classes]`. Labels are below
    /// `classes`.
    pub(super) fn run(&mut self, weight: &[T], bias: &[T]) {
        let (rows, dim, classes, width) = (self.labels.len(), self.dim, self.classes, self.width);
        let x = Matrix::row_major(&self.x, rows, dim);
        let few = classes <= skinny::MOST;
        let [padded_weight, padded_grad] = &mut self.padded;
        if few {
            for (padded, weight) in padded_weight.chunks_exact_mut(width).zip(weight.chunks_exact(classes)) {
                padded[..classes].copy_from_slice(weight);
            }
            T::forward(&self.x[..rows * dim], dim, padded_weight, width, &mut self.scores[..rows * width]);
        } else {
            product(&mut self.scores, x, Matrix::row_major(weight, dim, classes));
        }
        self.grad_bias.fill(T::ZERO);
        (self.loss, self.hits) = (0.0, 0);
        for (scores, &label) in self.scores.chunks_exact_mut(width).zip(&self.labels) {
            // What pads the row is zero and stays so: the weight's padding is.
            let scores = &mut scores[..classes];
            let label = label as usize;
            let mut top = 0;
            for (c, &b) in bias.iter().enumerate() {
                scores[c] += b;
                if scores[c] > scores[top] {
                    top = c;
                }
            }
            self.hits += usize::from(top == label);
            let highest = scores[top];
            let own = (scores[label] - highest).wide();
            let mut sum = T::ZERO;
            for s in scores.iter_mut() {
                *s = (*s - highest).exp();
                sum += *s;
            }
            self.loss += sum.wide().ln() - own;
            // d loss / d score = softmax - one-hot.
            for (s, g) in scores.iter_mut().zip(&mut self.grad_bias) {
                *s = *s / sum;
                *g += *s;
            }
            scores[label] = scores[label] - T::ONE;
            self.grad_bias[label] = self.grad_bias[label] - T::ONE;
        }
        if few {
            T::backward(&self.x[..rows * dim], dim, &self.scores[..rows * width], width, padded_grad);
            for (grad, padded) in
                self.grad_weight.chunks_exact_mut(classes).zip(padded_grad.chunks_exact(width))
            {
                grad.copy_from_slice(&padded[..classes]);
            }
        } else {
            product(&mut self.grad_weight, x.transposed(), Matrix::row_major(&self.scores, rows, classes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    #[test]
    fn gradient_equals_central_differences() {
        let (rows, dim, classes) = (7, 5, 4);
        let mut stream = Key::new(3, Purpose::Data).stream();
        let mut block = Block::<f64>::new(rows, dim, classes);
        block.x.iter_mut().for_each(|x| *x = stream.normal());
        block.labels = (0..rows as u32).map(|i| i % 4).collect();
        let mut parameters: Vec<f64> = (0..(dim + 1) * classes).map(|_| stream.normal()).collect();
        let mut loss = |parameters: &[f64]| {
            let (weight, bias) = parameters.split_at(dim * classes);
            block.run(weight, bias);
            (block.loss, [block.grad_weight.clone(), block.grad_bias.clone()].concat())
        };
        let (_, gradient) = loss(&parameters);
        for i in 0..parameters.len() {
            let here = parameters[i];
            parameters[i] = here + 1e-5;
            let above = loss(&parameters).0;
            parameters[i] = here - 1e-5;
            let below = loss(&parameters).0;
            parameters[i] = here;
            let numeric = (above - below) / 2e-5;
            assert!((numeric - gradient[i]).abs() < 1e-8, "{i}: {numeric} {}", gradient[i]);
        }
    }
}
