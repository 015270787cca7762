//! Numbers that are too large: states stay finite, and what is infinite or NaN stays visible. The
//! table of bits tests this for all rules, types and backends. Here are the values.

use fused_adam::{
    AdaGrad, Adam, AdamW, AnyRule, Backend, Element, Error, Flat, Float, GroupId, Kernel,
    KernelVisitor, Lanes, Lion, Optimizer, Rounding, Rule, Sgd, State, Tensor, bf16, f16,
};

use fused_adam::rules::Descent;

use crate::common::rules;

const MAX: f32 = f32::MAX;
/// The largest number whose square is finite, 2^64 − 2^40.
const ROOT: f32 = f32::from_bits(0x5F7F_FFFF);

/// The states of one element after a step.
fn step<R: Rule, E: Element, const N: usize>(
    rule: R,
    theta: E,
    grad: E,
    state: [E; N],
) -> (E, [E; N]) {
    let mut opt = Flat::resume(rule, 4, state.map(|x| vec![x]).to_vec()).unwrap();
    let mut theta = [theta];
    opt.step(&mut theta, &[grad]).unwrap();
    let (_, _, states, _) = opt.into_parts();
    (theta[0], std::array::from_fn(|i| states[i][0]))
}

/// 1 − 0.9, as a coefficient.
fn tenth() -> f32 {
    (1.0 - 0.9_f64) as f32
}

/// The square of one gradient overflows. Training goes on.
#[test]
fn one_large_gradient_does_not_end_training() {
    fn train<E: Element>(rule: AnyRule, large: f64) -> f64 {
        let mut opt = Flat::new(rule, 1).unwrap();
        let mut theta = [E::from_f64(1.0)];
        for grad in [large, 1.0, 1.0] {
            opt.step(&mut theta, &[E::from_f64(grad)]).unwrap();
            for state in rule.states() {
                assert!(opt.state(state.name()).unwrap()[0].to_f64().is_finite(), "{rule}");
            }
        }
        theta[0].to_f64()
    }
    for (name, rule) in rules::variants() {
        for (theta, type_name) in [
            (train::<f32>(rule, 3e19), "f32"),
            (train::<f32>(rule, 3e38), "f32"),
            (train::<f64>(rule, 3e154), "f64"),
            (train::<f64>(rule, 1e308), "f64"),
            (train::<bf16>(rule, 3e38), "bf16"),
            (train::<f16>(rule, 9000.0), "f16"),
        ] {
            // θ moves by the gradient itself where a rule does not divide by its size.
            let proportional = ["sgd", "radam", "adabound"].contains(&rule.name());
            // In 16 bits a small step may round to nothing.
            let moved = theta < 1.0 || theta == 1.0 && type_name.ends_with("16");
            assert!(moved, "{name} {type_name}: {theta}");
            assert!(theta > 0.0 || proportional, "{name} {type_name}: {theta}");
        }
    }
}

#[test]
fn a_gradient_whose_square_overflows_is_clamped() {
    let (theta, [m, v]) = step(AdamW::default(), 1.0_f32, 3e19, [0.0; 2]);
    assert_eq!([m, v], [ROOT * tenth(), ROOT * ROOT * (1.0 - 0.999_f64) as f32]);
    assert!((ROOT * ROOT).is_finite() && (ROOT.next_up() * ROOT.next_up()).is_infinite());
    assert!((0.99..1.0).contains(&theta));
    // Gradients whose square does not overflow have the bits of IEEE 754.
    let (_, [_, v]) = step(AdamW::default(), 1.0_f32, 1.8e19, [0.0; 2]);
    assert_eq!(v, 1.8e19 * 1.8e19 * (1.0 - 0.999_f64) as f32);
}

#[test]
fn a_difference_is_at_most_the_largest_number() {
    let (_, [m]) = step(Sgd { momentum: 0.9, average: true, ..Sgd::default() }, 1.0, 3e38, [-3e38]);
    assert_eq!(m, -3e38 + (ROOT + 3e38) * tenth());
    // The direction of Lion is that of the average, which is still below 0.
    let (theta, [_]) = step(Lion { lr: 0.25, ..Lion::default() }, 1.0, 3e38, [-3e38_f32]);
    assert_eq!(theta, 1.25);
}

#[test]
fn a_sum_is_at_most_the_largest_number() {
    let (_, [v]) = step(AdaGrad::default(), 1.0, 1e19, [MAX]);
    assert_eq!(v, MAX);
    let (_, [m]) = step(Sgd { momentum: 1.0, ..Sgd::default() }, 1.0, -3e38, [-3e38]);
    assert_eq!(m, -3e38 - ROOT);
    let (_, [v]) = step(AdaGrad::default(), 1.0, ROOT, [MAX]);
    assert_eq!(v, MAX);
    let l2 = Adam { weight_decay: 10.0, ..Adam::default() };
    let (_, [m, _]) = step(l2, MAX, 1.0, [0.0; 2]);
    assert_eq!(m, ROOT * tenth());
}

#[test]
fn a_scaled_gradient_has_a_finite_square() {
    let rule = Sgd { momentum: 0.5, ..Sgd::default() };
    let mut opt = Flat::new(rule, 1).unwrap().with_grad_scale(1e20);
    opt.step(&mut [1.0_f32], &[-1e30]).unwrap();
    assert_eq!(opt.state("m").unwrap(), [-ROOT]);
}

