//! Role-based access control for ServiceAccounts, with the roles and bindings of a manifest.
//!
//! As <https://kubernetes.io/docs/reference/access-authn-authz/rbac/> has it, as far as a manifest of ServiceAccounts can tell:
//! rules only add; a RoleBinding grants in its own namespace, also what a ClusterRole says; `*` stands for all. Whoever is no
//! ServiceAccount may do everything, and every ServiceAccount may discover what there is and ask who it is. Not here: groups, aggregation,
//! `nonResourceURLs`.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::journal::RequestInfo;
use super::user::service_account;

/// Anybody may create it (ClusterRole `system:basic-user`).
const SELF_REVIEW: &str = "selfsubjectreviews";

/// Who may do what. The default lets ServiceAccounts do nothing.
#[derive(Debug, Clone, Default)]
pub struct Grants(Vec<Grant>);

#[derive(Debug, Clone)]
struct Grant {
    user: String,
    /// Where; everywhere if absent.
    namespace: Option<String>,
    rules: Vec<PolicyRule>,
}

impl Grants {
    /// What the documents of a manifest grant; those that are no roles or bindings are passed over.
    ///
    /// # Errors
    /// Text that is no YAML, and roles or bindings that do not have the API's form.
    pub fn of_manifest(yaml: &str) -> anyhow::Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
        let cluster_roles: Vec<ClusterRole> = of_kind(&documents, "ClusterRole")?;
        let roles: Vec<Role> = of_kind(&documents, "Role")?;
        // A role that is not there grants nothing.
        let rules = |role: &RoleRef, namespace: Option<&str>| -> Vec<PolicyRule> {
            let cluster =
                cluster_roles.iter().filter(|r| role.kind == "ClusterRole" && has_name(&r.metadata.name, role));
            let own = roles.iter().filter(|r| {
                role.kind == "Role" && has_name(&r.metadata.name, role) && r.metadata.namespace.as_deref() == namespace
            });
            cluster.filter_map(|r| r.rules.clone()).chain(own.filter_map(|r| r.rules.clone())).flatten().collect()
        };
        let everywhere = of_kind::<ClusterRoleBinding>(&documents, "ClusterRoleBinding")?;
        let everywhere = everywhere.into_iter().map(|binding| (binding.subjects, binding.role_ref, None));
        let within = of_kind::<RoleBinding>(&documents, "RoleBinding")?.into_iter().map(|binding| {
            let namespace = binding.metadata.namespace.unwrap_or_else(|| "default".into());
            (binding.subjects, binding.role_ref, Some(namespace))
        });
        let grants = everywhere.chain(within).flat_map(|(subjects, role, namespace)| {
            let rules = rules(&role, namespace.as_deref());
            users(subjects).map(move |user| Grant { user, namespace: namespace.clone(), rules: rules.clone() })
        });
        Ok(Grants(grants.collect()))
    }

    /// Whether the user of a request may make it.
    pub fn allow(&self, request: &RequestInfo) -> bool {
        let applies = |grant: &Grant| {
            grant.user == request.user.name && (grant.namespace.is_none() || grant.namespace == request.namespace)
        };
        !request.user.is_service_account()
            || request.resource.is_empty()
            || request.is("create", SELF_REVIEW)
            || self.0.iter().filter(|grant| applies(grant)).flat_map(|g| &g.rules).any(|rule| covers(rule, request))
    }
}

fn of_kind<K: DeserializeOwned>(documents: &[Value], kind: &str) -> anyhow::Result<Vec<K>> {
    let api = "rbac.authorization.k8s.io/v1";
    let these = documents.iter().filter(|d| d["apiVersion"] == api && d["kind"] == kind);
    these.map(|document| Ok(serde_json::from_value(document.clone())?)).collect()
}

fn has_name(name: &Option<String>, role: &RoleRef) -> bool {
    name.as_ref() == Some(&role.name)
}

fn users(subjects: Option<Vec<Subject>>) -> impl Iterator<Item = String> {
    let accounts = subjects.into_iter().flatten().filter(|subject| subject.kind == "ServiceAccount");
    accounts.map(|account| service_account(account.namespace.as_deref().unwrap_or_default(), &account.name))
}

fn covers(rule: &PolicyRule, request: &RequestInfo) -> bool {
    let names = |list: &[String], one: &str| list.iter().any(|entry| entry == "*" || entry == one);
    let resource = match request.subresource.as_str() {
        "" => request.resource.clone(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let only = rule.resource_names.as_deref().unwrap_or_default();
    names(&rule.verbs, &request.verb)
        && names(rule.api_groups.as_deref().unwrap_or_default(), &request.group)
        && names(rule.resources.as_deref().unwrap_or_default(), &resource)
        && (only.is_empty() || only.contains(&request.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: agent, namespace: own }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: reader }
rules:
  - { apiGroups: [''], resources: [services, nodes], verbs: [get, list, watch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: reader }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader }
subjects: [{ kind: ServiceAccount, name: agent, namespace: own }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: writer, namespace: own }
rules:
  - { apiGroups: [''], resources: [configmaps], verbs: [update], resourceNames: [mine] }
  - { apiGroups: [events.k8s.io], resources: ['*'], verbs: ['*'] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: writer, namespace: own }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: writer }
subjects: [{ kind: ServiceAccount, name: agent, namespace: own }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: guest, namespace: other }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader }
subjects: [{ kind: ServiceAccount, name: guest, namespace: own }]
";

    /// `VERB GROUP/RESOURCE[/SUBRESOURCE] NAMESPACE/NAME`, `-` for an empty one.
    fn request(user: &str, text: &str) -> RequestInfo {
        let full = |part: &str| if part == "-" { String::new() } else { part.to_owned() };
        let words: Vec<&str> = text.split([' ', '/']).collect();
        let [verb, group, resource, subresource, namespace, name] = words[..] else { unreachable!("{text}") };
        RequestInfo {
            verb: verb.into(),
            group: full(group),
            resource: full(resource),
            subresource: full(subresource),
            namespace: Some(full(namespace)).filter(|n| !n.is_empty()),
            name: full(name),
            user: user.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn a_manifest_grants_what_it_says_and_nothing_else() {
        let grants = Grants::of_manifest(MANIFEST).unwrap();
        let (agent, guest) = (service_account("own", "agent"), service_account("own", "guest"));
        for (user, text, want) in [
            (&agent, "list -/services/- -/-", true),
            (&agent, "get -/services/- default/echo", true),
            (&agent, "get -/services/status default/echo", false),
            (&agent, "patch -/services/- default/echo", false),
            (&agent, "list -/pods/- -/-", false),
            (&agent, "list apps/services/- -/-", false),
            (&agent, "update -/configmaps/- own/mine", true),
            (&agent, "update -/configmaps/- own/other", false),
            (&agent, "update -/configmaps/- default/mine", false),
            (&agent, "deletecollection events.k8s.io/events/- own/-", true),
            (&agent, "create events.k8s.io/events/- default/-", false),
            (&agent, "get -/-/- -/-", true),
            (&agent, "create authentication.k8s.io/selfsubjectreviews/- -/-", true),
            (&guest, "list -/services/- other/-", true),
            (&guest, "list -/services/- -/-", false),
            (&"admin".to_owned(), "delete -/nodes/- -/n", true),
        ] {
            assert_eq!(grants.allow(&request(user, text)), want, "{user}: {text}");
        }
        assert!(!Grants::default().allow(&request(&agent, "list -/services/- -/-")));
    }
}
