//! Plots each optimizer's path on two test functions.
//!
//! ```text
//! cargo run --release --example landscape -- [--plot FILE.svg]
//! ```
//!
//! Each function is (x − x₀)² + k·(y − b·x²)². It is a valley along the curve y = b·x², whose floor
//! descends slowly to the minimum at x₀, and whose walls are k times as steep. With k = 10 and b =
//! 1 it is Rosenbrock's function, whose valley is curved. With k = 50 and b = 0 it is a straight
//! ravine.
//!
//! All rules take the same number of steps from the same point, with learning rates that decrease
//! linearly to zero. For each rule and function, the example tries several initial learning rates
//! and uses the one that ends closest to the minimum. So the plot shows how the rules move, not
//! which of them is best. Rules with weight decay by default do not reach Rosenbrock's minimum,
//! because weight decay pulls towards (0, 0).
//!
//! It prints the final distance of each path from the minimum, and plots to `target/landscape.svg`,
//! or to the file given with `--plot`.

use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};

use fused_adam::{AnyRule, Flat, Rule};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Point = (f64, f64);
type Pixel = (i32, i32);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const STEPS: u32 = 1500;

/// The initial learning rates to try are 10^(k/6) for these k.
const LEARNING_RATES: std::ops::RangeInclusive<i32> = -24..=6;
/// Smaller distances from the minimum than this count as equal. Of these, the smallest learning
/// rate is used.
const NEAR: f64 = 1e-2;

/// The colours of the rules, in the order of their names. They repeat if there are more rules.
const PALETTE: [RGBColor; 20] = [
    RGBColor(60, 60, 60),
    RGBColor(150, 90, 50),
    RGBColor(240, 165, 0),
    RGBColor(215, 40, 40),
    RGBColor(30, 110, 200),
    RGBColor(40, 155, 70),
    RGBColor(145, 85, 190),
    RGBColor(0, 180, 190),
    RGBColor(235, 110, 190),
    RGBColor(130, 145, 0),
    RGBColor(120, 15, 80),
    RGBColor(255, 120, 70),
    RGBColor(110, 190, 240),
    RGBColor(0, 95, 90),
    RGBColor(165, 215, 80),
    RGBColor(45, 45, 145),
    RGBColor(200, 155, 110),
    RGBColor(190, 150, 235),
    RGBColor(110, 60, 0),
    RGBColor(150, 150, 150),
];

const LANDSCAPES: [Landscape; 2] = [
    Landscape {
        title: "Rosenbrock’s valley: (x − 1)² + 10·(y − x²)²",
        x0: 1.0,
        steepness: 10.0,
        bend: 1.0,
        start: (-1.5, 0.5),
        left_low: (-2.0, -0.75),
        right_high: (2.0, 2.75),
    },
    Landscape {
        title: "A ravine: x² + 50·y²",
        x0: 0.0,
        steepness: 50.0,
        bend: 0.0,
        start: (-4.0, 0.9),
        left_low: (-4.5, -1.15),
        right_high: (1.5, 1.15),
    },
];

const INK: RGBColor = RGBColor(45, 50, 60);
/// The colours of the highest and the lowest value.
const HIGH: RGBColor = RGBColor(184, 198, 215);
const LOW: RGBColor = RGBColor(252, 252, 249);
/// Contours are at 10^(k/4) for these k, evenly spaced on a logarithmic scale.
const CONTOURS: std::ops::RangeInclusive<i32> = -8..=9;

/// In pixels. The image is large because lines only start and end at whole pixels.
const WIDTH: u32 = 2560;
const PANEL_HEIGHT: u32 = 1230;
/// The number of names and marks in a row of the legend, and the height of a row.
const LEGEND_COLUMNS: usize = 7;
const LEGEND_ROW: u32 = 54;

/// The marks of the start, a diamond, and of the minimum, a star.
const MARKS: [fn(Pixel) -> Polygon<Pixel>; 2] = [start_mark, minimum_mark];

fn main() -> Result<()> {
    let file = option()?;
    let mut runs = Vec::new();
    for name in AnyRule::NAMES.iter().copied() {
        let [valley, ravine] = LANDSCAPES.each_ref().map(|landscape| landscape.best(name));
        runs.push(Run { name, on: [valley?, ravine?] });
    }
    print_table(&runs);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    plot(&runs, &file)?;
    println!("plotted to {}", file.display());
    Ok(())
}

/// A rule's paths on the two functions.
struct Run {
    name: &'static str,
    on: [Descent; 2],
}

/// The path of a rule from the start, and the distance of its end from the minimum.
struct Descent {
    lr: f64,
    path: Vec<Point>,
    distance: f64,
}

/// The output file.
fn option() -> Result<PathBuf> {
    use lexopt::prelude::*;
    let mut file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/landscape.svg");
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("plot") => file = parser.value()?.into(),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(file)
}

