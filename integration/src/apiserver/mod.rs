//! A Kubernetes API server double: real HTTPS, real list and watch semantics, objects in memory, faults on demand.
//!
//! It answers as recordings of a kube-apiserver v1.36 do (see `tests/fixtures/transcripts`), as far as a network agent,
//! kube-rs and kubectl can tell. The layers, each ignorant of those after it:
//!
//! ```text
//! resource + shape + admission   what kinds there are, how they print, their defaults and validation
//! store                          objects, versions, history
//! rbac, policy                   who may do what, and what of that is admitted
//! verbs, watch                   what requests do
//! http / objects / controllers    the three who make requests: the network, the test, the EndpointSlice controller
//! ```
//!
//! It must never do what a real server would not, except through [`Faults`]. Not here: admission webhooks,
//! managedFields and apply conflicts, protobuf, HTTP/2, custom resources.

mod admission;
mod certificate;
mod controllers;
mod error;
mod events;
mod faults;
mod http;
mod journal;
mod kubeconfig;
pub mod object;
mod objects;
mod patch;
mod policy;
mod rbac;
mod resource;
mod selector;
mod shape;
mod store;
mod user;
mod verbs;
mod volume;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use admission::Ranges;
pub use error::{ApiError, ApiResult, Cause};
pub use faults::Faults;
pub use journal::{Journal, Record, RequestInfo};
pub use objects::Objects;
pub use policy::Policies;
pub use rbac::Grants;
pub use resource::{Generation, NameRule, RESOURCES, Resource};
pub use user::{User, service_account};
pub use volume::{Asked, Volume, Volumes};

use certificate::Authority;
use controllers::{Controllers, Enabled};
use http::listener::Gate;
use store::Store;
use verbs::{Target, Verbs, WriteOptions};

/// The version of the first object. Not 0, so that there are versions that are too old from the beginning.
const FIRST_REVISION: u64 = 200;

/// How a server is to behave.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses and ports of Services.
    pub ranges: Ranges,
    /// Whether EndpointSlices follow Services and Pods.
    pub endpoint_slices: bool,
    /// Whose bearer tokens these are. Empty admits everybody without one.
    pub tokens: BTreeMap<String, User>,
    /// What ServiceAccounts may do; anything if absent.
    pub grants: Option<Grants>,
    /// What is admitted of that.
    pub policies: Policies,
    /// How many changes watches can look back.
    pub history: usize,
    /// How often an idle watch gets a bookmark; [`Faults::bookmark_watches`] sends one at once.
    pub bookmark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ranges: Ranges::default(),
            endpoint_slices: true,
            tokens: BTreeMap::new(),
            grants: None,
            policies: Policies::default(),
            history: 100_000,
            bookmark_interval: Duration::from_secs(60),
        }
    }
}

/// A running server; dropping it stops it and closes all connections.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    authority: Authority,
    objects: Objects,
    faults: Arc<Faults>,
    journal: Arc<Journal>,
    controllers: Controllers,
    stop: CancellationToken,
}

impl ApiServer {
    /// Serves on `listener`, which may have been opened in any network namespace, from the current Tokio runtime.
    pub fn start(listener: TcpListener, options: Options) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let store = Arc::new(Store::new(FIRST_REVISION, options.history));
        let (own_cluster_ip, networks) = (options.ranges.primary_address(1), options.ranges.networks());
        let verbs = Verbs::new(Arc::clone(&store), options.ranges);
        furnish(&verbs, address, own_cluster_ip, &networks).map_err(io::Error::other)?;
        store.write(store::State::compact);
        let (faults, journal) = (Arc::new(Faults::new(store)), Arc::new(Journal::default()));
        let stop = CancellationToken::new();
        let app = http::App {
            verbs: verbs.clone(),
            faults: Arc::clone(&faults),
            journal: Arc::clone(&journal),
            tokens: options.tokens,
            grants: options.grants,
            policies: options.policies,
            address: address.to_string(),
            bookmark_interval: options.bookmark_interval,
        };
        let names = ["kubernetes.default.svc".to_owned(), address.ip().to_string(), own_cluster_ip.to_string()];
        let (authority, acceptor) = certificate::issue(names.into())?;
        let gate = Gate::new(listener, acceptor, faults.up(), stop.clone())?;
        let serving = axum::serve(gate, http::router(Arc::new(app)));
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { serving.await }));
        let enabled = Enabled { endpoint_slices: options.endpoint_slices };
        let controllers = Controllers::start(verbs.clone(), enabled, stop.clone());
        Ok(Self { address, authority, objects: Objects { verbs }, faults, journal, controllers, stop })
    }

    /// Serves on a free port of the loopback address.
    pub fn start_local(options: Options) -> io::Result<Self> {
        Self::start(TcpListener::bind(("127.0.0.1", 0))?, options)
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The objects, without HTTP in between.
    pub fn store(&self) -> &Objects {
        &self.objects
    }

    /// The fault injector.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What clients have asked for.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Waits until the controllers have done everything that follows from what is stored.
    pub async fn settled(&self) {
        self.controllers.settled().await;
    }

    /// Writes a kubeconfig with which clients reach this server, as the user of a token. kubectl asks at its terminal for a
    /// user where there is none, even if the server admits everybody.
    pub fn write_kubeconfig(&self, path: &Path, token: &str) -> io::Result<()> {
        std::fs::write(path, kubeconfig::render(&self.url(), &self.authority, token))
    }

    /// Writes what a kubelet puts into a pod for its ServiceAccount: token, authority and namespace.
    pub fn write_service_account(&self, directory: &Path, token: &str, namespace: &str) -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        std::fs::write(directory.join("token"), token)?;
        std::fs::write(directory.join("ca.crt"), self.authority.data().0)?;
        std::fs::write(directory.join("namespace"), namespace)
    }

    /// A client that shows every answer as it is: by default kube repeats requests that were answered with 429, 503 or 504.
    pub fn client(&self) -> anyhow::Result<kube::Client> {
        let mut config = kube::Config::new(self.url().parse()?);
        config.root_cert = Some(vec![self.authority.der()]);
        config.default_retry = false;
        Ok(kube::Client::try_from(config)?)
    }

    /// Stops serving and closes all connections.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What every cluster has from the start.
fn furnish(verbs: &Verbs, address: SocketAddr, cluster_ip: IpAddr, networks: &[String]) -> ApiResult<()> {
    let objects = Objects { verbs: verbs.clone() };
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        objects.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
    }
    let ready = json!([{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": object::now()}]);
    objects.create_with_status(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": networks}, "status": {"conditions": ready}}))?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    objects
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "https", "port": 443, "targetPort": address.port()}]}}))?;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family(address),
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "protocol": "TCP", "port": address.port()}]});
    let Some(resource) = resource::by_plural("endpointslices") else { return Err(ApiError::NoSuchPath) };
    verbs.create(&Target::object(resource, "default", ""), slice, WriteOptions::default()).map(drop)
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}
