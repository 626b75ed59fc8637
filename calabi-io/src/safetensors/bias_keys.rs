//! Biases that an architecture has where a key of its configuration says so.

/// A key of `config.json` that gives layers a bias, all of them or none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BiasKey {
    pub(super) key: &'static str,
    model_types: &'static [&'static str],
    /// The last parts of their names.
    layers: &'static [&'static str],
}

const KEYS: [BiasKey; 2] = [
    BiasKey {
        key: "attention_bias",
        model_types: &["llama", "qwen3", "gemma3_text"],
        layers: &["q_proj", "k_proj", "v_proj", "o_proj"],
    },
    BiasKey { key: "mlp_bias", model_types: &["llama"], layers: &["gate_proj", "up_proj", "down_proj"] },
];

impl BiasKey {
    /// Whether it gives this layer a bias.
    pub(super) fn covers(&self, layer: &str) -> bool {
        layer.rsplit('.').next().is_some_and(|last| self.layers.contains(&last))
    }
}

/// The keys that give all these layers a bias; the error is a layer that has no place for one.
pub(super) fn needed<'a>(model_type: Option<&str>, layers: &'a [String]) -> Result<Vec<&'static BiasKey>, &'a str> {
    let known = |key: &&BiasKey| model_type.is_some_and(|model_type| key.model_types.contains(&model_type));
    let mut keys: Vec<&'static BiasKey> = Vec::new();
    for layer in layers {
        let key = KEYS.iter().filter(known).find(|key| key.covers(layer)).ok_or(layer.as_str())?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_the_layers_need() {
        let layers = |names: &[&str]| names.iter().map(|name| format!("model.layers.0.{name}")).collect::<Vec<_>>();
        let keys = |model_type, names: &[&str]| match needed(model_type, &layers(names)) {
            Ok(keys) => Ok(keys.into_iter().map(|key| key.key).collect::<Vec<_>>()),
            Err(layer) => Err(layer.to_owned()),
        };
        let attention = ["self_attn.q_proj", "self_attn.o_proj"];
        assert_eq!(keys(Some("llama"), &attention), Ok(vec!["attention_bias"]));
        assert_eq!(keys(Some("llama"), &["mlp.up_proj", attention[0]]), Ok(vec!["mlp_bias", "attention_bias"]));
        assert_eq!(keys(Some("qwen3"), &["mlp.up_proj"]), Err("model.layers.0.mlp.up_proj".to_owned()));
        assert_eq!(keys(Some("mistral"), &attention), Err("model.layers.0.self_attn.q_proj".to_owned()));
        assert_eq!(keys(None, &[]), Ok(vec![]));
        assert!(keys(None, &attention).is_err());
    }
}
