//! One training: steps over shuffled windows, judged by those that are kept out.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use calabi_api::{RunError, Samples};
use candle_core::Tensor;

use super::clock::{Clock, rate};
use super::network::{Network, Whole};
use super::order::{Order, split};
use super::parameters::Parameters;
use super::state::{Progress, State};
use super::{TrainEvent, TrainObjective, TrainSettings, Trained};
use crate::hf::adam::Adam;
use crate::hf::failed;
use crate::hf::ops::{Vocabulary, Wanted};
use crate::hf::tokens::Tokens;

/// Tokens of one pass through the model; more only where one window has more. A step of more sums its gradients.
const TOGETHER: usize = 1024;
/// How often the held-out windows judge.
const JUDGED: f64 = 8.0;

/// What a training works on.
pub(super) struct Training {
    network: Network,
    teacher: Option<Network>,
    tokens: Tokens,
    judges: Vec<usize>,
    order: Order,
    settings: TrainSettings,
    state: State,
    path: PathBuf,
    resumed: bool,
}

impl Training {
    /// Reads all that is needed, and the state of a former run.
    pub(super) fn begin(
        student: &Path,
        teacher: Option<&Path>,
        samples: &Samples,
        settings: &TrainSettings,
        state: &Path,
    ) -> Result<Self, RunError> {
        let refuse = |problem: String| RunError::Load { path: student.to_owned(), problem };
        let network = Network::open(student)?;
        let parameters = Parameters::of(&network)?;
        if parameters.lack_factors() {
            return Err(refuse("no layer of it is factorized: there is nothing to win back".to_owned()));
        }
        let teacher = match (settings.objective, teacher) {
            (TrainObjective::NextToken, _) => None,
            (TrainObjective::Distill, Some(teacher)) => Some(Network::open(teacher)?),
            (TrainObjective::Distill, None) => return Err(refuse("to distill needs the original".to_owned())),
        };
        let (vocabulary, others) = (|n: &Network| n.runner.model.vocabulary, teacher.as_ref());
        if others.is_some_and(|other| vocabulary(other) != vocabulary(&network)) {
            return Err(refuse("the original has another vocabulary".to_owned()));
        }
        let tokens = Tokens::read(&network.runner.model, samples)?;
        let (judges, trained) = split(tokens.samples, settings.held_out.max(1));
        if trained.is_empty() || tokens.length < 2 {
            let problem = format!(
                "{} windows of {} tokens are too few, with {} kept out: give more text or shorter windows",
                tokens.samples,
                tokens.length,
                judges.len()
            );
            return Err(RunError::Failed(problem));
        }
        let fingerprint = fingerprint(&parameters, &tokens, settings);
        let former = State::load(state, &parameters, &fingerprint)?;
        let resumed = former.is_some();
        let fresh = || State {
            progress: Progress { fingerprint, ..Progress::default() },
            parameters,
            best: None,
            adam: Adam::default(),
        };
        let state_now = former.unwrap_or_else(fresh);
        let order = Order::new(trained, settings.seed);
        let (settings, path) = (*settings, state.to_owned());
        Ok(Self { network, teacher, tokens, judges, order, settings, state: state_now, path, resumed })
    }

