use candle_core::Tensor;

use super::op::Operands;
use super::*;
use crate::kernels::test_support::{assert_close, assert_same, random};
use crate::tensor::{GradCheck, check_gradients};

type Run =
    fn(&FeatureMap, &Tensor, &Tensor, Option<&Tensor>, Option<&[bool]>) -> Result<(FeatureMap, Tensor)>;

struct Kind {
    run: Run,
    twin: Twin,
    gates: usize,
    states: usize,
}

const KINDS: [Kind; 2] = [
    Kind { run: gru, twin: composed::gru, gates: 3, states: 1 },
    Kind { run: lstm, twin: composed::lstm, gates: 4, states: 2 },
];

impl Kind {
    /// Gates, weight, bias and first states.
    fn inputs(&self, n: usize, t: usize, h: usize) -> Result<[Tensor; 4]> {
        let g = self.gates * h;
        let weight = (random("weight", &[g, h])? * 0.4)?;
        Ok([
            random("gates", &[n, t, g])?,
            weight,
            random("bias", &[g])?,
            random("state", &[n, self.states * h])?,
        ])
    }
}

/// Every third step of every sequence, at other places each; the first step of one.
fn resets(n: usize, t: usize) -> Vec<bool> {
    (0..n * t).map(|i| i % 3 == 1 || i == 0).collect()
}

#[test]
fn agree_with_the_twins() -> Result<()> {
    // Several blocks of sequences; widths that fill no panel.
    for (kind, (n, t, h)) in
        KINDS.iter().flat_map(|kind| [(9, 5, 7), (3, 4, 40), (2, 1, 1)].map(|e| (kind, e)))
    {
        let inputs = kind.inputs(n, t, h)?;
        let all = resets(n, t);
        for resets in [None, Some(&all[..])] {
            let ours = |x: &[Tensor]| {
                (kind.run)(&FeatureMap::from_rows(&x[0])?, &x[1], &x[2], x.get(3), resets)?.0.rows()
            };
            let twin = |x: &[Tensor]| {
                let operands = Operands { weight: &x[1], bias: &x[2], state: &x[3], resets };
                Ok((kind.twin)(&x[0], &operands)?.0)
            };
            assert_same(&inputs, ours, twin)?;
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_differences() -> Result<()> {
    for kind in &KINDS {
        let inputs = kind.inputs(3, 4, 5)?;
        let all = resets(3, 4);
        for resets in [None, Some(&all[..])] {
            check_gradients(&inputs, GradCheck { step: 3e-3, ..GradCheck::default() }, |x| {
                (kind.run)(&FeatureMap::from_rows(&x[0])?, &x[1], &x[2], Some(&x[3]), resets)?.0.rows()
            })?;
        }
    }
    Ok(())
}

/// A sequence in two parts, the states carried over, is the sequence in one; a reset is a beginning.
#[test]
fn states_carry_on() -> Result<()> {
    for kind in &KINDS {
        let [gates, weight, bias, state] = kind.inputs(5, 6, 8)?;
        let run = |gates: &Tensor, state: Option<&Tensor>, resets: Option<&[bool]>| -> Result<_> {
            let (y, last) =
                (kind.run)(&FeatureMap::from_rows(&gates.contiguous()?)?, &weight, &bias, state, resets)?;
            Ok((y.rows()?, last))
        };
        let (whole, last) = run(&gates, Some(&state), None)?;
        let (first, carried) = run(&gates.narrow(1, 0, 2)?, Some(&state), None)?;
        let (second, last_again) = run(&gates.narrow(1, 2, 4)?, Some(&carried), None)?;
        assert_close(&Tensor::cat(&[&first, &second], 1)?, &whole, "in two parts")?;
        assert_close(&last_again, &last, "last states")?;
        let hidden = last.narrow(1, 0, 8)?;
        assert_close(&hidden, &whole.narrow(1, 5, 1)?.squeeze(1)?, "last hidden state")?;

        let at: Vec<bool> = (0..30).map(|i| i % 6 == 2).collect();
        let (reset, _) = run(&gates, Some(&state), Some(&at))?;
        let (fresh, _) = run(&gates.narrow(1, 2, 4)?, None, None)?;
        assert_close(&reset.narrow(1, 2, 4)?, &fresh, "after a reset")?;
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_refused() -> Result<()> {
    let [gates, weight, bias, state] = KINDS[0].inputs(2, 3, 4)?;
    let map = FeatureMap::from_rows(&gates)?;
    assert!(gru(&map, &weight, &bias, Some(&state), Some(&[false; 5])).is_err());
    assert!(gru(&map, &weight, &bias, Some(&random("s", &[2, 5])?), None).is_err());
    assert!(lstm(&map, &weight, &bias, None, None).is_err());
    Ok(())
}
