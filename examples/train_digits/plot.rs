//! The loss curve.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::full_palette::{DEEPORANGE, INDIGO};

use crate::Result;
use crate::run::{EPOCHS, Run};

/// Plots the loss over epochs.
pub fn plot(run: &Run, file: &Path) -> Result<()> {
    let batches = run.losses.len() / EPOCHS;
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let each_batch = run.losses.iter().enumerate();
    let each_batch: Vec<_> = each_batch.map(|(i, y)| (i as f32 / batches as f32, *y)).collect();
    let each_epoch = run.losses.chunks(batches).enumerate();
    let each_epoch: Vec<_> = each_epoch.map(|(i, ys)| (i as f32 + 0.5, mean(ys))).collect();
    let held_out = run.held_out.iter().enumerate();
    let held_out: Vec<_> = held_out.map(|(i, (y, _))| (i as f32, *y)).collect();
    let lowest = run.losses.iter().copied().fold(1.0, f32::min);
    let root = SVGBackend::new(file, (900, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..EPOCHS as f32, (lowest / 1.5..4.0).log_scale())?;
    let font = ("sans-serif", 14);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc("epoch").x_label_formatter(&|x| x.to_string());
    mesh.y_desc("cross-entropy").y_label_formatter(&|y| y.to_string()).label_style(font);
    mesh.bold_line_style(BLACK.mix(0.12)).light_line_style(TRANSPARENT).draw()?;
    for (label, style, point_size, points) in [
        ("each batch of digits", INDIGO.mix(0.3).stroke_width(1), 0, each_batch),
        ("mean of each epoch's batches", INDIGO.stroke_width(2).filled(), 2, each_epoch),
        ("held-out digits", DEEPORANGE.stroke_width(2).filled(), 2, held_out),
    ] {
        let series = LineSeries::new(points, style).point_size(point_size);
        let swatch = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
        chart.draw_series(series)?.label(label).legend(swatch);
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperRight).label_font(font);
    legend.background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
    root.present()?;
    println!("loss curve: {}", file.display());
    Ok(())
}
