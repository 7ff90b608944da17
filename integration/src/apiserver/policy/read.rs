//! Policies and their bindings from a manifest. What the double does not evaluate is an error, never passed over.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, Validation,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::expression::Expression;
use super::{Check, Policy};
use crate::apiserver::shape::unknown_fields;

/// The bound policies of a manifest.
pub fn bound(yaml: &str) -> Result<Vec<Policy>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    let policies: Vec<ValidatingAdmissionPolicy> = of_kind(&documents, "ValidatingAdmissionPolicy")?;
    let named = |policy: ValidatingAdmissionPolicy| Some((policy.metadata.name.clone()?, policy));
    let policies: BTreeMap<String, _> = policies.into_iter().filter_map(named).collect();
    let bindings: Vec<ValidatingAdmissionPolicyBinding> = of_kind(&documents, "ValidatingAdmissionPolicyBinding")?;
    bindings.into_iter().map(|binding| policy(binding, &policies)).collect()
}

fn of_kind<K: DeserializeOwned + Serialize>(documents: &[Value], kind: &str) -> Result<Vec<K>> {
    let api = "admissionregistration.k8s.io/v1";
    let these = documents.iter().filter(|d| d["apiVersion"] == api && d["kind"] == kind);
    these.map(strictly).collect()
}

/// A typed document. A field that the type does not have is an error, as it is for kubectl.
fn strictly<K: DeserializeOwned + Serialize>(document: &Value) -> Result<K> {
    let typed: K = serde_json::from_value(document.clone())?;
    let mut unknown = Vec::new();
    unknown_fields(document, &serde_json::to_value(&typed)?, "", &mut unknown);
    ensure!(unknown.is_empty(), "{}: {}", document["kind"], unknown.join(", "));
    Ok(typed)
}

fn policy(
    binding: ValidatingAdmissionPolicyBinding,
    policies: &BTreeMap<String, ValidatingAdmissionPolicy>,
) -> Result<Policy> {
    let (of_binding, binding) = (binding.spec, binding.metadata.name.unwrap_or_default());
    let name = of_binding.policy_name;
    ensure!(of_binding.validation_actions == ["Deny"], "{binding}: only the action Deny is evaluated");
    ensure!(of_binding.match_resources.is_none(), "{binding}: matchResources is not evaluated");
    let spec = policies.get(&name).and_then(|policy| policy.spec.clone());
    let spec = spec.with_context(|| format!("{binding} binds a policy {name} that is not there"))?;
    ensure!(spec.param_kind.is_none() && spec.audit_annotations.is_none(), "{name}: parameters are not evaluated");
    ensure!(spec.failure_policy.is_none_or(|policy| policy == "Fail"), "{name}: failures are not ignored here");
    let conditions = spec.match_conditions.unwrap_or_default();
    let variables = spec.variables.unwrap_or_default().into_iter();
    let checks = spec.validations.unwrap_or_default();
    Ok(Policy {
        rules: rules(spec.match_constraints.unwrap_or_default()).with_context(|| name.clone())?,
        conditions: conditions.iter().map(|one| Expression::compile(&one.expression)).collect::<Result<_>>()?,
        variables: variables.map(|one| Ok((one.name, Expression::compile(&one.expression)?))).collect::<Result<_>>()?,
        checks: checks.into_iter().map(check).collect::<Result<_>>()?,
        name,
        binding,
    })
}

fn rules(constraints: MatchResources) -> Result<Vec<NamedRuleWithOperations>> {
    let MatchResources { exclude_resource_rules, namespace_selector, object_selector, resource_rules, .. } =
        constraints;
    let is_simple = exclude_resource_rules.is_none() && namespace_selector.is_none() && object_selector.is_none();
    ensure!(is_simple, "only resourceRules are evaluated of matchConstraints");
    let rules = resource_rules.unwrap_or_default();
    for rule in &rules {
        ensure!(rule.resource_names.is_none() && rule.scope.is_none(), "resourceNames and scope are not evaluated");
        let operations = rule.operations.iter().flatten();
        if let Some(other) = operations.into_iter().find(|one| !["CREATE", "UPDATE"].contains(&one.as_str())) {
            bail!("operation {other} is not evaluated");
        }
    }
    Ok(rules)
}

fn check(validation: Validation) -> Result<Check> {
    let Validation { expression, message, message_expression, reason } = validation;
    ensure!(reason.as_deref() == Some("Forbidden"), "{expression}: only the reason Forbidden is answered with");
    let message_expression = message_expression.as_deref().map(Expression::compile).transpose()?;
    Ok(Check { expression: Expression::compile(&expression)?, message, message_expression })
}
