//! Compares a framework's own step with fused-adam's, and shows the result as a table and a plot.
//!
//! The two are timed alternately in many rounds. A time is the median over the rounds. A ratio is
//! the median of the ratios of each round, so a drift of the machine's speed does not bias it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The minimum time of each side of a round.
const LEAST: Duration = Duration::from_millis(20);

/// The results so far.
pub struct Comparison {
    framework: &'static str,
    rounds: usize,
    rows: Vec<Row>,
}

struct Row {
    case: String,
    theirs_ns: f64,
    ours_ns: f64,
    ratio: f64,
}

impl Comparison {
    /// A comparison with this framework. If the command line has the argument `--test`, each side
    /// runs only once, as a test.
    pub fn new(framework: &'static str) -> Self {
        let rounds = if testing() { 1 } else { 15 };
        Comparison { framework, rounds, rows: Vec::new() }
    }

    /// Times one step of each. Both run once before, without being timed.
    pub fn measure(&mut self, case: &str, mut theirs: impl FnMut(), mut ours: impl FnMut()) {
        let style = ProgressStyle::with_template("{msg:>30} {wide_bar} {pos}/{len}");
        let progress = ProgressBar::new(self.rounds as u64).with_message(case.to_owned());
        let progress = progress.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push((time(&mut theirs), time(&mut ours)));
            progress.inc(1);
        }
        progress.finish_and_clear();
        let of = |value: fn(&(f64, f64)) -> f64| median(rounds.iter().map(value).collect());
        self.rows.push(Row {
            case: case.to_owned(),
            theirs_ns: of(|round| round.0),
            ours_ns: of(|round| round.1),
            ratio: of(|round| round.0 / round.1),
        });
    }

    /// Prints the table, plots the results to a file under `target/`, and returns its path.
    ///
    /// # Errors
    ///
    /// Errors of the plot or of the file system.
    pub fn finish(self) -> Result<PathBuf, Box<dyn std::error::Error>> {
        println!("| step | {} | fused-adam | times as fast |", self.framework);
        println!("|---|---|---|---|");
        for Row { case, theirs_ns, ours_ns, ratio } in &self.rows {
            println!("| {case} | {} | {} | {ratio:.2} |", shown(*theirs_ns), shown(*ours_ns));
        }
        let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| PathBuf::from(workspace).join("target"));
        std::fs::create_dir_all(&target)?;
        let file = target.join(format!("compare-{}.svg", self.framework));
        self.draw(&file)?;
        println!("\nplotted to {}", file.display());
        Ok(file)
    }

    /// Plots the speedup of each case as a bar on a logarithmic scale, with the two times next to
    /// it.
    fn draw(&self, file: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
        const BAR: i32 = 30;
        const LEFT: i32 = 250;
        const RIGHT: i32 = 690;
        const WIDTH: i32 = 920;
        const TOP: i32 = 84;
        let bottom = TOP + BAR * self.rows.len() as i32;
        let size = (WIDTH as u32, bottom as u32 + 44);
        let root = SVGBackend::new(file, size).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: i32, color: RGBColor, side: HPos| {
            let style = ("sans-serif", size).into_font().color(&color);
            style.pos(Pos::new(side, VPos::Center))
        };
        let write = |at, words: &str, style: TextStyle<'_>| {
            root.draw(&Text::new(words.to_owned(), at, style)).map(|_| ())
        };

        let title = format!("Speedup of fused-adam over {}", self.framework);
        write((20, 24), &title, text(20, BLACK, HPos::Left))?;
        let times = format!("{} → fused-adam", self.framework);
        write((WIDTH - 20, TOP - 22), &times, text(13, GREY, HPos::Right))?;

        let most = self.rows.iter().map(|row| row.ratio).fold(2.0, f64::max);
        let least = self.rows.iter().map(|row| row.ratio).fold(1.0, f64::min);
        // The position of a ratio on the axis. The numbers next to the bars take 50 pixels.
        let from = if least < 1.0 { LEFT + 50 } else { LEFT };
        let width = f64::from(RIGHT - 50 - from);
        let x = |ratio: f64| from + (width * (ratio / least).ln() / (most / least).ln()) as i32;

        for tick in ticks(least, most) {
            root.draw(&PathElement::new([(x(tick), TOP - 8), (x(tick), bottom)], LIGHT))?;
            let style = text(13, GREY, HPos::Center);
            write((x(tick), bottom + 14), &format!("{tick}×"), style)?;
        }
        for (i, row) in self.rows.iter().enumerate() {
            let y = TOP + BAR * i as i32;
            let center = y + BAR / 2;
            let slower = row.ratio < 1.0;
            let color = if slower { RGBColor(200, 90, 60) } else { RGBColor(40, 110, 180) };
            let [start, end] = [x(1.0).min(x(row.ratio)), x(1.0).max(x(row.ratio))];
            let bar = [(start, y + 5), (end.max(start + 1), y + BAR - 5)];
            root.draw(&Rectangle::new(bar, color.filled()))?;
            write((20, center), &row.case, text(14, BLACK, HPos::Left))?;
            let ratio = format!("{:.2}", row.ratio);
            let (at, side) = if slower { (start - 6, HPos::Right) } else { (end + 6, HPos::Left) };
            write((at, center), &ratio, text(14, BLACK, side))?;
            let times = format!("{} → {}", shown(row.theirs_ns), shown(row.ours_ns));
            write((WIDTH - 20, center), &times, text(13, GREY, HPos::Right))?;
        }
        root.draw(&PathElement::new([(x(1.0), TOP - 8), (x(1.0), bottom)], BLACK))?;
        root.present()?;
        Ok(())
    }
}

const GREY: RGBColor = RGBColor(110, 110, 110);
const LIGHT: RGBColor = RGBColor(222, 222, 222);

/// The numbers 1, 2 and 5 times powers of ten within a range. Only the powers if there are many.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let all = |steps: &[u32]| -> Vec<f64> {
        // Parses decimal text, so that the labels are exact: 0.2 and not a nearby number.
        let of = |power| steps.iter().map(move |step| format!("{step}e{power}"));
        let numbers = (-6..7).flat_map(of).filter_map(|tick| tick.parse().ok());
        numbers.filter(|tick| (least..=most).contains(tick)).collect()
    };
    let ticks = all(&[1, 2, 5]);
    if ticks.len() <= 9 { ticks } else { all(&[1]) }
}

/// Whether to run everything only once, as a test.
pub fn testing() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// The time of one call, in nanoseconds.
fn time(call: &mut impl FnMut()) -> f64 {
    call();
    let start = Instant::now();
    let mut calls = 0_u32;
    loop {
        call();
        calls += 1;
        let took = start.elapsed();
        if took >= LEAST || testing() {
            return took.as_secs_f64() * 1e9 / f64::from(calls);
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn shown(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} µs", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}
