//! Builds the page of one file, or prints the native hashes of one setting.
//!
//! ```text
//! cargo run [-- FILE.html]
//! cargo run -- hash FUNCTION X Y LR_FACTOR BETA1 BETA2 EPS WEIGHT_DECAY STEPS
//! ```
//!
//! The page has the compiled library, and the hashes of many settings as this machine computes
//! them. By default it is `target/landscape.html` of the repository. `WASM_RUSTC` is the compiler
//! for WebAssembly, if it is not the default one.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::write::GzEncoder;
use fused_adam::{AnyRule, Backend};
use landscape_web::{LANDSCAPES, Landscape, Settings};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Of each rule: its colour in the example `landscape`, and its learning rates on the two
/// functions. These are found as in that example: of 10^(k/6), the one that ends closest to the
/// minimum after 1500 steps from the default start, with two digits.
const RULES: [(&str, [u8; 3], [f64; 2]); 12] = [
    ("sgd", [60, 60, 60], [0.015, 0.0046]),
    ("rmsprop", [150, 90, 50], [0.01, 0.0068]),
    ("adagrad", [240, 165, 0], [1.0, 0.22]),
    ("adam", [215, 40, 40], [0.068, 0.015]),
    ("adamw", [30, 110, 200], [0.46, 0.015]),
    ("adamax", [40, 155, 70], [0.46, 0.022]),
    ("nadam", [145, 85, 190], [0.068, 0.015]),
    ("radam", [0, 180, 190], [0.01, 0.022]),
    ("adabound", [235, 110, 190], [0.0001, 0.0001]),
    ("adabelief", [130, 145, 0], [0.068, 0.0032]),
    ("lion", [120, 15, 80], [0.0068, 0.0068]),
    ("ademamix", [255, 120, 70], [1.0, 0.22]),
];

/// A slider of the page.
struct Slider {
    label: &'static str,
    stops: Vec<Option<f64>>,
    /// The stop before the visitor moves the slider.
    default: usize,
    /// What the page shows for `None`, which is each rule's default.
    own: &'static str,
    note: &'static str,
}

/// The sliders, in the order of the numbers of a `Setting`.
fn sliders() -> Vec<Slider> {
    // Ten per decade, as short decimals: they are the same numbers in JavaScript.
    let digits = ["1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8"];
    let decades = (-2..2).flat_map(|e| digits.map(|digit| format!("{digit}e{e}").parse().ok()));
    let slider = |label, stops: &[f64], own, note| {
        let stops: Vec<_> = stops.iter().map(|x| Some(*x).filter(|x| !x.is_nan())).collect();
        let default = stops.iter().position(Option::is_none).unwrap_or(0);
        Slider { label, stops, default, own, note }
    };
    const OWN: f64 = f64::NAN;
    let mut steps = slider(
        "Steps",
        &[25., 50., 100., 150., 200., 300., 400., 500., 750., 1000., 1250., 1500., 2000., 3000.],
        "",
        "the learning rate decreases linearly to 0",
    );
    steps.default = 11;
    vec![
        Slider {
            label: "Learning rate",
            stops: decades.chain([Some(100.0)]).collect(),
            default: 20,
            own: "",
            note: "times each rule’s own; the table shows the product",
        },
        slider(
            "β₁",
            &[0., 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, OWN, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999],
            "0.9",
            "not in sgd, rmsprop, adagrad",
        ),
        slider(
            "β₂",
            &[0., 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, OWN, 0.9995, 0.9999],
            "0.999; lion 0.99",
            "not in sgd, rmsprop, adagrad",
        ),
        slider(
            "ε",
            &[1e-16, 1e-14, 1e-12, OWN, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.],
            "1e−8; adagrad 1e−10",
            "not in sgd, lion",
        ),
        slider(
            "Weight decay",
            &[0., OWN, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.],
            "0; adamw 0.01",
            "pulls towards (0, 0)",
        ),
        steps,
    ]
}

/// One setting of the page: the function, the start, and the value of each slider.
#[derive(Clone)]
struct Setting {
    landscape: usize,
    start: [f64; 2],
    values: Vec<Option<f64>>,
}

impl Setting {
    /// The hash of each rule at the end of its path.
    fn hashes(&self) -> Result<Vec<u64>> {
        let [Some(factor), beta1, beta2, eps, weight_decay, Some(steps)] = self.values[..] else {
            return Err("expected a factor and a number of steps".into());
        };
        let landscape = LANDSCAPES.get(self.landscape).ok_or("expected function 0 or 1")?;
        let hash = |(name, _, rates): &(&str, _, [f64; 2])| {
            let lr = rates[self.landscape] * factor;
            let steps = steps as u32;
            let settings =
                Settings { start: self.start, lr, beta1, beta2, eps, weight_decay, steps };
            Ok(settings.run(name, landscape, |_| ())?)
        };
        RULES.iter().map(hash).collect()
    }

    /// Parses the arguments of `hash`. A dash is each rule's default.
    fn parse(arguments: &[String]) -> Result<Self> {
        let [landscape, x, y, values @ ..] = arguments else {
            return Err("expected a function and a start".into());
        };
        let value = |text: &String| match text.as_str() {
            "-" => Ok(None),
            number => number.parse().map(Some),
        };
        Ok(Setting {
            landscape: landscape.parse()?,
            start: [x.parse()?, y.parse()?],
            values: values.iter().map(value).collect::<std::result::Result<_, _>>()?,
        })
    }

