use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::*;

/// Values that look random, around 0, the same every time.
fn noise(shape: &[usize], seed: usize) -> Var {
    let count = shape.iter().product();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed as u64 + 1);
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 * 2.0 - 2.0
        })
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let a = a.to_dtype(DType::F64).unwrap();
    let size = b.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    let apart = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    apart / size.max(1e-3)
}

/// Compares values and gradients with those of candle's own operators in `f64`.
fn agrees(given: &[Var], fused: impl Fn(&[Tensor]) -> Result<Tensor>, plain: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let exact: Vec<Var> = given.iter().map(|x| Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap()).collect();
    let tensors = |vars: &[Var]| vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
    let (made, wanted) = (fused(&tensors(given)).unwrap(), plain(&tensors(&exact)).unwrap());
    assert_eq!(made.dims(), wanted.dims());
    assert!(difference(&made, &wanted) < 2e-6, "values: {}", difference(&made, &wanted));
    let weights = noise(made.dims(), 99);
    let slope = |y: &Tensor| {
        let weights = weights.to_dtype(y.dtype()).unwrap();
        (y * weights).unwrap().sum_all().unwrap().backward().unwrap()
    };
    let (of_made, of_wanted) = (slope(&made), slope(&wanted));
    for (i, (x, y)) in given.iter().zip(&exact).enumerate() {
        let apart = difference(of_made.get(x).unwrap(), of_wanted.get(y).unwrap());
        assert!(apart < 5e-6, "gradient {i}: {apart}");
    }
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

fn plain_activation(x: &Tensor, kind: Activation) -> Result<Tensor> {
    match kind {
        Activation::Silu => x * sigmoid(x)?,
        Activation::GeluTanh => x.gelu(),
        Activation::GeluErf => x.gelu_erf(),
        Activation::Relu => x.relu(),
    }
}

const ACTIVATIONS: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu];

#[test]
fn activations_agree() {
    for kind in ACTIVATIONS {
        let x = Var::from_tensor(&(noise(&[3, 7001], 1).as_tensor() * 4.0).unwrap()).unwrap();
        agrees(&[x], |x| activation(&x[0], kind), |x| plain_activation(&x[0], kind));
    }
}

#[test]
fn gates_agree() {
    for kind in ACTIVATIONS {
        let given = [noise(&[5, 33], 1), noise(&[5, 33], 2)];
        agrees(&given, |x| gated(&x[0], &x[1], kind), |x| plain_activation(&x[0], kind)? * &x[1]);
    }
}

