//! A rule that is defined outside the crate. It works everywhere that the crate's own rules do: in
//! a step on slices, in [`Flat`], in an optimizer of many tensors, and in a checkpoint.
//!
//! ```text
//! cargo run --release --example own_rule
//! ```
//!
//! The rule is Yogi (Zaheer, Reddi, Sachan, Kale and Kumar, "Adaptive Methods for Nonconvex
//! Optimization", 2018). It is Adam, except that v moves towards g² by (1−β2)·g², independent of
//! the distance.

use fused_adam::rules::{Descent, Ema, check_averages, corrections, round_coefficient, round_eps};
use fused_adam::{
    CheckpointReader, Error, Flat, Float, GroupId, Kernel, KernelVisitor, Lanes, Optimizer, Rule,
    State, Step, Tensor,
};

/// Yogi with decoupled weight decay.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Yogi {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

impl Default for Yogi {
    fn default() -> Self {
        Yogi { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-3, weight_decay: 0.0 }
    }
}

impl Rule for Yogi {
    fn name(&self) -> &'static str {
        "yogi"
    }

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn states(&self) -> &'static [State] {
        static STATES: [State; 2] = [State::signed("m"), State::non_negative("v").divisor()];
        &STATES
    }

    fn check(&self) -> Result<(), Error> {
        check_averages(self.lr, [self.beta1, self.beta2], self.eps, self.weight_decay)
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        t: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        let [correction1, correction2] = corrections([self.beta1, self.beta2], t);
        visitor.visit(&YogiKernel {
            descent: Descent::new(false, self.lr, self.weight_decay, true)?,
            m: Ema::new(self.beta1),
            v_rate: F::from_f64(1.0 - self.beta2),
            root_scale: round_coefficient(1.0 / correction2.sqrt(), "beta2", self.beta2)?,
            eps: round_eps(self.eps)?,
            step_size: round_coefficient(self.lr / correction1, "lr", self.lr)?,
        })
    }
}

/// The coefficients of one step.
#[derive(Clone, Copy, Debug)]
struct YogiKernel<F> {
    descent: Descent<F>,
    m: Ema<F>,
    /// 1 − β2.
    v_rate: F,
    /// 1/√(1−β2^t).
    root_scale: F,
    eps: F,
    /// lr/(1−β1^t).
    step_size: F,
}

impl<F: Float> Kernel<F, 2> for YogiKernel<F> {
    #[inline(always)]
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m, v]: [L; 2]) -> (L, [L; 2]) {
        let g = self.descent.gradient(theta, grad);
        let m = self.m.average(m, g);
        let square = g * g;
        let v = v - (v - square).sign() * square * self.v_rate;
        let d = v.sqrt() * self.root_scale + self.eps;
        (self.descent.descend(theta, m * self.step_size / d), [m, v])
    }
}

/// The gradient of Σ(x − target)².
fn gradient(theta: &[f32], target: f32) -> Vec<f32> {
    theta.iter().map(|x| 2.0 * (x - target)).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let yogi = Yogi::default();
    const LEN: usize = 1000;

    // A step on slices, on every backend of this CPU, with bit-identical results.
    let step_on = |backend| -> Result<Vec<f32>, Error> {
        let (mut theta, mut m, mut v) = (vec![1.0; LEN], vec![0.0; LEN], vec![0.0; LEN]);
        for t in 1..=10 {
            let grad = gradient(&theta, 3.0);
            Step::new(&yogi, t).with_backend(backend).run(
                &mut theta,
                &grad,
                &mut [&mut m, &mut v],
            )?;
        }
        Ok(theta)
    };
    let available =
        fused_adam::Backend::ALL.iter().copied().filter(|backend| backend.is_available());
    let all: Vec<Vec<f32>> = available.map(step_on).collect::<Result<_, _>>()?;
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(all.iter().all(|theta| same(theta, &all[0])), "backends differ");

    // With `Flat`, which stores the states.
    let mut flat = Flat::new(yogi, LEN)?;
    let mut theta = vec![1.0_f32; LEN];
    for _ in 0..10 {
        let grad = gradient(&theta, 3.0);
        flat.step(&mut theta, &grad)?;
    }
    assert!(same(&theta, &all[0]), "`Flat` differs");

    // An optimizer of many tensors, saved after half of the steps and resumed from the file.
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("yogi.safetensors");
    let optimizer = || -> Result<Optimizer<Yogi>, Error> {
        let mut opt = Optimizer::new(yogi)?;
        opt.add::<f32>(GroupId::default(), "w", LEN)?;
        opt.add::<f32>(GroupId::default(), "b", 10)?;
        Ok(opt)
    };
    let (mut w, mut b) = (vec![1.0_f32; LEN], vec![1.0_f32; 10]);
    let mut opt = optimizer()?;
    for step in 1..=10 {
        let (of_w, of_b) = (gradient(&w, 3.0), gradient(&b, -1.0));
        opt.step([Tensor::new("w", &mut w, &of_w), Tensor::new("b", &mut b, &of_b)])?;
        if step == 5 {
            opt.checkpoint().with_tensor("w", &w).with_tensor("b", &b).save(&path)?;
            opt = optimizer()?;
            CheckpointReader::open(&path)?.load(&mut opt)?;
        }
    }
    assert!(same(&w, &all[0]), "the optimizer differs");

    println!("θ after 10 steps from 1 towards 3, with slices, `Flat`, and a checkpoint: {}", w[0]);
    Ok(())
}
