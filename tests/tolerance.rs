//! The error of f32 against exact arithmetic, on real gradients: compared with trajectories that
//! torch recorded in f64, with textbook rules in f64, and with the textbook's form in f32.

use std::sync::LazyLock;

// Links to the compiled kernels.
use fused_adam_test_kernels as _;

use fused_adam::{
    AdaBelief, AdaBound, AdaGrad, AdaMax, Adam, AdamW, AnyRule, Element, Flat, Float, Lion, NAdam,
    RAdam, RmsProp, Rule, Sgd,
};
use safetensors::SafeTensors;
use serde_json::Value;

const TRACE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/char_lm_trace.safetensors");

/// 30 gradients of a character-level transformer at 2048 coordinates, and the results of torch's
/// optimizers with them; see `data/README.md`.
static TRACE: LazyLock<Trace> = LazyLock::new(Trace::read);

struct Trace {
    theta0: Vec<f32>,
    grads: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

/// One of the recorded runs.
struct Case {
    name: String,
    parameters: Value,
    /// The result in f64.
    theta: Vec<f64>,
    /// torch's result in f32: with its fused kernel if it has one, else with its plain loop. torch
    /// has no AdaBound.
    theta_f32: Option<Vec<f32>>,
}

impl Trace {
    fn read() -> Self {
        let bytes = std::fs::read(TRACE_FILE).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let f32s = |name: &str| Some(numbers(file.tensor(name).ok()?.data()));
        let metadata = header.metadata().as_ref().unwrap();
        let mut cases: Vec<Case> = metadata
            .iter()
            .filter(|(name, _)| *name != "steps")
            .map(|(name, parameters)| Case {
                name: name.clone(),
                parameters: serde_json::from_str(parameters).unwrap(),
                theta: numbers(file.tensor(&format!("{name}/theta")).unwrap().data()),
                theta_f32: f32s(&format!("{name}/theta_fused_f32"))
                    .or_else(|| f32s(&format!("{name}/theta_f32"))),
            })
            .collect();
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        let grads: Vec<f32> = f32s("grads").unwrap();
        let grads = grads.chunks_exact(2048).map(<[f32]>::to_vec).collect();
        Trace { theta0: f32s("theta0").unwrap(), grads, cases }
    }
}

/// Reads numbers from little-endian bytes with any alignment.
fn numbers<E: Element>(bytes: &[u8]) -> Vec<E> {
    let number = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if cfg!(target_endian = "big") {
            bytes.reverse();
        }
        bytemuck::pod_read_unaligned(&bytes)
    };
    bytes.chunks_exact(size_of::<E>()).map(number).collect()
}

impl Case {
    fn rule(&self) -> AnyRule {
        let p = &self.parameters;
        let number = |key: &str| p[key].as_f64().unwrap();
        let beta = |i: usize| p["betas"][i].as_f64().unwrap();
        let flag = |key: &str| p[key].as_bool().unwrap();
        match p["algorithm"].as_str().unwrap() {
            "SGD" => Sgd {
                lr: number("lr"),
                momentum: number("momentum"),
                dampening: number("dampening"),
                weight_decay: number("weight_decay"),
                nesterov: flag("nesterov"),
                maximize: flag("maximize"),
                ..Sgd::default()
            }
            .into(),
            "RMSprop" => RmsProp {
                lr: number("lr"),
                alpha: number("alpha"),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                momentum: number("momentum"),
                centered: flag("centered"),
                maximize: flag("maximize"),
                ..RmsProp::default()
            }
            .into(),
            "Adagrad" => AdaGrad {
                lr: number("lr"),
                lr_decay: number("lr_decay"),
                initial_accumulator_value: number("initial_accumulator_value"),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                maximize: flag("maximize"),
            }
            .into(),
            name @ ("Adam" | "AdamW") => {
                let adam = Adam {
                    lr: number("lr"),
                    beta1: beta(0),
                    beta2: beta(1),
                    eps: number("eps"),
                    weight_decay: number("weight_decay"),
                    amsgrad: flag("amsgrad"),
                    maximize: flag("maximize"),
                    bias_correction: true,
                };
                let Adam { lr, beta1, beta2, eps, weight_decay, amsgrad, maximize, .. } = adam;
                let adamw = AdamW {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    amsgrad,
                    maximize,
                    ..AdamW::default()
                };
                if name == "Adam" { adam.into() } else { adamw.into() }
            }
            "Adamax" => AdaMax {
                lr: number("lr"),
                beta1: beta(0),
                beta2: beta(1),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                maximize: flag("maximize"),
            }
            .into(),
            "NAdam" => NAdam {
                lr: number("lr"),
                beta1: beta(0),
                beta2: beta(1),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                decoupled_weight_decay: flag("decoupled_weight_decay"),
                momentum_decay: number("momentum_decay"),
                maximize: flag("maximize"),
            }
            .into(),
            "RAdam" => RAdam {
                lr: number("lr"),
                beta1: beta(0),
                beta2: beta(1),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                decoupled_weight_decay: flag("decoupled_weight_decay"),
                maximize: flag("maximize"),
            }
            .into(),
            "AdaBound" => {
                let amsbound = p["amsbound"] == true;
                AdaBound { amsbound, ..AdaBound::default() }.into()
            }
            other => panic!("unknown algorithm {other}"),
        }
    }
}

