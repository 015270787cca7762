//! Compares AdamW in ndarray's own arithmetic with a step of this crate. It prints a table and
//! plots it.
//!
//! ```text
//! cargo run --release -p fused-adam-ndarray --example compare     # -- --test runs each side once
//! ```
//!
//! `Zip` is one pass over all arrays. `par` is the same on the threads of the rayon pool. `arrays`
//! uses whole-array expressions, with one array for each term. A gradient in column-major order can
//! be the result of a product with a transposed array; fused-adam copies it for the step. The last
//! table is the overhead of this crate: the core's step on slices next to the same step on arrays.

use fused_adam_compare::Comparison;
use fused_adam_ndarray::{fused_adam::AdamW, step};
use ndarray::{Array2, ArrayRef2, ShapeBuilder, Zip};

const LR: f64 = 1e-3;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.01;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut comparison = Comparison::new("ndarray");
    let (mut theirs, mut ours) = (Arrays::new(4), Arrays::new(4));
    comparison.measure("Zip, 16 elements", || theirs.zip(), || ours.step());
    for log2 in [16, 20, 24] {
        let (mut theirs, mut ours) = (Arrays::new(1 << (log2 / 2)), Arrays::new(1 << (log2 / 2)));
        comparison.measure(&format!("Zip, 2^{log2}"), || theirs.zip(), || ours.step());
        comparison.measure(&format!("par, 2^{log2}"), || theirs.par(), || ours.step());
        comparison.measure(&format!("arrays, 2^{log2}"), || theirs.arrays(), || ours.step());
        theirs.lay_grad_by_columns();
        ours.lay_grad_by_columns();
        let case = format!("Zip, 2^{log2}, g by columns");
        comparison.measure(&case, || theirs.zip(), || ours.step());
        let case = format!("par, 2^{log2}, g by columns");
        comparison.measure(&case, || theirs.par(), || ours.step());
    }
    comparison.finish()?;

    println!();
    let mut border = Comparison::new("plain-slices");
    let (mut slices, mut ours) = (Arrays::new(4), Arrays::new(4));
    border.measure("16 elements", || slices.step_slices(), || ours.step());
    let (mut slices, mut ours) = (Arrays::new(256), Arrays::new(256));
    border.measure("2^16", || slices.step_slices(), || ours.step());
    border.finish()?;
    Ok(())
}

struct Arrays {
    t: u64,
    theta: Array2<f32>,
    grad: Array2<f32>,
    m: Array2<f32>,
    v: Array2<f32>,
}

impl Arrays {
    /// Square arrays.
    fn new(side: usize) -> Self {
        let of = |scale: f32| {
            Array2::from_shape_fn((side, side), |(i, j)| scale * ((i * 31 + j * 17) % 97) as f32)
        };
        let zeros = Array2::zeros((side, side));
        Arrays { t: 0, theta: of(0.01), grad: of(-0.001), m: zeros.clone(), v: zeros }
    }

    fn lay_grad_by_columns(&mut self) {
        let mut columns = Array2::zeros(self.grad.raw_dim().f());
        columns.assign(&self.grad);
        self.grad = columns;
    }

    fn step(&mut self) {
        let Arrays { t, theta, grad, m, v } = self;
        *t += 1;
        step(&AdamW::default(), *t, theta, grad, &mut [m, v]).expect("all is as it should be");
    }

    fn step_slices(&mut self) {
        let Arrays { t, theta, grad, m, v } = self;
        *t += 1;
        let [theta, m, v] = [theta, m, v].map(|array| array.as_slice_mut().expect("it is one"));
        let grad = grad.as_slice().expect("it is one");
        AdamW::default().step(*t, theta, grad, [m, v]).expect("all is as it should be");
    }

    /// Increments the step number, and returns the two bias corrections.
    fn corrections(&mut self) -> [f32; 2] {
        self.t += 1;
        let power = |beta: f32| f64::from(beta).powi(i32::try_from(self.t).unwrap_or(i32::MAX));
        [BETA1, BETA2].map(|beta| (1.0 - power(beta)) as f32)
    }

    fn zip(&mut self) {
        let element = element(self.corrections());
        let Arrays { theta, grad, m, v, .. } = self;
        Zip::from(theta).and(m).and(v).and(&*grad).for_each(element);
    }

    fn par(&mut self) {
        let element = element(self.corrections());
        let Arrays { theta, grad, m, v, .. } = self;
        Zip::from(theta).and(m).and(v).and(&*grad).par_for_each(element);
    }

    fn arrays(&mut self) {
        let [correction1, correction2] = self.corrections();
        let Arrays { theta, grad, m, v, .. } = self;
        let grad: &ArrayRef2<f32> = grad;
        *m = &*m * BETA1 + grad * (1.0 - BETA1);
        *v = &*v * BETA2 + grad * grad * (1.0 - BETA2);
        let (m_hat, v_hat) = (&*m / correction1, &*v / correction2);
        let update = m_hat / (v_hat.sqrt() + EPS) + &*theta * WEIGHT_DECAY;
        *theta -= &(update * LR as f32);
    }
}

/// AdamW of one element.
fn element(
    [correction1, correction2]: [f32; 2],
) -> impl Fn(&mut f32, &mut f32, &mut f32, &f32) + Sync + Send + Copy {
    let lr = LR as f32;
    move |theta, m, v, &grad| {
        *m = BETA1 * *m + (1.0 - BETA1) * grad;
        *v = BETA2 * *v + (1.0 - BETA2) * grad * grad;
        let root = (*v / correction2).sqrt() + EPS;
        *theta -= lr * (*m / correction1 / root + WEIGHT_DECAY * *theta);
    }
}
