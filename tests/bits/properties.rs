//! The properties that hold for every case.

use fused_adam::{Backend, Flat, Parallelism, Rule, State, Step};

use crate::cases::Case;
use crate::common::{Bits, Guarded, Numbers, Random, StateBits, difference, same};
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

impl<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>> Buffers<T, G, S, C> {
    /// The buffers of `case`, with these misalignments.
    fn of(case: &Case, offsets: [usize; 5]) -> Self {
        let mut random = Random(case.seed);
        let theta = Guarded::new(&case.numbers.fill(&mut random, case.len), offsets[0]);
        let mut grad: Vec<G> = case.numbers.fill(&mut random, case.len);
        if S::BLOCK > 1 {
            spare_blocks(&mut grad, S::BLOCK);
        }
        let grad = Guarded::new(&grad, offsets[1]);
        let state = case.rule.states().iter().enumerate().map(|(i, declared)| {
            let state = S::state(case.numbers, declared, &mut random, case.len);
            Guarded::new(&state, offsets[2 + i % 3])
        });
        let state = state.collect();
        Buffers { theta, grad, state, copy: C::new(case), scalars: None }
    }

    /// Takes the step of `case` on a range of the buffers.
    fn step(&mut self, case: &Case, range: std::ops::Range<usize>, on: (Backend, Parallelism)) {
        let slots = S::slots(range.start)..S::slots(range.end);
        let mut state: Vec<_> =
            self.state.iter_mut().map(|state| &mut state.get_mut()[slots.clone()]).collect();
        let step = Step::new(&case.rule, case.t)
            .with_backend(on.0)
            .with_parallelism(on.1)
            .with_rounding(case.rounding)
            .with_grad_scale(case.grad_scale)
            .with_clip_value(case.clip_value)
            .with_offset(first::<S>(case).wrapping_add(range.start as u64));
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

/// The index of the first element. Blocks begin with one of the whole tensor.
fn first<S: StateBits>(case: &Case) -> u64 {
    case.first - case.first % S::BLOCK as u64
}

/// Replaces gradients that are not finite in three of four blocks. Otherwise almost every block of
/// a state would become NaN.
fn spare_blocks<G: Bits>(grad: &mut [G], block: usize) {
    for (_, block) in grad.chunks_mut(block).enumerate().filter(|(number, _)| number % 4 != 0) {
        for g in block.iter_mut().filter(|g| !g.to_f64().is_finite()) {
            *g = G::from_f64(1.0);
        }
    }
}

/// Compares with the reference, and checks that nothing was written outside the buffer.
pub fn expect<E: StateBits>(
    name: &str,
    got: &Guarded<E>,
    reference: &Guarded<E>,
) -> Result<(), String> {
    if !got.intact() {
        return Err(format!("something was written beside {name}"));
    }
    difference(name, got.get(), reference.get()).map_or(Ok(()), Err)
}

/// The whole step is bit-identical to the reference, does not change g, and writes nothing outside
/// its buffers.
pub fn equals_the_reference<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>>(
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
/// States in 8 bits are cut between blocks.
pub fn splits_do_not_show<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let mut random = Random(case.seed ^ 0x51);
    let mut cuts = vec![0, case.len];
    cuts.extend((0..random.below(6)).map(|_| random.below(case.len / S::BLOCK + 1) * S::BLOCK));
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
pub fn owner_equals_slices<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>>(
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
        .with_offset(first::<S>(case));
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

/// Four steps of finite gradients on finite θ and states, of every size, give finite states.
pub fn finite_states_stay_finite<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let mut case = Case { numbers: Numbers::Large, ..case.clone() };
    let mut buffers = Buffers::<T, G, S, C>::of(&case, case.offsets);
    let mut random = Random(case.seed ^ 0x52);
    for _ in 0..4 {
        buffers.step(&case, 0..case.len, (backend, parallelism));
        for (declared, state) in case.rule.states().iter().zip(&buffers.state) {
            let name = declared.name();
            let elements = S::elements(state.get(), declared, case.len);
            if let Some(i) = elements.iter().position(|x| !x.is_finite()) {
                return Err(format!("{name}[{i}] is {} after step {}", elements[i], case.t));
            }
        }
        // θ may overflow. Go on with another one.
        for theta in buffers.theta.get_mut() {
            if !theta.to_f64().is_finite() {
                *theta = case.numbers.draw(&mut random);
            }
        }
        let grad = case.numbers.fill(&mut random, case.len);
        buffers.grad.get_mut().copy_from_slice(&grad);
        case.t += 1;
    }
    Ok(())
}

/// An element whose gradient or state is infinite or NaN does not end with a finite θ, and does not
/// change its neighbours.
///
/// In 8 bits, a state that is not finite is a whole block, none of whose θ ends finite. A bad
/// gradient changes no other θ in this step, but makes its whole block of a state NaN. Other blocks
/// do not change.
pub fn bad_elements_stay_visible<T: Bits, G: Bits, S: StateBits, C: CopyOf<T, G, S>>(
    case: &Case,
    backend: Backend,
    parallelism: Parallelism,
) -> Result<(), String> {
    let case = &Case { numbers: Numbers::Ordinary, ..case.clone() };
    let mut random = Random(case.seed ^ 0x53);
    let good = Buffers::<T, G, S, C>::reference(case);
    let mut bad = Buffers::<T, G, S, C>::of(case, [0; 5]);
    let states = case.rule.states();
    let mut places = vec![None; case.len];
    for i in 0..case.len {
        // So that some blocks stay good.
        if random.below(4.max(2 * S::BLOCK)) != 0 {
            continue;
        }
        let value = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN][random.below(3)];
        let buffer = random.below(states.len() + 1);
        let start = i - i % S::BLOCK;
        let spoilt = match buffer {
            0 => {
                bad.grad.get_mut()[i] = G::from_f64(value);
                i..i + 1
            }
            _ => {
                S::spoil(bad.state[buffer - 1].get_mut(), i, value);
                start..case.len.min(start + S::BLOCK)
            }
        };
        places[spoilt].fill(Some((buffer, value)));
    }
    bad.step(case, 0..case.len, (backend, parallelism));
    let elements = |of: &Buffers<T, G, S, C>| -> Vec<Vec<f64>> {
        let states = of.state.iter().zip(states);
        states.map(|(state, declared)| S::elements(state.get(), declared, case.len)).collect()
    };
    let (of_good, of_bad) = (elements(&good), elements(&bad));
    for (i, place) in places.iter().enumerate() {
        let theta = bad.theta.get()[i];
        let Some((buffer, value)) = *place else {
            if !same(theta, good.theta.get()[i]) {
                return Err(format!("theta[{i}] is {theta:?} because of its neighbours"));
            }
            continue;
        };
        let name = if buffer == 0 { "grad" } else { states[buffer - 1].name() };
        // RAdam does not divide by v in its first steps.
        let unused = case.rule.name() == "radam" && name == "v";
        if theta.to_f64().is_finite() && !(unused && of_bad[1][i].is_nan()) {
            return Err(format!("theta[{i}] is {theta:?} although {name}[{i}] was {value}"));
        }
        let start = i - i % S::BLOCK;
        let block = start..case.len.min(start + S::BLOCK);
        let is_bad = |state: &Vec<f64>| state[block.clone()].iter().all(|x| x.is_nan());
        if S::BLOCK > 1 && !states.is_empty() && !of_bad.iter().any(is_bad) {
            return Err(format!("no block of a state is NaN although {name}[{i}] was {value}"));
        }
    }
    for start in (0..case.len).step_by(S::BLOCK) {
        let block = start..case.len.min(start + S::BLOCK);
        if places[block.clone()].iter().any(Option::is_some) {
            continue;
        }
        for ((declared, bad), good) in states.iter().zip(&of_bad).zip(&of_good) {
            let (bad, good) = (&bad[block.clone()], &good[block.clone()]);
            let name = declared.name();
            difference(name, bad, good)
                .map_or(Ok(()), |what| Err(format!("from {start}: {what}")))?;
        }
    }
    Ok(())
}
