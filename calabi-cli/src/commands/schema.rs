//! `calabi-cli schema`: the JSON schema of the pipeline file.

use crate::failure::Failure;
use crate::{Ending, print};

pub(crate) fn schema() -> Result<Ending, Failure> {
    print::json(&calabi::pipeline_schema()?)?;
    Ok(Ending::Done)
}
