//! Every wrong call: its exact error message, and that it changes nothing.

use fused_adam::{
    AdaBound, Adam, AdamW, AnyRule, Backend, Error, Flat, Float, Kernel, KernelVisitor, Lanes,
    RmsProp, Rule, Sgd, State, Step,
};

const SOME: [f32; 4] = [0.1, -0.2, 0.3, -0.4];

/// Takes step `t` with buffers of these lengths, checks that it does not change them, and returns
/// the error message.
fn refusal<R: Rule>(rule: &R, t: u64, backend: Backend, lens: &[usize]) -> String {
    let mut buffers: Vec<Vec<f32>> = lens.iter().map(|&len| SOME[..len].to_vec()).collect();
    let [theta, grad, states @ ..] = &mut buffers[..] else { panic!("θ and g at least") };
    let mut states: Vec<&mut [f32]> = states.iter_mut().map(Vec::as_mut_slice).collect();
    let result = Step::new(rule, t).with_backend(backend).run(theta, grad, &mut states);
    for (buffer, &len) in buffers.iter().zip(lens) {
        assert_eq!(buffer, &SOME[..len], "something was written before the error");
    }
    result.expect_err("the call is wrong").to_string()
}

const PLAIN: [usize; 4] = [4, 4, 4, 4];

#[test]
fn hyper_parameters_outside_their_range() {
    let table: [(&str, &[f64], &str); 5] = [
        ("lr", &[-1e-3, f64::NAN, f64::INFINITY], "a finite number of at least 0"),
        ("beta1", &[-0.1, 1.0, 1.5, f64::NAN], "a number in [0, 1)"),
        ("beta2", &[-0.1, 1.0, 1.5, f64::INFINITY], "a number in [0, 1)"),
        ("eps", &[0.0, -0.0, -1e-8, f64::INFINITY, f64::NAN], "a finite number above 0"),
        ("weight_decay", &[-0.01, f64::NAN, f64::INFINITY], "a finite number of at least 0"),
    ];
    for (name, values, expected) in table {
        for &value in values {
            let mut adam = Adam::default();
            let mut adamw = AdamW::default();
            let [a, w] = match name {
                "lr" => [&mut adam.lr, &mut adamw.lr],
                "beta1" => [&mut adam.beta1, &mut adamw.beta1],
                "beta2" => [&mut adam.beta2, &mut adamw.beta2],
                "eps" => [&mut adam.eps, &mut adamw.eps],
                _ => [&mut adam.weight_decay, &mut adamw.weight_decay],
            };
            (*a, *w) = (value, value);
            let message = format!("`{name}` is {value:?}, expected {expected}");
            assert_eq!(refusal(&adam, 1, Backend::Auto, &PLAIN), message);
            assert_eq!(refusal(&adamw, 1, Backend::Auto, &PLAIN), message);
            assert_eq!(adam.check().unwrap_err().to_string(), message);
            assert_eq!(Flat::<_, f32>::new(adamw, 4).unwrap_err().to_string(), message);
        }
    }
}

#[test]
fn options_of_sgd_that_exclude_each_other() {
    let momentum = Sgd { momentum: 0.9, ..Sgd::default() };
    for (rule, message) in [
        (
            Sgd { nesterov: true, ..Sgd::default() },
            "`momentum` is 0.0, expected above 0 with `nesterov`",
        ),
        (
            Sgd { nesterov: true, dampening: 0.1, ..momentum },
            "`dampening` is 0.1, expected 0 with `nesterov`",
        ),
        (
            Sgd { average: true, dampening: 0.1, ..momentum },
            "`dampening` is 0.1, expected 0 with `average`",
        ),
    ] {
        assert_eq!(refusal(&rule, 1, Backend::Auto, &[4, 4, 4]), message);
    }
}

