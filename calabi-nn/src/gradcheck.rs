//! Compares the gradients of a layer with differences of its outputs.

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::random::SplitMix;

/// How far a layer's gradients are from central differences: one [`Deviation`] per variable, with the settings of
/// [`GradCheck::default`].
///
/// `run` gives the layer's output; it sees the variables as they are when it is called (a layer made of
/// `var.as_tensor().clone()` does, since candle's clones share their values). The loss is the sum of the output times
/// fixed random numbers from -1 to 1, so that no gradient can hide in a sum.
///
/// ```
/// use calabi_nn::candle_core::{DType, Device, Module, Result, Var};
/// use calabi_nn::{LowRankLinear, gradcheck};
///
/// let noise = |shape: (usize, usize)| Var::rand(-1f32, 1f32, shape, &Device::Cpu);
/// let (left, right, x) = (noise((5, 2))?, noise((2, 7))?, noise((3, 7))?);
/// let layer = LowRankLinear::new(left.as_tensor().clone(), right.as_tensor().clone(), None)?;
/// let found = gradcheck(&[("left", &left), ("right", &right), ("x", &x)], || layer.forward(x.as_tensor()))?;
/// assert!(found.iter().all(|tensor| tensor.relative < 1e-3), "{found:#?}");
/// # Ok::<(), calabi_nn::candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`GradCheck::run`].
pub fn gradcheck(variables: &[(&str, &Var)], run: impl Fn() -> Result<Tensor>) -> Result<Vec<Deviation>> {
    GradCheck::default().run(variables, run)
}

/// How gradients are compared.
///
/// ```
/// let fewer = calabi_nn::GradCheck { entries: 16, ..calabi_nn::GradCheck::default() };
/// assert_eq!(fewer.step, None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradCheck {
    /// The step, as a share of an entry's size: of its magnitude, or of its tensor's root mean square where that is
    /// larger. None takes `ε^(1/5)`, the step at which rounding (`ε / step`) and truncation (`step⁴`) are alike: 0.04 in
    /// `f32`, 7e-4 in `f64`. A layer with kinks wants a smaller one: a difference across a kink is no derivative.
    pub step: Option<f64>,
    /// How many entries of each tensor are compared: all of a smaller one, else one of each of so many equal parts, picked at
    /// random. Each costs four outputs.
    pub entries: usize,
    /// Picks entries and makes the loss.
    pub seed: u64,
}

impl Default for GradCheck {
    fn default() -> Self {
        Self { step: None, entries: 256, seed: 0 }
    }
}

/// How far the gradient of one tensor is from differences.
///
/// ```
/// use calabi_nn::candle_core::{Device, Var};
///
/// let x = Var::new(&[3f64], &Device::Cpu)?;
/// let found = &calabi_nn::gradcheck(&[("x", &x)], || x.as_tensor() * 2.0)?[0];
/// assert_eq!((found.name.as_str(), found.at, found.compared), ("x", 0, 1));
/// assert!((found.numeric - found.analytic).abs() < 1e-9);
/// # Ok::<(), calabi_nn::candle_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Deviation {
    /// The tensor's name.
    pub name: String,
    /// The largest `|analytic − numeric|` among the entries compared, divided by the largest magnitude among all of these
    /// analytic and numeric values: 0 where all are 0, infinite where one is not finite. An entry whose gradient is small
    /// beside the others' is judged by theirs, since rounding in the outputs hides it.
    pub relative: f64,
    /// Where the largest difference is: the entry's number in row-major order.
    pub at: usize,
    /// The gradient there, as `backward()` gives it; 0 where it gives none.
    pub analytic: f64,
    /// The gradient there, by differences.
    pub numeric: f64,
    /// How many entries were compared.
    pub compared: usize,
}

