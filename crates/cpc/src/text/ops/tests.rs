use candle_core::{Device, Var};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::tensor::{GradCheck, check_gradients};

use super::*;

fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(4, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Sentences with words that come again, an empty one among them.
fn sentences() -> Arc<Packed> {
    let all: [&[u32]; 5] = [&[3, 0, 3, 5], &[2], &[], &[5, 5], &[1, 0, 3]];
    Arc::new(Packed::new(all))
}

/// Values and gradients of two functions of one operand.
fn assert_same(
    x: &Tensor,
    ours: impl Fn(&Tensor) -> Result<Tensor>,
    twin: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let var = Var::from_tensor(x)?;
    let run = |f: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<[Vec<f32>; 2]> {
        let y = f(var.as_tensor())?;
        let grads = (&y * random("dy", y.dims())?)?.sum_all()?.backward()?;
        let gradient = grads.get(var.as_tensor()).expect("gradient").flatten_all()?.to_vec1()?;
        Ok([y.flatten_all()?.to_vec1()?, gradient])
    };
    for (ours, twin) in run(&ours)?.iter().zip(&run(&twin)?) {
        assert_eq!(ours.len(), twin.len());
        assert!(ours.iter().zip(twin).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} {twin:?}");
    }
    Ok(())
}

#[test]
fn words_and_means_agree_with_their_twins_and_with_differences() -> Result<()> {
    let packed = sentences();
    let table = random("table", &[6, 3])?;
    for kernel in 1..=4 {
        assert_same(
            &table,
            |table| word_windows(table, &packed, kernel),
            |table| composed_windows(table, &packed, kernel),
        )?;
        check_gradients(std::slice::from_ref(&table), GradCheck::default(), |x| {
            word_windows(&x[0], &packed, kernel)
        })?;
    }
    let rows = random("rows", &[10, 3])?;
    assert_same(&rows, |rows| sentence_means(rows, &packed), |rows| composed_means(rows, &packed))?;
    check_gradients(std::slice::from_ref(&rows), GradCheck::default(), |x| sentence_means(&x[0], &packed))?;
    assert_eq!(sentence_means(&rows, &packed)?.to_vec2::<f32>()?[2], [0.0; 3], "an empty sentence");
    Ok(())
}

#[test]
fn windows_end_with_their_sentence() -> Result<()> {
    let table = Tensor::new(&[[0f32], [1.0], [2.0], [3.0], [4.0], [5.0]], &Device::Cpu)?;
    let of = |kernel: usize| -> Result<Vec<Vec<f32>>> {
        Ok(word_windows(&table, &sentences(), kernel)?.to_vec2()?)
    };
    let rows = of(3)?;
    assert_eq!(rows[..4], [[0.0, 3.0, 0.0], [3.0, 0.0, 3.0], [0.0, 3.0, 5.0], [3.0, 5.0, 0.0]]);
    assert_eq!(rows[4..6], [[0.0, 2.0, 0.0], [0.0, 5.0, 5.0]]);
    assert_eq!(of(2)?[..2], [[3.0, 0.0], [0.0, 3.0]]);
    Ok(())
}

#[test]
fn padding_ends_a_sentence_and_faults_are_named() -> Result<()> {
    let x = Tensor::new(&[[3f32, 0.0, 3.0, 5.0], [2.0, -1.0, -1.0, -1.0], [-1.0; 4]], &Device::Cpu)?;
    let all: [&[u32]; 3] = [&[3, 0, 3, 5], &[2], &[]];
    assert_eq!(Packed::from_padded(&x, 6)?, Packed::new(all));
    for (value, shown) in [(6f32, "6"), (0.5, "0.5"), (f32::NAN, "NaN")] {
        let refused = Packed::from_padded(&Tensor::new(&[value], &Device::Cpu)?, 6).expect_err("refused");
        assert!(refused.to_string().contains(&format!("{shown} is no word of a vocabulary of 6")));
    }
    let table = random("table", &[5, 3])?;
    assert!(word_windows(&table, &sentences(), 1).is_err(), "word 5 of 5");
    assert!(word_windows(&random("table", &[6, 3])?, &sentences(), 0).is_err());
    assert!(sentence_means(&random("rows", &[9, 3])?, &sentences()).is_err());
    Ok(())
}