/// States that a rule has with some options and not with others.
#[test]
fn states_of_every_rule() {
    let states =
        |rule: AnyRule| rule.states().iter().map(State::name).collect::<Vec<_>>().join(" ");
    let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
    let rmsprop = |centered, momentum| RmsProp { centered, momentum, ..RmsProp::default() };
    assert_eq!(states(Sgd::default().into()), "");
    assert_eq!(states(sgd.into()), "m");
    assert_eq!(states(rmsprop(false, 0.0).into()), "v");
    assert_eq!(states(rmsprop(false, 0.9).into()), "v b");
    assert_eq!(states(rmsprop(true, 0.0).into()), "v m");
    assert_eq!(states(rmsprop(true, 0.9).into()), "v m b");
    assert_eq!(states(AdaBound { amsbound: true, ..AdaBound::default() }.into()), "m v v_max");
    let missing = "state `m` is missing, expected the state `m`";
    assert_eq!(refusal(&sgd, 1, Backend::Auto, &[4, 4]), missing);
    let superfluous = "1 state was given, expected none";
    assert_eq!(refusal(&Sgd::default(), 1, Backend::Auto, &[4, 4, 4]), superfluous);
}

/// Found before memory is allocated.
#[test]
fn an_owner_is_checked_before_it_allocates() {
    let adam = Adam { lr: -1.0, ..Adam::default() };
    assert!(Flat::<_, f32>::new(adam, usize::MAX).is_err());
}

/// Within its range as an f64, but not usable as an f32.
#[test]
fn hyper_parameters_that_the_element_type_cannot_hold() {
    let tiny = Adam { eps: 1e-60, ..Adam::default() };
    let message = "`eps` is 1e-60, expected above 0 once rounded to the type computed with";
    assert_eq!(refusal(&tiny, 1, Backend::Auto, &PLAIN), message);
    let huge = Adam { lr: 1e38, ..Adam::default() };
    let message = "`lr` is 1e38, expected a value whose coefficient is finite in the element type";
    assert_eq!(refusal(&huge, 1, Backend::Auto, &PLAIN), message);
    let dense = Adam { eps: 1e39, ..Adam::default() };
    let message = "`eps` is 1e39, expected a value whose coefficient is finite in the element type";
    assert_eq!(refusal(&dense, 1, Backend::Auto, &PLAIN), message);
    let decay = AdamW { lr: 1e30, weight_decay: 1e10, ..AdamW::default() };
    let message = "`weight_decay` is 10000000000.0, expected a value whose coefficient is finite \
                   in the element type";
    assert_eq!(refusal(&decay, 1, Backend::Auto, &PLAIN), message);
    // The first two are valid in f64.
    let (mut theta, grad, mut m, mut v) = ([1.0_f64], [1.0], [0.0], [0.0]);
    tiny.step(1, &mut theta, &grad, [&mut m, &mut v]).unwrap();
    huge.step(1, &mut theta, &grad, [&mut m, &mut v]).unwrap();
}

#[test]
fn ends_of_the_ranges_are_fine() {
    let adam = Adam { lr: 0.0, beta1: 0.0, beta2: 0.0, weight_decay: 0.0, ..Adam::default() };
    let (mut theta, grad, mut m, mut v) = ([0.5_f32], [2.0], [0.0], [0.0]);
    adam.step(u64::MAX, &mut theta, &grad, [&mut m, &mut v]).unwrap();
    assert_eq!((theta, m, v), ([0.5], [2.0], [4.0]));
    let adamw = AdamW { beta1: 1.0 - f64::EPSILON / 2.0, ..AdamW::default() };
    adamw.step(1, &mut theta, &grad, [&mut m, &mut v]).unwrap();
}

#[test]
fn step_numbers_start_at_one() {
    let message = "step number `t` is 0, expected 1 for the first step";
    assert_eq!(refusal(&Adam::default(), 0, Backend::Auto, &PLAIN), message);

    let state = vec![vec![0.0_f32; 4]; 2];
    let mut full = Flat::resume(Adam::default(), u64::MAX, state).unwrap();
    let mut theta = SOME;
    let message = "step number `t` is 18446744073709551615, expected less than u64::MAX for \
                   another step to follow";
    assert_eq!(full.step(&mut theta, &SOME).unwrap_err().to_string(), message);
    assert_eq!((theta, full.t()), (SOME, u64::MAX));
}

