//! How the two factors of a tensor are stored, so that each of its readers finds them as it needs them.
//!
//! A tensor `S` of `p × q` becomes `A` of `p × r` and `B` of `r × q`, `S ≈ A · B`. A reader takes `S`, or `Sᵀ ≈ Bᵀ · Aᵀ`;
//! its data meets one factor first, then the other.

use super::reads::{Kind, Read};
use super::sites::Site;

/// One of the factors of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Half {
    A,
    B,
}

/// A dimension of a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dim {
    Size(u64),
    Rank,
}

/// A factor as it is stored, or as a node reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) half: Half,
    /// Whether rows and columns are exchanged.
    pub(crate) flipped: bool,
    pub(crate) dims: Vec<Dim>,
    /// So many rows are the places of a kernel, which stand behind the columns.
    pub(crate) kernel: Option<usize>,
}

impl Form {
    /// Its dimensions at a rank.
    pub(crate) fn dims(&self, rank: usize) -> Vec<u64> {
        let size = |dim: &Dim| match dim {
            Dim::Size(size) => *size,
            Dim::Rank => rank as u64,
        };
        self.dims.iter().map(size).collect()
    }
}

impl Site {
    /// How both factors are stored, `A` before `B`; an error where no way suits all readers.
    pub(crate) fn stores(&self) -> Result<[Form; 2], String> {
        let forms: Vec<Form> = self.reads.iter().flat_map(Read::forms).collect();
        let stored = |half: Half| -> Result<Form, String> {
            let mut of_half = forms.iter().filter(|form| form.half == half);
            let first = of_half.next().ok_or("no node reads both of its factors")?;
            let alike = |other: &Form| {
                let turned = other.flipped != first.flipped && other.dims.iter().eq(first.dims.iter().rev());
                other == first || (turned && other.dims.len() == 2)
            };
            let fits = of_half.all(alike);
            fits.then(|| first.clone()).ok_or_else(|| "its readers need its factors in several shapes".to_owned())
        };
        Ok([stored(Half::A)?, stored(Half::B)?])
    }
}

impl Read {
    /// The factors as the node reads them: that which its data meets first, then the other.
    pub(crate) fn forms(&self) -> [Form; 2] {
        let (rows, cols) = if self.matrix.flipped {
            (self.matrix.cols, self.matrix.rows)
        } else {
            (self.matrix.rows, self.matrix.cols)
        };
        let matrix = |upright: bool, rows: Dim, cols: Dim| if upright { vec![rows, cols] } else { vec![cols, rows] };
        let left = |turned| self.form(true, turned, matrix(!turned, Dim::Size(rows), Dim::Rank));
        let right = |turned| self.form(false, turned, matrix(!turned, Dim::Rank, Dim::Size(cols)));
        let ones = || std::iter::repeat_n(Dim::Size(1), self.dims.len().saturating_sub(2));
        let sizes = |from: usize| self.dims.iter().skip(from).map(|&dim| Dim::Size(dim));
        match &self.kind {
            Kind::MatMul => {
                // A batch of matrices has as many left factors, and one right one.
                let batched = sizes(0).take(self.dims.len().saturating_sub(1)).chain([Dim::Rank]).collect();
                let left = self.form(true, false, batched);
                if self.outputs_first() { [right(false), left] } else { [left, right(false)] }
            }
            Kind::Gemm { weight, optional_bias, .. } => {
                // Without an optional bias the first node is a MatMul, which does not transpose.
                let turned = *weight && !optional_bias;
                if self.outputs_first() { [right(turned), left(false)] } else { [left(turned), right(false)] }
            }
            Kind::Conv => {
                let right = self.form(false, false, [Dim::Rank].into_iter().chain(sizes(1)).collect());
                let left = [Dim::Size(rows), Dim::Rank].into_iter().chain(ones()).collect();
                [right, self.form(true, false, left)]
            }
            Kind::SeparableConv(axes) => {
                let [outputs, inputs, rows, cols] = axes.dims;
                let right = [Dim::Rank, Dim::Size(inputs), Dim::Size(1), Dim::Size(cols)];
                let left = [Dim::Size(outputs), Dim::Rank, Dim::Size(rows), Dim::Size(1)];
                let left = Form { kernel: usize::try_from(rows).ok(), ..self.form(true, false, left.to_vec()) };
                [self.form(false, false, right.to_vec()), left]
            }
            Kind::ConvTranspose => {
                let left = [Dim::Rank, Dim::Size(rows)].into_iter().chain(ones()).collect();
                let right = self.form(false, false, [Dim::Rank].into_iter().chain(sizes(1)).collect());
                [self.form(true, true, left), right]
            }
            Kind::Gather => [left(false), right(false)],
            Kind::Einsum(einsum) => {
                if einsum.outputs_first {
                    [right(false), left(false)]
                } else {
                    [left(false), right(false)]
                }
            }
        }
    }

    /// A factor of the matrix that the node reads, as one of the tensor's.
    fn form(&self, left: bool, turned: bool, dims: Vec<Dim>) -> Form {
        let half = if left == self.matrix.flipped { Half::B } else { Half::A };
        Form { half, flipped: turned != self.matrix.flipped, dims, kernel: None }
    }
}
