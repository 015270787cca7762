//! How fast a step is, beside what memory allows: for sizes from 2^10 to 2^26 elements and for
//! each backend, on one thread and on all.
//!
//! ```text
//! cargo run --release --example throughput -- [--elements N] [--json] [--plot FILE.svg]
//! ```
//!
//! Everything of one size is measured in turn, round after round, on the same buffers. Each figure
//! is the median over the rounds, and a share is the median of the rounds' ratios, so a machine
//! whose speed drifts does not spoil the comparison.

#[path = "../benches/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fused_adam::{AdamW, Backend, Rule, Schedule, Step};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_700, BROWN, GREY, ORANGE_700, TEAL_400};
use support::{Buffers, LimitLoop, Units, bytes_per_element};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a backend is run in one round, unless one step takes longer.
const SLICE: Duration = Duration::from_millis(3);

/// How many elements the yardstick of the arithmetic units runs on: three buffers of 4 KiB.
const UNITS_ELEMENTS: usize = 1 << 10;

fn main() -> Result<()> {
    let options = Options::parse()?;
    let threads = std::thread::available_parallelism()?.get();
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;

    let mut report = Vec::new();
    let progress = ProgressBar::new(options.sizes.len() as u64 * ROUNDS);
    progress.set_style(ProgressStyle::with_template("{msg:>14} {wide_bar} {pos}/{len} {eta}")?);
    for &elements in &options.sizes {
        progress.set_message(format!("{elements} elements"));
        report.extend(measure(elements, threads, &progress)?);
    }
    progress.finish_and_clear();

    if options.json {
        for row in &report {
            println!("{}", row.json());
        }
    } else {
        print_table(&report);
    }
    if let Some(file) = &options.plot {
        plot(&report, threads, file)?;
        eprintln!("plotted to {}", file.display());
    }
    Ok(())
}

struct Options {
    sizes: Vec<usize>,
    json: bool,
    plot: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self> {
        use lexopt::prelude::*;
        let sizes = (10..=26).step_by(2).map(|power| 1 << power).collect();
        let mut options = Options { sizes, json: false, plot: None };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
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
        Ok(options)
    }
}

/// One measured backend at one size.
struct Row {
    backend: String,
    threads: usize,
    elements: usize,
    ns_per_element: f64,
    limit_share: f64,
    /// Share of what square root and division units allow; none for the limit loop.
    units_share: Option<f64>,
}

impl Row {
    fn gb_per_s(&self) -> f64 {
        bytes_per_element::<f32>() as f64 / self.ns_per_element
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "backend": self.backend,
            "threads": self.threads,
            "elements": self.elements,
            "ns_per_element": self.ns_per_element,
            "gb_per_s": self.gb_per_s(),
            "limit_share": self.limit_share,
        })
    }
}

/// Rounds per size; the large sizes get by with fewer, since each takes long.
const ROUNDS: u64 = 15;

/// The backends to compare: each that is here once, `native` under its own name.
fn backends() -> Vec<Backend> {
    let native = Backend::Native.resolved();
    let other = |backend: &Backend| backend.is_available() && Some(*backend) != native;
    let named = [Backend::Avx2, Backend::Avx512, Backend::Neon].into_iter().filter(other);
    let native = native.map(|_| Backend::Native);
    [Backend::Scalar, Backend::Wide].into_iter().chain(named).chain(native).collect()
}

/// Something that is run on the buffers and timed.
type Runner<'a> = Box<dyn Fn(&mut Buffers<f32>) + 'a>;

fn runner<'a, R: Rule>(rule: &'a R, backend: Backend, schedule: Schedule) -> Runner<'a> {
    Box::new(move |b| {
        let step = Step::new(rule, 100).backend(backend).schedule(schedule);
        step.run(&mut b.theta, &b.grad, &mut [&mut b.m, &mut b.v]).expect("a valid step");
    })
}

