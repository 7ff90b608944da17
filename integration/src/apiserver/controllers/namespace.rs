//! Empties namespaces that are being deleted, then lets them go. Grace periods are not waited for: no kubelet would end them.

use crate::apiserver::object;
use crate::apiserver::resource::RESOURCES;
use crate::apiserver::store::Key;
use crate::apiserver::verbs::Verbs;

/// Deletes the content of terminating namespaces and the namespaces themselves.
pub fn sync(verbs: &Verbs) {
    let doomed: Vec<Key> = verbs.store.read(|state| {
        let terminating = state.all("namespaces").filter(|(_, namespace)| object::is_terminating(namespace));
        terminating.map(|(key, _)| key.clone()).collect()
    });
    for namespace in doomed {
        for key in content(verbs, &namespace.name) {
            verbs.remove(&key);
        }
        verbs.remove(&namespace);
    }
}

fn content(verbs: &Verbs, namespace: &str) -> Vec<Key> {
    verbs.store.read(|state| {
        let storages = RESOURCES.iter().filter(|resource| resource.namespaced).map(|resource| resource.storage);
        let keys = storages.flat_map(|storage| state.all(storage)).map(|(key, _)| key);
        keys.filter(|key| key.namespace == namespace).cloned().collect()
    })
}