    /// Trains; none where the watcher ended it.
    pub(super) fn run(
        mut self,
        watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<Option<Trained>, RunError> {
        let clock = Clock::new(self.settings.limit, self.state.progress.seconds);
        let resumed_at = self.resumed.then_some(self.state.progress.step);
        if let Some(step) = resumed_at {
            let _ = watch(TrainEvent::Resumed { step, seconds: clock.seconds() });
        } else {
            let before = self.judge(&self.network.whole)?;
            if !before.is_finite() {
                return Err(RunError::Failed("its outputs overflow before any training".to_owned()));
            }
            self.state.progress.before = before;
            let _ = watch(TrainEvent::Judged { step: 0, loss: before });
        }
        let mut saved = Instant::now();
        while clock.along(self.state.progress.step) < 1.0 {
            let Some(event) = self.step(&clock)? else { break };
            let ended = watch(event).is_break();
            self.judge_if_due(judgements(clock.along(self.state.progress.step)), watch)?;
            if ended || saved.elapsed().as_secs_f64() >= self.settings.save_every {
                self.save(&clock)?;
                saved = Instant::now();
            }
            if ended {
                return Ok(None);
            }
        }
        self.judge_if_due(judgements(1.0), watch)?;
        self.save(&clock)?;
        self.done(&clock, resumed_at).map(Some)
    }

    /// Takes a step; none where it overflows.
    fn step(&mut self, clock: &Clock) -> Result<Option<TrainEvent>, RunError> {
        let step = self.state.progress.step;
        let rate = rate(self.settings.learning_rate, clock.along(step));
        let windows = self.order.step(step, self.settings.batch.max(1));
        let (loss, gradients) = self.gradients(&windows)?;
        let State { parameters, adam, progress, best } = &mut self.state;
        if !loss.is_finite() || !adam.step(rate, parameters.values_mut(), &gradients) {
            return match best {
                Some(_) => Ok(None),
                None => Err(RunError::Failed("training overflows: take a lower learning rate".to_owned())),
            };
        }
        progress.step += 1;
        let (step, along) = (progress.step, clock.along(progress.step));
        Ok(Some(TrainEvent::Stepped { step, along, loss, seconds: clock.seconds() }))
    }

    /// The mean loss of these windows, and its gradients in the order of the parameters.
    fn gradients(&self, windows: &[usize]) -> Result<(f64, Vec<Vec<f32>>), RunError> {
        let (whole, vars) = self.state.parameters.placed(&self.network)?;
        let targets = |windows: &[usize]| windows.iter().flat_map(|&w| targets(&self.tokens, w)).collect::<Vec<_>>();
        let counted = targets(windows).iter().flatten().count().max(1);
        let share = 1.0 / counted as f64;
        let (mut loss, mut sums): (f64, Option<Vec<Vec<f32>>>) = (0.0, None);
        for group in groups(&self.tokens, windows) {
            let (x, batch) = self.network.entering(&self.tokens, group)?;
            let (targets, taught) = (targets(group), self.taught(group)?);
            let wanted = match &taught {
                Some((vocabulary, rows)) => Wanted::Probabilities(vocabulary, rows, &targets),
                None => Wanted::Tokens(&targets),
            };
            #[allow(clippy::cast_possible_truncation)]
            let (sum, gradients) = whole.gradients(&vars, (&x, &batch), &wanted, share as f32)?;
            loss += sum * share;
            let gradients = gradients.into_iter().flatten();
            match &mut sums {
                None => sums = Some(gradients.collect()),
                Some(sums) => sums.iter_mut().zip(gradients).for_each(|(sum, added)| {
                    sum.iter_mut().zip(added).for_each(|(sum, x)| *sum += x);
                }),
            }
        }
        Ok((loss, sums.unwrap_or_default()))
    }

    /// What the original makes of these windows, before its map to the vocabulary.
    fn taught(&self, windows: &[usize]) -> Result<Option<(Vocabulary, Tensor)>, RunError> {
        let Some(teacher) = &self.teacher else { return Ok(None) };
        let (x, batch) = teacher.entering(&self.tokens, windows)?;
        let x = teacher.whole.behind_blocks(&x, &batch)?;
        let made = teacher.whole.features(&x).and_then(|x| Ok((teacher.whole.vocabulary()?, x)));
        made.map(Some).map_err(failed)
    }

    /// Judges, where the held-out windows have judged less often than they ought to, and keeps the best.
    fn judge_if_due(
        &mut self,
        due: usize,
        watch: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
    ) -> Result<(), RunError> {
        if due <= self.state.progress.judged {
            return Ok(());
        }
        let loss = self.judge(&self.state.parameters.placed(&self.network)?.0)?;
        let State { progress, parameters, best, .. } = &mut self.state;
        progress.judged = due;
        if loss < progress.best.unwrap_or(progress.before) {
            progress.best = Some(loss);
            *best = Some(parameters.clone());
        }
        let _ = watch(TrainEvent::Judged { step: progress.step, loss });
        Ok(())
    }

    fn judge(&self, whole: &Whole) -> Result<f64, RunError> {
        judged(&self.network, whole, &self.tokens, &self.judges)
    }

    fn save(&mut self, clock: &Clock) -> Result<(), RunError> {
        self.state.progress.seconds = clock.seconds();
        self.state.save(&self.path)
    }

    fn done(self, clock: &Clock, resumed_at: Option<usize>) -> Result<Trained, RunError> {
        let State { progress, best, .. } = self.state;
        let tensors = best.map(Parameters::into_tensors).transpose()?.unwrap_or_default();
        let tokens = (progress.step * self.settings.batch.max(1) * self.tokens.length) as u64;
        let held_out = (progress.before, progress.best.unwrap_or(progress.before));
        Ok(Trained { tensors, held_out, steps: progress.step, tokens, seconds: clock.seconds(), resumed_at })
    }
}

/// How often the held-out windows have judged once a training is so far along.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn judgements(along: f64) -> usize {
    (along.clamp(0.0, 1.0) * JUDGED + 1e-9) as usize
}