/// States of 16 bits are at most the largest number of their type, however they are rounded.
#[test]
fn states_are_narrowed_to_the_range_of_their_type() {
    for rounding in [Rounding::Nearest, Rounding::Stochastic { seed: 3 }] {
        let mut opt = Flat::new(AdamW::default(), 40).unwrap().with_rounding(rounding);
        opt.step(&mut [f16::ONE; 40], &[f16::from_f32(9000.0); 40]).unwrap();
        assert_eq!(opt.state("v").unwrap(), [f16::MAX; 40], "{rounding:?}");

        let sgd = Sgd { momentum: 1.0, ..Sgd::default() };
        for (grad, state) in [(f16::MAX, f16::MAX), (f16::MIN, f16::MIN)] {
            let mut opt = Flat::resume(sgd, 1, vec![vec![state; 40]]).unwrap();
            opt = opt.with_rounding(rounding);
            opt.step(&mut [f16::ONE; 40], &[grad; 40]).unwrap();
            assert_eq!(opt.state("m").unwrap(), [state; 40], "{rounding:?}");
        }
        // Just above the largest number, where stochastic rounding would sometimes go up. Here θ
        // is `f32`, and so is the loop of `bf16` states in between.
        let above = bf16::MAX.to_f32() * 1.001;
        let mut opt = Flat::<_, bf16>::new(sgd, 40).unwrap().with_rounding(rounding);
        opt.step_mixed(&mut [1.0_f32; 40], &[above; 40]).unwrap();
        assert_eq!(opt.state("m").unwrap(), [bf16::MAX; 40], "{rounding:?}");
    }
    // In the loop of `bf16` for all buffers.
    let sgd = Sgd { momentum: 1.0, ..Sgd::default() };
    let mut opt = Flat::resume(sgd, 1, vec![vec![bf16::MAX; 40]]).unwrap();
    opt.step(&mut [bf16::ONE; 40], &[bf16::from_f32(2e36); 40]).unwrap();
    assert_eq!(opt.state("m").unwrap(), [bf16::MAX; 40]);
}

#[test]
fn the_first_state_is_narrowed_too() -> Result<(), Error> {
    let rule = AdaGrad { initial_accumulator_value: 1e300, ..AdaGrad::default() };
    assert_eq!(Flat::<_, f16>::new(rule, 1)?.state("v").unwrap(), [f16::MAX]);
    assert_eq!(Flat::<_, f32>::new(rule, 1)?.state("v").unwrap(), [MAX]);
    let mut opt = Optimizer::new(rule)?;
    let w = opt.add_mixed::<f32, f32, f16>(GroupId::default(), "w", 1)?;
    opt.step([Tensor::new(w, &mut [1.0_f32], &[0.0_f32])])?;
    assert_eq!(opt.state::<f16>(w, "v").unwrap(), [f16::MAX]);
    Ok(())
}

/// A clip value does not make an infinite gradient look right.
#[test]
fn a_clip_value_does_not_hide_an_infinite_gradient() -> Result<(), Error> {
    let mut opt = Flat::new(AdamW::default(), 3)?.with_clip_value(1.0);
    let mut theta = [1.0_f32; 3];
    opt.step(&mut theta, &[f32::INFINITY, f32::NAN, 1e38])?;
    assert!(theta[0].is_nan() && theta[1].is_nan() && theta[2] < 1.0);
    Ok(())
}

/// A rule outside the crate needs nothing for it.
#[test]
fn a_rule_of_the_caller_is_held_too() -> Result<(), Error> {
    #[derive(Clone, Copy, Debug)]
    struct Cubes;

    impl Rule for Cubes {
        fn name(&self) -> &'static str {
            "cubes"
        }
        fn lr(&self) -> f64 {
            1.0
        }
        fn set_lr(&mut self, _: f64) {}
        fn states(&self) -> &'static [State] {
            static STATES: [State; 1] = [State::signed("m")];
            &STATES
        }
        fn check(&self) -> Result<(), Error> {
            Ok(())
        }
        fn visit_kernel<F: Float, W: KernelVisitor<F>>(
            &self,
            _: u64,
            _: &[f64],
            visitor: W,
        ) -> Result<(), Error> {
            visitor.visit(&CubesKernel(Descent::new(false, 1.0, 0.0, false)?))
        }
    }

    #[derive(Clone, Copy, Debug)]
    struct CubesKernel<F>(Descent<F>);

    impl<F: Float> Kernel<F, 1> for CubesKernel<F> {
        #[inline(always)]
        fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, [m]: [L; 1]) -> (L, [L; 1]) {
            let m = m + grad * grad * grad;
            (self.0.descend(theta, m.sign()), [m])
        }
    }

    for &backend in Backend::ALL.iter().filter(|backend| backend.is_available()) {
        let mut opt = Flat::new(Cubes, 100)?.with_backend(backend);
        let mut theta = [1.0_f32; 100];
        let mut grad = [0.5; 100];
        grad[70] = -1e30;
        opt.step(&mut theta, &grad)?;
        assert_eq!((opt.state("m").unwrap()[70], theta[70]), (-MAX, 2.0), "{backend}");
        assert_eq!((opt.state("m").unwrap()[71], theta[71]), (0.125, 0.0), "{backend}");
    }
    Ok(())
}

/// States that cannot be allocated are an error, and nothing has changed.
#[test]
fn states_that_cannot_be_allocated() -> Result<(), Error> {
    // Three states, which do not fit into 32 bits of addresses either.
    let adamw = AdamW { amsgrad: true, ..AdamW::default() };
    for len in [usize::MAX / 9, usize::MAX] {
        let error = Flat::<_, f32>::new(adamw, len).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert!(error.to_string().ends_with("bytes, which could not be allocated"), "{error}");
    }
    let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
    assert!(Flat::<_, f32>::new(Sgd::default(), usize::MAX).is_ok(), "it has no states");
    assert!(Flat::<_, f64>::new(sgd, usize::MAX).is_err());
    Ok(())
}
