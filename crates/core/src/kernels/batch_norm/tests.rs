use std::sync::{Arc, Barrier, Mutex};

use candle_core::{Device, Var};

use super::*;
use crate::dist::Communicator;
use crate::kernels::test_support::{assert_within, values};
use crate::rng::{Key, Purpose};
use crate::tensor::{GradCheck, check_gradients};

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(2, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (stream.normal() + 0.3) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
    assert_within(1e-5, 1e-3, a, b, what)
}

const SHAPES: [&[usize]; 4] = [&[4, 3, 5, 6], &[6, 5, 2, 2], &[8, 70], &[2, 2, 30, 30]];

/// The map of a tensor, on the CPU or as the twin sees it.
fn map(x: &Tensor, native: bool) -> Result<FeatureMap> {
    if native { FeatureMap::new(x) } else { Ok(FeatureMap(Form::Plain(x.clone()))) }
}

/// What a test normalises: tensors, and whether the twin does it.
#[derive(Clone, Copy)]
struct Case<'a> {
    x: &'a Tensor,
    affine: &'a Tensor,
    residual: Option<&'a Tensor>,
    relu: bool,
    eps: f64,
    native: bool,
}

impl Case<'_> {
    fn with<T>(self, f: impl FnOnce(BatchNormArgs) -> Result<T>) -> Result<T> {
        let x = map(self.x, self.native)?;
        let residual = self.residual.map(|r| map(r, self.native)).transpose()?;
        let (affine, relu, eps) = (self.affine, self.relu, self.eps);
        f(BatchNormArgs { x: &x, affine, residual: residual.as_ref(), relu, eps })
    }

    fn train(self, statistics: &Statistics) -> Result<(Tensor, BatchStatistics)> {
        let (y, seen) = self.with(|args| batch_norm_train(args, statistics))?;
        Ok((y.tensor()?, seen))
    }

    fn fixed(self, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
        self.with(|args| batch_norm_fixed(args, mean, var))?.tensor()
    }
}

/// Runs `forward` on variables and returns output and gradients of x, affine and residual.
fn run(
    shape: &[usize],
    with_residual: bool,
    forward: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let x = Var::from_tensor(&random("x", shape)?)?;
    let affine = Var::from_tensor(&random("affine", &[2, shape[1]])?)?;
    let residual = Var::from_tensor(&random("residual", shape)?)?;
    let y = forward(&x, &affine, with_residual.then(|| residual.as_tensor()))?;
    let grads = (&y * random("dy", shape)?)?.sum_all()?.backward()?;
    let mut all = vec![y.detach()];
    let vars = if with_residual { vec![&x, &affine, &residual] } else { vec![&x, &affine] };
    for var in vars {
        all.push(grads.get(var).expect("gradient").clone());
    }
    Ok(all)
}

