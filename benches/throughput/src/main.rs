//! Measures the throughput of a step and compares it with the memory limit, for sizes from 2^10 to
//! 2^26 elements and for each backend, on one thread and on all.
//!
//! ```text
//! cargo run --release -p fused-adam-throughput -- [--rule NAME|all] [--elements-type TYPES]
//!     [--stochastic] [--backend NAME] [--elements N] [--json] [--plot FILE.svg]
//! ```
//!
//! The default rule is AdamW, and the default element type is `f32`. You can set the types of θ, g
//! and the states: one type such as `bf16` for all of them, `f32/bf16/f32`, or with a copy of θ
//! `f32/bf16/f32+bf16`. `8bit` is for states in 8 bits: their rows are followed by `f32 states`,
//! the same step with states of `f32`. Other types than `f32` are only available with AdamW.
//!
//! All measurements of one size alternate in many rounds, on the same buffers. Each time is the
//! median over the rounds. Each ratio is the median of the ratios of each round, so a drift of the
//! machine's speed does not bias it.

#[path = "../../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use fused_adam::{AdamW, AnyRule, Backend, Parallelism, Rounding, Rule, Step, bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use support::{Buffers, In8Bits, LimitLoop, RULES, Stepped, Units, WithCopy, median, rule, time};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The number of elements for the limit of the arithmetic units: three buffers of 4 KiB.
const UNITS_ELEMENTS: usize = 1 << 10;

fn main() -> Result<()> {
    let options = Options::parse()?;
    let threads = std::thread::available_parallelism()?.get();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;

    let progress = ProgressBar::new((options.rules.len() * options.sizes.len()) as u64 * ROUNDS);
    progress.set_style(ProgressStyle::with_template("{msg:>34} {wide_bar} {pos}/{len} {eta}")?);
    let mut report = Vec::new();
    for &name in &options.rules {
        for &elements in &options.sizes {
            progress.set_message(format!("{name}, {elements} elements"));
            report.extend((options.measure)(&options, name, elements, threads, &progress)?);
        }
    }
    progress.finish_and_clear();

    if options.json {
        for row in &report {
            println!("{}", row.json());
        }
    } else {
        print_table(&options, &report);
    }
    if let Some(file) = &options.plot {
        plot(&options, &report, threads, file)?;
        eprintln!("plotted to {}", file.display());
    }
    Ok(())
}

type Measure = fn(&Options, &'static str, usize, usize, &ProgressBar) -> Result<Vec<Row>>;

/// Any rule on `f32`.
const ON_F32: Measure = measure::<Buffers<f32, f32, f32>, AnyRule>;

struct Options {
    rules: Vec<&'static str>,
    types: &'static str,
    measure: Measure,
    rounding: Rounding,
    backend: Option<Backend>,
    sizes: Vec<usize>,
    json: bool,
    plot: Option<PathBuf>,
}

/// The available combinations of element types. Those other than `f32` are only available with
/// AdamW, because it takes minutes to compile every rule with every combination.
const TYPES: [(&str, Measure); 11] = [
    ("f32", ON_F32),
    ("f64", measure::<Buffers<f64, f64, f64>, AdamW>),
    ("bf16", measure::<Buffers<bf16, bf16, bf16>, AdamW>),
    ("f16", measure::<Buffers<f16, f16, f16>, AdamW>),
    ("bf16/bf16/f32", measure::<Buffers<bf16, bf16, f32>, AdamW>),
    ("f32/bf16/f32", measure::<Buffers<f32, bf16, f32>, AdamW>),
    ("f32/f32/bf16", measure::<Buffers<f32, f32, bf16>, AdamW>),
    ("f32/bf16/bf16", measure::<Buffers<f32, bf16, bf16>, AdamW>),
    ("f32/bf16/f32+bf16", measure::<WithCopy<bf16, f32, bf16>, AdamW>),
    ("f32/f32/8bit", measure::<In8Bits<f32, f32>, AdamW>),
    ("bf16/bf16/8bit", measure::<In8Bits<bf16, bf16>, AdamW>),
];

/// A rule that can be measured.
trait Measured: Rule + Copy {
    fn named(name: &str) -> Result<Self>;
}

impl Measured for AnyRule {
    fn named(name: &str) -> Result<Self> {
        Ok(rule(name)?)
    }
}

impl Measured for AdamW {
    fn named(name: &str) -> Result<Self> {
        match rule(name)? {
            AnyRule::AdamW(adamw) => Ok(adamw),
            _ => Err(format!("--rule is {name}, expected adamw with these types").into()),
        }
    }
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Options {
            rules: vec!["adamw"],
            types: TYPES[0].0,
            measure: TYPES[0].1,
            rounding: Rounding::Nearest,
            backend: None,
            sizes: (10..=26).step_by(2).map(|power| 1 << power).collect(),
            json: false,
            plot: None,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("rule") => {
                    let name = parser.value()?.string()?;
                    let known: Vec<&str> = RULES.iter().map(|(known, _)| &**known).collect();
                    options.rules = match known.iter().find(|known| **known == name) {
                        Some(rule) => vec![rule],
                        None if name == "all" => known,
                        None => {
                            let names = known.join(", ");
                            return Err(format!("--rule is {name}, expected all, {names}").into());
                        }
                    };
                }
                Long("elements-type") => {
                    let name = parser.value()?.string()?;
                    let found = TYPES.into_iter().find(|(types, _)| *types == name);
                    (options.types, options.measure) = found.ok_or_else(|| {
                        let names = TYPES.map(|(types, _)| types).join(", ");
                        format!("--elements-type is {name}, expected one of {names}")
                    })?;
                }
                Long("stochastic") => options.rounding = Rounding::Stochastic { seed: 1 },
                Long("backend") => options.backend = Some(parser.value()?.parse()?),
                Long("elements") => {
                    let elements: usize = parser.value()?.parse()?;
                    if elements == 0 {
                        return Err("--elements is 0, expected at least 1".into());
                    }
                    options.sizes = vec![elements];
                }
                Long("json") => options.json = true,
                Long("plot") => options.plot = Some(parser.value()?.into()),
                _ => return Err(argument.unexpected().into()),
            }
        }
        if options.plot.is_some() && options.rules.len() > 1 {
            return Err("--plot draws one rule, expected another --rule than all".into());
        }
        Ok(options)
    }
}

