//! Where the API is, and who we are there.
//!
//! Only the configuration is judged here. An API that does not answer is no error: the agent starts, waits, and goes on
//! with what the kernel has.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};

/// There is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A kubeconfig cannot be used.
    #[error("cannot use kubeconfig {origin}: {}: {}", summary(.source), remedy(.source))]
    Kubeconfig {
        /// The file, or the variable that names it.
        origin: String,
        /// What is wrong.
        source: Box<KubeconfigError>,
    },
    /// This runs in a pod whose service account cannot be used.
    #[error("cannot use the pod's service account: {0}: set automountServiceAccountToken, or give --kubeconfig")]
    InCluster(#[source] Box<InClusterError>),
    /// There is neither a kubeconfig nor a service account.
    #[error("found no Kubernetes API: run in a pod, or give --kubeconfig, or set KUBECONFIG")]
    NotConfigured,
    /// The configuration is complete, but no client can be made of it.
    #[error("cannot use the credentials of {origin}: {source}: correct its certificates and keys")]
    Credentials {
        /// Where the configuration came from.
        origin: String,
        /// What is wrong.
        source: Box<::kube::Error>,
    },
}

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    Variable(OsString),
    InCluster,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(value) => write!(f, "{} (from KUBECONFIG)", value.display()),
            Origin::InCluster => f.write_str("the pod's service account"),
        }
    }
}

/// A client for the API: of the kubeconfig that is given, else of `KUBECONFIG`, else of the pod that this runs in, else
/// of `~/.kube/config`. Nothing is sent yet.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let origin = origin(kubeconfig, |name| env::var_os(name))?;
    let config = config(&origin).await?;
    Client::try_from(config)
        .map_err(|error| ClientError::Credentials { origin: origin.to_string(), source: Box::new(error) })
}

fn origin(kubeconfig: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Result<Origin, ClientError> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = kubeconfig {
        return Ok(Origin::File(path.to_owned()));
    }
    if let Some(value) = variable("KUBECONFIG") {
        return Ok(Origin::Variable(value));
    }
    if variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Ok(Origin::InCluster);
    }
    let home = variable("HOME").map(|home| Path::new(&home).join(".kube/config"));
    home.filter(|path| path.exists()).map(Origin::File).ok_or(ClientError::NotConfigured)
}

async fn config(origin: &Origin) -> Result<Config, ClientError> {
    let error = |source| ClientError::Kubeconfig { origin: origin.to_string(), source: Box::new(source) };
    let kubeconfig = match origin {
        Origin::File(path) => Kubeconfig::read_from(path),
        Origin::Variable(value) => merged(value),
        Origin::InCluster => return Config::incluster().map_err(|e| ClientError::InCluster(Box::new(e))),
    };
    let kubeconfig = kubeconfig.map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(error)
}

/// `KUBECONFIG` is a list of files.
fn merged(paths: &OsString) -> Result<Kubeconfig, KubeconfigError> {
    env::split_paths(paths)
        .filter(|path| !path.as_os_str().is_empty())
        .try_fold(Kubeconfig::default(), |all, path| all.merge(Kubeconfig::read_from(path)?))
}

/// The first line only: below it the YAML parser quotes the file, which holds secrets.
fn summary(error: &KubeconfigError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn remedy(error: &KubeconfigError) -> &'static str {
    match error {
        KubeconfigError::ReadConfig(..) | KubeconfigError::FindPath => "give a file that exists and can be read",
        KubeconfigError::CurrentContextNotSet => "set current-context in it",
        KubeconfigError::LoadContext(_) | KubeconfigError::LoadClusterOfContext(_) => {
            "let current-context name a context of it, and the context a cluster"
        }
        KubeconfigError::MissingClusterUrl | KubeconfigError::ParseClusterUrl(_) => "set the cluster's server to a URL",
        _ => "correct it, `kubectl --kubeconfig FILE version` must work",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the configuration is looked for with these variables.
    fn found(kubeconfig: Option<&str>, variables: &[(&str, &str)]) -> Option<Origin> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into());
        origin(kubeconfig.map(Path::new), variable).ok()
    }

    #[test]
    fn an_explicit_path_goes_before_the_variable_and_the_variable_before_the_pod() {
        let all = [("KUBECONFIG", "/k"), ("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
        assert_eq!(found(Some("/x"), &all), Some(Origin::File("/x".into())));
        assert_eq!(found(None, &all), Some(Origin::Variable("/k".into())));
        assert_eq!(found(None, &all[1..]), Some(Origin::InCluster));
        assert_eq!(found(None, &[("KUBECONFIG", ""), all[1]]), Some(Origin::InCluster), "empty is not set");
    }

    #[test]
    fn the_file_in_the_home_directory_is_the_last_resort() {
        let home = tempfile::tempdir().unwrap();
        let variables = [("HOME", home.path().to_str().unwrap())];
        assert_eq!(found(None, &variables), None);
        std::fs::create_dir(home.path().join(".kube")).unwrap();
        std::fs::write(home.path().join(".kube/config"), "").unwrap();
        assert_eq!(found(None, &variables), Some(Origin::File(home.path().join(".kube/config"))));
    }

    #[test]
    fn without_any_configuration_the_error_says_what_to_give() {
        let error = origin(None, |_| None).unwrap_err().to_string();
        assert!(error.contains("--kubeconfig") && error.contains("KUBECONFIG"), "{error}");
    }

    #[tokio::test]
    async fn a_pod_without_a_service_account_is_told_so() {
        let error = config(&Origin::InCluster).await.unwrap_err().to_string();
        assert!(error.contains("service account") && error.contains("automountServiceAccountToken"), "{error}");
    }

    #[tokio::test]
    async fn the_variable_is_named_when_one_of_its_files_is_missing() {
        let error = config(&Origin::Variable("/does/not/exist:/k".into())).await.unwrap_err().to_string();
        assert!(error.contains("/does/not/exist:/k (from KUBECONFIG)"), "{error}");
    }
}
