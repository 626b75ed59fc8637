//! `calabi-cli densify`: a dense checkpoint of a compressed one, for runtimes without factors.

use calabi::{Densified, DensifyOptions};

use crate::args::{DensifyArgs, Format};
use crate::failure::Failure;
use crate::units::{bytes, change, count};
use crate::{Ending, print};

pub(crate) fn densify(args: &DensifyArgs) -> Result<Ending, Failure> {
    let options =
        DensifyOptions { force: args.force, shard_size: args.shard_size, threads: args.work.options().threads };
    let densified = calabi::densify(&args.model, &args.output, &options)?;
    match args.format {
        Format::Human => print::text(&text(&densified))?,
        Format::Json => print::json(&densified)?,
    }
    Ok(Ending::Done)
}

fn text(Densified { output, before, after }: &Densified) -> String {
    format!(
        "{}: dense again, an ordinary checkpoint of the original architecture\n\
         {} -> {} parameters ({}), {} -> {}\n",
        output.display(),
        count(before.parameters),
        count(after.parameters),
        change(before.parameters as f64, after.parameters as f64),
        bytes(before.bytes),
        bytes(after.bytes),
    )
}
