//! `calabi-cli clean`: removes a work store.

use crate::args::CleanArgs;
use crate::failure::Failure;
use crate::units::bytes;
use crate::{Ending, print};

pub(crate) fn clean(args: &CleanArgs) -> Result<Ending, Failure> {
    let cleaned = calabi::clean(&args.work)?;
    print::text(&format!("{} files removed, {}\n", cleaned.files, bytes(cleaned.bytes)))?;
    Ok(Ending::Done)
}
