//! Services on clusters of one family and of two.

use integration::apiserver::{ApiError, ApiServer, Options, Ranges};
use serde_json::{Value, json};

fn cluster(families: &[&str]) -> ApiServer {
    let ranges = Ranges { families: families.iter().map(ToString::to_string).collect(), ..Ranges::default() };
    ApiServer::start_local(Options { ranges, ..Options::default() }).unwrap()
}

fn create(server: &ApiServer, name: &str, extra: Value) -> Result<Value, ApiError> {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80}]}});
    json_patch::merge(&mut service["spec"], &extra);
    server.store().create(service).map(|created| created["spec"].clone())
}

#[tokio::test]
async fn a_service_that_asks_for_nothing_gets_the_primary_family() {
    for (families, primary, address) in [
        (&["IPv4"][..], "IPv4", "10.96."),
        (&["IPv6"], "IPv6", "fd96::"),
        (&["IPv4", "IPv6"], "IPv4", "10.96."),
        (&["IPv6", "IPv4"], "IPv6", "fd96::"),
    ] {
        let server = cluster(families);
        let spec = create(&server, "plain", json!({})).unwrap();
        assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!([primary]), &json!("SingleStack")));
        assert!(spec["clusterIP"].as_str().unwrap().starts_with(address), "{spec}");
        let own = server.store().get("services", "default", "kubernetes").unwrap();
        assert!(own["spec"]["clusterIP"].as_str().unwrap().starts_with(address), "{own}");
    }
}

#[tokio::test]
async fn who_prefers_two_families_gets_what_there_is() {
    for families in [&["IPv4"][..], &["IPv6"], &["IPv4", "IPv6"], &["IPv6", "IPv4"]] {
        let spec = create(&cluster(families), "both", json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
        assert_eq!(spec["ipFamilies"], json!(families));
        assert_eq!(spec["clusterIPs"].as_array().unwrap().len(), families.len());
    }
}

#[tokio::test]
async fn what_the_cluster_has_not_is_refused() {
    let server = cluster(&["IPv6"]);
    let two = create(&server, "two", json!({"ipFamilyPolicy": "RequireDualStack"})).unwrap_err();
    assert!(two.code() == 422 && two.to_string().contains("not configured for dual-stack services"), "{two}");
    let four = create(&server, "four", json!({"ipFamilies": ["IPv4"]})).unwrap_err();
    assert!(four.to_string().contains("spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured"), "{four}");
    // Nobody allocates anything for it.
    let bare = create(&server, "bare", json!({"clusterIP": "None", "selector": null})).unwrap();
    assert_eq!(bare["ipFamilies"], json!(["IPv6", "IPv4"]));
}
