//! Returns and the loss of batched advantage actor-critic: pure functions.
//!
//! ```text
//! R_t = r_t + γ (1 − done_t) R_{t+1},   R_T = V(s_T)
//! L = Σ_t [ − (R_t − V_t) log π(a_t | s_t) + c_v ½ (R_t − V_t)² − c_e H(π(· | s_t)) ]
//! ```
//!
//! The advantage `R_t − V_t` of the first term is a constant: it sends no gradient to the value, nor does `R_t`. IMPALA
//! has c_v = 0.5 and sums over time and batch.

use candle_core::{D, DType, Device, Tensor};
use contrastive_core::{Error, Result};

/// The n-step returns of sequences of `length` steps, sequence after sequence. `bootstrap` is the value behind the last
/// step of each; nothing is added beyond a step that is `done`.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn returns(
    rewards: &[f32],
    done: &[bool],
    bootstrap: &[f32],
    length: usize,
    discount: f64,
) -> Result<Vec<f32>> {
    if rewards.len() != bootstrap.len() * length || done.len() != rewards.len() {
        let expected = format!("{} x {length} rewards and as many ends", bootstrap.len());
        return Err(Error::shape("returns", expected, &[rewards.len(), done.len()]));
    }
    let mut returns = vec![0f32; rewards.len()];
    for (i, &value) in bootstrap.iter().enumerate() {
        let mut next = f64::from(value);
        for at in (i * length..(i + 1) * length).rev() {
            let beyond = if done[at] { 0.0 } else { discount * next };
            next = f64::from(rewards[at]) + beyond;
            returns[at] = next as f32;
        }
    }
    Ok(returns)
}

/// What the policy did and what came of it, step by step.
#[derive(Debug, Clone, Copy)]
pub struct Experience<'a> {
    /// The actions taken.
    pub actions: &'a [u32],
    /// R.
    pub returns: &'a [f32],
    /// R − V, constants.
    pub advantages: &'a [f32],
}

/// The factors of the loss's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// c_v.
    pub baseline: f64,
    /// c_e.
    pub entropy: f64,
    /// What the sum over all steps is multiplied by: 1, or one over the number of environments.
    pub scale: f64,
}

/// The loss and its parts.
#[derive(Debug, Clone)]
pub struct Scores {
    /// The whole: a scalar in the graph of logits and values.
    pub loss: Tensor,
    /// The term of the policy, scaled as in the loss.
    pub policy: f64,
    /// The term of the value, scaled and with its cost.
    pub baseline: f64,
    /// Mean entropy of a step in nats.
    pub entropy: f64,
}

/// The loss over steps with `logits` `[M, A]` and `values` `[M]`.
///
/// # Errors
/// Sizes that do not fit, an action out of range.
pub fn actor_critic(
    logits: &Tensor,
    values: &Tensor,
    experience: Experience<'_>,
    costs: Costs,
) -> Result<Scores> {
    let Experience { actions, returns, advantages } = experience;
    let &[m, a] = logits.dims() else {
        return Err(Error::shape("actor-critic loss", "logits [M, A]", logits.dims()));
    };
    if values.dims() != [m] {
        return Err(Error::shape("actor-critic loss", format!("values [{m}]"), values.dims()));
    }
    if [actions.len(), returns.len(), advantages.len()] != [m; 3] {
        let lengths = [actions.len(), returns.len(), advantages.len()];
        return Err(Error::shape("actor-critic loss", format!("{m} actions, returns, advantages"), &lengths));
    }
    if let Some(action) = actions.iter().find(|&&action| action as usize >= a) {
        let reason = format!("action {action} is out of range for {a} actions");
        return Err(Error::data("actor-critic loss", reason));
    }
    let (device, dtype) = (logits.device(), logits.dtype());
    let constant = |x: Vec<f32>, shape: &[usize]| -> Result<Tensor> {
        Ok(Tensor::from_vec(x, shape, device)?.to_dtype(dtype)?)
    };
    let mut chosen = vec![0f32; m * a];
    for (row, (&action, &advantage)) in actions.iter().zip(advantages).enumerate() {
        chosen[row * a + action as usize] = advantage;
    }
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let log_pi = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    let policy = (&log_pi * constant(chosen, &[m, a])?)?.sum_all()?.neg()?;
    let error = (constant(returns.to_vec(), &[m])? - values)?;
    let baseline = (error.sqr()?.sum_all()? * (0.5 * costs.baseline))?;
    let negentropy = (log_pi.exp()? * &log_pi)?.sum_all()?;
    let loss = ((&policy + &baseline)? + (&negentropy * costs.entropy)?)?;
    Ok(Scores {
        loss: (loss * costs.scale)?,
        policy: scalar(&policy)? * costs.scale,
        baseline: scalar(&baseline)? * costs.scale,
        entropy: -scalar(&negentropy)? / m as f64,
    })
}