/// The loss of the windows that a training keeps out.
pub(super) fn loss_of(model: &Path, samples: &Samples, held_out: usize) -> Result<f64, RunError> {
    let network = Network::open(model)?;
    let tokens = Tokens::read(&network.runner.model, samples)?;
    judged(&network, &network.whole, &tokens, &split(tokens.samples, held_out.max(1)).0)
}

/// The mean loss of a token of these windows by the tokens before it.
fn judged(network: &Network, whole: &Whole, tokens: &Tokens, windows: &[usize]) -> Result<f64, RunError> {
    let (mut sum, mut counted) = (0.0, 0);
    for group in groups(tokens, windows) {
        let (x, batch) = network.entering(tokens, group)?;
        let targets: Vec<_> = group.iter().flat_map(|&window| targets(tokens, window)).collect();
        counted += targets.iter().flatten().count();
        sum += whole.loss(&x, &batch, &Wanted::Tokens(&targets))?;
    }
    Ok(sum / counted.max(1) as f64)
}

/// The windows that pass together.
fn groups<'w>(tokens: &Tokens, windows: &'w [usize]) -> std::slice::Chunks<'w, usize> {
    windows.chunks((TOGETHER / tokens.length).max(1))
}

/// The token that follows each of a window; none behind the last, nor where either is padding.
pub(super) fn targets(tokens: &Tokens, window: usize) -> Vec<Option<usize>> {
    let (ids, mask) = (tokens.ids(window), tokens.mask(window));
    let is_token = |place: usize| mask.as_ref().is_none_or(|mask| mask.get(place) == Some(&true));
    (0..ids.len()).map(|at| ids.get(at + 1).copied().filter(|_| is_token(at) && is_token(at + 1))).collect()
}

/// Of the model, the windows and the settings: a state is of this training and no other.
fn fingerprint(parameters: &Parameters, tokens: &Tokens, settings: &TrainSettings) -> String {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    for values in parameters.all() {
        values.name.bytes().for_each(|byte| hash.add(u64::from(byte)));
        values.values.iter().for_each(|value| hash.add(u64::from(value.to_bits())));
    }
    for window in 0..tokens.samples {
        tokens.ids(window).iter().for_each(|&id| hash.add(id as u64));
    }
    let of_settings = TrainSettings { save_every: 0.0, ..*settings };
    format!("{:016x} {}x{} {of_settings:?}", hash.0, tokens.samples, tokens.length)
}

/// FNV-1a (Fowler, Noll and Vo), a number at a time.
struct Hash(u64);

impl Hash {
    fn add(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01b3);
    }
}
