//! Records of burn's own optimizers and of other rules: they are continued to the bit with a
//! warning, or refused. The states never begin anew.

mod common;

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Once;

use burn::backend::Element as BurnElement;
use burn::module::Param;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdafactorConfig, AdamConfig, AdamWConfig, AdanConfig, GradientsParams,
    LambConfig, LionConfig, ModuleOptimizer, MuonConfig, Optimizer, OptimizerRecord, RmsPropConfig,
    SgdConfig,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_optim::{RecordState, StateSink, StateSource};
use common::{APART, Rng, bytes, rules, tensor};
use fused_adam::{
    AdaGrad, Adam, AdamW, AnyRule, Element, Flat, Lion, NAdam, RAdam, RmsProp, Rule, Sgd, State,
    bf16, bytemuck, f16,
};
use fused_adam_burn::{Fused, FusedConfig, FusedState, StepError};

const LR: f64 = 0.01;
const SHAPE: [usize; 2] = [7, 10];

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Warn && record.target().starts_with("fused_adam_burn") {
            WARNINGS.with_borrow_mut(|warnings| warnings.push(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// What `run` returns, and the warnings that it gave.
fn with_warnings<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    WARNINGS.take();
    let result = run();
    (result, WARNINGS.take())
}

fn fused(rule: impl Into<AnyRule>) -> Fused {
    FusedConfig::new(rule).build().unwrap()
}

fn numbers<T: Element + BurnElement>(rng: &mut Rng) -> Tensor<2> {
    tensor(rng.numbers::<T>(70), SHAPE, &Device::flex())
}

/// θ and the state after some steps of one of burn's optimizers.
fn steps<T: Element + BurnElement, O: Optimizer>(
    optim: &O,
    steps: u64,
) -> (Tensor<2>, O::State<2>) {
    let mut rng = Rng(8);
    let (mut theta, mut state) = (numbers::<T>(&mut rng), None);
    for _ in 0..steps {
        (theta, state) = optim.step(LR, theta, numbers::<T>(&mut rng), state);
    }
    (theta, state.unwrap())
}

/// Writes a state to a record and reads it.
fn through_record<S: RecordState, T: RecordState>(state: &S) -> Option<T> {
    let mut sink = StateSink::default();
    state.state_flatten("7", &mut sink);
    // burn adds the rank.
    sink.push_scalar("7", "__rank", 2_u64.into());
    let mut source = StateSource::new(sink.scalars.into_iter().collect());
    sink.tensors.into_iter().for_each(|(name, data)| source.insert_tensor(name, data));
    T::state_unflatten("7", &mut source, &Device::flex())
}

/// Checks that this state is refused with this message, and that nothing changes.
#[track_caller]
fn refused(into: impl Into<AnyRule>, theta: &Tensor<2>, state: FusedState<2>, message: &str) {
    let (before, grad) = (bytes(theta), numbers::<f32>(&mut Rng(9)));
    let (error, warnings) =
        with_warnings(|| fused(into).try_step(LR, theta.clone(), grad, Some(state)).err());
    let error = error.expect(message);
    assert_eq!(error.to_string(), message);
    assert!(matches!(error, StepError::OtherRule { .. }), "{error:?}");
    assert!(bytes(theta) == before && warnings.is_empty(), "{warnings:?}");
}

/// A step of `rule` from burn's moments after three steps, loaded from a record and computed by
/// hand.
fn continues<T: Element + BurnElement>(
    rule: AnyRule,
    name: &str,
    theta: &Tensor<2>,
    moments: &[&Tensor<2>],
    state: FusedState<2>,
) {
    let vec = |tensor: &Tensor<2>| tensor.clone().try_into_vec_as::<T>().unwrap();
    assert_eq!(state.t(), 3);
    for (declared, moment) in rule.states().iter().zip(moments) {
        assert!(bytes(state.get(declared.name()).unwrap()) == bytes(moment), "{rule:?}");
    }
    let moments = moments.iter().map(|moment| vec(moment)).collect();
    let grad = numbers::<T>(&mut Rng(9));
    let mut expected = vec(theta);
    let mut reference = Flat::<AnyRule, T>::resume(rule, 3, moments).unwrap();
    reference.step(&mut expected, &vec(&grad)).unwrap();

    let fused = fused(rule);
    let (stepped, warnings) =
        with_warnings(|| fused.try_step(rule.lr(), theta.clone(), grad, Some(state)).unwrap());
    let (theta, state) = stepped;
    assert!(bytes(&theta) == bytemuck::cast_slice::<_, u8>(&expected), "{name} with {rule:?}");
    let ours = rule.name();
    let warning = format!(
        "the states of burn's {name} at step 3 are continued with \
         `{ours}`; the hyper-parameters are those of `{ours}`, since a record has none"
    );
    assert_eq!(warnings, [warning]);

    // From here on it is a state of our own.
    let own = through_record(&state).unwrap();
    let grad = numbers::<T>(&mut Rng(10));
    let (_, warnings) = with_warnings(|| fused.try_step(LR, theta, grad, Some(own)).unwrap());
    assert!(warnings.is_empty(), "{warnings:?}");
}

fn check_averages<T: Element + BurnElement>() {
    for amsgrad in [false, true] {
        let adam = Adam { lr: LR, amsgrad, ..Adam::default() };
        let adamw = AdamW { lr: LR, amsgrad, ..AdamW::default() };
        let others: [AnyRule; 2] = [
            NAdam { lr: LR, ..NAdam::default() }.into(),
            RAdam { lr: LR, ..RAdam::default() }.into(),
        ];
        let others = if amsgrad { &others[..0] } else { &others };
        for rule in [adam.into(), adamw.into()].iter().chain(others) {
            let name = "Adam or AdamW (`moment_1`, `moment_2`)";
            let burns = AdamConfig::new().with_amsgrad(amsgrad).build();
            let (theta, state) = steps::<T, _>(&burns, 3);
            let loaded = through_record(&state).unwrap();
            let state = state.momentum;
            let mut moments = vec![&state.moment_1, &state.moment_2];
            moments.extend(&state.max_moment_2);
            continues::<T>(*rule, name, &theta, &moments, loaded);

            let burns = AdamWConfig::new().with_amsgrad(amsgrad).build();
            let (theta, state) = steps::<T, _>(&burns, 3);
            let loaded: FusedState<2> = through_record(&state).unwrap();
            // Loaded, saved without a step, and loaded again.
            let loaded = through_record(&loaded).unwrap();
            let state = state.momentum;
            let mut moments = vec![&state.moment_1, &state.moment_2];
            moments.extend(&state.max_moment_2);
            continues::<T>(*rule, name, &theta, &moments, loaded);

            if !amsgrad {
                let (theta, state) = steps::<T, _>(&LambConfig::new().build(), 3);
                let loaded = through_record(&state).unwrap();
                let moments = [&state.moment_1, &state.moment_2];
                let name = "Lamb (`moment_1`, `moment_2`)";
                continues::<T>(*rule, name, &theta, &moments, loaded);
            }
        }
    }
}

#[test]
fn burns_averages_are_continued_to_the_bit() {
    check_averages::<f32>();
    check_averages::<f64>();
    check_averages::<bf16>();
}

/// Where the config asks for `f32`, states of 16 bits become `f32`, and their values do not change.
/// So the bits are those of a training that goes on from the same states in `f32`, which stay
/// `f32` with any config.
#[test]
fn states_of_16_bits_become_f32() {
    fn check<T: Element<Float = f32> + BurnElement>(config: FusedConfig) {
        let rule = AnyRule::from(AdamW { lr: LR, ..AdamW::default() });
        assert_eq!(config.rule, rule);
        let floats = |tensor: &Tensor<2>| tensor.clone().try_into_vec_as::<f32>().unwrap();
        let narrow = FusedConfig::new(rule).with_f32_states(false).build().unwrap();
        let (theta, burns) = steps::<T, _>(&AdamWConfig::new().build(), 3);
        let (_, ours) = steps::<T, _>(&narrow, 3);
        let burns = through_record::<_, FusedState<2>>(&burns).unwrap();
        for state in [burns, ours] {
            let states = ["m", "v"].map(|name| state.get(name).unwrap());
            assert!(states.iter().all(|state| state.dtype() == T::dtype()));
            let states = states.map(&floats);
            assert!(states.iter().flatten().all(|x| x.is_finite()));
            let mut reference = Flat::<_, f32>::resume(rule, 3, states.to_vec()).unwrap();
            let mut expected = theta.clone().try_into_vec_as::<T>().unwrap();
            let (mut theta, mut state, mut rng) = (theta.clone(), state, Rng(9));
            for fused in [&config.build().unwrap(), &narrow, &narrow] {
                let grad = rng.numbers::<T>(70);
                reference.step_mixed(&mut expected, &grad).unwrap();
                let grad = tensor(grad, SHAPE, &Device::flex());
                let loaded = through_record(&state);
                (theta, state) = fused.try_step(LR, theta, grad, loaded).unwrap();
                assert!(bytes(&theta) == bytemuck::cast_slice::<_, u8>(&expected));
                for name in ["m", "v"] {
                    let (state, expected) = (state.get(name).unwrap(), reference.state(name));
                    assert_eq!(state.dtype(), DType::F32);
                    assert!(bytes(state) == bytemuck::cast_slice::<_, u8>(expected.unwrap()));
                }
            }
        }
    }
    let config = || FusedConfig::new(AdamW { lr: LR, ..AdamW::default() });
    check::<f16>(config());
    check::<f16>(config().with_f32_states(true));
    check::<bf16>(config().with_f32_states(true));
    check::<bf16>(config().with_8bit_states(71));
}

/// Where the config asks for 16 bits, states of 16 bits stay as they are.
#[test]
fn states_of_16_bits_stay() {
    fn check<T: Element + BurnElement>(config: FusedConfig) {
        let (theta, state) = steps::<T, _>(&AdamWConfig::new().build(), 3);
        let (loaded, grad) = (through_record(&state), numbers::<T>(&mut Rng(9)));
        let (_, state) = config.build().unwrap().try_step(LR, theta, grad, loaded).unwrap();
        for name in ["m", "v"] {
            assert_eq!(state.get(name).unwrap().dtype(), T::dtype());
        }
    }
    check::<f16>(FusedConfig::new(AdamW::default()).with_f32_states(false));
    check::<bf16>(FusedConfig::new(AdamW::default()));
}

/// The only entry of burn's AdaGrad beside the step number is private, but its record has it.
#[test]
fn burns_sum_of_squares_is_continued_to_the_bit() {
    let (theta, state) = steps::<f32, _>(&AdaGradConfig::new().with_lr_decay(0.5).build(), 3);
    let mut sink = StateSink::default();
    state.state_flatten("7", &mut sink);
    assert_eq!((&*sink.tensors[0].0, sink.tensors.len()), ("7.lr_decay.sum", 1));
    let sum = Tensor::from_data(sink.tensors.swap_remove(0).1, &Device::flex());
    let rule = AdaGrad { lr: LR, lr_decay: 0.5, ..AdaGrad::default() };
    let loaded = through_record(&state).unwrap();
    continues::<f32>(rule.into(), "AdaGrad (`sum`)", &theta, &[&sum], loaded);
}

/// With AMSGrad on one side only, the states differ.
#[test]
fn burns_averages_with_another_amsgrad_are_refused() {
    for amsgrad in [false, true] {
        let (theta, state) = steps::<f32, _>(&AdamWConfig::new().with_amsgrad(amsgrad).build(), 2);
        let loaded: FusedState<2> = through_record(&state).unwrap();
        let ours = fused(AdamW { amsgrad: !amsgrad, ..AdamW::default() });
        let error = ours.try_step(LR, theta.clone(), theta, Some(loaded)).unwrap_err();
        let message = if amsgrad {
            "3 states were given, expected the states `m`, `v`"
        } else {
            "state `v_max` is missing, expected the states `m`, `v`, `v_max`"
        };
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn burns_averages_become_8_bits() {
    let (theta, state) = steps::<f32, _>(&AdamWConfig::new().build(), 3);
    let ours = FusedConfig::new(AdamW::default()).with_8bit_states(0).build().unwrap();
    let grad = numbers::<f32>(&mut Rng(9));
    let loaded = through_record(&state);
    let (theta, next) = ours.try_step(LR, theta.clone(), grad.clone(), loaded).unwrap();
    let rule = AnyRule::from(AdamW { lr: LR, ..AdamW::default() });
    let floats = |tensor: &Tensor<2>| tensor.clone().try_into_vec_as::<f32>().unwrap();
    let moments = [&state.momentum.moment_1, &state.momentum.moment_2];
    let encoded = rule.states().iter().zip(moments).map(|(declared, moment)| {
        let mut blocks = vec![[0; 33]; 3];
        declared.encode(&floats(moment), &mut blocks);
        blocks
    });
    let reference = Flat::resume(rule, 3, encoded.collect()).unwrap();
    let mut expected = floats(&steps::<f32, _>(&AdamWConfig::new().build(), 3).0);
    let mut reference = reference.with_seed(next.seed().unwrap());
    reference.step_mixed(&mut expected, &floats(&grad)).unwrap();
    assert!(bytes(&theta) == bytemuck::cast_slice::<_, u8>(&expected));
}

/// burn's other optimizers, each into a rule of the same name if there is one.
#[test]
fn burns_other_optimizers_are_refused() {
    fn check<O: Optimizer>(optim: &O, into: impl Into<AnyRule>, found: &str, expected: &str) {
        let (theta, state) = steps::<f32, O>(optim, 2);
        let message = format!("the states are of {found}, expected those of {expected}");
        let loaded: FusedState<2> = through_record(&state).expect("no state begins anew");
        let again: FusedState<2> = through_record(&loaded).expect("no state begins anew");
        let into = into.into();
        refused(into, &theta, loaded, &message);
        refused(into, &theta, again, &message);
    }
    let adamw = AdamW::default();
    let momentum = Some(MomentumConfig::new());
    let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
    check(&LionConfig::new().build(), Lion::default(), "burn's Lion (`momentum`)", "`lion` (`m`)");
    let found = "burn's Sgd or Muon (`momentum.velocity`)";
    let burns = SgdConfig::new();
    check(&burns.clone().with_momentum(momentum).build(), sgd, found, "`sgd` (`m`)");
    check(&MuonConfig::new().build(), adamw, found, "`adamw` (`m`, `v`)");
    // Its record has no entries.
    check(&burns.build(), Sgd::default(), "an unknown optimizer", "`sgd` (no states)");
    let found = "burn's Adan (`momentum.exp_avg`)";
    check(&AdanConfig::new().build(), adamw, found, "`adamw` (`m`, `v`)");
    let found = "burn's RmsProp (`square_avg.square_avg`)";
    for burns in [RmsPropConfig::new(), RmsPropConfig::new().with_centered(true)] {
        check(&burns.build(), RmsProp::default(), found, "`rmsprop` (`v`)");
    }
    let found = "burn's AdaGrad (`sum`)";
    check(&AdaGradConfig::new().build(), RmsProp::default(), found, "`rmsprop` (`v`)");
    let found = "burn's Adafactor (`second_moment`)";
    check(&AdafactorConfig::new().build(), adamw, found, "`adamw` (`m`, `v`)");
    let averages = "burn's Adam or AdamW (`moment_1`, `moment_2`)";
    check(&AdamConfig::new().build(), Lion::default(), averages, "`lion` (`m`)");
    let averages = "burn's Lamb (`moment_1`, `moment_2`)";
    check(&LambConfig::new().build(), RmsProp::default(), averages, "`rmsprop` (`v`)");
}

/// A record without `rule` or `t`, with an unknown rule, or with a state of another rank.
#[test]
fn damaged_records_are_refused() {
    let theta = numbers::<f32>(&mut Rng(1));
    let (_, state) =
        fused(AdamW::default()).try_step(LR, theta.clone(), theta.clone(), None).unwrap();
    let mut sink = StateSink::default();
    state.state_flatten("7", &mut sink);
    let load = |damage: &dyn Fn(&str, TensorData) -> Option<TensorData>, without_t| {
        let scalars = sink.scalars.iter().filter(|(name, _)| !(without_t && name == "7.t"));
        let mut source = StateSource::new(scalars.cloned().collect());
        for (name, data) in &sink.tensors {
            let damaged = damage(name, data.clone());
            damaged.into_iter().for_each(|data| source.insert_tensor(name.clone(), data));
        }
        FusedState::<2>::state_unflatten("7", &mut source, &Device::flex()).unwrap()
    };
    assert_eq!(load(&|_, data| Some(data), false).t(), 1);
    let message = "the states are of an unknown optimizer, expected those of `adamw` (`m`, `v`)";
    for damaged in [
        load(&|name, data| (name != "7.rule").then_some(data), false),
        load(&|_, data| Some(data), true),
        load(&|name, data| Some(if name == "7.rule" { text("adamx") } else { data }), false),
    ] {
        refused(AdamW::default(), &theta, damaged, message);
    }
    let flat = |name: &str, data: TensorData| match name {
        "7.v" => Some(TensorData::new(vec![1.0_f32; 70], [70])),
        _ => Some(data),
    };
    let error =
        fused(AdamW::default()).try_step(LR, theta.clone(), theta, Some(load(&flat, false)));
    let message = "state `v` is missing, expected the states `m`, `v`";
    assert_eq!(error.unwrap_err().to_string(), message);
}

fn text(text: &str) -> TensorData {
    TensorData::new(text.as_bytes().to_vec(), [text.len()])
}

/// Every rule with every other: the rules with the same averages continue each other's states, with
/// a warning, and all others are refused.
#[test]
fn records_of_every_rule_in_every_rule() {
    let averages = ["adam", "adamw", "nadam", "radam", "adabound"];
    let names = |rule: &AnyRule| -> Vec<&str> { rule.states().iter().map(State::name).collect() };
    let listed = |rule: &AnyRule| match &names(rule)[..] {
        [] => format!("`{}` (no states)", rule.name()),
        names => format!("`{}` (`{}`)", rule.name(), names.join("`, `")),
    };
    let (mut continued, mut refusals) = (HashSet::new(), 0);
    for of in rules() {
        let theta = numbers::<f32>(&mut Rng(2));
        let (theta, state) = fused(of).try_step(LR, theta.clone(), theta, None).unwrap();
        for into in rules().into_iter().filter(|into| into.name() != of.name()) {
            let loaded: FusedState<2> = through_record(&state).unwrap();
            if ![of.name(), into.name()].iter().all(|name| averages.contains(name)) {
                let (found, expected) = (listed(&of), listed(&into));
                let message = format!("the states are of {found}, expected those of {expected}");
                refused(into, &theta, loaded, &message);
                refusals += 1;
                continue;
            }
            let (result, warnings) = with_warnings(|| {
                fused(into).try_step(LR, theta.clone(), theta.clone(), Some(loaded))
            });
            if names(&of) == names(&into) {
                let (found, ours) = (listed(&of), into.name());
                let warning = format!(
                    "the states of {found} at step 1 are continued with `{ours}`; the \
                     hyper-parameters are those of `{ours}`, since a record has none"
                );
                assert_eq!((result.unwrap().1.t(), warnings), (2, vec![warning]));
                continued.insert((of.name(), ours));
            } else {
                assert!(matches!(result, Err(StepError::Step(_))) && warnings.is_empty());
            }
        }
    }
    assert_eq!(continued.len(), averages.len() * (averages.len() - 1));
    assert!(refusals > 200, "{refusals}");
}

/// Two parameters, so that one warning could be given twice.
type Model = Vec<Param<Tensor<2>>>;

fn grads(model: &Model, seed: u64) -> GradientsParams {
    let (mut grads, mut rng) = (GradientsParams::new(), Rng(seed));
    model.iter().for_each(|param| grads.register(param.id, numbers::<f32>(&mut rng)));
    grads
}

/// A model and the record of burn's optimizer after three steps.
fn trained(mut optim: ModuleOptimizer) -> (Model, OptimizerRecord) {
    let (device, mut rng) = (Device::flex().autodiff(), Rng(3));
    let param = |_| Param::from_tensor(tensor(rng.numbers::<f32>(70), SHAPE, &device));
    let mut model: Model = (0..2).map(param).collect();
    for seed in 0..3 {
        let grads = grads(&model, seed);
        model = optim.step(LR, model, grads);
    }
    (model, optim.to_record())
}

/// A whole model, through a file.
#[test]
fn a_training_with_burns_adamw_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optim.bpk");
    // With the hyper-parameters of ours.
    let burns = || AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(1e-2).init();
    let (model, record) = trained(burns());
    record.save(&file).unwrap();
    let mut burns = burns().load(&file).unwrap();
    let mut ours = ModuleOptimizer::from(fused(AdamW::default())).load(&file).unwrap();
    let mut anew = ModuleOptimizer::from(fused(AdamW::default()));
    let step = |optim: &mut ModuleOptimizer| {
        let stepped = optim.step(LR, model.clone(), grads(&model, 4));
        stepped.iter().map(|param| param.val().inner()).collect::<Vec<_>>()
    };
    let (stepped, warnings) = with_warnings(|| step(&mut ours));
    assert_eq!(warnings.len(), 1, "one for all parameters: {warnings:?}");
    for ((stepped, burns), anew) in stepped.iter().zip(step(&mut burns)).zip(step(&mut anew)) {
        let apart = |a: &Tensor<2>, b: Tensor<2>| (a.clone() - b).abs().max().into_scalar::<f32>();
        assert!(apart(stepped, burns) < (APART * LR) as f32);
        assert!(apart(stepped, anew) > 0.5 * LR as f32);
    }
}

#[test]
#[should_panic(expected = "the states are of burn's Lion (`momentum`), expected those of `lion`")]
fn a_training_with_burns_lion_is_refused() {
    let (model, record) = trained(LionConfig::new().init());
    let grads = grads(&model, 4);
    let _ =
        ModuleOptimizer::from(fused(Lion::default())).load_record(record).step(LR, model, grads);
}

/// burn's optimizers do not know our records, and burn begins their states anew. This is burn's
/// behaviour for every record that it does not know.
#[test]
fn burns_adamw_begins_anew_with_our_record() {
    let (model, record) = trained(ModuleOptimizer::from(fused(AdamW::default())));
    let step = |mut optim: ModuleOptimizer| {
        let stepped = optim.step(LR, model.clone(), grads(&model, 4));
        stepped.iter().map(|param| bytes(&param.val())).collect::<Vec<_>>()
    };
    assert!(step(AdamWConfig::new().init().load_record(record)) == step(AdamWConfig::new().init()));
}