#[test]
fn rms_norms_agree() {
    let given = [noise(&[4, 50, 37], 1), noise(&[37], 2)];
    let plain = |x: &[Tensor]| {
        let scale = (x[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?;
        x[0].broadcast_div(&scale)?.broadcast_mul(&x[1])
    };
    agrees(&given, |x| rms_norm(&x[0], &x[1], 1e-3), plain);
}

#[test]
fn layer_norms_agree() {
    let given = [noise(&[4, 50, 37], 1), noise(&[37], 2), noise(&[37], 3)];
    let plain = |x: &[Tensor]| {
        let centred = x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?;
        centred.broadcast_div(&scale)?.broadcast_mul(&x[1])?.broadcast_add(&x[2])
    };
    agrees(&given, |x| layer_norm(&x[0], &x[1], &x[2], 1e-3), plain);
}

#[test]
fn rotations_agree() {
    let (cos, sin) = (noise(&[9, 4], 5), noise(&[9, 4], 6));
    let plain = |x: &[Tensor]| {
        let x = x[0].transpose(1, 2)?.contiguous()?;
        let (cos, sin) = (cos.to_dtype(x.dtype())?, sin.to_dtype(x.dtype())?);
        candle_nn::rotary_emb::rope_slow(&x, &cos, &sin)?.transpose(1, 2)?.contiguous()
    };
    agrees(&[noise(&[2, 9, 3, 8], 1)], |x| rotary(&x[0], &cos, &sin), plain);
}

/// Scores, softmax and sums whole, with minus infinity for what is hidden.
fn plain_attention(x: &[Tensor], scale: f64, mask: &Mask) -> Result<Tensor> {
    let (batch, sequence, heads, _) = x[0].dims4()?;
    let repeated = |t: &Tensor| {
        let (b, s, kv, d) = t.dims4()?;
        t.unsqueeze(3)?
            .broadcast_as((b, s, kv, heads / kv, d))?
            .reshape((b, s, heads, d))?
            .transpose(1, 2)?
            .contiguous()
    };
    let (q, k, v) = (x[0].transpose(1, 2)?.contiguous()?, repeated(&x[1])?, repeated(&x[2])?);
    let seen = |sample: usize, i: usize, j: usize| {
        (!mask.causal || j <= i && mask.window.is_none_or(|window| i - j < window))
            && mask.tokens.as_ref().is_none_or(|tokens| tokens[sample * sequence + j])
    };
    let at = |n: usize| (n / sequence / sequence, n / sequence % sequence, n % sequence);
    let hidden = (0..batch * sequence * sequence)
        .map(|n| if seen(at(n).0, at(n).1, at(n).2) { 0.0 } else { -1e300 })
        .collect::<Vec<f64>>();
    let hidden = Tensor::from_vec(hidden, (batch, 1, sequence, sequence), &Device::Cpu)?;
    let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(&hidden)?;
    candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(1, 2)?.contiguous()
}

fn attention_agrees(shape: [usize; 4], key_heads: usize, mask: &Mask) {
    let [batch, sequence, _, dim] = shape;
    let keys = [batch, sequence, key_heads, dim];
    let given = [noise(&shape, 1), noise(&keys, 2), noise(&keys, 3)];
    agrees(&given, |x| attention(&x[0], &x[1], &x[2], 0.3, mask), |x| plain_attention(x, 0.3, mask));
}

#[test]
fn attention_agrees_with_and_without_a_mask() {
    attention_agrees([2, 11, 3, 4], 3, &Mask::default());
    attention_agrees([2, 150, 4, 6], 2, &Mask { causal: true, ..Mask::default() });
    attention_agrees([1, 200, 2, 5], 1, &Mask { causal: true, window: Some(70), tokens: None });
    let tokens: Arc<[bool]> = (0..2 * 90).map(|i| i < 90 || i < 90 + 41).collect();
    attention_agrees([2, 90, 4, 8], 4, &Mask { tokens: Some(tokens.clone()), ..Mask::default() });
    attention_agrees([2, 90, 4, 8], 2, &Mask { causal: true, window: None, tokens: Some(tokens) });
}

#[test]
fn who_sees_nothing_gets_nothing_and_passes_no_gradient() {
    let given = [noise(&[1, 4, 2, 4], 1), noise(&[1, 4, 2, 4], 2), noise(&[1, 4, 2, 4], 3)];
    let tokens: Arc<[bool]> = Arc::from([false, false, true, true]);
    let mask = Mask { causal: true, window: None, tokens: Some(tokens) };
    let made = attention(&given[0], &given[1], &given[2], 1.0, &mask).unwrap();
    let gradients = made.sum_all().unwrap().backward().unwrap();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values(&made)[..16].iter().all(|&v| v == 0.0) && values(&made)[16..].iter().all(|&v| v != 0.0));
    for x in &given {
        let slopes = values(gradients.get(x).unwrap());
        assert!(slopes[..16].iter().all(|&v| v == 0.0) && slopes.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = noise(&[2, 6, 3, 4], 1);
    assert!(rms_norm(&x, &noise(&[5], 1), 1e-5).is_err());
    assert!(layer_norm(&x, &noise(&[4], 1), &noise(&[5], 1), 1e-5).is_err());
    assert!(gated(&x, &noise(&[2, 6, 3, 5], 1), Activation::Silu).is_err());
    assert!(rotary(&x, &noise(&[5, 2], 1), &noise(&[5, 2], 1)).is_err());
    let (two, three) = (noise(&[2, 6, 2, 4], 1), noise(&[2, 6, 3, 4], 1));
    assert!(attention(&x, &two, &two, 1.0, &Mask::default()).is_err());
    assert!(attention(&x, &three, &two, 1.0, &Mask::default()).is_err());
    let short = Mask { tokens: Some(Arc::from([true; 3])), ..Mask::default() };
    assert!(attention(&x, &three, &three, 1.0, &short).is_err());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let given = [noise(&[3, 130, 4, 16], 1), noise(&[3, 130, 2, 16], 2), noise(&[3, 130, 2, 16], 3), noise(&[16], 4)];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mask = Mask { causal: true, ..Mask::default() };
            let q = rms_norm(&given[0], &given[3], 1e-5).unwrap();
            let made = attention(&q, &given[1], &given[2], 0.3, &mask).unwrap();
            let made = gated(&made, &given[0], Activation::Silu).unwrap();
            let gradients = made.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let all = given.iter().map(|x| gradients.get(x).unwrap().clone()).chain([made]);
            all.map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
        })
    };
    let bits = |all: Vec<Vec<f32>>| all.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(run(1)), bits(run(3)));
}

