//! The plan as a file that a person or a script can read and edit.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use calabi_api::{Choice, ConfigError, Kept, Name, Rank};
use serde::{Deserialize, Serialize};

use crate::choose::settle;
use crate::store::Hashed;
use crate::{Assignment, Decision, Error, Pipeline, PipelineError, Plan, Sited, Source, plan};

/// The version of the layout of plan files.
const VERSION: u32 = 1;

const HEADER: &str = "\
# A plan of calabi. Edit the ranks and run it: calabi-cli run PIPELINE --plan THIS_FILE
# rank: a number, \"dense\" (takes part, stays as it is), \"skip\" (does not take part), or \"open\" (the pipeline's rule decides)

";

#[derive(Debug, Serialize)]
struct PlanFile {
    version: u32,
    /// The pipeline that it is of, for those who only have the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<PathBuf>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    set: Vec<String>,
    /// A hash of the model's layers and the sizes of its files.
    model: String,
    layer: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    shape: [usize; 2],
    rank: RankEntry,
    /// The rank that `because` speaks of: another one is the editor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<RankEntry>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    because: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a rank of at least 1, \"dense\", \"skip\" or \"open\"")]
enum RankEntry {
    Rank(Rank),
    Word(Word),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Dense,
    Skip,
    Open,
}

impl Plan {
    /// The plan as text to write to a file.
    ///
    /// ```
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
    /// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
    /// # pipeline.layers.min_features = 64_usize.try_into()?;
    /// let text = calabi::plan(&pipeline)?.to_text();
    /// assert!(text.contains("name = \"hidden1\"\nshape = [512, 64]\nrank = 16\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn to_text(&self) -> String {
        self.text(None, Vec::new())
    }

    /// As [`to_text`](Self::to_text), with the pipeline file and the changed settings that it is of: `merge` reads them.
    #[must_use]
    pub fn to_text_of(&self, pipeline: &Path, set: &[Assignment]) -> String {
        let pipeline = pipeline.canonicalize().unwrap_or_else(|_| pipeline.to_owned());
        self.text(Some(pipeline), set.iter().map(ToString::to_string).collect())
    }

    /// What the model is known by.
    fn model(&self) -> String {
        let mut hash = Hashed::new();
        for planned in &self.layers {
            hash.text(&format!("{} {}", planned.layer.name, planned.layer.shape));
        }
        for file in &self.totals.files {
            hash.text(&format!("{:?}", std::fs::metadata(file).map(|seen| seen.len()).ok()));
        }
        hash.finish().to_hex().chars().take(16).collect()
    }

    fn text(&self, pipeline: Option<PathBuf>, set: Vec<String>) -> String {
        let layer = self.layers.iter().map(|planned| {
            let (rank, because) = match &planned.decision {
                Decision::Open => (RankEntry::Word(Word::Open), String::new()),
                Decision::Skipped { why } => (RankEntry::Word(Word::Skip), why.clone()),
                Decision::Chosen { kept: Kept::Dense, because } => (RankEntry::Word(Word::Dense), because.clone()),
                Decision::Chosen { kept: Kept::Rank(rank), because } => (RankEntry::Rank(*rank), because.clone()),
            };
            let shape = [planned.layer.shape.rows(), planned.layer.shape.cols()];
            let chosen = (!because.is_empty()).then_some(rank);
            Entry { name: planned.layer.name.clone(), shape, rank, chosen, because }
        });
        let file = PlanFile { version: VERSION, pipeline, set, model: self.model(), layer: layer.collect() };
        let mut text = HEADER.to_owned();
        // Serialization of strings and numbers into a string cannot fail; if it did, the file would say so when read.
        let _ = write!(text, "{}", toml::to_string(&file).unwrap_or_default());
        text
    }

