//! How a training goes, told to the observer: a line now and then.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use calabi_nn::TrainEvent;

use crate::pipeline::FinetuneObjective;
use crate::{Observer, Stage};

/// The time from one line to the next.
const EVERY: Duration = Duration::from_secs(10);

/// What was told last, and what happened since.
pub(super) struct Told<'o> {
    observer: &'o dyn Observer,
    objective: FinetuneObjective,
    last: Instant,
    loss: f64,
    steps: u32,
}

impl<'o> Told<'o> {
    pub(super) fn new(observer: &'o dyn Observer, objective: FinetuneObjective) -> Self {
        Self { observer, objective, last: Instant::now(), loss: 0.0, steps: 0 }
    }

    /// Breaks where the observer wants the training to end.
    pub(super) fn tell(&mut self, event: TrainEvent) -> ControlFlow<()> {
        match event {
            TrainEvent::Resumed { step, seconds } => {
                self.say(&format!("resumed: a former run was interrupted after step {step} and {seconds:.0} s"));
            }
            TrainEvent::Judged { step, loss } => {
                self.say(&format!("step {step}: held-out loss {loss:.4}, perplexity {:.3}", loss.exp()));
            }
            TrainEvent::Stepped { step, along, loss, seconds } => {
                self.loss += loss;
                self.steps += 1;
                if self.last.elapsed() >= EVERY || along >= 1.0 {
                    let (loss, percent) = (self.loss / f64::from(self.steps), 100.0 * along.min(1.0));
                    let loss = match self.objective {
                        FinetuneObjective::NextToken => format!("loss {loss:.4}, perplexity {:.2}", loss.exp()),
                        FinetuneObjective::Distill => format!("divergence from the original {loss:.4}"),
                    };
                    self.say(&format!("step {step}: {loss}; {seconds:.0} s, {percent:.0} % done"));
                    *self = Self::new(self.observer, self.objective);
                }
            }
        }
        if self.observer.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn say(&self, line: &str) {
        self.observer.note(Stage::Finetune, line);
    }
}