#[test]
fn lengths_that_differ() {
    let adam = Adam { amsgrad: true, ..Adam::default() };
    for (buffer, name) in [(1, "grad"), (2, "m"), (3, "v"), (4, "v_max")] {
        for len in [0, 3] {
            let mut lens = [4; 5];
            lens[buffer] = len;
            let message = format!("`{name}` has {len} elements, expected 4 as in `theta`");
            assert_eq!(refusal(&adam, 1, Backend::Auto, &lens), message);
        }
    }
    // A longer buffer is an error, as a shorter one is.
    let message = "`grad` has 4 elements, expected 3 as in `theta`";
    assert_eq!(refusal(&adam, 1, Backend::Auto, &[3, 4, 4, 4, 4]), message);
}

#[test]
fn states_that_are_missing_or_too_many() {
    let (plain, amsgrad) = (AdamW::default(), AdamW { amsgrad: true, ..AdamW::default() });
    let missing = "state `v_max` is missing, expected the states `m`, `v`, `v_max`";
    let superfluous = "3 states were given, expected the states `m`, `v`";
    assert_eq!(refusal(&amsgrad, 1, Backend::Auto, &PLAIN), missing);
    assert_eq!(refusal(&plain, 1, Backend::Auto, &[4; 5]), superfluous);
    let missing_both = "state `m` is missing, expected the states `m`, `v`";
    assert_eq!(refusal(&plain, 1, Backend::Auto, &[4, 4]), missing_both);

    // The short form does not take v_max, and a `Flat` that was made without v_max does not have
    // it.
    let (mut theta, mut m, mut v) = (SOME, SOME, SOME);
    let error = amsgrad.step(1, &mut theta, &SOME, [&mut m, &mut v]).unwrap_err();
    assert_eq!(error.to_string(), missing);
    let mut owner = Flat::new(plain, 4).unwrap();
    owner.rule_mut().amsgrad = true;
    assert_eq!(owner.step(&mut theta, &SOME).unwrap_err().to_string(), missing);
    assert_eq!((theta, m, v, owner.t()), (SOME, SOME, SOME, 0));
}

#[test]
fn backends_that_this_cpu_lacks() {
    let lacking: Vec<_> = Backend::ALL.iter().copied().filter(|b| !b.is_available()).collect();
    assert!(!lacking.is_empty(), "no CPU has both AVX2 and NEON");
    for backend in lacking {
        let message = refusal(&Adam::default(), 1, backend, &PLAIN);
        let start = format!("backend `{backend}` is not available on this CPU, expected one of ");
        assert!(message.starts_with(&(start + "auto, scalar, wide")), "{message}");
        let available = message.split_once("one of ").unwrap().1;
        assert!(available.split(", ").all(|name| name != backend.name()), "{message}");
        assert_eq!(backend.resolved(), None);
    }
}

#[test]
fn names_of_backends() {
    for &backend in Backend::ALL {
        assert_eq!(backend.name().parse(), Ok(backend));
    }
    let message = "there is no backend `sse9`, expected one of auto, scalar, wide, native, avx2, \
                   avx512, neon";
    assert_eq!("sse9".parse::<Backend>().unwrap_err().to_string(), message);
}

#[test]
fn empty_slices_are_fine() {
    let adam = Adam::default();
    for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
        let step = Step::new(&adam, 1).with_backend(backend);
        assert_eq!(step.run::<f64>(&mut [], &[], &mut [&mut [], &mut []]), Ok(()));
    }
    assert_eq!(Flat::<_, f32>::new(AdamW::default(), 0).unwrap().step(&mut [], &[]), Ok(()));
}

/// A rule from outside the crate is checked like any other, and is an error if it is inconsistent.
#[derive(Clone)]
struct Foreign {
    states: &'static [State],
    fine: bool,
}

