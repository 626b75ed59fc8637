//! What makes transformers load factors: a modelling file beside the weights, and `auto_map`, which leads to it.

use serde_json::value::RawValue;

use super::json;

/// The name of the file beside factorized weights from which transformers learns to load them.
pub const FILE: &str = "modeling_calabi.py";
/// What stands in it.
pub(super) const TEXT: &str = include_str!("loader/modeling_calabi.py");
/// The key under which a configuration says which code loads the model.
pub(super) const MAP: &str = "auto_map";
/// The key under which a configuration names the file with the weights; else it is known by its name.
pub(super) const WEIGHTS: &str = "transformers_weights";
/// What stands there so that a class that knows nothing of factors stops with this text, where it would find none of
/// its weights and go on with random ones.
pub(super) const NO_WEIGHTS: &str = "factors: load them with an Auto class and trust_remote_code=True";

/// What the map calls a configuration, and how models begin.
const CONFIG: &str = "AutoConfig";
const MODEL: &str = "AutoModel";
/// How the names of what loads factors begin.
const OURS: &str = "modeling_calabi.Calabi";
/// What models are loaded for: `AutoModelForCausalLM` and so on, all that transformers knows.
const TASKS: [&str; 48] = [
    "AudioClassification",
    "AudioFrameClassification",
    "AudioTokenization",
    "AudioXVector",
    "CTC",
    "CausalLM",
    "Decision",
    "DepthEstimation",
    "DocumentQuestionAnswering",
    "ImageClassification",
    "ImageMatting",
    "ImageSegmentation",
    "ImageTextToText",
    "ImageToImage",
    "InstanceSegmentation",
    "KeypointDetection",
    "KeypointMatching",
    "MaskGeneration",
    "MaskedImageModeling",
    "MaskedLM",
    "MultimodalLM",
    "MultipleChoice",
    "NextSentencePrediction",
    "NormalEstimation",
    "ObjectDetection",
    "PointmapEstimation",
    "PoseEstimation",
    "PreTraining",
    "QuestionAnswering",
    "RNNT",
    "SemanticSegmentation",
    "Seq2SeqLM",
    "SequenceClassification",
    "SpeechSeq2Seq",
    "TDT",
    "TableQuestionAnswering",
    "TableRecognition",
    "TextEncoding",
    "TextRecognition",
    "TextToSpectrogram",
    "TextToWaveform",
    "TimeSeriesPrediction",
    "TokenClassification",
    "UniversalSegmentation",
    "VideoClassification",
    "VisualQuestionAnswering",
    "ZeroShotImageClassification",
    "ZeroShotObjectDetection",
];

/// Which code loads a factorized model.
pub(super) struct Code {
    /// The whole `auto_map`.
    pub(super) map: Vec<(String, String)>,
    /// What it said of the dense model's configuration and classes.
    pub(super) own: Option<Vec<(String, String)>>,
}

/// Turns the dense model's `auto_map` into the factorized one's. What it says of tokenizers and processors stays.
pub(super) fn code(auto_map: Option<&RawValue>) -> Result<Code, String> {
    let members = auto_map
        .filter(|raw| raw.get() != "null")
        .map(|raw| json::object(raw.get().as_bytes()))
        .transpose()?
        .unwrap_or_default();
    let of_model = |key: &str| key == CONFIG || key.starts_with(MODEL);
    let (models, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|(key, _)| of_model(key));
    let text = |(key, raw): (String, &RawValue)| (key, raw.get().to_owned());
    let known = [CONFIG.to_owned(), MODEL.to_owned()].into_iter().chain(TASKS.map(|task| format!("{MODEL}For{task}")));
    let mut map: Vec<_> = known.map(ours).collect();
    let unknown = models.iter().filter(|(key, _)| map.iter().all(|(known, _)| known != key));
    let unknown: Vec<_> = unknown.map(|(key, _)| ours(key.clone())).collect();
    map.extend(unknown);
    map.extend(others.into_iter().map(text));
    let own: Vec<_> = models.into_iter().map(text).filter(|(_, class)| !class.contains(OURS)).collect();
    Ok(Code { map, own: (!own.is_empty()).then_some(own) })
}

/// The `auto_map` of the dense model: what it says of tokenizers and processors, and the model's own code, as `calabi` keeps
/// it.
pub(super) fn own(auto_map: &RawValue, own_code: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let own = own_code.map(|own| json::object(own.as_bytes())).transpose()?.unwrap_or_default();
    let members = if auto_map.get() == "null" { Vec::new() } else { json::object(auto_map.get().as_bytes())? };
    let others = members.into_iter().filter(|(key, _)| key != CONFIG && !key.starts_with(MODEL));
    Ok(own.into_iter().chain(others).map(|(key, raw)| (key, raw.get().to_owned())).collect())
}

/// The entry of an Auto class.
fn ours(auto: String) -> (String, String) {
    let class = format!("\"{OURS}{}\"", auto.trim_start_matches("Auto"));
    (auto, class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_knows_what_the_configuration_says() {
        assert!(TEXT.contains(&format!("WEIGHTS = \"{NO_WEIGHTS}\"")));
        assert!(TEXT.contains("\nclass CalabiConfig(") && TEXT.contains("name.startswith(\"CalabiModel\")"));
        assert!(TEXT.contains(FILE) && TEXT.contains("\"model_type\": \"calabi\""));
    }
}
