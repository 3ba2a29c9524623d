use candle_core::Device;
use contrastive_core::dist::single;
use contrastive_core::nn::ParamStore;
use contrastive_core::rng::Purpose;
use contrastive_core::tensor::{GradCheck, check_gradients};

use super::*;
use crate::negatives::Scheme;

const B: usize = 3;
const L: usize = 6;
const D: usize = 5;
const H: usize = 4;
const NAMES: [u64; B] = [3, 8, 21];
const GROUPS: [u32; B] = [0, 1, 0];

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(4, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn config(scheme: Scheme, count: Option<usize>) -> ObjectiveConfig {
    let negatives = NegativesConfig { scheme, count };
    ObjectiveConfig { steps: 2, negatives, positions: Positions::All, product: Product::Sum }
}

fn predictor() -> Result<(ParamStore, Predictor)> {
    let params = ParamStore::new(1, &Device::Cpu);
    let predictor = Predictor::new(&params.builder(), H, D, 2)?;
    Ok((params, predictor))
}

fn run(config: &ObjectiveConfig, z: &Tensor, c: &Tensor, episodes: Option<&[u32]>) -> Result<Contrast> {
    let (_, predictor) = predictor()?;
    let input = Sequences { targets: z, contexts: c, names: &NAMES, groups: Some(&GROUPS), episodes };
    contrast(config, &predictor, input, Key::new(0, Purpose::Negatives), &Mode::train(&single()))
}

fn value(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.to_scalar::<f32>()?))
}

/// Eq. 4 written out, with every other frame of the batch as a negative.
#[test]
fn equals_the_definition() -> Result<()> {
    let (z, c) = (random("z", &[B, L, D])?, random("c", &[B, L, H])?);
    let (params, _) = predictor()?;
    let (zs, cs) = (z.to_vec3::<f32>()?, c.to_vec3::<f32>()?);
    let got = run(&config(Scheme::MixedSpeaker, None), &z, &c, None)?;
    let mut total = 0.0;
    for k in 1..=2 {
        let weight = params.get(&format!("{}.weight", k - 1)).expect("weight").var.to_vec2::<f32>()?;
        let (mut sum, mut count) = (0.0, 0);
        for (b, t) in (0..B).flat_map(|b| (0..L - k).map(move |t| (b, t))) {
            let p: Vec<f64> = weight
                .iter()
                .map(|row| row.iter().zip(&cs[b][t]).map(|(w, c)| f64::from(*w) * f64::from(*c)).sum())
                .collect();
            let score = |z: &[f32]| z.iter().zip(&p).map(|(z, p)| f64::from(*z) * p).sum::<f64>();
            let all: f64 = zs.iter().flatten().map(|z| score(z).exp()).sum();
            sum += all.ln() - score(&zs[b][t + k]);
            count += 1;
        }
        let loss = sum / f64::from(count);
        assert!((got.steps[k - 1].loss - loss).abs() < 1e-5, "step {k}: {} {loss}", got.steps[k - 1].loss);
        assert_eq!(got.steps[k - 1].predictions, count as usize);
        total += loss / 2.0;
    }
    assert!((value(&got.loss)? - total).abs() < 1e-5);
    Ok(())
}

#[test]
fn every_scheme_has_the_gradients_of_differences() -> Result<()> {
    let (z, c) = (random("z", &[B, L, D])?, random("c", &[B, L, H])?);
    let cases = [
        (Scheme::MixedSpeaker, None),
        (Scheme::MixedSpeaker, Some(3)),
        (Scheme::CurrentSequence, None),
        (Scheme::CurrentSequence, Some(4)),
        (Scheme::MixedSpeakerExcludingCurrent, None),
        (Scheme::SameTime, None),
        (Scheme::AllFrames, Some(3)),
    ];
    for (scheme, count) in cases {
        let all = config(scheme, count);
        let one = ObjectiveConfig { positions: Positions::One, product: Product::Mean, ..all };
        for config in [all, one] {
            check_gradients(&[z.clone(), c.clone()], GradCheck::default(), |x| {
                Ok((run(&config, &x[0], &x[1], None)?.loss * 10.0)?)
            })?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_predicted_across_an_episodes_end() -> Result<()> {
    let (z, c) = (random("z", &[B, L, D])?, random("c", &[B, L, H])?);
    // Sequence 1 ends after two times, the others go on.
    let episodes: Vec<u32> =
        (0..B * L).map(|i| if i / L == 1 && i % L >= 2 { 9 } else { (i / L) as u32 }).collect();
    let got = run(&config(Scheme::MixedSpeaker, None), &z, &c, Some(&episodes))?;
    assert_eq!(got.steps.iter().map(|s| s.predictions).collect::<Vec<_>>(), [14, 10]);
    let alone: Vec<u32> = (0..(B * L) as u32).collect();
    assert!(run(&config(Scheme::MixedSpeaker, None), &z, &c, Some(&alone)).is_err());
    Ok(())
}

#[test]
fn one_position_has_one_prediction_for_each_sequence() -> Result<()> {
    let (z, c) = (random("z", &[B, L, D])?, random("c", &[B, L, H])?);
    let config = ObjectiveConfig { positions: Positions::One, ..config(Scheme::SameTime, None) };
    let got = run(&config, &z, &c, None)?;
    assert!(got.steps.iter().all(|s| s.predictions == B));
    let long = ObjectiveConfig { steps: L, ..config };
    assert!(run(&long, &z, &c, None).expect_err("refused").to_string().contains("objective.steps"));
    Ok(())
}