/// Takes `steps` steps on the recorded gradients, which repeat.
fn run<R: Rule, E: Element>(rule: R, steps: usize) -> Vec<f64> {
    let to = |x: &Vec<f32>| -> Vec<E> { x.iter().map(|&x| E::from_f64(x.into())).collect() };
    let mut theta = to(&TRACE.theta0);
    let grads: Vec<Vec<E>> = TRACE.grads.iter().map(to).collect();
    let mut opt = Flat::new(rule, theta.len()).unwrap();
    for grad in grads.iter().cycle().take(steps) {
        opt.step(&mut theta, grad).unwrap();
    }
    theta.into_iter().map(E::to_f64).collect()
}

/// The mean and the maximum of the errors.
fn errors(got: &[f64], exact: &[f64]) -> (f64, f64) {
    assert_eq!(got.len(), exact.len());
    let distance = |(a, b): (&f64, &f64)| (a - b).abs();
    let sum: f64 = got.iter().zip(exact).map(distance).sum();
    let largest = got.iter().zip(exact).map(distance).fold(0.0, f64::max);
    (sum / got.len() as f64, largest)
}

#[test]
fn f64_arrives_where_torch_does() {
    assert_eq!(TRACE.cases.len(), 22, "the recorded runs");
    for case in &TRACE.cases {
        let (_, largest) = errors(&run::<_, f64>(case.rule(), 30), &case.theta);
        println!("{:<26} {largest:.1e}", case.name);
        // torch stores NAdam's product of momenta in f32, even if everything else is f64: see
        // below.
        let bound = if case.name.starts_with("nadam") { 1e-10 } else { 2e-14 };
        assert!(largest < bound, "{}: {largest:e}", case.name);
    }
}

/// Compares the maximum error in every case, and the mean error wherever θ decays independently of
/// its gradient. In the other cases the mean is almost only the rounding of θ itself, half a unit
/// in its last place in every step of both. There the two agree to a few hundredths, in either
/// direction.
#[test]
fn f32_is_no_further_from_f64_than_torch() {
    for case in &TRACE.cases {
        let (mean, largest) = errors(&run::<_, f32>(case.rule(), 30), &case.theta);
        let name = &case.name;
        let Some(torch) = &case.theta_f32 else {
            println!("{name:<26} mean {mean:.3e}, largest {largest:.3e}");
            assert!(largest <= 2e-6, "{name}: {largest:e}");
            continue;
        };
        let torch: Vec<f64> = torch.iter().map(|&x| x.into()).collect();
        let (torch_mean, torch_largest) = errors(&torch, &case.theta);
        println!(
            "{name:<26} mean {mean:.3e} (torch {torch_mean:.3e}), \
             largest {largest:.3e} (torch {torch_largest:.3e})"
        );
        assert!(largest <= torch_largest, "{name}: {largest:e}, torch {torch_largest:e}");
        let decoupled = case.parameters["decoupled_weight_decay"] == true;
        if decoupled && case.parameters["weight_decay"] != 0.0 {
            assert!(mean <= torch_mean, "{name}: mean {mean:e}, torch {torch_mean:e}");
        }
    }
}