fn measure(elements: usize, threads: usize, progress: &ProgressBar) -> Result<Vec<Row>> {
    let adamw = AdamW::default();
    let mut buffers = Buffers::<f32>::new(elements);
    let mut small = Buffers::<f32>::new(UNITS_ELEMENTS);

    // What is timed in turn: for each number of threads the limit loop, then the backends.
    let mut entries: Vec<(String, usize, Runner)> = Vec::new();
    for threads in if threads > 1 { vec![1, threads] } else { vec![1] } {
        let schedule = if threads == 1 { Schedule::Serial } else { Schedule::Auto };
        let limit = runner(&LimitLoop, Backend::Auto, schedule);
        entries.push(("limit".into(), threads, limit));
        for backend in backends() {
            let step = runner(&adamw, backend, schedule);
            entries.push((backend.to_string(), threads, step));
        }
    }

    let mut times = vec![Vec::new(); entries.len()];
    let mut units = Vec::new();
    for _ in 0..ROUNDS {
        for ((_, _, run), times) in entries.iter().zip(&mut times) {
            times.push(time(elements, || run(&mut buffers)));
        }
        units.push(time(UNITS_ELEMENTS, || {
            let b = &mut small;
            let step = Step::new(&Units, 1).schedule(Schedule::Serial);
            step.run(&mut b.theta, &b.grad, &mut [&mut b.v]).expect("a valid step");
        }));
        progress.inc(1);
    }

    let mut limit = 0;
    let mut rows = Vec::new();
    for (i, (backend, threads, _)) in entries.into_iter().enumerate() {
        if backend == "limit" {
            limit = i;
        }
        let share = |of: &[f64]| median(of.iter().zip(&times[i]).map(|(a, b)| a / b).collect());
        let ns_per_element = median(times[i].clone());
        let limit_share = share(&times[limit]);
        let units_share = (backend != "limit" && threads == 1).then(|| share(&units));
        rows.push(Row { backend, threads, elements, ns_per_element, limit_share, units_share });
    }
    Ok(rows)
}

/// Nanoseconds per element, over as many runs as fit into a time slice. The first run is not
/// counted: it brings back pages and cache lines that others have pushed out.
fn time(elements: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut runs = 0_u32;
    let mut batch = 1;
    let start = Instant::now();
    loop {
        for _ in 0..batch {
            run();
        }
        runs += batch;
        let elapsed = start.elapsed();
        if elapsed >= SLICE {
            return elapsed.as_nanos() as f64 / f64::from(runs) / elements as f64;
        }
        batch *= 2;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(report: &[Row]) {
    let native = Backend::Native.resolved().map_or("none".into(), |level| level.to_string());
    println!("AdamW on f32, 28 bytes per element; native is {native}");
    println!("of limit: share of the limit loop on as many threads, which only moves the bytes");
    println!("of units: share of a loop of one square root and one division per element");
    println!();
    println!(
        "{:>10}  {:<8} {:>7} {:>10} {:>8} {:>9} {:>9}",
        "elements", "backend", "threads", "ns/element", "GB/s", "of limit", "of units"
    );
    for (i, row) in report.iter().enumerate() {
        if i > 0 && row.elements != report[i - 1].elements {
            println!();
        }
        let units = row.units_share.map_or(String::new(), |share| format!("{share:.2}"));
        println!(
            "{:>10}  {:<8} {:>7} {:>10.3} {:>8.1} {:>9.3} {:>9}",
            row.elements,
            row.backend,
            row.threads,
            row.ns_per_element,
            row.gb_per_s(),
            row.limit_share,
            units
        );
    }
}

/// ns per element over size, one panel for each number of threads.
fn plot(report: &[Row], threads: usize, file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, (1100, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let smallest = report.iter().map(|row| row.elements).min().unwrap_or(1) as f64;
    let largest = report.iter().map(|row| row.elements).max().unwrap_or(1) as f64;
    let slowest = report.iter().map(|row| row.ns_per_element).fold(0.0, f64::max);
    let fastest = report.iter().map(|row| row.ns_per_element).fold(f64::INFINITY, f64::min);
    let panels: &[usize] = if threads > 1 { &[1, threads] } else { &[1] };
    for (area, &threads) in root.split_evenly((1, panels.len())).iter().zip(panels) {
        let title = if threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
        let mut chart = ChartBuilder::on(area)
            .caption(format!("AdamW step on f32, {title}"), ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(52)
            .build_cartesian_2d(
                (smallest / 1.2..largest * 1.2).log_scale().base(4.0),
                (fastest / 1.2..slowest * 1.2).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("elements")
            .y_desc("ns per element")
            .x_label_formatter(&|x| format!("2^{:.0}", x.log2()))
            .y_labels(20)
            .y_label_formatter(&|y| format!("{y:.1}"))
            .light_line_style(WHITE)
            .draw()?;
        let mut names: Vec<&str> = report.iter().map(|row| row.backend.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let color = match name {
                "limit" => GREY,
                "scalar" => BROWN,
                "wide" => ORANGE_700,
                "native" => BLUE_700,
                _ => TEAL_400,
            };
            let style = ShapeStyle { color: color.to_rgba(), filled: true, stroke_width: 2 };
            let points: Vec<(f64, f64)> = report
                .iter()
                .filter(|row| row.backend == name && row.threads == threads)
                .map(|row| (row.elements as f64, row.ns_per_element))
                .collect();
            chart
                .draw_series(LineSeries::new(points, style).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
