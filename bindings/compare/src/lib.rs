//! A framework's own step beside fused-adam's, in one run: as a table, and as a picture.
//!
//! The two are timed in turn, round after round. A time is the median over the rounds, and so is a
//! ratio: that of the two times of one round, so that a machine whose speed drifts does not spoil it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;

/// Each side of a round is repeated for at least this long.
const LEAST: Duration = Duration::from_millis(20);

/// What has been timed so far.
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
    /// With a framework of this name. With the argument `--test` on the command line each
    /// side runs once, to show that it works.
    pub fn new(framework: &'static str) -> Self {
        let rounds = if testing() { 1 } else { 15 };
        Comparison { framework, rounds, rows: Vec::new() }
    }

    /// Times one step of each. Both are called once before, unseen.
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

    /// Prints the table, draws the picture, and returns where that lies: under `target/`.
    ///
    /// # Errors
    ///
    /// What the drawing or the file system says.
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
        println!("\ndrawn to {}", file.display());
        Ok(file)
    }

    /// How many times as fast, one bar for each case, on a logarithmic scale.
    fn draw(&self, file: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
        const BAR: i32 = 34;
        let height = 90 + BAR * self.rows.len() as i32;
        let root = SVGBackend::new(file, (900, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
        let title = format!("fused-adam: how many times as fast as {}", self.framework);
        root.draw(&Text::new(title, (20, 16), text(20)))?;
        let most = self.rows.iter().map(|row| row.ratio).fold(2.0, f64::max);
        let least = self.rows.iter().map(|row| row.ratio).fold(1.0, f64::min);
        let (left, width) = (300, 480);
        let x = |ratio: f64| {
            left + (f64::from(width) * (ratio / least).ln() / (most / least).ln()) as i32
        };
        for (i, row) in self.rows.iter().enumerate() {
            let y = 60 + BAR * i as i32;
            let [from, to] = [x(1.0).min(x(row.ratio)), x(1.0).max(x(row.ratio))];
            let color =
                if row.ratio < 1.0 { RGBColor(200, 90, 60) } else { RGBColor(40, 110, 180) };
            root.draw(&Rectangle::new(
                [(from, y), (to.max(from + 1), y + BAR - 10)],
                color.filled(),
            ))?;
            root.draw(&Text::new(row.case.clone(), (20, y + 4), text(15)))?;
            root.draw(&Text::new(format!("{:.2}", row.ratio), (to + 6, y + 4), text(15)))?;
        }
        let bottom = 60 + BAR * self.rows.len() as i32;
        root.draw(&PathElement::new([(x(1.0), 50), (x(1.0), bottom)], BLACK.stroke_width(1)))?;
        root.present()?;
        Ok(())
    }
}

/// Whether each thing is only to be seen to work.
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