/// NAdam as in torch, in f64, except for the product of momenta, which `times` computes.
fn textbook_nadam(rule: &NAdam, times: fn(f64, f64) -> f64) -> Vec<f64> {
    let NAdam { lr, beta1, beta2, eps, weight_decay, momentum_decay, .. } = *rule;
    let mut theta: Vec<f64> = TRACE.theta0.iter().map(|&x| x.into()).collect();
    let (mut m, mut v) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    let mut mu_product = 1.0;
    for (t, grad) in (1..).zip(&TRACE.grads) {
        let mu = |t: i32| beta1 * (1.0 - 0.5 * 0.96_f64.powf(f64::from(t) * momentum_decay));
        mu_product = times(mu_product, mu(t));
        for i in 0..theta.len() {
            let g = f64::from(grad[i]);
            theta[i] *= 1.0 - lr * weight_decay;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let d: f64 = (v[i] / (1.0 - beta2.powi(t))).sqrt() + eps;
            theta[i] -= lr * (1.0 - mu(t)) / (1.0 - mu_product) * g / d;
            theta[i] -= lr * mu(t + 1) / (1.0 - mu_product * mu(t + 1)) * m[i] / d;
        }
    }
    theta
}

/// In the recorded trajectory of NAdam, the product of momenta is rounded to f32. Without that,
/// this crate's result is the exact one.
#[test]
fn nadam_differs_from_torch_by_a_product_in_f32_alone() {
    let case = TRACE.cases.iter().find(|case| case.name == "nadamw").unwrap();
    let AnyRule::NAdam(rule) = case.rule() else { panic!("not NAdam") };
    let (_, torch) =
        errors(&textbook_nadam(&rule, |x, y| f64::from(x as f32 * y as f32)), &case.theta);
    assert!(torch < 1e-14, "{torch:e}");
    let (_, ours) = errors(&textbook_nadam(&rule, |x, y| x * y), &run::<_, f64>(rule, 30));
    assert!(ours < 1e-14, "{ours:e}");
}

/// AdaBelief as in its paper, in f64.
fn textbook_adabelief(rule: &AdaBelief) -> Vec<f64> {
    let AdaBelief { lr, beta1, beta2, eps, .. } = *rule;
    let mut theta: Vec<f64> = TRACE.theta0.iter().map(|&x| x.into()).collect();
    let (mut m, mut s) = (vec![0.0; theta.len()], vec![0.0; theta.len()]);
    for (t, grad) in (1..).zip(&TRACE.grads) {
        for i in 0..theta.len() {
            let g = f64::from(grad[i]);
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            s[i] = beta2 * s[i] + (1.0 - beta2) * (g - m[i]) * (g - m[i]) + eps;
            let m_hat = m[i] / (1.0 - beta1.powi(t));
            let s_hat: f64 = s[i] / (1.0 - beta2.powi(t));
            theta[i] -= lr * m_hat / (s_hat.sqrt() + eps);
        }
    }
    theta
}

/// Lion as in its paper, in f64.
fn textbook_lion(rule: &Lion) -> Vec<f64> {
    let Lion { lr, beta1, beta2, weight_decay, .. } = *rule;
    let mut theta: Vec<f64> = TRACE.theta0.iter().map(|&x| x.into()).collect();
    let mut m = vec![0.0; theta.len()];
    for grad in &TRACE.grads {
        for i in 0..theta.len() {
            let g = f64::from(grad[i]);
            let c: f64 = beta1 * m[i] + (1.0 - beta1) * g;
            let sign = if c == 0.0 { 0.0 } else { c.signum() };
            theta[i] -= lr * (sign + weight_decay * theta[i]);
            m[i] = beta2 * m[i] + (1.0 - beta2) * g;
        }
    }
    theta
}