/// The measurement of one backend at one size.
struct Row {
    rule: &'static str,
    types: &'static str,
    backend: String,
    threads: usize,
    elements: usize,
    bytes_per_element: usize,
    ns_per_element: f64,
    limit_share: f64,
    /// Throughput relative to the limit of the square root and division units. None for the memory
    /// limit.
    units_share: Option<f64>,
}

impl Row {
    fn gb_per_s(&self) -> f64 {
        self.bytes_per_element as f64 / self.ns_per_element
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "rule": self.rule,
            "types": self.types,
            "backend": self.backend,
            "threads": self.threads,
            "elements": self.elements,
            "ns_per_element": self.ns_per_element,
            "gb_per_s": self.gb_per_s(),
            "limit_share": self.limit_share,
        })
    }
}

/// Rounds per size.
const ROUNDS: u64 = 15;

/// The backends to compare: each available one once, with `native` under its actual name.
fn backends() -> Vec<Backend> {
    let native = Backend::Native.resolved();
    let other = |backend: &Backend| backend.is_available() && Some(*backend) != native;
    let named = [Backend::Avx2, Backend::Avx512, Backend::Neon].into_iter().filter(other);
    let native = native.map(|_| Backend::Native);
    [Backend::Scalar, Backend::Wide].into_iter().chain(named).chain(native).collect()
}

/// What is measured: the memory limit, a rule, or a rule with `f32` states.
enum Subject<R> {
    Limit(LimitLoop),
    Rule(R),
    WithF32States(R),
}

fn run<B: Stepped, R: Rule>(
    what: &Subject<R>,
    buffers: &mut B,
    backend: Backend,
    parallelism: Parallelism,
    how: Rounding,
) {
    fn step<R: Rule>(
        rule: &R,
        backend: Backend,
        parallelism: Parallelism,
        how: Rounding,
    ) -> Step<'_, R> {
        Step::new(rule, 100).with_backend(backend).with_parallelism(parallelism).with_rounding(how)
    }
    let done = match what {
        Subject::Limit(rule) => buffers.limit(&step(rule, backend, parallelism, how)),
        Subject::Rule(rule) => buffers.step(&step(rule, backend, parallelism, how)),
        Subject::WithF32States(rule) => {
            let step = step(rule, backend, parallelism, how);
            buffers.with_f32_states(&step).expect("these types are compared with them")
        }
    };
    done.expect("a valid step");
}

fn measure<B: Stepped, R: Measured>(
    options: &Options,
    name: &'static str,
    elements: usize,
    threads: usize,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let rule = R::named(name)?;
    let states = rule.states().len();
    let mut buffers = B::new(elements, states);
    let mut small = Buffers::<f32, f32, f32>::new(UNITS_ELEMENTS, 1);

    // The measurements to alternate: for each number of threads the memory limit, then the
    // backends.
    let mut entries = Vec::new();
    for threads in if threads > 1 { vec![1, threads] } else { vec![1] } {
        let parallelism = if threads == 1 { Parallelism::Serial } else { Parallelism::Auto };
        let limit = Subject::Limit(LimitLoop(B::limit_states(states)));
        entries.push(("limit".to_string(), threads, limit, Backend::Auto, parallelism));
        let wanted = options.backend.map_or_else(backends, |backend| vec![backend]);
        for backend in wanted {
            let what = Subject::Rule(rule);
            entries.push((backend.to_string(), threads, what, backend, parallelism));
        }
        if buffers.with_f32_states(&Step::new(&rule, 100)).is_some() {
            let what = Subject::WithF32States(rule);
            entries.push(("f32 states".into(), threads, what, Backend::Auto, parallelism));
        }
    }

    let mut times = vec![Vec::new(); entries.len()];
    let mut units = Vec::new();
    for _ in 0..ROUNDS {
        for ((_, _, what, backend, parallelism), times) in entries.iter().zip(&mut times) {
            let how = match what {
                Subject::Limit(_) => Rounding::Nearest,
                Subject::Rule(_) | Subject::WithF32States(_) => options.rounding,
            };
            times.push(time(elements, || run(what, &mut buffers, *backend, *parallelism, how)));
        }
        units.push(time(UNITS_ELEMENTS, || {
            let step = Step::new(&Units, 1).with_parallelism(Parallelism::Serial);
            small.step(&step).expect("a valid step");
        }));
        progress.inc(1);
    }

    let mut rows = Vec::new();
    let mut limit = 0;
    for (i, (backend, threads, ..)) in entries.into_iter().enumerate() {
        if backend == "limit" {
            limit = i;
        }
        let share = |of: &[f64]| median(of.iter().zip(&times[i]).map(|(a, b)| a / b).collect());
        rows.push(Row {
            rule: name,
            types: options.types,
            threads,
            elements,
            bytes_per_element: match &*backend {
                "f32 states" => B::bytes_per_element(states) + 6 * states,
                _ => B::bytes_per_element(states),
            },
            ns_per_element: median(times[i].clone()),
            limit_share: share(&times[limit]),
            units_share: (backend != "limit" && threads == 1).then(|| share(&units)),
            backend,
        });
    }
    Ok(rows)
}