/// The value of a scalar tensor.
pub(super) fn scalar(x: &Tensor) -> Result<f64> {
    Ok(x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::rng::{Key, Purpose};
    use contrastive_core::tensor::{GradCheck, check_gradients};

    #[test]
    fn returns_by_hand() -> Result<()> {
        // γ = 1/2. First sequence: it ends behind its second step; then 3 + 10/2 = 8. Second: ends with its last step.
        let rewards = [1.0, 2.0, 3.0, 4.0, 0.0, -1.0];
        let done = [false, true, false, false, false, true];
        let got = returns(&rewards, &done, &[10.0, 100.0], 3, 0.5)?;
        assert_eq!(got, [2.0, 2.0, 8.0, 3.75, -0.5, -1.0]);
        // No end: 1 + (2 + (3 + 10/2)/2)/2.
        assert_eq!(returns(&rewards[..3], &[false; 3], &[10.0], 3, 0.5)?, [4.0, 6.0, 8.0]);
        assert!(returns(&rewards, &done, &[1.0], 3, 0.5).is_err());
        Ok(())
    }

    #[test]
    fn the_loss_by_hand() -> Result<()> {
        // One step, two actions with p = 1/4, 3/4.
        let logits = Tensor::new(&[[0f32, 3f32.ln()]], &Device::Cpu)?;
        let values = Tensor::new(&[1f32], &Device::Cpu)?;
        let experience = Experience { actions: &[1], returns: &[3.0], advantages: &[2.0] };
        let costs = Costs { baseline: 0.5, entropy: 0.1, scale: 0.5 };
        let scores = actor_critic(&logits, &values, experience, costs)?;
        let entropy = -(0.25f64 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
        let policy = -2.0 * 0.75f64.ln();
        let baseline = 0.5 * 0.5 * 4.0;
        assert!((scalar(&scores.loss)? - 0.5 * (policy + baseline - 0.1 * entropy)).abs() < 1e-6);
        assert!(
            (scores.policy - 0.5 * policy).abs() < 1e-6 && (scores.baseline - 0.5 * baseline).abs() < 1e-6
        );
        assert!((scores.entropy - entropy).abs() < 1e-6);
        let wrong = Experience { actions: &[2], ..experience };
        assert!(actor_critic(&logits, &values, wrong, costs).is_err());
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_differences() -> Result<()> {
        let mut stream = Key::new(5, Purpose::Data).stream();
        let mut draw = |n: usize| (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>();
        let (logits, values, returns, advantages) = (draw(15), draw(5), draw(5), draw(5));
        let inputs =
            [Tensor::from_vec(logits, (5, 3), &Device::Cpu)?, Tensor::from_vec(values, 5, &Device::Cpu)?];
        let costs = Costs { baseline: 0.5, entropy: 0.3, scale: 1.0 };
        let experience = Experience { actions: &[0, 2, 1, 1, 0], returns: &returns, advantages: &advantages };
        check_gradients(&inputs, GradCheck::default(), |x| {
            Ok(actor_critic(&x[0], &x[1], experience, costs)?.loss)
        })
    }
}
