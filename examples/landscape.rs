//! Draws the paths of all rules on two landscapes that are hard to descend, into one picture.
//!
//! ```text
//! cargo run --release --example landscape -- [--plot FILE.svg]
//! ```
//!
//! Each landscape is (x − x₀)² + k·(y − b·x²)², whose floor runs along the curve y = b·x² and falls
//! slowly towards the minimum at x₀, between walls that are k times as steep. With k = 10 and b = 1
//! it is Rosenbrock's valley, which bends; with k = 50 and b = 0 it is a straight ravine.
//!
//! All rules go the same number of steps from the same point, with learning rates that fall to zero
//! on a straight line. The rates suit the landscapes and differ between rules, so the picture shows
//! how the rules move, not which of them is best. AdamW's decay keeps it off the valley's minimum:
//! it pulls towards (0, 0).
//!
//! It prints how far from the minimum each path ends, and draws to `target/landscape.svg` unless
//! another file is given.

use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};

use fused_adam::{AnyRule, Flat};
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

/// What SGD keeps of its last step.
const SGD_MOMENTUM: f64 = 0.9;
/// AdaBound ends as SGD with this learning rate, which the walls of both landscapes have to bear.
const ADABOUND_FINAL_LR: f64 = 5e-3;

/// Each rule with its colour and its first learning rates: in the valley, and in the ravine. The
/// options that are not named here are the rule's defaults.
const RULES: [(&str, RGBColor, [f64; 2]); 11] = [
    ("sgd", RGBColor(60, 60, 60), [3e-3, 4e-3]),
    ("rmsprop", RGBColor(150, 90, 50), [2e-2, 1.5e-2]),
    ("adagrad", RGBColor(240, 165, 0), [5e-1, 6e-1]),
    ("adam", RGBColor(215, 40, 40), [3e-1, 2e-1]),
    ("adamw", RGBColor(30, 110, 200), [1e-1, 8e-2]),
    ("adamax", RGBColor(40, 155, 70), [4e-1, 1e-1]),
    ("nadam", RGBColor(145, 85, 190), [2e-1, 1e-1]),
    ("radam", RGBColor(0, 180, 190), [1e-2, 2e-2]),
    ("adabound", RGBColor(235, 110, 190), [2e-1, 6e-2]),
    ("adabelief", RGBColor(130, 145, 0), [1e-1, 1e-1]),
    ("lion", RGBColor(120, 15, 80), [1e-2, 1e-2]),
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
/// The ground where it is highest and where it is lowest.
const HIGH: RGBColor = RGBColor(184, 198, 215);
const LOW: RGBColor = RGBColor(252, 252, 249);
/// Contours lie at 10^(k/4) for these k: evenly spaced in the logarithm.
const CONTOURS: std::ops::RangeInclusive<i32> = -8..=9;

/// In pixels, which are small, since lines go from one whole pixel to another.
const SIZE: (u32, u32) = (2560, 1360);
const LEGEND_HEIGHT: u32 = 130;

/// How the start and the minimum are marked: by a diamond, and by a star.
const MARKS: [fn(Pixel) -> Polygon<Pixel>; 2] = [start_mark, minimum_mark];

fn main() -> Result<()> {
    let file = option()?;
    let mut paths = Vec::new();
    for (i, landscape) in LANDSCAPES.iter().enumerate() {
        let descend = |(name, _, lr): (&str, _, [f64; 2])| landscape.descend(rule(name, lr[i])?);
        paths.push(RULES.into_iter().map(descend).collect::<Result<Vec<_>>>()?);
    }
    print_table(&paths);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    plot(&paths, &file)?;
    println!("plotted to {}", file.display());
    Ok(())
}

/// The file to draw to.
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

/// The rule of this name, as it is before the first step.
fn rule(name: &str, lr: f64) -> Result<AnyRule> {
    let mut rule: AnyRule = name.parse()?;
    *rule.lr_mut() = lr;
    match &mut rule {
        AnyRule::Sgd(sgd) => sgd.momentum = SGD_MOMENTUM,
        AnyRule::AdaBound(adabound) => adabound.final_lr = ADABOUND_FINAL_LR,
        _ => {}
    }
    Ok(rule)
}

/// (x − x0)² + steepness·(y − bend·x²)², and the part of it that is drawn.
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
    /// The end of the valley's floor.
    fn minimum(&self) -> Point {
        (self.x0, self.bend * self.x0 * self.x0)
    }

    /// The two derivatives there.
    fn gradient(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let wall = 2.0 * self.steepness * (y - self.bend * x * x);
        [2.0 * (x - self.x0) - 2.0 * self.bend * x * wall, wall]
    }

    /// The points that a rule comes to, from the start on.
    fn descend(&self, rule: AnyRule) -> Result<Vec<Point>> {
        let mut theta = <[f64; 2]>::from(self.start);
        let mut opt = Flat::new(rule, theta.len())?;
        let mut path = vec![self.start];
        for step in 0..STEPS {
            *opt.rule_mut().lr_mut() = rule.lr() * (1.0 - f64::from(step) / f64::from(STEPS));
            let grad = self.gradient(theta);
            opt.step(&mut theta, &grad)?;
            path.push(theta.into());
        }
        Ok(path)
    }

    /// How far from the minimum a path ends.
    fn distance(&self, path: &[Point]) -> f64 {
        let ((x, y), (x0, y0)) = (path.last().unwrap_or(&self.start), self.minimum());
        (x - x0).hypot(y - y0)
    }

    /// The points of one height: a circle that is stretched and bent. What would lie outside the
    /// part that is drawn is moved to its edge, which leaves the area inside as it is.
    fn contour(&self, height: f64) -> Vec<Point> {
        let (x_radius, y_radius) = (height.sqrt(), (height / self.steepness).sqrt());
        let point = |i: u32| {
            let (sin, cos) = (TAU * f64::from(i) / 1500.0).sin_cos();
            let x = self.x0 + x_radius * cos;
            let y = self.bend * x * x + y_radius * sin;
            (
                x.clamp(self.left_low.0, self.right_high.0),
                y.clamp(self.left_low.1, self.right_high.1),
            )
        };
        (0..=1500).map(point).collect()
    }
}

