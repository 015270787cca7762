//! Rules from Python: from a name and keyword arguments, or from a parameter group of torch.

use fused_adam::{
    AdaBound, AdaGrad, AdaMax, Adam, AdamW, AnyRule, Lion, NAdam, RAdam, RmsProp, Rule as _, Sgd,
};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;

/// A rule from its name, with some hyper-parameters changed.
pub fn by_name(name: &str, changes: Option<&Bound<'_, PyDict>>) -> PyResult<AnyRule> {
    changed(name.parse().map_err(refused)?, changes)
}

/// A rule with some hyper-parameters changed.
pub fn changed(rule: AnyRule, changes: Option<&Bound<'_, PyDict>>) -> PyResult<AnyRule> {
    let Some(changes) = changes else { return Ok(rule) };
    let name = rule.name();
    let wrong = |e: serde_json::Error| PyValueError::new_err(e.to_string());
    let mut json = serde_json::to_value(rule).map_err(wrong)?;
    for (key, value) in changes {
        let key: String = key.extract()?;
        let fields = &mut json[name];
        let Some(field) = fields.get(&key) else {
            let known: Vec<&String> =
                fields.as_object().into_iter().flatten().map(|f| f.0).collect();
            return Err(PyTypeError::new_err(format!(
                "{name} has no hyper-parameter {key:?}, expected one of {known:?}"
            )));
        };
        let shown = |expected: &str| {
            let shown = value.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
            format!("{key} is {shown}, expected {expected}")
        };
        let unfit = |error: PyErr, expected: &str| -> PyErr {
            if !error.is_instance_of::<PyTypeError>(value.py()) {
                return error;
            }
            PyTypeError::new_err(shown(expected))
        };
        let new = match field {
            Value::Bool(_) => Value::Bool(value.extract().map_err(|e| unfit(e, "True or False"))?),
            Value::Number(number) if number.is_u64() => {
                let number = whole(&value).map_err(|e| unfit(e, WHOLE))?;
                Value::from(number.ok_or_else(|| PyValueError::new_err(shown(WHOLE)))?)
            }
            _ => {
                let number: f64 = value.extract().map_err(|e| unfit(e, "a number"))?;
                serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| {
                    PyValueError::new_err(format!("{key} is {number}, expected a finite number"))
                })?
            }
        };
        fields[&key] = new;
    }
    serde_json::from_value(json).map_err(wrong)
}

const WHOLE: &str = "a whole number from 0 to 2^64 - 1";

/// A whole number: an integer of Python or NumPy, or a float without a fraction. None if it is out
/// of range.
fn whole(value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    // Booleans are numbers in Python, but are probably a mistake here.
    if value.extract::<bool>().is_ok() {
        return Err(PyTypeError::new_err("a truth value"));
    }
    if let Ok(number) = value.extract() {
        return Ok(Some(number));
    }
    let number: f64 = value.extract()?;
    // 2^64 is the first number that is too large.
    let fits = number.fract() == 0.0 && (0.0..u64::MAX as f64).contains(&number);
    Ok(fits.then_some(number as u64))
}

