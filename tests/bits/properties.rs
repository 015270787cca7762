//! The properties that hold for every case.

use fused_adam::{Backend, Flat, Parallelism, Rule, State, Step};

use crate::cases::Case;
use crate::common::{Bits, Guarded, Random, difference};
use crate::types::CopyOf;

/// The buffers of a step.
struct Buffers<T, G, S, C> {
    theta: Guarded<T>,
    grad: Guarded<G>,
    state: Vec<Guarded<S>>,
    copy: C,
    /// The rule's scalars after the step, if the step takes them.
    scalars: Option<Vec<f64>>,
}

impl<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>> Buffers<T, G, S, C> {
    /// The buffers of `case`, with these misalignments.
    fn of(case: &Case, offsets: [usize; 5]) -> Self {
        let mut random = Random(case.seed);
        let theta = Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[0]);
        let grad = Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[1]);
        let state = (0..case.rule.states().len())
            .map(|i| Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[2 + i % 3]))
            .collect();
        Buffers { theta, grad, state, copy: C::new(case), scalars: None }
    }

    /// Takes the step of `case` on a range of the buffers.
    fn step(&mut self, case: &Case, range: std::ops::Range<usize>, on: (Backend, Parallelism)) {
        let mut state: Vec<_> =
            self.state.iter_mut().map(|state| &mut state.get_mut()[range.clone()]).collect();
        let step = Step::new(&case.rule, case.t)
            .with_backend(on.0)
            .with_parallelism(on.1)
            .with_rounding(case.rounding)
            .with_grad_scale(case.grad_scale)
            .with_clip_value(case.clip_value)
            .with_offset(case.first.wrapping_add(range.start as u64));
        let step = match &self.scalars {
            Some(scalars) => step.with_scalars(scalars),
            None => step,
        };
        C::run(
            &step,
            &mut self.theta.get_mut()[range.clone()],
            &self.grad.get()[range.clone()],
            &mut state,
            (&mut self.copy, range),
        )
        .unwrap();
    }

    /// The step by the reference, without misalignment.
    fn reference(case: &Case) -> Self {
        let mut buffers = Self::of(case, [0; 5]);
        buffers.step(case, 0..case.len, (Backend::Scalar, Parallelism::Serial));
        buffers
    }

    fn expect(&self, reference: &Self, case: &Case) -> Result<(), String> {
        expect("theta", &self.theta, &reference.theta)?;
        let names = case.rule.states().iter().map(State::name);
        for ((name, got), expected) in names.zip(&self.state).zip(&reference.state) {
            expect(name, got, expected)?;
        }
        self.copy.expect(&reference.copy)
    }
}

/// Compares with the reference, and checks that nothing was written outside the buffer.
pub fn expect<E: Bits>(name: &str, got: &Guarded<E>, reference: &Guarded<E>) -> Result<(), String> {
    if !got.intact() {
        return Err(format!("something was written beside {name}"));
    }
    difference(name, got.get(), reference.get()).map_or(Ok(()), Err)
}

/// The whole step is bit-identical to the reference, does not change g, and writes nothing outside
/// its buffers.
pub fn equals_the_reference<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let mut buffers = Buffers::<T, G, S, C>::of(case, case.offsets);
    buffers.step(case, 0..case.len, (backend, parallelism));
    buffers.expect(&Buffers::reference(case), case)?;
    let untouched = Buffers::<T, G, S, C>::of(case, [0; 5]);
    expect("grad", &buffers.grad, &untouched.grad)
}

/// Stepping the parts between random cuts, in any order, is bit-identical to stepping the whole.
pub fn splits_do_not_show<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let mut random = Random(case.seed ^ 0x51);
    let mut cuts = vec![0, case.len];
    cuts.extend((0..random.below(6)).map(|_| random.below(case.len + 1)));
    cuts.sort_unstable();
    let mut parts: Vec<_> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
    let turn = random.below(parts.len());
    parts.rotate_left(turn);

    let mut buffers = Buffers::<T, G, S, C>::of(case, case.offsets);
    for part in parts {
        buffers.step(case, part, (backend, parallelism));
    }
    buffers.expect(&Buffers::reference(case), case)
}

/// Three steps of `Flat` are bit-identical to three steps on slices.
pub fn owner_equals_slices<T: Bits, G: Bits, S: Bits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let case = &Case { grad_scale: 1.0, clip_value: f64::INFINITY, ..case.clone() };
    let mut slices = Buffers::<T, G, S, C>::of(case, case.offsets);
    let states = slices.state.iter().map(|state| state.get().to_vec()).collect();
    let mut theta = slices.theta.get().to_vec();
    let mut copy = C::new(case);
    let mut owner = Flat::resume(case.rule, case.t - 1, states)
        .unwrap()
        .with_backend(backend)
        .with_parallelism(parallelism)
        .with_rounding(case.rounding)
        .with_offset(case.first);
    let count = case.rule.scalars().len();
    let mut scalars: Vec<_> = (0..count).map(|i| case.rule.scalar_after(i, case.t - 1)).collect();
    for t in case.t..case.t + 3 {
        let case = Case { t, ..case.clone() };
        case.rule.advance_scalars(t, &mut scalars);
        slices.scalars = Some(scalars.clone());
        slices.step(&case, 0..case.len, (Backend::Scalar, Parallelism::Serial));
        C::step(&mut owner, &mut theta, slices.grad.get(), &mut copy).unwrap();
    }
    if owner.scalars() != scalars {
        return Err(format!("scalars are {:?}, expected {scalars:?}", owner.scalars()));
    }
    let (_, t, states, _) = owner.into_parts();
    if t != case.t + 2 {
        return Err(format!("counted to {t} from {} in three steps", case.t - 1));
    }
    difference("theta", &theta, slices.theta.get()).map_or(Ok(()), Err)?;
    let names = case.rule.states().iter().map(State::name);
    for ((name, got), expected) in names.zip(&states).zip(&slices.state) {
        difference(name, got, expected.get()).map_or(Ok(()), Err)?;
    }
    copy.expect(&slices.copy)
}
