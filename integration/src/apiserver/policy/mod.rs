//! ValidatingAdmissionPolicies of a manifest: what a user may write, beyond what roles can say.
//!
//! As <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/> has it, for CREATE and UPDATE. They
//! judge an object as it is about to be stored. An expression that cannot be evaluated refuses (`failurePolicy: Fail`).
//! Only requests over HTTP are judged. What a test or a controller of the double does in process is not.

mod expression;
mod read;

use std::sync::Arc;

use cel::Context;
use k8s_openapi::api::admissionregistration::v1::NamedRuleWithOperations;
use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::journal::RequestInfo;
use super::object;
use super::resource::Resource;
use expression::Expression;

/// The policies that are bound. By default there are none.
#[derive(Debug, Clone, Default)]
pub struct Policies(Arc<Vec<Policy>>);

/// A policy and the binding that makes it effective.
#[derive(Debug)]
struct Policy {
    name: String,
    binding: String,
    rules: Vec<NamedRuleWithOperations>,
    conditions: Vec<Expression>,
    variables: Vec<(String, Expression)>,
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    expression: Expression,
    message: Option<String>,
    message_expression: Option<Expression>,
}

/// The policies, about the writes of one request.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// What is allowed.
    pub policies: &'a Policies,
    /// Who asks for what.
    pub request: &'a RequestInfo,
}

impl Policies {
    /// The bound policies of a manifest's documents.
    ///
    /// # Errors
    /// Text that is not YAML, expressions that are not CEL, and what is not evaluated here.
    pub fn of_manifest(yaml: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(read::bound(yaml)?)))
    }
}

impl Judge<'_> {
    /// Refuses an object that must not be stored. `old` is the stored object of an update.
    pub fn admit(&self, resource: &Resource, new: &Value, old: Option<&Value>) -> ApiResult<()> {
        let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
        for policy in self.policies.0.iter().filter(|policy| policy.concerns(resource, self.request, operation)) {
            let request = review(resource, self.request, operation, object::name(new));
            let denied =
                match context(&[("request", &request), ("object", new), ("oldObject", old.unwrap_or(&Value::Null))]) {
                    Ok(context) => policy.denial(context),
                    Err(error) => Some(error),
                };
            if let Some(why) = denied {
                let (name, binding) = (&policy.name, &policy.binding);
                let why = format!("ValidatingAdmissionPolicy '{name}' with binding '{binding}' denied request: {why}");
                return Err(ApiError::not_admitted(resource, object::name(new), &why));
            }
        }
        Ok(())
    }
}

impl Policy {
    fn concerns(&self, resource: &Resource, request: &RequestInfo, operation: &str) -> bool {
        let names =
            |list: &Option<Vec<String>>, one: &str| list.iter().flatten().any(|entry| entry == "*" || entry == one);
        let plural = match request.subresource.as_str() {
            "" => resource.plural.to_owned(),
            subresource => format!("{}/{subresource}", resource.plural),
        };
        self.rules.iter().any(|rule| {
            names(&rule.api_groups, resource.group)
                && names(&rule.api_versions, resource.version)
                && names(&rule.resources, &plural)
                && names(&rule.operations, operation)
        })
    }

    /// Why an object is refused, if it is.
    fn denial(&self, mut context: Context) -> Option<String> {
        for condition in &self.conditions {
            match condition.holds(&context) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(error),
            }
        }
        let mut variables = std::collections::HashMap::new();
        for (name, expression) in &self.variables {
            // As on a server, one that cannot be evaluated harms only those who use it.
            if let Ok(value) = expression.value(&context) {
                variables.insert(name.clone(), value);
                context.add_variable_from_value("variables", variables.clone());
            }
        }
        self.checks.iter().find_map(|check| match check.expression.holds(&context) {
            Ok(true) => None,
            Ok(false) => Some(check.message(&context)),
            Err(error) => Some(error),
        })
    }
}

impl Check {
    fn message(&self, context: &Context) -> String {
        let made = self.message_expression.as_ref().and_then(|expression| expression.text(context));
        let failed = || format!("failed expression: {}", self.expression.source());
        made.or_else(|| self.message.clone()).unwrap_or_else(failed)
    }
}

fn context(variables: &[(&str, &Value)]) -> Result<Context<'static, 'static>, String> {
    let mut context = Context::default();
    for (name, value) in variables {
        context.add_variable(*name, *value).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(context)
}

/// The variable `request`: an `AdmissionRequest`. Claims that a token does not have are absent.
fn review(resource: &Resource, request: &RequestInfo, operation: &str, name: &str) -> Value {
    let RequestInfo { user, namespace, subresource, .. } = request;
    let mut review = json!({
        "operation": operation, "name": name, "namespace": namespace.as_deref().unwrap_or_default(),
        "subResource": subresource,
        "resource": {"group": resource.group, "version": resource.version, "resource": resource.plural},
        "kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "userInfo": {"username": user.name, "groups": user.groups()},
    });
    if !user.extra.is_empty() {
        review["userInfo"]["extra"] = json!(user.extra);
    }
    review
}

#[cfg(test)]
mod tests;
