//! How the metric that judges follows from the one that finds directions: `D' = (D − s I) / c − μ μᵀ`.

use calabi_svd::whitening::energy;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// What a [shrunk](super::Shrinkage) and uncentred metric makes of weights: losses in the metric as it was measured follow
/// from those in this one, without a product with either.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// `c`, above zero.
    scale: f64,
    /// `s`.
    shift: f64,
    /// `μ`, where losses are centred and directions are not.
    mean: Option<Array1<f64>>,
}

/// What some rows amount to, summed over them.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// `‖X L‖²`.
    weighed: f64,
    /// `‖X‖²`.
    plain: f64,
    /// `‖X μ‖²`.
    mean: f64,
}

impl Judged {
    pub(super) fn new(alpha: f64, shift: f64, mean: Option<Array1<f64>>) -> Option<Self> {
        (alpha < 1.0).then_some(Self { scale: 1.0 - alpha, shift, mean })
    }

    /// Whether it is the same metric.
    #[allow(clippy::float_cmp)] // what nothing was done to
    pub(super) fn is_same(&self) -> bool {
        self.scale == 1.0 && self.shift == 0.0 && self.mean.is_none()
    }

    fn of(&self, rows: Rows) -> f64 {
        (rows.weighed - self.shift * rows.plain) / self.scale - rows.mean
    }

    /// What an error loses, whose loss in the metric that finds directions is known, and what it makes of `μ`; its plain
    /// square is asked for where it counts.
    pub(super) fn lost<E>(
        &self,
        weighed: f64,
        plain: impl FnOnce() -> Result<f64, E>,
        of_mean: Option<&Array1<f64>>,
    ) -> Result<f64, E> {
        let mean = self.mean.as_ref().and(of_mean).map_or(0.0, square);
        let plain = if self.shift == 0.0 { 0.0 } else { plain()? };
        Ok(self.of(Rows { weighed, plain, mean }))
    }

    /// `loss(r)` for `r` from 0 to as many as there are `rows`, of `Uᵀ W`, whose norms in the metric that finds them are the
    /// `values`; `weight` and `rest` are the weight and what is behind the values.
    pub(super) fn losses(
        &self,
        weight: ArrayView2<'_, f32>,
        rows: &Array2<f32>,
        values: &[f64],
        rest: f64,
    ) -> Vec<f64> {
        let of_mean = |x: ArrayView2<'_, f32>| self.mean.as_ref().map_or(0.0, |mean| square(&times(x, mean)));
        let each = rows.axis_iter(Axis(0)).zip(values).map(|(row, value)| {
            let row = row.insert_axis(Axis(0));
            Rows { weighed: value * value, plain: energy(row), mean: of_mean(row) }
        });
        let each: Vec<Rows> = each.collect();
        let behind = Rows {
            weighed: rest,
            plain: energy(weight) - each.iter().map(|row| row.plain).sum::<f64>(),
            mean: of_mean(weight) - each.iter().map(|row| row.mean).sum::<f64>(),
        };
        let mut losses = vec![self.of(behind).max(0.0); each.len() + 1];
        for (r, &row) in each.iter().enumerate().rev() {
            losses[r] = losses[r + 1] + self.of(row).max(0.0);
        }
        losses
    }
}

/// `X v`, summed in `f64`.
pub(super) fn times(x: ArrayView2<'_, f32>, v: &Array1<f64>) -> Array1<f64> {
    x.rows().into_iter().map(|row| row.iter().zip(v).map(|(&a, b)| f64::from(a) * b).sum::<f64>()).collect()
}

fn square(v: &Array1<f64>) -> f64 {
    v.dot(v)
}