/// The Python exception for an error of the core.
pub fn refused(error: fused_adam::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The text of an error of the core, with torch's names of the hyper-parameters.
pub fn text_for_torch(error: &fused_adam::Error) -> String {
    match *error {
        fused_adam::Error::HyperParameter { name, value, expected } => {
            let name = match name {
                "beta1" => "betas[0]",
                "beta2" => "betas[1]",
                "grad_scale" => "1 / loss scale",
                "clip_norm" => "max_norm",
                name => name,
            };
            fused_adam::Error::HyperParameter { name, value, expected }.to_string()
        }
        fused_adam::Error::OptionDiffers { option: "clip_norm", rank, ref value, ref expected } => {
            let bound = |text: &str| {
                let text = text.replace("Two(", "norm_type 2 and ");
                text.replace("Inf(", "norm_type inf and ").replace(')', "")
            };
            let (value, expected) = (bound(value), bound(expected));
            format!("max_norm is {value} on rank {rank}, expected {expected} as on rank 0")
        }
        ref error => error.to_string(),
    }
}

/// The Python exception for an error of a step of torch's tensors. `ranks` are those of the
/// processes, in the order of their messages.
pub fn error_for_torch(error: &fused_adam::Error, ranks: &[usize]) -> PyErr {
    let of = |index: usize| ranks.get(index).copied().unwrap_or(index);
    let mut error = error.clone();
    if let fused_adam::Error::OtherProcess { rank, .. }
    | fused_adam::Error::OptionDiffers { rank, .. } = &mut error
    {
        *rank = of(*rank);
    }
    let mut text = text_for_torch(&error);
    if let fused_adam::Error::OptionDiffers { .. } = error {
        text = text.replace("as on rank 0", &format!("as on rank {}", of(0)));
    }
    match error {
        fused_adam::Error::OtherProcess { .. } | fused_adam::Error::AllGather { .. } => {
            PyRuntimeError::new_err(text)
        }
        _ => PyValueError::new_err(text),
    }
}

/// A learning rate without the rounding error of schedulers, which can end just below 0: a decay to
/// 0 that is computed step by step leaves -1.85e-20.
fn learning_rate(lr: f64, group: &Bound<'_, PyDict>) -> PyResult<f64> {
    if lr >= 0.0 {
        return Ok(lr);
    }
    let initial = group.get_item("initial_lr")?.map(|initial| initial.extract::<f64>());
    let initial = initial.transpose()?.unwrap_or(1e-3);
    Ok(if -lr <= 1e-9 * initial { 0.0 } else { lr })
}

/// torch accepts an `eps` of 0, and then divides 0 by 0 where a state is 0. The least positive
/// number has no other effect than to make that 0.
fn usable_epsilon(eps: f64) -> f64 {
    let least = f64::from(f32::from_bits(1));
    if (0.0..least).contains(&eps) { least } else { eps }
}

/// The rule of a parameter group, and torch's names of its states, in the order of
/// [`fused_adam::Rule::states`].
pub fn of_group(
    kind: &str,
    group: &Bound<'_, PyDict>,
) -> PyResult<(AnyRule, &'static [&'static str])> {
    let item = |key: &str| {
        group
            .get_item(key)?
            .ok_or_else(|| PyValueError::new_err(format!("the parameter group has no {key:?}")))
    };
    // A tensor of one element is also a number.
    let number = |key: &str| -> PyResult<f64> {
        let value = item(key)?;
        value.extract().map_err(|_| {
            PyTypeError::new_err(format!("{key} of the parameter group is {value}, not a number"))
        })
    };
    let flag = |key: &str| -> PyResult<bool> { item(key)?.is_truthy() };
    let lr = learning_rate(number("lr")?, group)?;
    let maximize = flag("maximize")?;
    let weight_decay = number("weight_decay")?;
    let epsilon = || Ok::<_, PyErr>(usable_epsilon(number("eps")?));
    let averages = || -> PyResult<(f64, f64, f64)> {
        let betas = item("betas")?;
        let eps = if kind == "lion" { 0.0 } else { epsilon()? };
        Ok((betas.get_item(0)?.extract()?, betas.get_item(1)?.extract()?, eps))
    };
    const MOMENTS: &[&str] = &["exp_avg", "exp_avg_sq"];
    const LARGEST: &[&str] = &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
    let moments = |largest: bool| if largest { LARGEST } else { MOMENTS };
    Ok(match kind {
        "adam" => {
            let (beta1, beta2, eps) = averages()?;
            let amsgrad = flag("amsgrad")?;
            let bias_correction = true;
            let rule = if flag("decoupled_weight_decay")? {
                AdamW { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction }
                    .into()
            } else {
                Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, bias_correction }
                    .into()
            };
            (rule, moments(amsgrad))
        }
        "nadam" => {
            let (beta1, beta2, eps) = averages()?;
            let decoupled_weight_decay = flag("decoupled_weight_decay")?;
            let momentum_decay = number("momentum_decay")?;
            let rule = NAdam {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                decoupled_weight_decay,
                momentum_decay,
                maximize,
            };
            (rule.into(), MOMENTS)
        }
        "radam" => {
            let (beta1, beta2, eps) = averages()?;
            let decoupled_weight_decay = flag("decoupled_weight_decay")?;
            let rule =
                RAdam { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, maximize };
            (rule.into(), MOMENTS)
        }
        "adamax" => {
            let (beta1, beta2, eps) = averages()?;
            let rule = AdaMax { lr, beta1, beta2, eps, weight_decay, maximize };
            (rule.into(), &["exp_avg", "exp_inf"])
        }
        "rmsprop" => {
            let momentum = number("momentum")?;
            let centered = flag("centered")?;
            let (alpha, eps) = (number("alpha")?, epsilon()?);
            let rule = RmsProp {
                lr,
                alpha,
                eps,
                weight_decay,
                momentum,
                centered,
                maximize,
                ..RmsProp::default()
            };
            let names: &[&str] = match (centered, momentum > 0.0) {
                (false, false) => &["square_avg"],
                (false, true) => &["square_avg", "momentum_buffer"],
                (true, false) => &["square_avg", "grad_avg"],
                (true, true) => &["square_avg", "grad_avg", "momentum_buffer"],
            };
            (rule.into(), names)
        }
        "adagrad" => {
            let (lr_decay, eps) = (number("lr_decay")?, epsilon()?);
            let initial_accumulator_value = number("initial_accumulator_value")?;
            let rule =
                AdaGrad { lr, lr_decay, initial_accumulator_value, eps, weight_decay, maximize };
            (rule.into(), &["sum"])
        }
        "sgd" => {
            let (momentum, dampening) = (number("momentum")?, number("dampening")?);
            let nesterov = flag("nesterov")?;
            let rule =
                Sgd { lr, momentum, dampening, weight_decay, nesterov, maximize, ..Sgd::default() };
            (rule.into(), if momentum == 0.0 { &[] } else { &["momentum_buffer"] })
        }
        "adabound" => {
            let (beta1, beta2, eps) = averages()?;
            // Checkpoints create states by a step with an `lr` of 0, which must change nothing.
            let final_lr = if lr == 0.0 { 0.0 } else { number("final_lr")? };
            let gamma = number("gamma")?;
            let amsbound = flag("amsbound")?;
            let decoupled_weight_decay = flag("decoupled_weight_decay")?;
            let rule = AdaBound {
                lr,
                beta1,
                beta2,
                final_lr,
                gamma,
                eps,
                weight_decay,
                decoupled_weight_decay,
                amsbound,
                maximize,
            };
            (rule.into(), moments(amsbound))
        }
        "lion" => {
            let (beta1, beta2, _) = averages()?;
            (Lion { lr, beta1, beta2, weight_decay, maximize }.into(), &["exp_avg"])
        }
        _ => return Err(PyValueError::new_err(format!("there is no optimizer {kind:?}"))),
    })
}
