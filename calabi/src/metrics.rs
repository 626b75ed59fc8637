//! Which metric the error of each layer is measured in.

use std::collections::HashMap;

use calabi_api::{ConfigError, Layer, LayerSource, Name, SelectError, Statistics};

use crate::decompose::input_error;
use crate::metric::{Bias, Metric, Objective, Shrinkage};
use crate::statistics::StatisticsFile;
use crate::{CalibrationSettings, Error, Pipeline, Plan, Sited};

/// Whether the factors of a layer bring a bias: to make up for what was cut, or to be tuned.
pub(crate) fn brings_bias(pipeline: &Pipeline, source: &dyn LayerSource, layer: &Layer) -> Result<bool, Error> {
    let Some(settings) = &pipeline.calibration else { return Ok(false) };
    if pipeline.refine.is_some() {
        return Ok(true);
    }
    Ok(settings.bias != Bias::None
        && match settings.objective {
            Objective::None => false,
            Objective::Diagonal | Objective::Gram => true,
            Objective::Norm => {
                let norm = source.normalisation(layer).map_err(|source| input_error(pipeline, source))?;
                norm.is_some_and(|norm| norm.beta.is_some())
            }
        })
}

/// The metrics of a model's layers.
#[derive(Debug, Default)]
pub(crate) struct Metrics<'a> {
    settings: Option<&'a Sited<CalibrationSettings>>,
    statistics: Option<StatisticsFile>,
}

impl<'a> Metrics<'a> {
    /// The metrics that a pipeline asks for, with the statistics that they need.
    pub(crate) fn new(settings: Option<&'a Sited<CalibrationSettings>>, statistics: Option<StatisticsFile>) -> Self {
        Self { settings, statistics }
    }

    fn objective(&self) -> Objective {
        self.settings.map_or(Objective::None, |settings| settings.objective)
    }

    /// The bias that makes up for what was cut.
    pub(crate) fn bias(&self) -> Bias {
        if self.objective() == Objective::None { Bias::None } else { self.settings.map_or(Bias::None, |s| s.bias) }
    }

    /// How far Gram matrices are drawn towards their scaled identity.
    pub(crate) fn shrinkage(&self) -> Shrinkage {
        Shrinkage::from(self.settings.and_then(|settings| settings.shrinkage))
    }

    /// The layers of a plan, by index, in groups that share a metric.
    pub(crate) fn groups(&self, plan: &Plan) -> Vec<Vec<usize>> {
        let shared = matches!(self.objective(), Objective::Gram | Objective::Diagonal);
        let statistics = self.statistics.as_ref().filter(|_| shared);
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (index, planned) in plan.layers.iter().enumerate() {
            let input = statistics.and_then(|file| file.input(&planned.layer).ok());
            if let Some(&group) = input.and_then(|input| known.get(input)) {
                groups[group].push(index);
                continue;
            }
            known.extend(input.map(|input| (input, groups.len())));
            groups.push(vec![index]);
        }
        groups
    }

    /// The metric of a layer; none where its weight alone counts.
    pub(crate) fn of(&self, layer: &Layer, source: &dyn LayerSource) -> Result<Option<Metric>, Error> {
        let bias = self.bias();
        match self.objective() {
            Objective::None => Ok(None),
            Objective::Norm => {
                let norm = source.normalisation(layer).map_err(|source| Error::Input { source, span: None })?;
                let alone = || Metric::identity(layer.shape.cols());
                Ok(Some(norm.map_or_else(alone, |norm| Metric::of_normalisation(&norm, bias))))
            }
            Objective::Diagonal => Ok(Some(Metric::diagonal(self.read(layer)?, bias))),
            Objective::Gram => Ok(Some(Metric::gram(self.read(layer)?, bias, self.shrinkage()))),
        }
    }

    fn read(&self, layer: &Layer) -> Result<Statistics, Error> {
        let span = self.settings.and_then(|settings| settings.span.clone());
        let Some(file) = &self.statistics else {
            let error = ConfigError::new("this objective needs statistics of what flows into the layers");
            return Err(error.with_help("name data in [calibration]").at(span).into());
        };
        file.read(layer).map_err(|source| Error::Statistics { source, span })
    }

    /// A way to read the statistics of what flows into a layer, for a rank rule that asks for it.
    pub(crate) fn reader<'s>(&'s self, layer: &'s Layer) -> impl Fn() -> Result<Statistics, SelectError> + Sync + 's {
        move || {
            let name = Name::new(&layer.name);
            let Some(file) = &self.statistics else {
                let message = format!("there are no statistics of what flows into {name}: add [calibration] data");
                return Err(SelectError::new(message));
            };
            file.read(layer).map_err(|error| SelectError::because("statistics cannot be read", error))
        }
    }
}
