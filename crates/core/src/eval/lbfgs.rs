//! Limited-memory BFGS with a strong-Wolfe line search (Nocedal and Wright, "Numerical Optimization", algorithms 7.4,
//! 7.5, 3.5 and 3.6), in f64.

use std::collections::VecDeque;

/// Pairs of steps and gradient changes that are kept.
const MEMORY: usize = 10;
/// Sufficient decrease and curvature constants of the Wolfe conditions.
const DECREASE: f64 = 1e-4;
const CURVATURE: f64 = 0.9;
/// Trial points of one line search.
const TRIALS: usize = 50;

/// How a minimisation ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ending {
    pub(super) iterations: usize,
    pub(super) converged: bool,
    pub(super) value: f64,
    /// The largest absolute element of the gradient.
    pub(super) gradient: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn largest(gradient: &[f64]) -> f64 {
    gradient.iter().fold(0.0, |m, g| if g.abs() <= m { m } else { g.abs() })
}

/// A point with its value and gradient.
#[derive(Clone)]
struct Point {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// Minimises `f` (which writes the gradient and returns the value) from `x`, in place. Converged: the largest gradient
/// element is at most `tolerance`, or an iteration lowered the value by less than f64 can show (64 epsilon relative,
/// scikit-learn's setting).
pub(super) fn minimise(
    mut f: impl FnMut(&[f64], &mut [f64]) -> f64,
    x: &mut Vec<f64>,
    max_iterations: usize,
    tolerance: f64,
) -> Ending {
    let mut gradient = vec![0.0; x.len()];
    let value = f(x, &mut gradient);
    let mut here = Point { x: x.clone(), value, gradient };
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::with_capacity(MEMORY);
    let mut iterations = 0;
    let mut converged = largest(&here.gradient) <= tolerance;
    while !converged && iterations < max_iterations && here.value.is_finite() {
        let direction = two_loop(&pairs, &here.gradient);
        // The first direction has the length of the gradient, which says nothing about the step to take.
        let first = if pairs.is_empty() { (1.0 / dot(&direction, &direction).sqrt()).min(1.0) } else { 1.0 };
        let Some(next) = line_search(&mut f, &here, &direction, first) else {
            if pairs.is_empty() {
                break;
            }
            // A stale curvature estimate may give a useless direction: once more along the gradient.
            pairs.clear();
            continue;
        };
        iterations += 1;
        let step: Vec<f64> = next.x.iter().zip(&here.x).map(|(a, b)| a - b).collect();
        let change: Vec<f64> = next.gradient.iter().zip(&here.gradient).map(|(a, b)| a - b).collect();
        let curvature = dot(&step, &change);
        if curvature > f64::EPSILON * dot(&change, &change) {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            pairs.push_back((step, change, 1.0 / curvature));
        }
        let scale = here.value.abs().max(next.value.abs()).max(1.0);
        let stalled = (here.value - next.value) <= 64.0 * f64::EPSILON * scale;
        here = next;
        converged = stalled || largest(&here.gradient) <= tolerance;
    }
    let ending = Ending { iterations, converged, value: here.value, gradient: largest(&here.gradient) };
    *x = here.x;
    ending
}

/// Minus the inverse Hessian estimate times the gradient.
fn two_loop(pairs: &VecDeque<(Vec<f64>, Vec<f64>, f64)>, gradient: &[f64]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for (step, change, rho) in pairs.iter().rev() {
        let alpha = rho * dot(step, &q);
        q.iter_mut().zip(change).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((_, change, rho)) = pairs.back() {
        let scale = 1.0 / (rho * dot(change, change));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((step, change, rho), alpha) in pairs.iter().zip(alphas.iter().rev()) {
        let beta = rho * dot(change, &q);
        q.iter_mut().zip(step).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

/// A trial along the line: step length, value, slope.
#[derive(Clone, Copy)]
struct Trial {
    at: f64,
    value: f64,
    slope: f64,
}

/// A point that satisfies the strong Wolfe conditions, or the lowest trial that decreases enough when the trials run
/// out; `None` if there is none (rounding near the minimum, or no direction of descent).
fn line_search(
    f: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
    here: &Point,
    direction: &[f64],
    first: f64,
) -> Option<Point> {
    let slope = dot(&here.gradient, direction);
    if slope.is_nan() || slope >= 0.0 {
        return None;
    }
    let start = Trial { at: 0.0, value: here.value, slope };
    // Close to the minimum the decrease drowns in the rounding of the value.
    let slack = 4.0 * f64::EPSILON * here.value.abs();
    let mut point = here.clone();
    let mut fallback: Option<Point> = None;
    let (mut low, mut high): (Trial, Option<Trial>) = (start, None);
    let mut at = first;
    for _ in 0..TRIALS {
        point.x.iter_mut().zip(&here.x).zip(direction).for_each(|((p, x), d)| *p = x + at * d);
        point.value = f(&point.x, &mut point.gradient);
        let trial = Trial { at, value: point.value, slope: dot(&point.gradient, direction) };
        let enough = trial.value <= here.value + DECREASE * at * slope + slack;
        if enough && trial.slope.abs() <= CURVATURE * slope.abs() {
            return Some(point);
        }
        if enough && fallback.as_ref().is_none_or(|f| trial.value < f.value) {
            fallback = Some(point.clone());
        }
        // False for NaN, which then counts as a rise.
        let lower = trial.value < low.value;
        match high {
            // Nothing brackets the minimum yet: stop growing at the first rise.
            None if !enough || (low.at > 0.0 && !lower) => high = Some(trial),
            None if trial.slope >= 0.0 => {
                high = Some(low);
                low = trial;
            }
            None => {
                low = trial;
                at *= 2.0;
                continue;
            }
            Some(_) if !enough || !lower => high = Some(trial),
            Some(other) => {
                if trial.slope * (other.at - low.at) >= 0.0 {
                    high = Some(low);
                }
                low = trial;
            }
        }
        let end = high.unwrap_or(start);
        if (end.at - low.at).abs() <= f64::EPSILON * low.at.max(end.at) {
            break;
        }
        at = between(low, end);
    }
    fallback
}

/// The minimum of the cubic through two trials, kept off the ends of the interval.
fn between(a: Trial, b: Trial) -> f64 {
    let (width, middle) = (b.at - a.at, 0.5 * (a.at + b.at));
    let d1 = a.slope + b.slope - 3.0 * (b.value - a.value) / width;
    let square = d1 * d1 - a.slope * b.slope;
    if square.is_nan() || square < 0.0 {
        return middle;
    }
    let d2 = square.sqrt().copysign(width);
    let at = b.at - width * (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2);
    let (left, right) = (a.at.min(b.at), a.at.max(b.at));
    let margin = 0.1 * (right - left);
    if at.is_finite() { at.clamp(left + margin, right - margin) } else { middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_rosenbrock() {
        // The valley is curved and narrow; steepest descent needs thousands of steps.
        let f = |x: &[f64], g: &mut [f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            g[0] = -2.0 * a - 400.0 * x[0] * b;
            g[1] = 200.0 * b;
            a * a + 100.0 * b * b
        };
        let mut x = vec![-1.2, 1.0];
        let ending = minimise(f, &mut x, 200, 1e-8);
        assert!(ending.converged && ending.iterations < 60, "{ending:?}");
        assert!((x[0] - 1.0).abs() < 1e-6 && (x[1] - 1.0).abs() < 1e-6, "{x:?}");
    }

    #[test]
    fn solves_an_ill_conditioned_quadratic() {
        let n = 40;
        let f = |x: &[f64], g: &mut [f64]| {
            let mut value = 0.0;
            for (i, (x, g)) in x.iter().zip(g.iter_mut()).enumerate() {
                let scale = 10f64.powf(4.0 * i as f64 / 39.0);
                *g = scale * (x - 1.0);
                value += 0.5 * scale * (x - 1.0) * (x - 1.0);
            }
            value
        };
        let mut x = vec![0.0; n];
        let ending = minimise(f, &mut x, 1000, 1e-9);
        // SciPy's L-BFGS-B takes 697 iterations under the same settings.
        assert!(ending.converged && ending.iterations < 900, "{ending:?}");
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-5), "{ending:?} {x:?}");
    }

    #[test]
    fn stops_at_the_limit_and_says_so() {
        let f = |x: &[f64], g: &mut [f64]| {
            g.iter_mut().zip(x).enumerate().for_each(|(i, (g, x))| *g = (i + 1) as f64 * x.powi(3));
            x.iter().enumerate().map(|(i, x)| (i + 1) as f64 * x.powi(4) / 4.0).sum()
        };
        let mut x = vec![3.0; 5];
        let ending = minimise(f, &mut x, 2, 1e-12);
        assert!(!ending.converged && ending.iterations == 2, "{ending:?}");
    }
}