    fn json(&self) -> Value {
        let [x, y] = self.start;
        let first = [json!(self.landscape), json!(x), json!(y)];
        first.into_iter().chain(self.values.iter().map(|value| json!(value))).collect()
    }
}

/// The multiples of `distance` in a range, as the nearest numbers to their decimals.
fn multiples(distance: f64, low: f64, high: f64) -> impl Iterator<Item = f64> {
    let first = (low / distance).ceil() as i32;
    let last = (high / distance).floor() as i32;
    (first..=last).map(move |i| (f64::from(i) * distance * 100.0).round() / 100.0)
}

/// The settings that are computed natively: all starts of a grid, and each stop of each slider
/// alone.
fn settings(sliders: &[Slider]) -> Vec<Setting> {
    let values: Vec<_> = sliders.iter().map(|slider| slider.stops[slider.default]).collect();
    let mut all = Vec::new();
    for (landscape, Landscape { start, left_low, right_high, grid, .. }) in
        LANDSCAPES.iter().enumerate()
    {
        for x in multiples(grid[0], left_low[0], right_high[0]) {
            for y in multiples(grid[1], left_low[1], right_high[1]) {
                all.push(Setting { landscape, start: [x, y], values: values.clone() });
            }
        }
        for (i, slider) in sliders.iter().enumerate() {
            for (stop, value) in slider.stops.iter().enumerate() {
                if stop != slider.default {
                    let mut setting = Setting { landscape, start: *start, values: values.clone() };
                    setting.values[i] = *value;
                    all.push(setting);
                }
            }
        }
    }
    all
}

/// Everything that the page needs besides the library.
fn data() -> Result<Value> {
    let sliders = sliders();
    let settings = settings(&sliders);
    let mut hashes = Vec::new();
    for setting in &settings {
        hashes.extend(setting.hashes()?.iter().flat_map(|hash| hash.to_le_bytes()));
    }
    let rule = |rule: &(&str, [u8; 3], [f64; 2])| {
        let (name, colour, lr) = rule;
        json!({ "name": name, "colour": colour, "lr": lr })
    };
    let slider = |slider: &Slider| {
        let Slider { label, stops, default, own, note } = slider;
        json!({ "label": label, "stops": stops, "default": default, "own": own, "note": note })
    };
    let landscape = |l: &Landscape| {
        json!({
            "name": l.name, "formula": l.formula, "start": l.start, "grid": l.grid,
            "x0": l.x0, "steepness": l.steepness, "bend": l.bend,
            "leftLow": l.left_low, "rightHigh": l.right_high,
        })
    };
    let backend = Backend::Auto.resolved().map_or("scalar", Backend::name);
    Ok(json!({
        "rules": RULES.iter().map(rule).collect::<Value>(),
        "landscapes": LANDSCAPES.iter().map(landscape).collect::<Value>(),
        "sliders": sliders.iter().map(slider).collect::<Value>(),
        "native": {
            "machine": format!("{} {}", env::consts::ARCH, env::consts::OS),
            "backend": backend,
            "settings": settings.iter().map(Setting::json).collect::<Value>(),
            "hashes": BASE64_STANDARD.encode(hashes),
        },
    }))
}

/// Compiles the library for WebAssembly.
fn compile(folder: &Path) -> Result<Vec<u8>> {
    let target = folder.join("target/wasm");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["rustc", "--release", "--locked", "--lib", "--crate-type", "cdylib"]);
    cargo.args(["--target", "wasm32-unknown-unknown", "--target-dir"]).arg(&target);
    if let Some(rustc) = env::var_os("WASM_RUSTC") {
        cargo.env("RUSTC", rustc);
    }
    if !cargo.current_dir(folder).status()?.success() {
        return Err("cannot compile for wasm32-unknown-unknown; \
            `rustup target add wasm32-unknown-unknown` adds the target"
            .into());
    }
    Ok(fs::read(target.join("wasm32-unknown-unknown/release/landscape_web.wasm"))?)
}

fn build(file: &Path) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&compile(folder)?)?;
    let read = |name| fs::read_to_string(folder.join(name));
    let page = read("page.html")?
        .replace("{{style}}", &read("page.css")?)
        .replace("{{script}}", &read("page.js")?)
        .replace("{{data}}", &data()?.to_string())
        .replace("{{wasm}}", &BASE64_STANDARD.encode(gzip.finish()?));
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, &page)?;
    println!("wrote {}, {} kB", file.display(), page.len() / 1000);
    Ok(())
}

fn run() -> Result<()> {
    if !RULES.iter().map(|rule| rule.0).eq(AnyRule::NAMES.iter().copied()) {
        return Err("the table of rules in this file is not that of the crate".into());
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, setting)) if first == "hash" => {
            for (rule, hash) in RULES.iter().zip(Setting::parse(setting)?.hashes()?) {
                println!("{:<9} {hash:016x}", rule.0);
            }
            Ok(())
        }
        Some((file, [])) => build(&PathBuf::from(file)),
        None => {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
            build(&root.join("target/landscape.html"))
        }
        Some(_) => Err("expected a file, or `hash` and a setting".into()),
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
