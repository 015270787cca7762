//! Every wrong call: its message, and that it changes nothing.

use crate::common::{self, everything, tensor_bits};
use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Device, DeviceLocation, Result, Storage, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use fused_adam::{ClipNorm, Lion};
use fused_adam_candle::{Adam, AdamW, Error, GroupId, Optimizer, ParamsAdam, fused_adam};

fn zeros(dims: &[usize], dtype: DType) -> Var {
    Var::zeros(dims, dtype, &Device::Cpu).unwrap()
}

/// A tensor whose storage has fewer elements than its shape.
fn short(is_variable: bool) -> Tensor {
    let storage = Storage::Cpu(CpuStorage::F32(vec![0.0; 5]));
    Tensor::from_storage(storage, (2, 3), BackpropOp::none(), is_variable)
}

fn made(vars: Vec<Var>) -> Result<AdamW> {
    AdamW::new(vars, ParamsAdamW::default())
}

fn params(change: impl FnOnce(&mut ParamsAdamW)) -> Result<AdamW> {
    let mut params = ParamsAdamW::default();
    change(&mut params);
    AdamW::new(vec![], params)
}

#[test]
fn optimizers_that_cannot_be_made() {
    let shared = zeros(&[2], DType::F32);
    let cases: [(Result<AdamW>, &str); 9] = [
        (
            made(vec![zeros(&[2], DType::F32), zeros(&[2], DType::U32)]),
            "variable `1` is u32, expected f32, f64, bf16 or f16",
        ),
        (
            made(vec![zeros(&[2], DType::F8E4M3)]),
            "variable `0` is f8e4m3, expected f32, f64, bf16 or f16",
        ),
        (
            made(vec![shared.clone(), zeros(&[], DType::F64), shared]),
            "variables `0` and `2` share their storage, expected each only once",
        ),
        (params(|of| of.lr = -1.0), "`lr` is -1.0, expected a finite number of at least 0"),
        (params(|of| of.beta1 = 1.0), "`beta1` is 1.0, expected a number in [0, 1)"),
        (params(|of| of.beta2 = f64::NAN), "`beta2` is NaN, expected a number in [0, 1)"),
        (params(|of| of.eps = 0.0), "`eps` is 0.0, expected a finite number above 0"),
        (
            params(|of| of.weight_decay = f64::INFINITY),
            "`weight_decay` is inf, expected a finite number of at least 0",
        ),
        (
            AdamW::with_names(
                [("w", zeros(&[2], DType::F32)), ("w", zeros(&[2], DType::F32))],
                ParamsAdamW::default(),
            )
            .map_err(Into::into),
            "there is a parameter `w` already, expected another name",
        ),
    ];
    for (made, message) in cases {
        let error = made.err().unwrap_or_else(|| panic!("made, expected: {message}"));
        assert_eq!(common::message(&error), message);
    }
    let adam = Adam::new(vec![], ParamsAdam { lr: f64::NAN, ..ParamsAdam::default() });
    let message = "`lr` is NaN, expected a finite number of at least 0";
    assert_eq!(common::message(&adam.err().unwrap()), message);
}

/// Without other devices, candle cannot make such variables. It can never make one that is not
/// contiguous.
#[test]
fn words_for_what_cannot_be_made_here() {
    let device = DeviceLocation::Cuda { gpu_id: 0 };
    let error = Error::Device { what: "variable `3`".into(), device };
    assert_eq!(error.to_string(), "variable `3` is on Cuda { gpu_id: 0 }, expected the CPU");
    let error = Error::NotContiguous { variable: "3".into(), strides: vec![1, 2] };
    let message = "variable `3` has strides [1, 2], expected it to be contiguous";
    assert_eq!(error.to_string(), message);
}

type Change = fn(&mut Optimizer<ParamsAdamW>, &mut GradStore, &[Var]);