#[test]
fn adabelief_and_lion_follow_their_papers() {
    for rule in [AdaBelief::default(), AdaBelief { eps: 1e-16, ..AdaBelief::default() }] {
        let exact = textbook_adabelief(&rule);
        let (_, largest) = errors(&run::<_, f64>(rule, 30), &exact);
        assert!(largest < 1e-13, "{rule:?}: {largest:e}");
        let (mean, largest) = errors(&run::<_, f32>(rule, 30), &exact);
        println!("adabelief, eps {:.0e}: mean {mean:.3e}, largest {largest:.3e}", rule.eps);
        assert!(largest < 2e-6, "{rule:?}: {largest:e}");
    }
    for rule in [Lion::default(), Lion { weight_decay: 0.1, ..Lion::default() }] {
        let exact = textbook_lion(&rule);
        let (_, largest) = errors(&run::<_, f64>(rule, 30), &exact);
        assert!(largest < 1e-14, "{rule:?}: {largest:e}");
        let (mean, largest) = errors(&run::<_, f32>(rule, 30), &exact);
        println!("lion, decay {}: mean {mean:.3e}, largest {largest:.3e}", rule.weight_decay);
        // All its steps have the same size, so the rounding error of θ is the same each time: half
        // a unit in the last place per step, of the largest θ here.
        let most = exact.iter().map(|x| x.abs()).fold(0.0, f64::max) as f32;
        let unit = f64::from(most.next_up() - most);
        assert!(largest < 30.0 * 0.5 * unit, "{rule:?}: {largest:e}, unit {unit:e}");
    }
}

/// AdamW as in the papers, in either precision: β and 1 − lr·λ are rounded before the
/// multiplications.
trait Textbook: Float {
    fn adamw(rule: &AdamW, steps: usize) -> Vec<f64> {
        let of = Self::from_f64;
        let mut theta: Vec<Self> = TRACE.theta0.iter().map(|&x| of(x.into())).collect();
        let (mut m, mut v) = (vec![of(0.0); theta.len()], vec![of(0.0); theta.len()]);
        for (t, grad) in (1..).zip(TRACE.grads.iter().cycle().take(steps)) {
            let bias1 = of(1.0 - rule.beta1.powi(t));
            let bias2 = of(1.0 - rule.beta2.powi(t));
            for i in 0..theta.len() {
                let g = of(grad[i].into());
                theta[i] = theta[i] * of(1.0 - rule.lr * rule.weight_decay);
                m[i] = of(rule.beta1) * m[i] + of(1.0 - rule.beta1) * g;
                v[i] = of(rule.beta2) * v[i] + of(1.0 - rule.beta2) * g * g;
                let (m_hat, v_hat) = (m[i] / bias1, v[i] / bias2);
                theta[i] = theta[i] - of(rule.lr) * m_hat / (v_hat.sqrt() + of(rule.eps));
            }
        }
        theta.into_iter().map(Self::to_f64).collect()
    }
}

impl Textbook for f32 {}
impl Textbook for f64 {}

#[test]
fn f64_follows_the_textbook() {
    for rule in [AdamW::default(), AdamW { beta1: 0.3, beta2: 0.4, ..AdamW::default() }] {
        let (_, largest) = errors(&run::<_, f64>(rule, 1000), &f64::adamw(&rule, 1000));
        assert!(largest < 1e-12, "{rule:?}: {largest:e}");
    }
}

#[test]
fn ten_thousand_steps_stray_a_tenth_as_far_as_the_textbooks_form() {
    let rule = AdamW::default();
    let exact = f64::adamw(&rule, 10_000);
    let (ours, _) = errors(&run::<_, f32>(rule, 10_000), &exact);
    let (textbook, _) = errors(&f32::adamw(&rule, 10_000), &exact);
    println!("mean error after 10,000 steps: {ours:.2e}, textbook's form {textbook:.2e}");
    assert!(ours < textbook / 10.0, "{ours:e} is not a tenth of {textbook:e}");
}
