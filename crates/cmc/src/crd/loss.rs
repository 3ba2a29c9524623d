//! Distillation of logits (Hinton, Vinyals, Dean 2015).

use candle_core::{D, Tensor};
use contrastive_core::loss::soft_cross_entropy;
use contrastive_core::{Error, Result};

/// `T² KL(softmax(teacher / T) ‖ softmax(student / T))`, the mean over samples. Logits are `[N, K]`; the teacher's are
/// constant.
///
/// # Errors
/// Shapes that differ, a temperature that is not positive.
pub fn distillation(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    if student.dims() != teacher.dims() {
        return Err(Error::shape("distillation", format!("{:?}", teacher.dims()), student.dims()));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::config("temperature", format!("must be above 0 and finite, got {temperature}")));
    }
    let scaled = (teacher.detach() / temperature)?;
    let shifted = scaled.broadcast_sub(&scaled.max_keepdim(D::Minus1)?)?;
    let log = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    let target = log.exp()?;
    let entropy = ((&target * &log)?.sum(D::Minus1)?.mean_all()? * -1.0)?;
    let cross = soft_cross_entropy(&(student / temperature)?, &target)?;
    Ok(((cross - entropy)? * (temperature * temperature))?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use contrastive_core::tensor::{GradCheck, check_gradients};

    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_formula() -> Result<()> {
        let student = Tensor::new(&[[1f64, 2.0, 0.5], [0.0, -1.0, 3.0]], &Device::Cpu)?;
        let teacher = Tensor::new(&[[2f64, 0.0, 1.0], [0.5, 0.5, 2.0]], &Device::Cpu)?;
        let t = 4.0;
        let softmax = |row: &[f64]| -> Vec<f64> {
            let exp: Vec<f64> = row.iter().map(|v| (v / t).exp()).collect();
            exp.iter().map(|v| v / exp.iter().sum::<f64>()).collect()
        };
        let (s, r) = (student.to_vec2::<f64>()?, teacher.to_vec2::<f64>()?);
        let row = |(s, r): (&Vec<f64>, &Vec<f64>)| -> f64 {
            softmax(r).iter().zip(softmax(s)).map(|(p, q)| p * (p / q).ln()).sum()
        };
        let expected = s.iter().zip(&r).map(row).sum::<f64>() / 2.0 * t * t;
        let got = distillation(&student, &teacher, t)?.to_scalar::<f64>()?;
        assert!((got - expected).abs() < 1e-9, "{got}, expected {expected}");
        assert!(distillation(&teacher, &teacher, t)?.to_scalar::<f64>()?.abs() < 1e-12);
        assert!(distillation(&student, &teacher, 0.0).is_err());
        check_gradients(&[student], GradCheck::default(), |x| distillation(&x[0], &teacher, t))
    }
}
