//! One CEL expression of a policy.
//!
//! The server also checks types when a policy is created, which nothing here does: expressions of manifests should use no more
//! than maps, `has`, `in` and strings.

use anyhow::{Context as _, Result};
use cel::{Context, Program, Value};

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Program,
}

impl Expression {
    /// # Errors
    /// Text that is not CEL.
    pub fn compile(source: &str) -> Result<Self> {
        let program = Program::compile(source).with_context(|| format!("expression {source:?}"))?;
        Ok(Self { source: source.to_owned(), program })
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value.
    ///
    /// # Errors
    /// What it refers to and is not there, in the words of the server.
    pub fn value(&self, context: &Context) -> Result<Value, String> {
        let value = self.program.execute(context);
        value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.source))
    }

    /// Its value as a condition.
    ///
    /// # Errors
    /// As [`Expression::value`], and values that are not true or false.
    pub fn holds(&self, context: &Context) -> Result<bool, String> {
        match self.value(context)? {
            Value::Bool(holds) => Ok(holds),
            _ => Err(format!("expression '{}' is not a condition", self.source)),
        }
    }

    /// Its value, if it is a text that a message can be made of.
    pub fn text(&self, context: &Context) -> Option<String> {
        match self.value(context) {
            Ok(Value::String(text)) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            _ => None,
        }
    }
}
