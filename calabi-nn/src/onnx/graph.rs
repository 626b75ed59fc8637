//! What an engine makes of a model file.

use rten::Value;

use crate::inputs::Input;

/// A model in an engine's memory.
pub(crate) trait Graph: Send {
    /// What it wants, in its order.
    fn inputs(&self) -> Vec<Input>;

    /// The names of what it gives, in its order.
    fn outputs(&self) -> Vec<String>;

    /// Runs it on a value for each input, in their order, and gives the values of these names.
    fn run(&mut self, inputs: Vec<Value>, names: &[&str]) -> Result<Vec<Value>, String>;
}