    /// The pipeline file that a plan file is of, and the settings that were changed.
    ///
    /// # Errors
    /// Where the file cannot be read, or does not say it.
    pub fn origin(path: &Path) -> Result<(PathBuf, Vec<Assignment>), PipelineError> {
        #[derive(Deserialize)]
        struct Origin {
            pipeline: Option<PathBuf>,
            #[serde(default)]
            set: Vec<String>,
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
        let refused = |error: ConfigError| {
            let source = Some(Source { name: path.display().to_string(), text: text.clone() });
            PipelineError { error: Box::new(error.into()), source }
        };
        let origin: Origin = toml::from_str(&text).map_err(|error| refused(error.into()))?;
        let pipeline = origin.pipeline.ok_or_else(|| {
            let error = ConfigError::new("this plan does not say which pipeline it is of");
            refused(error.with_help("name the pipeline file: calabi-cli merge PIPELINE --plan FILE --work DIR"))
        })?;
        let parsed = |set: &String| set.parse().map_err(|error: String| refused(ConfigError::new(error)));
        let set = origin.set.iter().map(parsed).collect::<Result<_, _>>()?;
        Ok((pipeline, set))
    }

    /// Reads an edited plan of the pipeline's model.
    ///
    /// ```
    /// use calabi::Plan;
    ///
    /// # let input = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart/digits.safetensors");
    /// # let fixed = calabi::rank::Fixed { rank: calabi::api::Rank::new(16).ok_or("no rank")? };
    /// # let mut pipeline = calabi::Pipeline::new(input, "small.safetensors", fixed);
    /// # pipeline.layers.min_features = 64_usize.try_into()?;
    /// # let folder = tempfile::tempdir()?;
    /// # let file = folder.path().join("plan.toml");
    /// let text = calabi::plan(&pipeline)?.to_text();
    /// std::fs::write(&file, text.replace("rank = 16", "rank = 8"))?;
    /// let plan = Plan::load(&file, &pipeline).map_err(|refused| refused.error)?;
    /// assert!(plan.layers[0].rank().is_some_and(|rank| rank.get() == 8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where the file cannot be read, names layers that the model does not have or leaves some out, or a rank is too large.
    pub fn load(path: &Path, pipeline: &Pipeline) -> Result<Self, PipelineError> {
        let mut plan = plan(pipeline)
            .map_err(|error| PipelineError { error: Box::new(error), source: pipeline.source.clone() })?;
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
        let source = Source { name: path.display().to_string(), text };
        match plan.apply(&source.text) {
            Ok(()) => {
                plan.settle(pipeline)?;
                Ok(plan)
            }
            Err(error) => Err(PipelineError { error: Box::new(error.into()), source: Some(source) }),
        }
    }

    /// Applies the break-even rule to the ranks of a plan file, which are taken literally otherwise.
    fn settle(&mut self, pipeline: &Pipeline) -> Result<(), Error> {
        for planned in &mut self.layers {
            if let Decision::Chosen { kept: Kept::Rank(rank), because } = &planned.decision {
                let choice = Choice::exactly(*rank, because.clone());
                let settled = settle(choice, &planned.layer, &pipeline.layers);
                planned.decision = settled.map_err(|source| Error::Select { layer: None, source, span: None })?.into();
            }
        }
        Ok(())
    }

    /// Takes the decisions of a plan file over.
    fn apply(&mut self, text: &str) -> Result<(), ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Spanned {
            version: Sited<u32>,
            #[serde(default, rename = "pipeline")]
            _pipeline: Option<PathBuf>,
            #[serde(default, rename = "set")]
            _set: Vec<String>,
            model: Option<Sited<String>>,
            #[serde(default)]
            layer: Vec<Sited<Entry>>,
        }
        let file: Spanned = toml::from_str(text)?;
        if *file.version != VERSION {
            let error = ConfigError::new(format!("this plan has version {}, known is {VERSION}", *file.version));
            return Err(error.at(file.version.span));
        }
        if let Some(model) = file.model.filter(|model| **model != self.model()) {
            let error = ConfigError::new("this plan was made for another model, or for one that has changed since");
            return Err(error.with_help("make it again with `calabi-cli plan`").at(model.span));
        }
        let mut decided = vec![false; self.layers.len()];
        for entry in file.layer {
            let index = self.place(&entry.value).map_err(|error| error.at(entry.span.clone()))?;
            if std::mem::replace(&mut decided[index], true) {
                return Err(
                    ConfigError::new(format!("layer {} is planned twice", Name::new(&entry.value.name))).at(entry.span)
                );
            }
            if let Some(decision) = decision(entry.value) {
                self.layers[index].decision = decision;
            } else if !self.layers[index].is_selected() {
                self.layers[index].decision = Decision::Open;
            }
        }
        match self.layers.iter().zip(decided).find(|(_, decided)| !decided) {
            None => Ok(()),
            Some((missing, _)) => {
                Err(ConfigError::new(format!("the plan leaves out layer {}", Name::new(&missing.layer.name)))
                    .with_help("write rank = \"dense\" for a layer that stays as it is"))
            }
        }
    }