/// (x − x0)² + steepness·(y − bend·x²)², and the part of the plane that is plotted.
struct Landscape {
    title: &'static str,
    x0: f64,
    steepness: f64,
    bend: f64,
    start: Point,
    left_low: Point,
    right_high: Point,
}

impl Landscape {
    /// The position of the minimum.
    fn minimum(&self) -> Point {
        (self.x0, self.bend * self.x0 * self.x0)
    }

    /// The gradient at a point.
    fn gradient(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let wall = 2.0 * self.steepness * (y - self.bend * x * x);
        [2.0 * (x - self.x0) - 2.0 * self.bend * x * wall, wall]
    }

    /// The best path of the rule with this name over all learning rates. A path within the plotted
    /// part is preferred.
    fn best(&self, name: &str) -> Result<Descent> {
        let rank = |descent: &Descent| {
            let leaves = descent.path.iter().any(|point| self.inside(*point) != *point);
            (leaves, descent.distance.max(NEAR))
        };
        let mut best: Option<Descent> = None;
        for k in LEARNING_RATES {
            let descent = self.descend(name, 10_f64.powf(f64::from(k) / 6.0))?;
            if best.as_ref().is_none_or(|best| rank(&descent) < rank(best)) {
                best = Some(descent);
            }
        }
        best.ok_or_else(|| "no learning rate was tried".into())
    }

    /// Clamps a point to the plotted part.
    fn inside(&self, (x, y): Point) -> Point {
        (x.clamp(self.left_low.0, self.right_high.0), y.clamp(self.left_low.1, self.right_high.1))
    }

    fn descend(&self, name: &str, lr: f64) -> Result<Descent> {
        let rule: AnyRule = name.parse()?;
        let mut theta = <[f64; 2]>::from(self.start);
        let mut opt = Flat::new(rule, theta.len())?;
        let mut path = vec![self.start];
        for step in 0..STEPS {
            opt.rule_mut().set_lr(lr * (1.0 - f64::from(step) / f64::from(STEPS)));
            let grad = self.gradient(theta);
            opt.step(&mut theta, &grad)?;
            path.push(theta.into());
        }
        let (x0, y0) = self.minimum();
        let distance = (theta[0] - x0).hypot(theta[1] - y0);
        // NaN counts as the largest distance.
        Ok(Descent { lr, path, distance: if distance < f64::MAX { distance } else { f64::MAX } })
    }

    /// The contour of one value: a circle, stretched and bent. Points outside the plotted part are
    /// clamped to its edge, which does not change the area inside.
    fn contour(&self, height: f64) -> Vec<Point> {
        let (x_radius, y_radius) = (height.sqrt(), (height / self.steepness).sqrt());
        let point = |i: u32| {
            let (sin, cos) = (TAU * f64::from(i) / 1500.0).sin_cos();
            let x = self.x0 + x_radius * cos;
            let y = self.bend * x * x + y_radius * sin;
            self.inside((x, y))
        };
        (0..=1500).map(point).collect()
    }
}

/// Prints the initial learning rate of each rule on both functions, and the final distance from the
/// minimum.
fn print_table(runs: &[Run]) {
    println!("{STEPS} steps    Rosenbrock’s valley          ravine");
    println!("rule              lr  distance        lr  distance");
    for Run { name, on: [valley, ravine] } in runs {
        print!("{name:<12} {:>7.1e}  {:>8.1e}", valley.lr, valley.distance);
        println!("   {:>7.1e}  {:>8.1e}", ravine.lr, ravine.distance);
    }
}

/// Plots the two functions side by side, with the legend below.
fn plot(runs: &[Run], file: &Path) -> Result<()> {
    let rows = (runs.len() + MARKS.len()).div_ceil(LEGEND_COLUMNS) as u32;
    let size = (WIDTH, PANEL_HEIGHT + 22 + rows * LEGEND_ROW);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (panels, legend) = root.split_vertically(PANEL_HEIGHT);
    let panels = panels.split_evenly((1, 2));
    for (i, (landscape, panel)) in LANDSCAPES.iter().zip(&panels).enumerate() {
        let paths: Vec<&[Point]> = runs.iter().map(|run| &run.on[i].path[..]).collect();
        plot_panel(landscape, &paths, panel)?;
    }
    plot_legend(runs, &legend)?;
    root.present()?;
    Ok(())
}

/// The colour of rule number `i`.
fn colour(i: usize) -> RGBColor {
    PALETTE[i % PALETTE.len()]
}