#[test]
fn agrees_with_the_twin() -> Result<()> {
    for shape in SHAPES {
        for (groups, relu, with_residual) in
            [(1, false, false), (1, true, false), (2, false, true), (2, true, true), (1, true, true)]
        {
            let what = format!("{shape:?} groups {groups} relu {relu} residual {with_residual}");
            let seen = Mutex::new(Vec::new());
            let forward = |native: bool| {
                let seen = &seen;
                move |x: &Tensor, affine: &Tensor, residual: Option<&Tensor>| {
                    let case = Case { x, affine, residual, relu, eps: 1e-5, native };
                    let (y, s) = case.train(&Statistics::Split(groups))?;
                    seen.lock().expect("lock").push(s);
                    Ok(y)
                }
            };
            if shape[0] / groups < 2 && shape.len() == 2 {
                continue;
            }
            let ours = run(shape, with_residual, forward(true))?;
            let twin = run(shape, with_residual, forward(false))?;
            for (i, (a, b)) in ours.iter().zip(&twin).enumerate() {
                assert_close(a, b, &format!("{what}, tensor {i}"))?;
            }
            let seen = seen.lock().expect("lock");
            assert_close(&seen[0].mean, &seen[1].mean, &what)?;
            assert_close(&seen[0].var, &seen[1].var, &what)?;
            assert_eq!(seen[0].count, seen[1].count);
        }
        let (mean, var) = (random("mean", &[shape[1]])?, random("var", &[shape[1]])?.sqr()?);
        for (relu, with_residual) in [(false, false), (true, true)] {
            let forward = |native: bool| {
                let (mean, var) = (&mean, &var);
                move |x: &Tensor, affine: &Tensor, residual: Option<&Tensor>| {
                    Case { x, affine, residual, relu, eps: 1e-2, native }.fixed(mean, var)
                }
            };
            let ours = run(shape, with_residual, forward(true))?;
            let twin = run(shape, with_residual, forward(false))?;
            for (i, (a, b)) in ours.iter().zip(&twin).enumerate() {
                assert_close(a, b, &format!("fixed {shape:?}, tensor {i}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_agree_with_differences() -> Result<()> {
    for shape in [&[4usize, 3, 3, 3][..], &[6, 5]] {
        // The residual is large against the step, so that no ReLU flips between the two values of a quotient.
        let residual = (random("residual", shape)?.sign()? * 20.0)?;
        let inputs = [random("x", shape)?, random("affine", &[2, shape[1]])?, residual];
        for groups in [1, 2] {
            check_gradients(&inputs, GradCheck::default(), |t| {
                let (x, affine, residual) = (&t[0], &t[1], Some(&t[2]));
                let case = Case { x, affine, residual, relu: true, eps: 1e-5, native: true };
                Ok(case.train(&Statistics::Split(groups))?.0)
            })?;
        }
        let (mean, var) = (random("mean", &[shape[1]])?, random("var", &[shape[1]])?.sqr()?);
        check_gradients(&inputs[..2], GradCheck::default(), |t| {
            let (x, affine) = (&t[0], &t[1]);
            Case { x, affine, residual: None, relu: false, eps: 1e-1, native: true }.fixed(&mean, &var)
        })?;
    }
    Ok(())
}

#[test]
fn bits_do_not_depend_on_threads() -> Result<()> {
    let mut seen = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        seen.push(pool.install(|| -> Result<_> {
            let mut all = Vec::new();
            for shape in [&[16usize, 24, 9, 9][..], &[64, 200]] {
                for t in run(shape, true, |x, affine, residual| {
                    let case = Case { x, affine, residual, relu: true, eps: 1e-5, native: true };
                    Ok(case.train(&Statistics::Local)?.0)
                })? {
                    all.push(values(&t)?);
                }
            }
            Ok(all)
        })?);
    }
    assert!(seen[0] == seen[1]);
    Ok(())
}

#[test]
fn large_means_lose_no_digits() -> Result<()> {
    let x = (random("x", &[64, 2, 16, 16])? + 1e4)?;
    let affine = Tensor::new(&[[1f32, 1.], [0., 0.]], &Device::Cpu)?;
    let case = Case { x: &x, affine: &affine, residual: None, relu: false, eps: 1e-5, native: true };
    let (_, seen) = case.train(&Statistics::Local)?;
    for v in values(&seen.var)? {
        assert!((v - 1.0).abs() < 0.05, "{v}");
    }
    Ok(())
}

#[test]
fn refuses_single_values_and_wrong_shapes() -> Result<()> {
    let affine = random("affine", &[2, 3])?;
    let train = |shape: &[usize], statistics: Statistics| -> Result<()> {
        let x = random("x", shape)?;
        let case = Case { x: &x, affine: &affine, residual: None, relu: false, eps: 1e-5, native: true };
        case.train(&statistics).map(|_| ())
    };
    let message = train(&[1, 3], Statistics::Local).expect_err("one value").to_string();
    assert!(message.contains("more than one value per channel"), "{message}");
    assert!(train(&[2, 3], Statistics::Split(2)).is_err());
    assert!(train(&[3, 3], Statistics::Split(2)).is_err());
    assert!(train(&[1, 3, 1, 1], Statistics::Sync(crate::dist::single())).is_err());
    assert!(train(&[2, 4], Statistics::Local).is_err());
    assert!(train(&[2, 3, 4], Statistics::Local).is_ok());
    assert!(train(&[3], Statistics::Local).is_err());
    Ok(())
}

/// Two ranks on two threads that meet at every call.
#[derive(Debug)]
struct Pair {
    rank: usize,
    board: Arc<(Barrier, Mutex<[Option<Tensor>; 2]>)>,
}

impl Pair {
    fn exchange(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let (barrier, slots) = &*self.board;
        slots.lock().expect("lock")[self.rank] = Some(x.detach());
        barrier.wait();
        let both = slots.lock().expect("lock").clone().map(|t| t.expect("both ranks wrote"));
        barrier.wait();
        Ok(both)
    }
}

impl Communicator for Pair {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        2
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        let [a, b] = self.exchange(x)?;
        Ok((a + b)?)
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        Ok(Tensor::cat(&self.exchange(x)?, 0)?)
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        Ok(self.exchange(x)?[root].clone())
    }
    fn barrier(&self) -> Result<()> {
        self.board.0.wait();
        Ok(())
    }
}

#[test]
fn two_synchronised_ranks_are_one_rank_of_both_batches() -> Result<()> {
    for (shape, first, native) in [
        (&[6usize, 3, 4, 4][..], 3, true),
        (&[6, 3, 4, 4], 2, true),
        (&[2, 5], 1, true),
        (&[6, 3, 4, 4], 3, false),
    ] {
        let (x, dy) = (random("x", shape)?, random("dy", shape)?);
        let residual = random("residual", shape)?;
        let affine = random("affine", &[2, shape[1]])?;
        let part = |statistics: Statistics, from: usize, len: usize| -> Result<[Tensor; 5]> {
            let cut = |t: &Tensor| t.narrow(0, from, len)?.contiguous();
            let x = Var::from_tensor(&cut(&x)?)?;
            let (affine, residual) = (Var::from_tensor(&affine)?, Var::from_tensor(&cut(&residual)?)?);
            let case =
                Case { x: &x, affine: &affine, residual: Some(&residual), relu: true, eps: 1e-5, native };
            let (y, seen) = case.train(&statistics)?;
            assert_eq!(seen.count, shape[0] * shape[2..].iter().product::<usize>());
            let grads = (&y * cut(&dy)?)?.sum_all()?.backward()?;
            let grad = |v: &Var| grads.get(v).expect("gradient").clone();
            Ok([y.detach(), grad(&x), grad(&residual), grad(&affine), seen.var])
        };
        let whole = part(Statistics::Local, 0, shape[0])?;
        let board = Arc::new((Barrier::new(2), Mutex::new([None, None])));
        let ranks = std::thread::scope(|scope| {
            let part = &part;
            let spawned = [(0, first), (first, shape[0] - first)].into_iter().enumerate();
            let handles: Vec<_> = spawned
                .map(|(rank, (from, len))| {
                    let comm: Comm = Arc::new(Pair { rank, board: board.clone() });
                    scope.spawn(move || part(Statistics::Sync(comm), from, len))
                })
                .collect();
            handles.into_iter().map(|h| h.join().expect("rank")).collect::<Result<Vec<_>>>()
        })?;
        for i in 0..3 {
            let joined = Tensor::cat(&[&ranks[0][i], &ranks[1][i]], 0)?;
            assert_close(&joined, &whole[i], &format!("{shape:?} native {native} tensor {i}"))?;
        }
        // Each rank has the gradient of its own samples' loss.
        assert_close(&(&ranks[0][3] + &ranks[1][3])?, &whole[3], "gamma and beta")?;
        assert_close(&ranks[0][4], &whole[4], "variance")?;
        assert_eq!(values(&ranks[0][4])?, values(&ranks[1][4])?);
    }
    Ok(())
}