impl Rule for Foreign {
    fn name(&self) -> &'static str {
        "foreign"
    }

    fn lr(&self) -> f64 {
        0.0
    }

    fn set_lr(&mut self, _: f64) {}

    fn states(&self) -> &'static [State] {
        self.states
    }

    fn check(&self) -> Result<(), Error> {
        let error = Error::HyperParameter { name: "fine", value: 0.0, expected: "1" };
        if self.fine { Ok(()) } else { Err(error) }
    }

    fn visit_kernel<F: Float, W: KernelVisitor<F>>(
        &self,
        _: u64,
        _: &[f64],
        visitor: W,
    ) -> Result<(), Error> {
        visitor.visit(&Add)
    }
}

const TWO: [State; 2] = [State::signed("s"), State::signed("t")];
const ONE: [State; 1] = [TWO[0]];

/// θ + g, with one state that does not change.
#[derive(Clone, Copy, Debug)]
struct Add;

impl<F: Float> Kernel<F, 1> for Add {
    fn update<L: Lanes<Float = F>>(&self, theta: L, grad: L, state: [L; 1]) -> (L, [L; 1]) {
        (theta + grad, state)
    }

    fn reference(&self, theta: F, grad: F, state: [F; 1]) -> (F, [F; 1]) {
        (theta + grad, state)
    }
}

#[test]
fn rules_from_outside() {
    for backend in Backend::ALL.iter().copied().filter(|backend| backend.is_available()) {
        let good = Foreign { states: &ONE[..], fine: true };
        let mut theta = SOME;
        let step = Step::new(&good, 1).with_backend(backend);
        step.run(&mut theta, &SOME, &mut [&mut [0.0; 4]]).unwrap();
        assert_eq!(theta, SOME.map(|x| x + x));

        let unfit = Foreign { fine: false, ..good };
        assert_eq!(refusal(&unfit, 1, backend, &[4; 3]), "`fine` is 0.0, expected 1");
        for states in [&[] as &[_], &TWO] {
            let at_odds = Foreign { states, fine: true };
            let names: Vec<_> = states.iter().map(State::name).collect();
            let expected = if names.is_empty() { "none" } else { "the states `s`, `t`" };
            let message =
                format!("the rule's kernel keeps 1 state, expected {expected} as the rule names");
            assert_eq!(refusal(&at_odds, 1, backend, &[4; 4][..2 + names.len()]), message);
        }
    }
}

/// An error has a kind, and can be sent to other threads.
#[test]
fn errors_are_typed() {
    fn typed<T: std::error::Error + Send + Sync + 'static>() {}
    typed::<Error>();
    let adam = Adam { lr: -1.0, ..Adam::default() };
    let Err(Error::HyperParameter { name: "lr", value: -1.0, .. }) = adam.check() else {
        panic!("{:?}", adam.check());
    };
}

/// A learning rate that is too large is named, and not the decay that it is multiplied with.
#[test]
fn the_hyper_parameter_that_is_too_large() {
    let adamw = AdamW { lr: 1e300, ..AdamW::default() };
    let message = refusal(&adamw, 1, Backend::Auto, &[4; 4]);
    assert!(message.starts_with("`lr` is 1e300, expected"), "{message}");
    let adamw = AdamW { weight_decay: 1e300, ..AdamW::default() };
    let message = refusal(&adamw, 1, Backend::Auto, &[4; 4]);
    assert!(message.starts_with("`weight_decay` is 1e300, expected"), "{message}");
}

/// The owner of one buffer names `theta`, and not a state that its caller has not passed.
#[test]
fn lengths_of_an_owner() {
    let mut opt = Flat::<_, f32>::new(AdamW::default(), 3).unwrap();
    let error = opt.step(&mut [0.0; 4], &[0.0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "`theta` has 4 elements, expected 3 as in the states");
    let resume = |states: &[usize]| {
        let states = states.iter().map(|&len| vec![0.0_f32; len]).collect();
        Flat::resume(AdamW::default(), 1, states).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(resume(&[3, 3]), Ok(()));
    assert_eq!(resume(&[3, 1]), Err("`v` has 1 element, expected 3 as in the first state".into()));
    assert_eq!(resume(&[3]), Err("state `v` is missing, expected the states `m`, `v`".into()));
    assert_eq!(resume(&[3; 3]), Err("3 states were given, expected the states `m`, `v`".into()));
}
