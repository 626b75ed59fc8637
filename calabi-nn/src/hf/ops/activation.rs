//! Activations, alone or as the gate of another stream.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::exp::{normal, normal_density, sigmoid};
use super::{CHUNK, lend, like, part, tensor};

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x σ(x)`.
    Silu,
    /// The normal distribution's share of `x`, by the hyperbolic tangent (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// The normal distribution's share of `x`, by the error function (`gelu`).
    GeluErf,
    /// The larger of `x` and 0.
    Relu,
}

/// The value and the derivative at `x`.
trait Curve: Copy + Sync {
    fn at(self, x: f32) -> (f32, f32);
}

#[derive(Clone, Copy)]
struct Silu;

impl Curve for Silu {
    #[inline]
    fn at(self, x: f32) -> (f32, f32) {
        let s = sigmoid(x);
        (x * s, s * (1.0 + x * (1.0 - s)))
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Curve for GeluTanh {
    #[inline]
    fn at(self, x: f32) -> (f32, f32) {
        const SLOPE: f32 = 1.595_769; // 2 √(2/π): (1 + tanh u) / 2 = σ(2u)
        const CUBIC: f32 = 0.044_715;
        let s = sigmoid(SLOPE * (x + CUBIC * x * x * x));
        (x * s, s + x * s * (1.0 - s) * SLOPE * (1.0 + 3.0 * CUBIC * x * x))
    }
}

#[derive(Clone, Copy)]
struct GeluErf;

impl Curve for GeluErf {
    #[inline]
    fn at(self, x: f32) -> (f32, f32) {
        let share = normal(x);
        (x * share, share + x * normal_density(x))
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Curve for Relu {
    #[inline]
    fn at(self, x: f32) -> (f32, f32) {
        if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
    }
}

/// Runs `$work` with the curve of an activation, each in code of its own.
macro_rules! with_curve {
    ($kind:expr, $curve:ident => $work:expr) => {
        match $kind {
            Activation::Silu => {
                let $curve = Silu;
                $work
            }
            Activation::GeluTanh => {
                let $curve = GeluTanh;
                $work
            }
            Activation::GeluErf => {
                let $curve = GeluErf;
                $work
            }
            Activation::Relu => {
                let $curve = Relu;
                $work
            }
        }
    };
}

/// The activation of every value.
///
/// # Errors
/// Where `x` is not `f32` on the CPU.
pub(crate) fn activation(x: &Tensor, kind: Activation) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Alone(kind))
}

/// `activation(gate) · up`, value by value; both of one shape.
///
/// # Errors
/// Where the shapes differ, or the tensors are not `f32` on the CPU.
pub(crate) fn gated(gate: &Tensor, up: &Tensor, kind: Activation) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("a gate of {:?} meets {:?}", gate.shape(), up.shape())
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gated(kind))
}

struct Alone(Activation);

impl CustomOp1 for Alone {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = part(storage, layout)?;
        Ok(like(with_curve!(self.0, curve => map(x, |x| curve.at(x).0)), layout))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let values =
            lend(x, |x| lend(gradient, |g| Ok(with_curve!(self.0, curve => map2(x, g, |x, g| curve.at(x).1 * g)))))?;
        tensor(values, x).map(Some)
    }
}

struct Gated(Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (part(gate, gate_layout)?, part(up, up_layout)?);
        Ok(like(with_curve!(self.0, curve => map2(gate, up, |x, up| curve.at(x).0 * up)), gate_layout))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (of_gate, of_up) = lend(gate, |x| {
            lend(up, |u| lend(gradient, |g| Ok(with_curve!(self.0, curve => gated_backward(x, u, g, curve)))))
        })?;
        Ok((Some(tensor(of_gate, gate)?), Some(tensor(of_up, up)?)))
    }
}

fn gated_backward(x: &[f32], up: &[f32], gradient: &[f32], curve: impl Curve) -> (Vec<f32>, Vec<f32>) {
    let (mut of_gate, mut of_up) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let given = x.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(gradient.par_chunks(CHUNK));
    let made = of_gate.par_chunks_mut(CHUNK).zip(of_up.par_chunks_mut(CHUNK));
    made.zip(given).for_each(|((of_gate, of_up), ((x, up), g))| {
        let given = x.iter().zip(up).zip(g);
        for ((of_gate, of_up), ((&x, &up), &g)) in of_gate.iter_mut().zip(of_up).zip(given) {
            let (value, slope) = curve.at(x);
            (*of_gate, *of_up) = (slope * up * g, value * g);
        }
    });
    (of_gate, of_up)
}

fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let mut made = vec![0.0; x.len()];
    made.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(made, x)| {
        for (made, &x) in made.iter_mut().zip(x) {
            *made = f(x);
        }
    });
    made
}

fn map2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    let mut made = vec![0.0; x.len()];
    made.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(y.par_chunks(CHUNK)).for_each(|((made, x), y)| {
        for (made, (&x, &y)) in made.iter_mut().zip(x.iter().zip(y)) {
            *made = f(x, y);
        }
    });
    made
}
