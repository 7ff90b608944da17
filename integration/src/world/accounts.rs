//! Who is who for the API server. The name of a token is that of the kubeconfig with it.

use crate::apiserver::{Grants, Options, Policies, User, service_account};
use crate::lab::Node;

use super::NAMESPACE;

/// What the agents and controllers run with on a cluster. Here they may do what it lets them.
pub(super) const MANIFEST: &str = include_str!("../../../manifests/tunnel-router.yaml");

/// What removes everything, with rights of its own.
const CLEANUP_MANIFEST: &str = include_str!("../../../manifests/overlays/cleanup/cleanup.yaml");

/// ServiceAccounts of agents and controllers in the manifest.
pub(super) const AGENT: &str = "tunnel-router";
pub(super) const CONTROLLER: &str = "tunnel-router-controller";
/// Namespace and ServiceAccount of the clean-up in its manifest.
const CLEANUP: (&str, &str) = ("kube-service-tunnel-cleanup", "tunnel-router-cleanup");
/// User who may do everything.
pub(super) const ADMIN: &str = "admin";

/// The token of a node's agent.
pub(super) fn of_agent(node: &str) -> String {
    format!("{AGENT}@{node}")
}

/// A server with the manifest's rights, that gives out tokens with or without the claim of their node.
pub(super) fn options<'a>(nodes: impl Iterator<Item = &'a Node>, node_claims: bool) -> anyhow::Result<Options> {
    let account = |name: &str| User::from(service_account(NAMESPACE, name));
    let agent = |node: &str| if node_claims { account(AGENT).on_node(node) } else { account(AGENT) };
    let agents = nodes.map(|node| (of_agent(node.name()), agent(node.name())));
    let cleanup = User::from(service_account(CLEANUP.0, CLEANUP.1));
    let others = [(CONTROLLER.to_owned(), account(CONTROLLER)), (ADMIN.to_owned(), ADMIN.into())];
    let others = others.into_iter().chain([(CLEANUP.1.to_owned(), cleanup)]);
    Ok(Options {
        tokens: agents.chain(others).collect(),
        grants: Some(Grants::of_manifest(&format!("{MANIFEST}\n---\n{CLEANUP_MANIFEST}"))?),
        policies: Policies::of_manifest(MANIFEST)?,
        ..Options::default()
    })
}
