use serde_json::json;

use super::{Judge, Policies};
use crate::apiserver::journal::RequestInfo;
use crate::apiserver::resource::by_plural;
use crate::apiserver::user::User;

const MANIFEST: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: owners }
spec:
  matchConstraints:
    resourceRules: [{ apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [secrets] }]
  matchConditions: [{ name: guests, expression: request.userInfo.username.startsWith("guest") }]
  variables:
    - { name: node, expression: 'request.userInfo.extra["authentication.kubernetes.io/node-name"][0]' }
  validations:
    - expression: object.metadata.name == variables.node
      messageExpression: '"not of " + variables.node'
      reason: Forbidden
    - expression: oldObject == null || oldObject.type == object.type
      message: the type stays
      reason: Forbidden
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: guests }
spec: { policyName: owners, validationActions: [Deny] }
"#;

/// Why a user may not store a Secret of this name and type in place of one of the old type.
fn refusal(user: User, name: &str, kind: &str, old: Option<&str>) -> Option<String> {
    let policies = Policies::of_manifest(MANIFEST).unwrap();
    let request = RequestInfo { user, ..RequestInfo::default() };
    let secret = |kind: &str| json!({"metadata": {"name": name}, "type": kind});
    let judge = Judge { policies: &policies, request: &request };
    let admitted = judge.admit(by_plural("secrets").unwrap(), &secret(kind), old.map(secret).as_ref());
    admitted.err().map(|error| error.to_string())
}

#[test]
fn a_policy_refuses_whom_it_concerns_and_says_why() {
    let guest = || User::from("guest").on_node("n1");
    assert_eq!(refusal(guest(), "n1", "a", None), None);
    let denied =
        "secrets \"n2\" is forbidden: ValidatingAdmissionPolicy 'owners' with binding 'guests' denied request: ";
    assert_eq!(refusal(guest(), "n2", "a", None), Some(format!("{denied}not of n1")));
    assert_eq!(refusal("host".into(), "n2", "a", None), None);
}

#[test]
fn an_update_is_judged_with_what_is_stored() {
    let guest = || User::from("guest").on_node("n1");
    assert_eq!(refusal(guest(), "n1", "a", Some("a")), None);
    assert!(refusal(guest(), "n1", "a", Some("b")).unwrap().ends_with("denied request: the type stays"));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let error = refusal("guest".into(), "n1", "a", None).unwrap();
    assert!(error.contains("expression 'object.metadata.name == variables.node' resulted in error"), "{error}");
}

#[test]
fn other_kinds_are_not_judged() {
    let policies = Policies::of_manifest(MANIFEST).unwrap();
    let request = RequestInfo { user: "guest".into(), ..RequestInfo::default() };
    let judge = Judge { policies: &policies, request: &request };
    judge.admit(by_plural("configmaps").unwrap(), &json!({"metadata": {"name": "n2"}}), None).unwrap();
}

#[test]
fn a_manifest_with_what_is_not_evaluated_is_an_error() {
    for (from, to) in [
        ("matchConditions", "matchCondition"),
        ("UPDATE]", "DELETE]"),
        ("[Deny]", "[Audit]"),
        ("policyName: owners", "policyName: nobody"),
        ("object.type", "object.type +"),
        ("reason: Forbidden", "reason: Invalid"),
    ] {
        let changed = MANIFEST.replace(from, to);
        assert!(changed != MANIFEST && Policies::of_manifest(&changed).is_err(), "{to}");
    }
    let unbound = MANIFEST.split("---").next().unwrap();
    let policies = Policies::of_manifest(unbound).unwrap();
    assert!(policies.0.is_empty(), "a policy without a binding does nothing");
}