    /// The layer that an entry is about, if the entry can be meant for it.
    fn place(&self, entry: &Entry) -> Result<usize, ConfigError> {
        let Some(index) = self.layers.iter().position(|planned| planned.layer.name == entry.name) else {
            return Err(ConfigError::new(format!("the model has no layer {}", Name::new(&entry.name)))
                .with_help("the plan was made for another model: make it again with `calabi-cli plan`"));
        };
        let shape = self.layers[index].layer.shape;
        if entry.shape != [shape.rows(), shape.cols()] {
            return Err(ConfigError::new(format!(
                "layer {} is {shape}, not {:?}",
                Name::new(&entry.name),
                entry.shape
            ))
            .with_help("the plan was made for another model: make it again with `calabi-cli plan`"));
        }
        match entry.rank {
            RankEntry::Rank(rank) if rank > shape.full_rank() => Err(ConfigError::new(format!(
                "layer {} has no rank above {}",
                Name::new(&entry.name),
                shape.full_rank()
            ))),
            _ => Ok(index),
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> PipelineError {
    let error = ConfigError::new(format!("the plan {} cannot be read: {error}", path.display()));
    Error::from(error.with_help("`calabi-cli plan PIPELINE -o FILE` writes one")).into()
}

/// What an entry decides; nothing where it leaves that to the pipeline.
fn decision(entry: Entry) -> Option<Decision> {
    let because = if entry.chosen == Some(entry.rank) { entry.because } else { "the plan".to_owned() };
    match entry.rank {
        RankEntry::Word(Word::Open) => None,
        RankEntry::Word(Word::Skip) => Some(Decision::Skipped { why: because }),
        RankEntry::Word(Word::Dense) => Some(Decision::Chosen { kept: Kept::Dense, because }),
        RankEntry::Rank(rank) => Some(Decision::Chosen { kept: Kept::Rank(rank), because }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PlannedLayer, Rule};
    use calabi_api::{Cost, DType, Layer, LayerCost, Role, Shape, Totals};

    fn plan() -> Plan {
        let layers = ["a.b", "weird \"name\"\n", "c", "d"].into_iter().zip([
            Decision::Open,
            Decision::Skipped { why: "small".to_owned() },
            Decision::Chosen { kept: Kept::Dense, because: "rank 9 is not below break-even".to_owned() },
            Decision::Chosen { kept: Kept::Rank(Rank::ONE), because: "the weight is zero".to_owned() },
        ]);
        let shape = Shape::new(4, 6).unwrap();
        let cost = LayerCost::new(shape, DType::F32, DType::F32);
        let layers = layers.map(|(name, decision)| PlannedLayer {
            layer: Layer {
                name: name.to_owned(),
                shape,
                dtype: DType::F32,
                role: Role::Linear,
                cost,
                wiring: calabi_api::Wiring::default(),
                bias: false,
                key: 0,
            },
            decision,
            bias: false,
            rule: Rule::Main,
        });
        let totals = Totals { format: "test", cost: Cost::default(), files: Vec::new() };
        Plan { layers: layers.collect(), left_alone: Vec::new(), totals }
    }

    fn decisions(plan: &Plan) -> Vec<Decision> {
        plan.layers.iter().map(|l| l.decision.clone()).collect()
    }

    #[test]
    fn a_plan_survives_its_file() {
        let written = plan();
        let mut read = plan();
        read.layers.iter_mut().for_each(|l| l.decision = Decision::Open);
        read.apply(&written.to_text()).unwrap();
        assert_eq!(decisions(&read), decisions(&written));
    }

    #[test]
    fn a_rank_is_edited() {
        let mut read = plan();
        read.apply(&plan().to_text().replace("\"dense\"", "3")).unwrap();
        assert_eq!(read.layers[2].rank(), Rank::new(3));
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused() {
        let text = plan().to_text();
        let refused = |text: &str| plan().apply(text).unwrap_err().to_string();
        assert!(refused(&text.replace("\"c\"", "\"e\"")).contains("no layer e"));
        assert!(refused(&text.replace("\"dense\"", "5")).contains("no rank above 4"));
        assert!(refused(&text.replace("\"dense\"", "0")).contains("at least 1"));
        assert!(refused(&text.replacen("[4, 6]", "[6, 4]", 1)).contains("is 4x6"));
        assert!(refused(&text.replace("name = \"c\"", "name = \"d\"")).contains("twice"));
        assert!(refused("version = 1").contains("leaves out"));
        assert!(refused("version = 2").contains("version 2"));
    }
}
