//! Loads the digits, shuffles them, and splits them into training and held-out digits.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::Result;

pub const PIXELS: usize = 64;
pub const CLASSES: usize = 10;

pub struct Digit {
    /// From 0 for white to 1 for black.
    pub pixels: [f32; PIXELS],
    pub label: usize,
}

pub struct Digits {
    pub train: Vec<Digit>,
    pub held_out: Vec<Digit>,
}

impl Digits {
    pub fn load() -> Result<Self> {
        let mut csv = String::new();
        GzDecoder::new(&include_bytes!("../../data/digits.csv.gz")[..]).read_to_string(&mut csv)?;
        let mut train = csv.lines().map(Self::parse).collect::<Result<Vec<Digit>>>()?;
        Rng(1998).shuffle(&mut train);
        let held_out = train.split_off(train.len() - train.len() / 5);
        Ok(Digits { train, held_out })
    }

    /// Parses a row: 64 pixels from 0 to 16, then the label.
    fn parse(row: &str) -> Result<Digit> {
        let mut numbers = row.split(',');
        let mut pixels = [0.0; PIXELS];
        for pixel in &mut pixels {
            *pixel = numbers.next().ok_or("a row is too short")?.parse::<f32>()? / 16.0;
        }
        Ok(Digit { pixels, label: numbers.next().ok_or("a row has no label")?.parse()? })
    }
}

/// SplitMix64: the same numbers in every run.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [−1, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}
