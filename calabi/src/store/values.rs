//! Lengths, numbers and texts as files of the work store hold them: 64-bit integers, `f32` and `f64`, little-endian.

use std::io::{Read, Write};

use super::whole::damaged;

/// Bytes that are written at a time.
const TOGETHER: usize = 1 << 14;

pub(super) fn put_length(to: &mut (impl Write + ?Sized), length: usize) -> std::io::Result<()> {
    to.write_all(&(length as u64).to_le_bytes())
}

pub(super) fn take_length(from: &mut impl Read) -> std::io::Result<usize> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    usize::try_from(u64::from_le_bytes(bytes)).map_err(std::io::Error::other)
}

pub(super) fn put_f64(to: &mut (impl Write + ?Sized), number: f64) -> std::io::Result<()> {
    to.write_all(&number.to_le_bytes())
}

pub(super) fn take_f64(from: &mut impl Read) -> std::io::Result<f64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(f64::from_le_bytes(bytes))
}

pub(super) fn put_f32s<'a>(
    to: &mut (impl Write + ?Sized),
    values: impl IntoIterator<Item = &'a f32>,
) -> std::io::Result<()> {
    let mut values = values.into_iter();
    let mut bytes = Vec::with_capacity(TOGETHER);
    loop {
        values.by_ref().take(TOGETHER / 4).for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all(&bytes)?;
        bytes.clear();
    }
}

pub(super) fn take_f32s(from: &mut impl Read, count: usize) -> std::io::Result<Vec<f32>> {
    let bytes = take_bytes(from, count.checked_mul(4).ok_or_else(damaged)?)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

pub(super) fn put_text(to: &mut (impl Write + ?Sized), text: &str) -> std::io::Result<()> {
    put_length(to, text.len())?;
    to.write_all(text.as_bytes())
}

pub(super) fn take_text(from: &mut impl Read) -> std::io::Result<String> {
    let length = take_length(from)?;
    String::from_utf8(take_bytes(from, length)?).map_err(|_| damaged())
}

/// So many bytes: no more room is taken than there are.
pub(super) fn take_bytes(from: &mut impl Read, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(count as u64).read_to_end(&mut bytes)?;
    if bytes.len() == count { Ok(bytes) } else { Err(damaged()) }
}
