//! Rules and options as text: what the feature `serde` writes, and reads again.

use std::fmt::Debug;

use fused_adam::{
    AdamW, AnyRule, Backend, ClipNorm, GradScaler, LrSchedule, Parallelism, Rounding, StepOptions,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Checks what is written, and that it is read as the same value.
fn expect<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(text, json);
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
}

#[test]
fn options_as_text() {
    expect(&Rounding::Nearest, r#""nearest""#);
    expect(
        &Rounding::Stochastic { seed: u64::MAX },
        r#"{"stochastic":{"seed":18446744073709551615}}"#,
    );
    expect(&ClipNorm::Two(1.5), r#"{"two":1.5}"#);
    expect(&Parallelism::Serial, r#""serial""#);
    #[cfg(feature = "parallel")]
    expect(&Parallelism::Chunks(std::num::NonZeroUsize::MIN), r#"{"chunks":1}"#);
    let schedule = LrSchedule::warmup(2)
        .then(2, LrSchedule::CosineRestarts { steps: 3, growth: 2, floor: 0.5 });
    expect(
        &schedule,
        concat!(
            r#"{"sequence":{"until":[[2,{"linear":{"from":0.5,"to":1.0,"steps":1}}]],"#,
            r#""last":{"cosine_restarts":{"steps":3,"growth":2,"floor":0.5}}}}"#,
        ),
    );
    for &backend in Backend::ALL {
        expect(&backend, &format!("\"{backend}\""));
    }
}

/// A field that is not named has its default: so a later version may add one.
#[test]
fn fields_that_are_missing() {
    let options: StepOptions = serde_json::from_str(r#"{"clip_norm":{"inf":2.0}}"#).unwrap();
    let clip_norm = Some(ClipNorm::Inf(2.0));
    assert_eq!(options, StepOptions { clip_norm, ..StepOptions::default() });
    let scaler: GradScaler = serde_json::from_str(r#"{"scale":8.0}"#).unwrap();
    assert_eq!(scaler, GradScaler { scale: 8.0, ..GradScaler::default() });
    let rule: AnyRule = serde_json::from_str(r#"{"adamw":{"lr":0.5}}"#).unwrap();
    assert_eq!(rule, AdamW { lr: 0.5, ..AdamW::default() }.into());
}

#[test]
fn fields_that_are_not_known() {
    let error = serde_json::from_str::<StepOptions>(r#"{"clip":1}"#).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `clip`"), "{error}");
    let error = serde_json::from_str::<AnyRule>(r#"{"lion":{"eps":1}}"#).unwrap_err();
    assert!(error.to_string().starts_with("unknown field `eps`"), "{error}");
}