/// The learning rate of each rule on both landscapes, and how far from the minimum it ends.
fn print_table(paths: &[Vec<Vec<Point>>]) {
    println!("{STEPS} steps    Rosenbrock’s valley          ravine");
    println!("rule              lr  distance        lr  distance");
    for (i, (name, _, [valley_lr, ravine_lr])) in RULES.into_iter().enumerate() {
        let valley = LANDSCAPES[0].distance(&paths[0][i]);
        let ravine = LANDSCAPES[1].distance(&paths[1][i]);
        println!("{name:<12} {valley_lr:>7}  {valley:>8.1e}   {ravine_lr:>7}  {ravine:>8.1e}");
    }
}

/// The two landscapes side by side, and the legend below.
fn plot(paths: &[Vec<Vec<Point>>], file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (panels, legend) = root.split_vertically(SIZE.1 - LEGEND_HEIGHT);
    let panels = panels.split_evenly((1, 2));
    for ((landscape, paths), panel) in LANDSCAPES.iter().zip(paths).zip(&panels) {
        plot_panel(landscape, paths, panel)?;
    }
    plot_legend(&legend)?;
    root.present()?;
    Ok(())
}

/// One landscape with the paths of all rules.
fn plot_panel(landscape: &Landscape, paths: &[Vec<Point>], panel: &Area) -> Result<()> {
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
    for ((_, colour, _), path) in RULES.into_iter().zip(paths).rev() {
        let path = thinned(path, |point| chart.plotting_area().map_coordinate(&point));
        let end = path.last().copied();
        chart.draw_series([PathElement::new(path, colour.mix(0.9).stroke_width(4))])?;
        chart.draw_series(end.map(|end| Circle::new(end, 7, colour.filled())))?;
    }
    let marks = [landscape.start, landscape.minimum()].into_iter().zip(MARKS);
    chart.draw_series(marks.map(|(at, mark)| EmptyElement::at(at) + mark((0, 0))))?;
    Ok(())
}

/// The heights as areas, the highest first, each in its shade and with a thin white line round it.
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

/// The line less those points that lie within two pixels of the one before, except the last.
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

/// A square on its corner.
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

/// The one typeface of the picture.
fn font(size: u32) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

/// Two rows of names, each beside its colour or mark.
fn plot_legend(area: &Area) -> Result<()> {
    let columns = (RULES.len() + MARKS.len()).div_ceil(2) as i32;
    let cell = |i: usize| {
        let (column, row) = (i as i32 % columns, i as i32 / columns);
        (110 + column * (SIZE.0 as i32 - 150) / columns, 28 + row * 54)
    };
    let style = font(32).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
    for (i, (name, colour, _)) in RULES.into_iter().enumerate() {
        let (x, y) = cell(i);
        area.draw(&PathElement::new([(x, y), (x + 56, y)], colour.stroke_width(8)))?;
        area.draw_text(name, &style, (x + 72, y))?;
    }
    for (i, (name, mark)) in ["start", "minimum"].into_iter().zip(MARKS).enumerate() {
        let (x, y) = cell(RULES.len() + i);
        area.draw(&mark((x + 28, y)))?;
        area.draw_text(name, &style, (x + 72, y))?;
    }
    Ok(())
}
