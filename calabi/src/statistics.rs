//! What flows into layers: its second moments and its mean, summed token by token, and the file that keeps them.

mod cross;
mod file;
mod moments;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use cross::{CrossMoments, CrossStatistics};
pub(crate) use file::StatisticsHeader;
pub(crate) use moments::{Moments, MomentsError};
pub(crate) use reader::StatisticsFile;
pub(crate) use writer::StatisticsWriter;
