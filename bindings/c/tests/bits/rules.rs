//! Rules with any hyper-parameters: written out as the core has them, and made through the header by
//! their names, so that each name is seen to reach its field.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use fused_adam::{
    AdaBelief, AdaBound, AdaGrad, AdaMax, Adam, AdamW, AnyRule, Lion, NAdam, RAdam, RmsProp, Sgd,
};
use fused_adam_c::*;

use crate::common::{Random, decoupled};
use crate::expect_ok;

/// A rule by the header.
pub struct Handle(*mut FusedAdamRule);

impl Handle {
    /// One whose hyper-parameters are all set to those of `rule`, which are got back.
    pub fn of(rule: &AnyRule) -> Self {
        let mut handle = null_mut();
        let name = CString::new(rule.name()).unwrap();
        // SAFETY: each pointer is what the header asks for.
        unsafe {
            expect_ok(fused_adam_rule_new(name.as_ptr(), &raw mut handle));
            assert_eq!(CStr::from_ptr(fused_adam_rule_name(handle)), &*name);
            let fields = fields(rule);
            for &(name, value) in &fields {
                expect_ok(fused_adam_rule_set(handle, name.as_ptr(), value));
            }
            let mut i = 0;
            for &(name, value) in &fields {
                let mut got = f64::NAN;
                expect_ok(fused_adam_rule_get(handle, name.as_ptr(), &raw mut got));
                assert_eq!(got.to_bits(), value.to_bits(), "{name:?}");
                assert!(!fused_adam_rule_parameter_name(handle, i).is_null());
                i += 1;
            }
            assert!(fused_adam_rule_parameter_name(handle, i).is_null(), "one was not set");
        }
        Handle(handle)
    }

    pub fn get(&self) -> *const FusedAdamRule {
        self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { fused_adam_rule_free(self.0) };
    }
}