#[test]
fn linear_maps_agree() {
    let given = [noise(&[150, 9], 1), noise(&[7, 9], 2), noise(&[7], 3)];
    let plain = |x: &[Tensor]| x[0].matmul(&x[1].t()?)?.broadcast_add(&x[2]);
    agrees(&given, |x| linear(&x[0], &x[1], Some(&x[2])), plain);
    agrees(&given[..2], |x| linear(&x[0], &x[1], None), |x| x[0].matmul(&x[1].t()?));
    let turned = [noise(&[150, 9], 1), noise(&[9, 7], 2)];
    agrees(&turned, |x| linear(&x[0], &x[1].t()?, None), |x| x[0].matmul(&x[1]));
}

#[test]
fn a_fixed_weight_gets_no_gradient() {
    let (x, weight) = (noise(&[4, 5], 1), noise(&[3, 5], 2));
    let gradients = linear(&x, &weight.detach(), None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_some() && gradients.get(&weight).is_none());
}

/// Log-probabilities behind a capped map, whole.
fn plain_log_probabilities(x: &Tensor, weight: &Tensor, bias: &Tensor, softcap: Option<f64>) -> Result<Tensor> {
    let logits = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
    let logits = match softcap {
        Some(cap) => ((logits / cap)?.tanh()? * cap)?,
        None => logits,
    };
    candle_nn::ops::log_softmax(&logits, D::Minus1)
}

#[test]
fn cross_entropies_agree_and_what_does_not_count_has_no_slope() {
    let (rows, features, vocabulary, share) = (150, 9, 23, 0.25);
    let [x, weight, taught] =
        [noise(&[rows, features], 1), noise(&[vocabulary, features], 2), noise(&[rows, features], 3)];
    let bias = noise(&[vocabulary], 4);
    let counts = |row: usize| row % 5 != 3;
    let targets: Vec<_> = (0..rows).map(|row| counts(row).then_some(row * 7 % vocabulary)).collect();
    let counted: Vec<f64> = (0..rows).map(|row| f64::from(u8::from(counts(row)))).collect();
    let counted = Tensor::from_vec(counted, (rows, 1), &Device::Cpu).unwrap();
    let exact = |t: &Var| Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap();
    for softcap in [None, Some(1.5)] {
        #[allow(clippy::cast_possible_truncation)]
        let map = Vocabulary {
            weight: weight.detach(),
            bias: Some(bias.to_vec1().unwrap()),
            softcap: softcap.map(|cap: f64| cap as f32),
        };
        let (x64, w64) = (exact(&x), exact(&weight));
        let own = plain_log_probabilities(&x64, &w64, &exact(&bias), softcap).unwrap();
        let theirs = plain_log_probabilities(&exact(&taught), &w64.detach(), &exact(&bias), softcap).unwrap();
        let tokens: Vec<u32> = (0..rows).map(|row| u32::try_from(row * 7 % vocabulary).unwrap()).collect();
        let tokens = Tensor::from_vec(tokens, (rows, 1), &Device::Cpu).unwrap();
        let of_tokens =
            own.gather(&tokens, 1).unwrap().broadcast_mul(&counted).unwrap().sum_all().unwrap().neg().unwrap();
        let theirs = theirs.detach();
        let apart = (theirs.exp().unwrap() * (&theirs - &own).unwrap()).unwrap();
        let of_others = apart.broadcast_mul(&counted).unwrap().sum_all().unwrap();
        for (wanted, plain) in [
            (Wanted::Tokens(&targets), of_tokens),
            (Wanted::Probabilities(&map, taught.as_tensor(), &targets), of_others),
        ] {
            #[allow(clippy::cast_possible_truncation)]
            let made = cross_entropy(&map, &x, &wanted, Slopes::OfRowsAndWeight { share: share as f32 }).unwrap();
            let alone = cross_entropy(&map, &x, &wanted, Slopes::None).unwrap();
            assert_eq!(alone.sum.to_bits(), made.sum.to_bits());
            assert!(alone.of_rows.is_none() && alone.of_weight.is_none());
            let sum = plain.to_scalar::<f64>().unwrap();
            assert!((made.sum / sum - 1.0).abs() < 1e-5, "{} {sum}", made.sum);
            let gradients = (plain * share).unwrap().backward().unwrap();
            assert!(difference(&made.of_rows.unwrap(), gradients.get(&x64).unwrap()) < 2e-5);
            assert!(difference(&made.of_weight.unwrap(), gradients.get(&w64).unwrap()) < 2e-5);
        }
    }
    let map = Vocabulary { weight: weight.detach(), bias: None, softcap: None };
    assert!(cross_entropy(&map, &x, &Wanted::Tokens(&targets[1..]), Slopes::None).is_err());
    assert!(cross_entropy(&map, &x, &Wanted::Tokens(&vec![Some(vocabulary); rows]), Slopes::None).is_err());
}
