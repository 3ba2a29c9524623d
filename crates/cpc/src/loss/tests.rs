use candle_core::Var;
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::tensor::{GradCheck, check_gradients};

use super::*;

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(4, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn value(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

/// `[4, 8]` of a formula of row and column.
fn table(f: impl Fn(f64, f64) -> f64) -> Result<Tensor> {
    let values: Vec<f64> = (0..32).map(|k| f(f64::from(k / 8), f64::from(k % 8))).collect();
    Ok(Tensor::from_vec(values, (4, 8), &Device::Cpu)?)
}

#[test]
fn targets_compete_and_contexts_do_not() -> Result<()> {
    let predictions = table(|i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0).cos())?;
    let targets = table(|i, j| (8.0 * i + j + 1.0).sin())?;
    for dtype in [DType::F32, DType::F64] {
        let logits = logits(&predictions.to_dtype(dtype)?, &targets.to_dtype(dtype)?)?;
        let own = [0, 1, 2, 3];
        let loss = value(&info_nce(&logits, &own, None)?.loss)?;
        assert!((loss - 1.338432).abs() < 1e-6, "{loss}");
        // The frequent bug: a softmax over contexts.
        let wrong = value(&info_nce(&logits.t()?.contiguous()?, &own, None)?.loss)?;
        assert!((wrong - 1.325937).abs() < 1e-6, "{wrong}");
    }
    Ok(())
}

/// Some cells of `[5, 6]`, among them true targets.
fn exclusions() -> Vec<bool> {
    (0..30).map(|i| i % 4 == 1).collect()
}

#[test]
fn the_twin_and_differences_agree() -> Result<()> {
    let (positive, out) = ([0, 5, 2, 2, 3], exclusions());
    for excluded in [None, Some(&out[..])] {
        let logits = random("logits", &[5, 6])?;
        check_gradients(std::slice::from_ref(&logits), GradCheck::default(), |x| {
            Ok((info_nce(&x[0], &positive, excluded)?.loss * 5.0)?)
        })?;
        let wide = info_nce(&logits.to_dtype(DType::F64)?, &positive, excluded)?;
        let ours = info_nce(&logits, &positive, excluded)?;
        assert!((value(&wide.loss)? - value(&ours.loss)?).abs() < 1e-6);
        assert_eq!((wide.accuracy, wide.above), (ours.accuracy, ours.above));
        // As part of a graph too, scaled.
        let var = Var::from_tensor(&logits)?;
        let gradient = |loss: Tensor| -> Result<Vec<f32>> {
            let grads = (loss * 0.5)?.backward()?;
            Ok(grads.get(var.as_tensor()).expect("gradient").flatten_all()?.to_vec1()?)
        };
        let ours = gradient(info_nce(var.as_tensor(), &positive, excluded)?.loss)?;
        let twin = gradient(composed(var.as_tensor(), &positive, excluded)?)?;
        assert!(ours.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 1e-6), "{ours:?} {twin:?}");
    }
    Ok(())
}

#[test]
fn accuracies_count_negatives_below() -> Result<()> {
    let logits =
        Tensor::new(&[[3f32, 1.0, 2.0, 9.0], [0.0, 0.5, 0.0, -1.0], [2.0, 2.0, 1.0, 0.0]], &Device::Cpu)?;
    let mut excluded = vec![false; 12];
    excluded[3] = true;
    // The true target's own exclusion is not heard.
    excluded[0] = true;
    let scores = info_nce(&logits, &[0, 2, 1], Some(&excluded))?;
    // Row 0: 2 of 2 below; row 1: 1 of 3 (a tie is not below); row 2: 2 of 3.
    assert!((scores.accuracy - 1.0 / 3.0).abs() < 1e-12, "{}", scores.accuracy);
    assert!((scores.above - (1.0 + 1.0 / 3.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12, "{}", scores.above);
    Ok(())
}

#[test]
fn large_and_broken_logits() -> Result<()> {
    let logits = Tensor::new(&[[1000f32, -1000.0, 0.0]], &Device::Cpu)?;
    assert_eq!(value(&info_nce(&logits, &[1], None)?.loss)?, 2000.0);
    for place in 0..3 {
        let mut row = vec![0.5f32; 3];
        row[place] = f32::NAN;
        let logits = Tensor::from_vec(row, (1, 3), &Device::Cpu)?;
        assert!(value(&info_nce(&logits, &[1], None)?.loss)?.is_nan(), "NaN in column {place}");
    }
    Ok(())
}

#[test]
fn chosen_products_are_a_part_of_all() -> Result<()> {
    let (p, z) = (random("p", &[5, 19])?, random("z", &[7, 19])?);
    let index: Vec<u32> = vec![0, 3, 3, 6, 1, 2, 5, 5, 5, 4, 4, 0, 2, 6, 6];
    let chosen = gathered(&p, &z, &index)?.to_vec2::<f32>()?;
    let all = logits(&p, &z)?.to_vec2::<f32>()?;
    let wide = gathered(&p.to_dtype(DType::F64)?, &z.to_dtype(DType::F64)?, &index)?.to_vec2::<f64>()?;
    for (m, j) in (0..5).flat_map(|m| (0..3).map(move |j| (m, j))) {
        let got = chosen[m][j];
        assert!((got - all[m][index[3 * m + j] as usize]).abs() < 1e-5);
        assert!((f64::from(got) - wide[m][j]).abs() < 1e-5);
    }
    check_gradients(&[p, z], GradCheck::default(), |x| gathered(&x[0], &x[1], &index))
}

#[test]
fn faults_are_named() -> Result<()> {
    let text = |r: Result<Scores>| r.map(|_| ()).expect_err("refused").to_string();
    let logits = random("logits", &[2, 3])?;
    assert!(text(info_nce(&logits, &[0, 3], None)).contains("true target 3 is out of range for 3"));
    assert!(text(info_nce(&logits, &[0], None)).contains("[1, C]"));
    let alone = [false, false, false, true, true, true];
    assert!(text(info_nce(&logits, &[0, 1], Some(&alone))).contains("prediction 1 has no negative"));
    assert!(gathered(&logits, &logits, &[0, 2]).is_err());
    assert!(super::logits(&logits, &random("z", &[2, 4])?).is_err());
    Ok(())
}
