//! Transposes matrices in small tiles, so that whole lines of the cache are read and written, each once.

/// The lines of a tile, and the numbers in each.
pub(crate) const TILE: usize = 16;

/// A few lines of numbers, read along and given out across.
pub(crate) struct Tile<T>([[T; TILE]; TILE]);

impl<T: Copy> Tile<T> {
    pub(crate) fn filled(with: T) -> Self {
        Self([[with; TILE]; TILE])
    }

    /// Reads so many lines of so many numbers, which begin `apart` from each other.
    pub(crate) fn read(&mut self, from: &[T], apart: usize, lines: usize, numbers: usize) {
        for (k, line) in self.0.iter_mut().enumerate().take(lines) {
            line[..numbers].copy_from_slice(&from[k * apart..][..numbers]);
        }
    }

    /// What stands at this place of each line, of as many lines as there is room for.
    pub(crate) fn give(&self, place: usize, to: &mut [T]) {
        to.iter_mut().zip(&self.0).for_each(|(to, line)| *to = line[place]);
    }
}