/// A change before a step, and the error message of the step.
const STEPS: [(Change, &str); 12] = [
    (
        |_, grads, vars| _ = grads.insert(&vars[1], zeros(&[3, 2], DType::F32).into_inner()),
        "the gradient of variable `1` has the shape [3, 2], expected [2, 3]",
    ),
    (
        |_, grads, vars| _ = grads.insert(&vars[1], zeros(&[6], DType::F32).into_inner()),
        "the gradient of variable `1` has the shape [6], expected [2, 3]",
    ),
    (
        |_, grads, vars| _ = grads.insert(&vars[1], zeros(&[2, 3], DType::I64).into_inner()),
        "the gradient of variable `1` is i64, expected f32, f64, bf16 or f16",
    ),
    (
        |_, grads, vars| _ = grads.insert(&vars[1], zeros(&[2, 3], DType::F64).into_inner()),
        "`grad` of parameter `1` is f64, expected f32, bf16 or f16",
    ),
    (
        |_, grads, vars| _ = grads.insert(&vars[2], zeros(&[4], DType::F32).into_inner()),
        "`grad` of parameter `2` is f32, expected f64",
    ),
    (
        |_, grads, vars| _ = grads.insert(&vars[1], short(false)),
        "the storage of the gradient of variable `1` holds 5 elements, expected 6 by its shape",
    ),
    (
        |opt, _, _| opt.set_learning_rate(f64::NAN),
        "`lr` is NaN, expected a finite number of at least 0",
    ),
    (
        |opt, _, _| opt.set_params(ParamsAdamW { beta1: 1.0, ..ParamsAdamW::default() }),
        "`beta1` is 1.0, expected a number in [0, 1)",
    ),
    (
        |opt, _, vars| opt.push(&vars[2]),
        "variables `2` and `3` share their storage, expected each only once",
    ),
    (
        |opt, _, _| opt.push(&zeros(&[2], DType::U32)),
        "variable `3` is u32, expected f32, f64, bf16 or f16",
    ),
    (
        |opt, _, _| opt.options_mut().clip_value = Some(-1.0),
        "`clip_value` is -1.0, expected a finite number above 0",
    ),
    (
        |opt, grads, vars| {
            opt.options_mut().clip_norm = Some(ClipNorm::Two(1.0));
            let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
            grads.insert(&vars[0], nan.broadcast_as(3).unwrap());
        },
        "the gradients' norm is NaN, expected a finite one to clip, or `skip_nonfinite`",
    ),
];

/// Three variables after two steps, and the gradients of a third step.
fn trained() -> (Optimizer<ParamsAdamW>, GradStore, Vec<Var>) {
    let vars = vec![
        Var::new(&[1.0_f32, 2.0, 3.0], &Device::Cpu).unwrap(),
        Var::new(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap(),
        Var::new(&[1.0_f64, 2.0, 3.0, 4.0], &Device::Cpu).unwrap(),
    ];
    let mut opt = made(vars.clone()).unwrap();
    let gradients = || {
        let mut grads = vars[0].sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for var in &vars {
            grads.insert(var, (var.as_tensor() * 2.0).unwrap());
        }
        grads
    };
    for _ in 0..2 {
        opt.step(&gradients()).unwrap();
    }
    let grads = gradients();
    (opt, grads, vars)
}

#[test]
fn steps_that_are_refused() {
    for (change, message) in STEPS {
        let (mut opt, mut grads, vars) = trained();
        change(&mut opt, &mut grads, &vars);
        let before = everything(&opt, &vars).unwrap();
        let typed = opt.step_with_report(&grads).expect_err(message);
        assert_eq!(typed.to_string(), message);
        let error = opt.step(&grads).expect_err(message);
        assert_eq!(common::message(&error), message);
        assert_eq!(everything(&opt, &vars).unwrap(), before, "changed by: {message}");
    }
}

#[test]
fn a_variable_whose_storage_is_too_short() {
    let (_, _, mut vars) = trained();
    vars.push(Var::from_tensor(&short(true)).unwrap());
    let mut opt = made(vars.clone()).unwrap();
    let mut grads = vars[0].sqr().unwrap().sum_all().unwrap().backward().unwrap();
    grads.insert(&vars[3], zeros(&[2, 3], DType::F32).into_inner());
    let before = tensor_bits(&vars[0]);
    let message = "the storage of variable `3` holds 5 elements, expected 6 by its shape";
    assert_eq!(common::message(&opt.step(&grads).unwrap_err()), message);
    assert_eq!(tensor_bits(&vars[0]), before);
    assert_eq!((opt.steps(), opt.t("0"), opt.t("3"), opt.t("4")), (0, Some(0), Some(0), None));
}

#[test]
fn parameters_that_are_refused() {
    let (mut opt, _, _) = trained();
    let wrong = || ParamsAdamW { lr: -1.0, ..ParamsAdamW::default() };
    let first = GroupId::default();
    for error in [
        opt.set_group_params(first, wrong()).unwrap_err(),
        opt.set_group_learning_rate(first, -1.0).unwrap_err(),
        opt.add_group(wrong()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "`lr` is -1.0, expected a finite number of at least 0");
        assert_eq!((opt.learning_rate(), opt.params().lr), (1e-3, 1e-3));
    }

    // Any rule may replace any other until there are states.
    let var = zeros(&[2], DType::F32);
    let mut opt: Optimizer = Optimizer::new(vec![var.clone()], Lion::default().into()).unwrap();
    opt.backward_step(&var.sum_all().unwrap()).unwrap();
    opt.set_params("adam".parse().unwrap());
    let before = everything(&opt, std::slice::from_ref(&var)).unwrap();
    let error = opt.backward_step(&var.sum_all().unwrap()).unwrap_err();
    let message = "parameter `0`: state `v` is missing, expected the states `m`, `v`";
    assert_eq!(common::message(&error), message);
    assert_eq!(everything(&opt, &[var]).unwrap(), before);
}
