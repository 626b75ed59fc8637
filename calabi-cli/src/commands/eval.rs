//! `calabi-cli eval`: the perplexity of a language model on a text, no pipeline needed.

use calabi::{EvalOptions, Evaluation};

use crate::args::{EvalArgs, Format};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::units::{count, seconds};
use crate::{Ending, print};

pub(crate) fn eval(args: &EvalArgs) -> Result<Ending, Failure> {
    let options = EvalOptions {
        window: args.window as usize,
        windows: args.windows.map(|windows| windows as usize),
        tokenizer: args.tokenizer.clone(),
        threads: args.work.options().threads,
    };
    let evaluation = calabi::evaluate(&args.model, &args.text, &options, &Progress::new(args.work.verbose))?;
    match args.format {
        Format::Human => print::text(&text(&evaluation))?,
        Format::Json => print::json(&evaluation)?,
    }
    Ok(Ending::Done)
}

fn text(evaluation: &Evaluation) -> String {
    let Evaluation { perplexity, loss, tokens, windows, window, stride, seconds: time, .. } = evaluation;
    let speed = (*windows * window) as f64 / time.max(1e-9);
    format!(
        "perplexity {perplexity:.4} (loss {loss:.5} nats a token)\n\
         {} tokens scored in {} windows of {window} tokens, stride {stride}: no window sees another\n\
         {} ({speed:.0} tokens a second)\n",
        count(*tokens),
        count(*windows as u64),
        seconds(*time)
    )
}
