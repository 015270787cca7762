//! Times a textbook loop of AdamW in C next to a step through the C interface, in one run. Also
//! prints the overhead of the C interface for a small buffer.
//!
//! ```text
//! cargo run --release -p fused-adam-c --example compare     # [--test]
//! ```
//!
//! The loop is in `textbook.c`. The example compiles it by `cc` (or `$CC`) with `-O3
//! -march=native`, and loads it.

use std::ffi::{CStr, OsString};
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use fused_adam::AdamW;
use fused_adam_c::*;
use fused_adam_compare::{Comparison, testing};

type Textbook = unsafe extern "C" fn(
    len: usize,
    theta: *mut f32,
    grad: *const f32,
    m: *mut f32,
    v: *mut f32,
    t: u64,
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let library = compile(folder.path())?;
    // SAFETY: it was compiled from `textbook.c`, which has a function of this name and type.
    let textbook = unsafe { library.get::<Textbook>("textbook_adamw_f32")? };
    let adamw = Rule::adamw()?;

    let mut comparison = Comparison::new("textbook");
    for power in [10, 16, 20, 24] {
        let len = if testing() { 1 << 10 } else { 1 << power };
        let (mut theirs, mut ours) = (Buffers::new(len), Buffers::new(len));
        check_close(&mut theirs, &mut ours, &textbook, &adamw);
        comparison.measure(
            &format!("AdamW, f32, 2^{power} elements"),
            || theirs.step_by(&textbook),
            || ours.step_in_c(&adamw, null()),
        );
        // The textbook loop has one thread.
        let serial = Options::serial()?;
        let (mut theirs, mut ours) = (Buffers::new(len), Buffers::new(len));
        comparison.measure(
            &format!("the same on one thread, 2^{power}"),
            || theirs.step_by(&textbook),
            || ours.step_in_c(&adamw, serial.0),
        );
    }
    comparison.finish()?;

    let (mut by_c, mut by_rust) = (Buffers::new(16), Buffers::new(16));
    let (mut c, mut rust) = (Vec::new(), Vec::new());
    // One after the other, so that a drift of the machine's speed does not bias the comparison.
    for _ in 0..if testing() { 1 } else { 31 } {
        c.push(time(|| by_c.step_in_c(&adamw, null())));
        rust.push(time(|| by_rust.step_in_rust()));
    }
    let [c, rust] = [c, rust].map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!(
        "\n16 elements: {c:.0} ns by the C function, {rust:.0} ns by `AdamW::step` of Rust, \
         overhead {:.0} ns",
        c - rust
    );
    Ok(())
}

/// Compiles and loads the textbook loop.
fn compile(folder: &Path) -> Result<libloading::Library, Box<dyn std::error::Error>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/textbook.c");
    let object = folder.join("textbook.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| OsString::from("cc"));
    let mut command = Command::new(compiler);
    command.args(["-O3", "-march=native", "-std=c11", "-shared", "-fPIC", "-o"]);
    let status = command.arg(&object).arg(source).arg("-lm").status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    // SAFETY: the library has no code that runs when it is loaded.
    Ok(unsafe { libloading::Library::new(object) }?)
}

/// A handle of AdamW.
struct Rule(*mut FusedAdamRule);

/// Turns the status of a C function into a `Result`.
fn ok(status: FusedAdamStatus) -> Result<(), String> {
    if status == FusedAdamStatus::Ok {
        return Ok(());
    }
    // SAFETY: the text is valid until this thread's next failure.
    Err(unsafe { CStr::from_ptr(fused_adam_last_error()) }.to_string_lossy().into_owned())
}

impl Rule {
    fn adamw() -> Result<Self, String> {
        let mut rule = null_mut();
        // SAFETY: the name ends with a NUL, and `rule` may be written.
        ok(unsafe { fused_adam_rule_new(c"adamw".as_ptr(), &raw mut rule) })?;
        Ok(Rule(rule))
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // SAFETY: the handle is not used again.
        unsafe { fused_adam_rule_free(self.0) };
    }
}

/// Options that keep a step on the calling thread.
struct Options(*mut FusedAdamOptions);

impl Options {
    fn serial() -> Result<Self, String> {
        let mut options = null_mut();
        // SAFETY: `options` may be written, and is then a valid handle.
        unsafe {
            ok(fused_adam_options_new(&raw mut options))?;
            ok(fused_adam_options_set_chunk(options, usize::MAX))?;
        }
        Ok(Options(options))
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the handle is not used again.
        unsafe { fused_adam_options_free(self.0) };
    }
}

/// The buffers of a step, and its number.
struct Buffers {
    t: u64,
    theta: Vec<f32>,
    grad: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Buffers {
    fn new(len: usize) -> Self {
        let grad = (0..len).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
        Buffers { t: 0, theta: vec![0.5; len], grad, m: vec![0.0; len], v: vec![0.0; len] }
    }

    fn step_by(&mut self, textbook: &Textbook) {
        let Buffers { t, theta, grad, m, v } = self;
        *t += 1;
        let AdamW { lr, beta1, beta2, eps, weight_decay, .. } = AdamW::default();
        let (len, theta, m, v) = (theta.len(), theta.as_mut_ptr(), m.as_mut_ptr(), v.as_mut_ptr());
        // SAFETY: all buffers have `len` elements.
        unsafe {
            textbook(len, theta, grad.as_ptr(), m, v, *t, lr, beta1, beta2, eps, weight_decay);
        };
    }

    fn step_in_c(&mut self, rule: &Rule, options: *const FusedAdamOptions) {
        let Buffers { t, theta, grad, m, v } = self;
        *t += 1;
        let (len, theta) = (theta.len(), theta.as_mut_ptr());
        let (grad, states) = (grad.as_ptr(), [m.as_mut_ptr(), v.as_mut_ptr()]);
        // SAFETY: all buffers have `len` elements.
        let status = unsafe {
            let states = states.as_ptr();
            fused_adam_step_f32(rule.0, *t, len, theta, grad, states, 2, options, null_mut())
        };
        ok(black_box(status)).expect("a step that is right");
    }

    fn step_in_rust(&mut self) {
        let Buffers { t, theta, grad, m, v } = self;
        *t += 1;
        let step = black_box(AdamW::default()).step(*t, theta, grad, [m, v]);
        step.expect("a step that is right");
    }
}

/// Checks that both take the same step, up to rounding.
fn check_close(theirs: &mut Buffers, ours: &mut Buffers, textbook: &Textbook, rule: &Rule) {
    theirs.step_by(textbook);
    ours.step_in_c(rule, null());
    for (their, our) in theirs.theta.iter().zip(&ours.theta) {
        // θ is 0.5 or less, so a rounding error is at most 2^-25. Allow eight of them.
        assert!((their - our).abs() <= 8.0 * 2.0_f32.powi(-25), "{their} and {our}");
    }
}

/// The mean time of one call in nanoseconds.
fn time(mut call: impl FnMut()) -> f64 {
    let least = if testing() { Duration::ZERO } else { Duration::from_millis(5) };
    let (start, mut calls) = (Instant::now(), 0_u32);
    loop {
        for _ in 0..100 {
            call();
        }
        calls += 100;
        let took = start.elapsed();
        if took >= least {
            return took.as_secs_f64() * 1e9 / f64::from(calls);
        }
    }
}
