//! Who makes a request, as the server learns it from the bearer's token.

use std::collections::BTreeMap;

/// How user names of ServiceAccounts begin: `system:serviceaccount:NAMESPACE:NAME`.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The claim of a token that was issued for a pod: the node of the pod. Servers make it from 1.30 on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// `UserInfo` of the API, without a UID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Empty for anybody on a server that demands no tokens.
    pub name: String,
    /// Claims of the token.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// With a token that was issued for a pod on this node.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        self.extra.insert(NODE_NAME.to_owned(), vec![node.to_owned()]);
        self
    }

    /// The node of the pod that the token was issued for; empty if it names none.
    pub fn node(&self) -> &str {
        self.extra.get(NODE_NAME).and_then(|names| names.first()).map(String::as_str).unwrap_or_default()
    }

    /// Whether roles limit this user.
    pub fn is_service_account(&self) -> bool {
        self.name.starts_with(SERVICE_ACCOUNT)
    }

    /// The groups that a server derives from the name.
    pub fn groups(&self) -> Vec<String> {
        let account = self.name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split(':').next());
        let of_account = account
            .map(|namespace| ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
        of_account.into_iter().flatten().chain(["system:authenticated".to_owned()]).collect()
    }
}

impl<T: Into<String>> From<T> for User {
    fn from(name: T) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// The user name of a ServiceAccount.
pub fn service_account(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT}{namespace}:{name}")
}