/// Plots one function with the paths of all rules.
fn plot_panel(landscape: &Landscape, paths: &[&[Point]], panel: &Area) -> Result<()> {
    let ((left, low), (right, high)) = (landscape.left_low, landscape.right_high);
    let mut chart = ChartBuilder::on(panel)
        .caption(landscape.title, font(40).color(&INK))
        .margin(32)
        .x_label_area_size(64)
        .y_label_area_size(76)
        .build_cartesian_2d(left..right, low..high)?;
    plot_ground(landscape, &mut chart)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_mesh().axis_style(INK.mix(0.4)).label_style(font(28).color(&INK));
    mesh.x_labels(7).y_labels(7).draw()?;
    for (i, path) in paths.iter().enumerate().rev() {
        let colour = colour(i);
        let path = thinned(path, |point| chart.plotting_area().map_coordinate(&point));
        let end = path.last().copied();
        chart.draw_series([PathElement::new(path, colour.mix(0.9).stroke_width(4))])?;
        chart.draw_series(end.map(|end| Circle::new(end, 7, colour.filled())))?;
    }
    let marks = [landscape.start, landscape.minimum()].into_iter().zip(MARKS);
    chart.draw_series(marks.map(|(at, mark)| EmptyElement::at(at) + mark((0, 0))))?;
    Ok(())
}

/// Plots the values as filled contours, the highest first, each with a thin white outline.
fn plot_ground(landscape: &Landscape, chart: &mut Chart) -> Result<()> {
    chart.plotting_area().fill(&HIGH)?;
    let levels = f64::from(CONTOURS.end() - CONTOURS.start() + 1);
    for (i, k) in CONTOURS.rev().enumerate() {
        let contour = landscape.contour(10_f64.powf(f64::from(k) / 4.0));
        let contour = thinned(&contour, |point| chart.plotting_area().map_coordinate(&point));
        let mut shade = shade((i + 1) as f64 / levels).filled();
        chart.draw_series([Polygon::new(contour.clone(), shade)])?;
        shade = WHITE.mix(0.8).stroke_width(2);
        chart.draw_series([PathElement::new(contour, shade)])?;
    }
    Ok(())
}

/// From `HIGH` for 0 to `LOW` for 1.
fn shade(t: f64) -> RGBColor {
    let mix = |high: u8, low: u8| (f64::from(high) + t * (f64::from(low) - f64::from(high))) as u8;
    RGBColor(mix(HIGH.0, LOW.0), mix(HIGH.1, LOW.1), mix(HIGH.2, LOW.2))
}

/// The line without points that are within two pixels of the previous one. The last point stays.
fn thinned(line: &[Point], pixel: impl Fn(Point) -> Pixel) -> Vec<Point> {
    let mut kept: Vec<Point> = Vec::new();
    for (i, point) in line.iter().enumerate() {
        let is_near = kept.last().is_some_and(|last| {
            let ((x, y), (last_x, last_y)) = (pixel(*point), pixel(*last));
            (x - last_x).abs().max((y - last_y).abs()) <= 2
        });
        if !is_near || i + 1 == line.len() {
            kept.push(*point);
        }
    }
    kept
}

/// A diamond.
fn start_mark((x, y): Pixel) -> Polygon<Pixel> {
    Polygon::new([(x - 15, y), (x, y - 15), (x + 15, y), (x, y + 15)], INK.filled())
}

/// A star with five points.
fn minimum_mark((x, y): Pixel) -> Polygon<Pixel> {
    let corner = |i: u32| {
        let (sin, cos) = (TAU * f64::from(i) / 10.0).sin_cos();
        let radius = if i.is_multiple_of(2) { 24.0 } else { 10.0 };
        (x + (radius * sin).round() as i32, y - (radius * cos).round() as i32)
    };
    Polygon::new((0..10).map(corner).collect::<Vec<_>>(), INK.filled())
}

/// The font of the plot.
fn font(size: u32) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

/// Rows of names, each next to its colour or mark.
fn plot_legend(runs: &[Run], area: &Area) -> Result<()> {
    let cell = |i: usize| {
        let (column, row) = (i % LEGEND_COLUMNS, i / LEGEND_COLUMNS);
        let width = (WIDTH as usize - 150) / LEGEND_COLUMNS;
        (110 + (column * width) as i32, 28 + row as i32 * LEGEND_ROW as i32)
    };
    let style = font(32).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    for (i, run) in runs.iter().enumerate() {
        let (x, y) = cell(i);
        area.draw(&PathElement::new([(x, y), (x + 56, y)], colour(i).stroke_width(8)))?;
        area.draw_text(run.name, &style, (x + 72, y))?;
    }
    for (i, (name, mark)) in ["start", "minimum"].into_iter().zip(MARKS).enumerate() {
        let (x, y) = cell(runs.len() + i);
        area.draw(&mark((x + 28, y)))?;
        area.draw_text(name, &style, (x + 72, y))?;
    }
    Ok(())
}
