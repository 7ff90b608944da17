use super::*;

/// A world with one ready pod behind Service `echo`.
fn world() -> World {
    World::new().slice(mk_slice("echo-1", "echo", vec![mk_endpoint("a", "10.244.2.1")]))
}

#[test]
fn an_annotated_service_gets_its_vips_with_all_its_pods() {
    let resolved = world().service(mk_service("echo", "192.0.2.10, 192.0.2.11")).resolve();
    assert_eq!(vips(&resolved), ["192.0.2.10", "192.0.2.11"]);
    assert!(resolved.cluster.problems.is_empty());
    let vip = &resolved.cluster.vips[&ip("192.0.2.10")];
    assert_eq!(vip.service.to_string(), "shop/echo");
    assert_eq!(vip.service.uid, "uid-echo");
    assert_eq!(vip.mode, Mode::Gre);
    assert!(!vip.client_ip_affinity);
    assert_eq!(vip.endpoints, resolved.cluster.vips[&ip("192.0.2.11")].endpoints);
    assert_eq!(vip.endpoints.len(), 1);
}

#[test]
fn a_service_without_the_annotation_has_no_vip_and_no_problem() {
    let mut service = mk_service("echo", "");
    service.metadata.annotations = Some([("cmd.nu/tunnel-mode".to_owned(), "banana".to_owned())].into());
    let resolved = world().service(service).resolve();
    assert_eq!(resolved.cluster, crate::model::Cluster::default());
}

#[test]
fn the_name_of_the_annotation_is_a_setting() {
    let mut index = Index::new("example.org/vip");
    for change in World::empty() {
        index.apply(change);
    }
    let service = annotated(mk_service("echo", "192.0.2.10"), "example.org/vip", "192.0.2.99");
    let world = World(index).service(annotated(service, "example.org/vip-mode", "vxlan"));
    let resolved = world.resolve_with(&Settings { annotation: "example.org/vip".to_owned(), ..settings() });
    assert_eq!(vips(&resolved), ["192.0.2.99"]);
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.99")].mode, Mode::Vxlan);
}

#[test]
fn a_service_without_pods_keeps_its_vip() {
    let resolved = World::new().service(mk_service("echo", "192.0.2.10")).resolve();
    assert!(resolved.cluster.vips[&ip("192.0.2.10")].endpoints.is_empty());
    assert!(resolved.cluster.problems.is_empty());
}

#[test]
fn a_headless_service_is_served() {
    let service = with_spec(mk_service("echo", "192.0.2.10"), |spec| {
        spec.cluster_ip = Some("None".to_owned());
        spec.cluster_ips = Some(vec!["None".to_owned()]);
    });
    assert_eq!(vips(&world().service(service).resolve()), ["192.0.2.10"]);
}

#[test]
fn a_service_that_is_being_deleted_keeps_its_vip_until_it_is_gone() {
    let mut service = mk_service("echo", "192.0.2.10");
    service.metadata.deletion_timestamp = service.metadata.creation_timestamp.clone();
    assert_eq!(vips(&world().service(service).resolve()), ["192.0.2.10"]);
}

#[test]
fn the_mode_annotation_overrides_the_default() {
    for mode in Mode::ALL {
        let service = annotated(mk_service("echo", "192.0.2.10"), "cmd.nu/tunnel-mode", &format!(" {mode} "));
        let resolved = world().service(service).resolve();
        assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].mode, mode);
    }
    let settings = Settings { default_mode: Mode::Mpls, ..settings() };
    let resolved = world().service(mk_service("echo", "192.0.2.10")).resolve_with(&settings);
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].mode, Mode::Mpls);
}

#[test]
fn a_service_with_an_unknown_mode_is_left_out_by_name() {
    for mode in ["ipip", "GRE", ""] {
        let service = annotated(mk_service("echo", "192.0.2.10"), "cmd.nu/tunnel-mode", mode);
        let resolved = world().service(service).resolve();
        assert!(resolved.cluster.vips.is_empty());
        let mode = format!("{mode:?} is no mode");
        let parts = ["cmd.nu/tunnel-mode of Service shop/echo", &mode, "not served", "use one of gre, mpls, vxlan"];
        assert_problem(&resolved, Reason::InvalidMode, &parts);
    }
}