fn print_table(options: &Options, report: &[Row]) {
    let native = Backend::Native.resolved().map_or("none".into(), |level| level.to_string());
    println!("types {}, rounding {:?}; native is {native}", options.types, options.rounding);
    println!("of limit: speed relative to a copy loop with the same traffic on as many threads");
    println!("of units: speed relative to one f32 square root and one division per element");
    println!();
    println!(
        "{:<25} {:>10}  {:<10} {:>7} {:>5} {:>10} {:>8} {:>9} {:>9}",
        "rule",
        "elements",
        "backend",
        "threads",
        "bytes",
        "ns/element",
        "GB/s",
        "of limit",
        "of units"
    );
    for (i, row) in report.iter().enumerate() {
        if i > 0 && (row.rule, row.elements) != (report[i - 1].rule, report[i - 1].elements) {
            println!();
        }
        let units = row.units_share.map_or(String::new(), |share| format!("{share:.2}"));
        println!(
            "{:<25} {:>10}  {:<10} {:>7} {:>5} {:>10.3} {:>8.1} {:>9.3} {:>9}",
            row.rule,
            row.elements,
            row.backend,
            row.threads,
            row.bytes_per_element,
            row.ns_per_element,
            row.gb_per_s(),
            row.limit_share,
            units
        );
    }
}

/// The plotted backends, from the top of the legend down. The memory limit is first.
const PLOTTED: [(&str, &str, RGBColor); 4] = [
    ("limit", "memory limit", RGBColor(150, 155, 165)),
    ("native", "native", RGBColor(25, 100, 195)),
    ("wide", "wide", RGBColor(235, 125, 20)),
    ("scalar", "scalar", RGBColor(130, 85, 60)),
];

const INK: RGBColor = RGBColor(45, 50, 60);

/// Plots GB/s over size, with one panel for each number of threads.
fn plot(options: &Options, report: &[Row], threads: usize, file: &Path) -> Result<()> {
    let panels: &[usize] = if threads > 1 { &[1, threads] } else { &[1] };
    let root = SVGBackend::new(file, (620 * panels.len() as u32, 470)).into_drawing_area();
    root.fill(&WHITE)?;
    let sizes = || report.iter().map(|row| row.elements as f64);
    let (smallest, largest) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max));
    let speeds = || report.iter().map(Row::gb_per_s);
    let (slowest, fastest) = (speeds().fold(f64::MAX, f64::min), speeds().fold(0.0, f64::max));
    for (area, &threads) in root.split_evenly((1, panels.len())).iter().zip(panels) {
        let on = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
        let title = format!("{} on {}, {on}", options.rules[0], options.types);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 20).into_font().color(&INK))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(56)
            .build_cartesian_2d(
                (smallest / 1.2..largest * 1.2).log_scale().base(4.0),
                (slowest / 1.15..fastest * 1.15).log_scale().base(2.0),
            )?;
        chart
            .configure_mesh()
            .x_desc("elements")
            .y_desc("GB/s read and written")
            .x_label_formatter(&|x| format!("2^{:.0}", x.log2()))
            .y_labels(8)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .bold_line_style(INK.mix(0.12))
            .light_line_style(TRANSPARENT)
            .axis_style(INK.mix(0.4))
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .draw()?;
        for (name, label, color) in PLOTTED {
            let points: Vec<(f64, f64)> = report
                .iter()
                .filter(|row| row.backend == name && row.threads == threads)
                .map(|row| (row.elements as f64, row.gb_per_s()))
                .collect();
            if points.is_empty() {
                continue;
            }
            let width = if name == "limit" { 6 } else { 3 };
            let style = color.stroke_width(width).filled();
            chart
                .draw_series(LineSeries::new(points, style).point_size(width))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .background_style(WHITE.mix(0.85))
            .border_style(INK.mix(0.25))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
