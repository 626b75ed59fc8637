//! The sums of one output over samples.

use super::Meaning;
use super::row::Row;
use crate::{Change, OutputReport};

/// The sums of one output.
#[derive(Debug)]
pub(super) struct Tally {
    name: String,
    meaning: Meaning,
    lost: f64,
    energy: f64,
    rows: u64,
    same: u64,
    divergence: f64,
    surprise: Change<f64>,
    scored: u64,
    /// Of the sample that is coming in.
    angle: Angle,
    cosines: f64,
    samples: u64,
}

/// The angle between a sample's outputs.
#[derive(Debug, Default)]
struct Angle {
    dot: f64,
    yy: f64,
    zz: f64,
}

impl Angle {
    /// Outputs that are both zero count as equal.
    fn cosine(&self) -> f64 {
        match (self.yy == 0.0, self.zz == 0.0) {
            (true, true) => 1.0,
            (false, false) => self.dot / (self.yy.sqrt() * self.zz.sqrt()),
            _ => 0.0,
        }
    }
}

impl Tally {
    pub(super) fn new(name: String, meaning: Meaning) -> Self {
        Self {
            name,
            meaning,
            lost: 0.0,
            energy: 0.0,
            rows: 0,
            same: 0,
            divergence: 0.0,
            surprise: Change { before: 0.0, after: 0.0 },
            scored: 0,
            angle: Angle::default(),
            cosines: 0.0,
            samples: 0,
        }
    }

    pub(super) fn meaning(&self) -> Meaning {
        self.meaning
    }

    pub(super) fn add(&mut self, row: &Row) {
        self.lost += row.lost;
        self.energy += row.yy;
        self.rows += 1;
        self.same += u64::from(row.class.0 == row.class.1);
        self.divergence += row.divergence;
        if let Some((original, compressed)) = row.surprise {
            self.surprise.before += original;
            self.surprise.after += compressed;
            self.scored += 1;
        }
        self.angle.dot += row.dot;
        self.angle.yy += row.yy;
        self.angle.zz += row.zz;
    }

    pub(super) fn end_sample(&mut self) {
        self.cosines += std::mem::take(&mut self.angle).cosine();
        self.samples += 1;
    }

    pub(super) fn report(&self) -> OutputReport {
        let rows = self.rows.max(1) as f64;
        OutputReport {
            name: self.name.clone(),
            relative_error: if self.energy > 0.0 { (self.lost / self.energy).sqrt() } else { self.lost.sqrt() },
            cosine: self.cosines / self.samples.max(1) as f64,
            agreement: self.meaning.classes.then(|| self.same as f64 / rows),
            kl: self.meaning.logits.then(|| self.divergence / rows),
        }
    }

    /// The perplexity of both models, and over how many tokens; none where the output predicts none.
    pub(super) fn perplexity(&self) -> Option<(Change<f64>, u64)> {
        let of = |sum: f64| (sum / self.scored as f64).exp();
        (self.scored > 0)
            .then(|| (Change { before: of(self.surprise.before), after: of(self.surprise.after) }, self.scored))
    }
}