impl GradCheck {
    /// As [`gradcheck`], with these settings.
    ///
    /// Each difference is the fourth-order one, `(4 D(h) − D(2h)) / 3` for the central difference `D`, over the steps
    /// as they are rounded; outputs are subtracted before they are summed, in `f64`. Variables are put back, also after an error.
    ///
    /// ```
    /// use calabi_nn::GradCheck;
    /// use calabi_nn::candle_core::{Device, Var};
    ///
    /// let x = Var::new(&[1f32, 2.0], &Device::Cpu)?;
    /// let check = GradCheck { step: Some(1e-2), ..GradCheck::default() };
    /// let found = check.run(&[("x", &x)], || x.as_tensor().sqr())?;
    /// assert!(found[0].relative < 1e-4 && found[0].compared == 2);
    /// let broken = check.run(&[("x", &x)], || x.as_detached_tensor().sqr())?;
    /// assert_eq!(broken[0].relative, 1.0);
    /// # Ok::<(), calabi_nn::candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where `run` fails, or a variable or the output is neither `f32` nor `f64`, or the output's shape changes.
    pub fn run(&self, variables: &[(&str, &Var)], run: impl Fn() -> Result<Tensor>) -> Result<Vec<Deviation>> {
        let y = run()?;
        for tensor in variables.iter().map(|(_, var)| var.as_tensor()).chain([&y]) {
            if !matches!(tensor.dtype(), DType::F32 | DType::F64) {
                bail!("gradients of {:?} in {:?} are not compared: use F32 or F64", tensor.shape(), tensor.dtype())
            }
        }
        let mut numbers = SplitMix::new(self.seed);
        let projection: Vec<f64> = (0..y.elem_count()).map(|_| numbers.centred()).collect();
        let weights = Tensor::from_slice(&projection, y.shape(), y.device())?.to_dtype(y.dtype())?;
        let gradients = (&y * weights)?.sum_all()?.backward()?;
        let difference = |plus: &Tensor, minus: &Tensor| -> Result<f64> {
            let apart = (plus.to_dtype(DType::F64)? - minus.to_dtype(DType::F64)?)?;
            let apart = apart.flatten_all()?.to_vec1::<f64>()?;
            Ok(apart.iter().zip(&projection).map(|(apart, weight)| apart * weight).sum())
        };
        let checked = variables.iter().map(|&(name, var)| {
            let analytic = gradients.get(var).map(values).transpose()?;
            let picked = self.picked(var.elem_count(), &mut numbers);
            let mut moved = Moved::new(var)?;
            let pairs = picked.into_iter().map(|at| {
                let analytic = analytic.as_ref().and_then(|values| values.get(at)).copied().unwrap_or(0.0);
                let numeric = moved.slope(at, self.step, &run, &difference)?;
                Ok((at, analytic, numeric))
            });
            Ok(Deviation::of(name, &pairs.collect::<Result<Vec<_>>>()?))
        });
        checked.collect()
    }

    /// The entries that are compared.
    fn picked(&self, count: usize, numbers: &mut SplitMix) -> Vec<usize> {
        let parts = self.entries.min(count);
        let start = |part: usize| usize::try_from(part as u128 * count as u128 / parts.max(1) as u128).unwrap_or(0);
        (0..parts).map(|part| start(part) + numbers.below(start(part + 1) - start(part))).collect()
    }
}

impl Deviation {
    fn of(name: &str, pairs: &[(usize, f64, f64)]) -> Self {
        let scale = pairs.iter().fold(0.0, |most: f64, (_, a, n)| most.max(a.abs()).max(n.abs()));
        let share = |analytic: f64, numeric: f64| match (analytic - numeric).abs() {
            0.0 => 0.0,
            apart if apart.is_finite() => apart / scale,
            _ => f64::INFINITY,
        };
        let worst =
            pairs.iter().map(|&(at, a, n)| (share(a, n), at, a, n)).max_by(|one, other| one.0.total_cmp(&other.0));
        let (relative, at, analytic, numeric) = worst.unwrap_or((0.0, 0, 0.0, 0.0));
        Self { name: name.to_owned(), relative, at, analytic, numeric, compared: pairs.len() }
    }
}

/// A variable of which one entry at a time is moved; it is put back at the end.
struct Moved<'v> {
    var: &'v Var,
    original: Tensor,
    values: Vec<f64>,
    /// The root mean square of the values; 1 where they are all zero.
    size: f64,
}

impl<'v> Moved<'v> {
    fn new(var: &'v Var) -> Result<Self> {
        let values = values(var.as_tensor())?;
        let mean = values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64;
        let size = if mean > 0.0 { mean.sqrt() } else { 1.0 };
        Ok(Self { var, original: var.as_detached_tensor().copy()?, values, size })
    }

    /// The derivative of the loss for an entry.
    fn slope(
        &mut self,
        at: usize,
        step: Option<f64>,
        run: &impl Fn() -> Result<Tensor>,
        difference: &impl Fn(&Tensor, &Tensor) -> Result<f64>,
    ) -> Result<f64> {
        let value = *self.entry(at)?;
        let precision = if self.var.dtype() == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let h = step.unwrap_or(precision.powf(0.2)) * self.size.max(value.abs());
        let mut central = |h: f64| {
            let (above, plus) = self.output_at(at, value + h, run)?;
            let (below, minus) = self.output_at(at, value - h, run)?;
            Ok::<_, candle_core::Error>(difference(&plus, &minus)? / (above - below))
        };
        let slope = (4.0 * central(h)? - central(2.0 * h)?) / 3.0;
        *self.entry(at)? = value;
        Ok(slope)
    }

    fn entry(&mut self, at: usize) -> Result<&mut f64> {
        self.values.get_mut(at).map_or_else(|| bail!("a tensor has no entry {at}"), Ok)
    }

    /// The output where an entry has this value, and the value as it is rounded.
    fn output_at(&mut self, at: usize, value: f64, run: &impl Fn() -> Result<Tensor>) -> Result<(f64, Tensor)> {
        #[allow(clippy::cast_possible_truncation)] // the variable's own type
        let value = if self.var.dtype() == DType::F64 { value } else { f64::from(value as f32) };
        *self.entry(at)? = value;
        let moved = Tensor::from_slice(&self.values, self.var.shape(), self.var.device())?;
        self.var.set(&moved.to_dtype(self.var.dtype())?)?;
        Ok((value, run()?.copy()?))
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        // Setting a tensor of the same shape, type and device fails only where the variable is borrowed, which panics.
        let _ = self.var.set(&self.original);
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}