#[test]
fn a_service_with_an_unknown_mode_does_not_lose_its_vip_to_another() {
    let broken = annotated(mk_service("a-echo", "192.0.2.10"), "cmd.nu/tunnel-mode", "banana");
    let resolved = World::new().service(broken).service(mk_service("b-echo", "192.0.2.10")).resolve();
    assert!(vips(&resolved).is_empty());
    let reasons: Vec<Reason> = resolved.cluster.problems.iter().map(|p| p.reason).collect();
    assert_eq!(reasons, [Reason::InvalidMode, Reason::VipConflict]);
}

#[test]
fn client_ip_affinity_is_passed_on() {
    let service =
        with_spec(mk_service("echo", "192.0.2.10"), |spec| spec.session_affinity = Some("ClientIP".to_owned()));
    assert!(world().service(service).resolve().cluster.vips[&ip("192.0.2.10")].client_ip_affinity);
    let service = with_spec(mk_service("echo", "192.0.2.10"), |spec| spec.session_affinity = Some("None".to_owned()));
    assert!(!world().service(service).resolve().cluster.vips[&ip("192.0.2.10")].client_ip_affinity);
}

#[test]
fn an_external_name_service_is_refused_and_claims_nothing() {
    let alias =
        with_spec(mk_service("a-alias", "192.0.2.10,banana"), |spec| spec.type_ = Some("ExternalName".to_owned()));
    let resolved = world().service(alias).service(mk_service("echo", "192.0.2.10")).resolve();
    assert_eq!(resolved.cluster.vips[&ip("192.0.2.10")].service.name, "echo");
    assert_problem(&resolved, Reason::UnsupportedService, &["shop/a-alias", "ExternalName", "remove the annotation"]);
}

#[test]
fn addresses_of_services_are_no_vips_of_others_and_cluster_ips_not_even_of_themselves() {
    let service = with_spec(mk_service("echo", "10.96.0.5,198.51.100.5"), |spec| {
        spec.cluster_ip = Some("10.96.0.5".to_owned());
        spec.cluster_ips = Some(vec!["10.96.0.5".to_owned(), "fd96::5".to_owned()]);
        spec.external_ips = Some(vec!["198.51.100.5".to_owned()]);
    });
    let plain = Service { metadata: meta("plain"), spec: service.spec.clone(), ..Service::default() };
    let resolved = world().service(service).resolve();
    assert_eq!(vips(&resolved), ["198.51.100.5"]);
    assert_problem(&resolved, Reason::InvalidVip, &["10.96.0.5 is the cluster IP of Service shop/echo"]);

    let resolved = world().service(plain).service(mk_service("echo", "10.96.0.5,198.51.100.5")).resolve();
    assert!(vips(&resolved).is_empty());
    let [cluster_ip, external_ip] = &problems(&resolved)[..] else { panic!("two problems") };
    assert!(cluster_ip.contains("10.96.0.5 is the cluster IP of Service shop/plain"), "{cluster_ip}");
    assert!(external_ip.contains("198.51.100.5 is in spec.externalIPs of Service shop/plain"), "{external_ip}");
}

#[test]
fn a_cluster_ip_that_only_the_old_field_has_counts() {
    let old = with_spec(Service { metadata: meta("old"), ..Service::default() }, |spec| {
        spec.cluster_ip = Some("10.96.0.5".to_owned());
    });
    let resolved = world().service(old).service(mk_service("echo", "10.96.0.5")).resolve();
    assert_problem(&resolved, Reason::InvalidVip, &["is the cluster IP of Service shop/old"]);
}

#[test]
fn a_load_balancer_address_may_be_a_vip() {
    let mut service = mk_service("echo", "192.0.2.10");
    service.status = serde_json::from_str(r#"{"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}"#).unwrap();
    assert_eq!(vips(&world().service(service).resolve()), ["192.0.2.10"]);
}

#[test]
fn packets_stay_tracked_where_the_service_asks_for_it() {
    let tracked = |value: &str| {
        let service = annotated(mk_service("echo", "192.0.2.10"), "cmd.nu/tunnel-conntrack", value);
        world().service(service).resolve()
    };
    assert!(tracked("keep").cluster.vips[&ip("192.0.2.10")].tracked);
    let odd = tracked("banana");
    assert!(!odd.cluster.vips[&ip("192.0.2.10")].tracked, "the Service is served all the same");
    assert_problem(&odd, Reason::InvalidOption, &["cmd.nu/tunnel-conntrack", "\"banana\" means nothing", "write keep"]);
}
