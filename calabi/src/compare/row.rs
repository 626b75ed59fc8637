//! What two models make of one row of an output: one token, or one sample.

/// The figures of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    /// `‖y − z‖²`.
    pub(super) lost: f64,
    /// `⟨y, z⟩`.
    pub(super) dot: f64,
    /// `‖y‖²`.
    pub(super) yy: f64,
    /// `‖z‖²`.
    pub(super) zz: f64,
    /// The place of the largest value, of the original and of the compressed; the first of equal ones.
    pub(super) class: (usize, usize),
    /// The Kullback-Leibler divergence of `softmax(z)` from `softmax(y)`, in nats; zero where these are no logits.
    pub(super) divergence: f64,
    /// `−ln p(next token)`, of both; none where no token follows.
    pub(super) surprise: Option<(f64, f64)>,
}

/// Compares a row of the original with the same of the compressed model.
pub(super) fn compare_rows(y: &[f32], z: &[f32], logits: bool, next: Option<usize>) -> Row {
    let mut row = Row { class: (largest(y).0, largest(z).0), ..Row::default() };
    for (&y, &z) in y.iter().zip(z) {
        let (y, z) = (f64::from(y), f64::from(z));
        row.lost += (y - z).powi(2);
        row.dot += y * z;
        row.yy += y * y;
        row.zz += z * z;
    }
    if logits {
        let (log_y, moved) = log_sum(y, z);
        let (log_z, _) = log_sum(z, z);
        let divergence = moved - (log_y - log_z);
        // Rounding may put it a little below zero; what is not a number stays so.
        row.divergence = if divergence < 0.0 { 0.0 } else { divergence };
        row.surprise =
            next.map(|next| (at(y, next).map_or(f64::NAN, |v| log_y - v), at(z, next).map_or(f64::NAN, |v| log_z - v)));
    }
    row
}

/// `−ln softmax(y)[next]`, in nats; not a number where there is no such place.
pub(crate) fn surprise(y: &[f32], next: usize) -> f64 {
    at(y, next).map_or(f64::NAN, |value| log_sum(y, y).0 - value)
}

fn at(row: &[f32], place: usize) -> Option<f64> {
    row.get(place).copied().map(f64::from)
}

/// `ln Σ eʸ`, and the mean of `y − z` under `softmax(y)`.
fn log_sum(y: &[f32], z: &[f32]) -> (f64, f64) {
    let top = f64::from(largest(y).1);
    let (mut sum, mut moved) = (0.0, 0.0);
    for (&y, &z) in y.iter().zip(z) {
        let weight = (f64::from(y) - top).exp();
        // What is impossible for the original weighs nothing, also where it is minus infinity for both.
        if weight != 0.0 {
            sum += weight;
            moved += weight * (f64::from(y) - f64::from(z));
        }
    }
    (top + sum.ln(), moved / sum)
}

fn largest(row: &[f32]) -> (usize, f32) {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best })
}