/// Every hyper-parameter by the name that the header knows it by.
fn fields(rule: &AnyRule) -> Vec<(&'static CStr, f64)> {
    let truth = |truth: bool| f64::from(u8::from(truth));
    match *rule {
        AnyRule::Sgd(r) => vec![
            (c"lr", r.lr),
            (c"momentum", r.momentum),
            (c"dampening", r.dampening),
            (c"weight_decay", r.weight_decay),
            (c"decoupled_weight_decay", truth(r.decoupled_weight_decay)),
            (c"nesterov", truth(r.nesterov)),
            (c"average", truth(r.average)),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::RmsProp(r) => vec![
            (c"lr", r.lr),
            (c"alpha", r.alpha),
            (c"eps", r.eps),
            (c"eps_inside", truth(r.eps_inside)),
            (c"weight_decay", r.weight_decay),
            (c"momentum", r.momentum),
            (c"centered", truth(r.centered)),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::AdaGrad(r) => vec![
            (c"lr", r.lr),
            (c"lr_decay", r.lr_decay),
            (c"initial_accumulator_value", r.initial_accumulator_value),
            (c"eps", r.eps),
            (c"weight_decay", r.weight_decay),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::Adam(r) => adam(r.lr, decoupled(r)),
        AnyRule::AdamW(r) => adam(r.lr, r),
        AnyRule::AdaMax(AdaMax { lr, beta1, beta2, eps, weight_decay, maximize }) => vec![
            (c"lr", lr),
            (c"beta1", beta1),
            (c"beta2", beta2),
            (c"eps", eps),
            (c"weight_decay", weight_decay),
            (c"maximize", truth(maximize)),
        ],
        AnyRule::NAdam(r) => vec![
            (c"lr", r.lr),
            (c"beta1", r.beta1),
            (c"beta2", r.beta2),
            (c"eps", r.eps),
            (c"weight_decay", r.weight_decay),
            (c"decoupled_weight_decay", truth(r.decoupled_weight_decay)),
            (c"momentum_decay", r.momentum_decay),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::RAdam(r) => vec![
            (c"lr", r.lr),
            (c"beta1", r.beta1),
            (c"beta2", r.beta2),
            (c"eps", r.eps),
            (c"weight_decay", r.weight_decay),
            (c"decoupled_weight_decay", truth(r.decoupled_weight_decay)),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::AdaBound(r) => vec![
            (c"lr", r.lr),
            (c"beta1", r.beta1),
            (c"beta2", r.beta2),
            (c"final_lr", r.final_lr),
            (c"gamma", r.gamma),
            (c"eps", r.eps),
            (c"weight_decay", r.weight_decay),
            (c"decoupled_weight_decay", truth(r.decoupled_weight_decay)),
            (c"amsbound", truth(r.amsbound)),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::AdaBelief(r) => vec![
            (c"lr", r.lr),
            (c"beta1", r.beta1),
            (c"beta2", r.beta2),
            (c"eps", r.eps),
            (c"weight_decay", r.weight_decay),
            (c"decoupled_weight_decay", truth(r.decoupled_weight_decay)),
            (c"maximize", truth(r.maximize)),
        ],
        AnyRule::Lion(r) => vec![
            (c"lr", r.lr),
            (c"beta1", r.beta1),
            (c"beta2", r.beta2),
            (c"weight_decay", r.weight_decay),
            (c"maximize", truth(r.maximize)),
        ],
        ref other => unreachable!("{other} is not written out here"),
    }
}

fn adam(lr: f64, r: AdamW) -> Vec<(&'static CStr, f64)> {
    let truth = |truth: bool| f64::from(u8::from(truth));
    vec![
        (c"lr", lr),
        (c"beta1", r.beta1),
        (c"beta2", r.beta2),
        (c"eps", r.eps),
        (c"weight_decay", r.weight_decay),
        (c"amsgrad", truth(r.amsgrad)),
        (c"maximize", truth(r.maximize)),
        (c"bias_correction", truth(r.bias_correction)),
    ]
}

/// A rule with hyper-parameters within their ranges, no two alike.
pub fn random_rule(name: &str, random: &mut Random) -> AnyRule {
    let mut within = |from: f64, to: f64| from + (to - from) * random.uniform().abs();
    let (lr, eps, weight_decay) = (within(1e-5, 0.5), within(1e-9, 1e-2), within(0.0, 0.1));
    let (beta1, beta2) = (within(0.0, 1.0), within(0.0, 1.0));
    let (momentum, more) = (within(0.1, 0.99), within(0.0, 1.0));
    let mut truth = || random.below(2) == 1;
    let (maximize, decoupled_weight_decay) = (truth(), truth());
    let (one, other, third) = (truth(), truth(), truth());
    let weight_decay = if third { weight_decay } else { 0.0 };
    let adam = Adam {
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        amsgrad: one,
        maximize,
        bias_correction: other,
    };
    match name {
        "sgd" => {
            let momentum = if one || third { momentum } else { 0.0 };
            let dampening = if one || other { 0.0 } else { more };
            let (nesterov, average) = (one, other);
            Sgd {
                lr,
                momentum,
                dampening,
                weight_decay,
                decoupled_weight_decay,
                nesterov,
                average,
                maximize,
            }
            .into()
        }
        "rmsprop" => {
            let momentum = if third { momentum } else { 0.0 };
            let (eps_inside, centered) = (one, other);
            RmsProp {
                lr,
                alpha: beta1,
                eps,
                eps_inside,
                weight_decay,
                momentum,
                centered,
                maximize,
            }
            .into()
        }
        "adagrad" => {
            let initial_accumulator_value = more;
            AdaGrad { lr, lr_decay: beta1, initial_accumulator_value, eps, weight_decay, maximize }
                .into()
        }
        "adam" => adam.into(),
        "adamw" => decoupled(adam).into(),
        "adamax" => AdaMax { lr, beta1, beta2, eps, weight_decay, maximize }.into(),
        "nadam" => {
            let momentum_decay = more;
            NAdam {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                decoupled_weight_decay,
                momentum_decay,
                maximize,
                ..NAdam::default()
            }
            .into()
        }
        "radam" => {
            RAdam { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize }.into()
        }
        "adabound" => AdaBound {
            lr,
            beta1,
            beta2,
            final_lr: momentum,
            gamma: more,
            eps,
            weight_decay,
            decoupled_weight_decay,
            amsbound: one,
            maximize,
        }
        .into(),
        "adabelief" => {
            AdaBelief { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize }
                .into()
        }
        "lion" => Lion { lr, beta1, beta2, weight_decay, maximize }.into(),
        name => unreachable!("no rule {name} is written out here"),
    }
}
