use proptest::prelude::*;

use super::super::annotation::parse;

/// Good members as they are printed, bad ones as the reader is told.
fn members(text: &str) -> Vec<String> {
    let show = |member: Result<std::net::IpAddr, super::super::annotation::BadMember>| match member {
        Ok(address) => address.to_string(),
        Err(bad) => bad.to_string(),
    };
    parse(text).map(show).collect()
}

#[test]
fn members_are_separated_by_commas_and_spaces_do_not_matter() {
    assert_eq!(members("192.0.2.10"), ["192.0.2.10"]);
    assert_eq!(members(" 192.0.2.10 ,\t192.0.2.11\n"), ["192.0.2.10", "192.0.2.11"]);
}

#[test]
fn an_empty_annotation_is_an_empty_member() {
    assert_eq!(members(""), [r#""" is empty"#]);
    assert_eq!(members("   "), [r#""" is empty"#]);
}

#[test]
fn a_stray_comma_does_not_harm_the_good_members() {
    assert_eq!(members("192.0.2.10,"), ["192.0.2.10", r#""" is empty"#]);
    assert_eq!(members(",192.0.2.10"), [r#""" is empty"#, "192.0.2.10"]);
}

#[test]
fn what_is_no_address_is_refused_by_itself() {
    assert_eq!(members("banana,192.0.2.10"), [r#""banana" is not an IP address"#, "192.0.2.10"]);
    for text in ["192.0.2", "192.0.2.256", "192.0.2.10.", "192.0.2.10 192.0.2.11", "0xc0.0.2.10", "３.3.3.3", "[::1]"]
    {
        assert_eq!(members(text), [format!("{text:?} is not an IP address")]);
    }
}

#[test]
fn leading_zeros_are_refused_since_some_read_them_as_octal() {
    assert_eq!(members("192.0.2.010"), [r#""192.0.2.010" is not an IP address"#]);
}

#[test]
fn a_prefix_or_a_port_is_named_as_what_it_is() {
    assert_eq!(members("192.0.2.10/24"), [r#""192.0.2.10/24" is a prefix, not an address"#]);
    assert_eq!(members("192.0.2.10/32"), [r#""192.0.2.10/32" is a prefix, not an address"#]);
    assert_eq!(members("192.0.2.10:53"), [r#""192.0.2.10:53" has a port"#]);
}

#[test]
fn both_families_may_be_mixed() {
    assert_eq!(members("192.0.2.10, 2001:DB8:0::10"), ["192.0.2.10", "2001:db8::10"]);
    assert_eq!(members("fd00::10,64:ff9b::c000:20a"), ["fd00::10", "64:ff9b::c000:20a"]);
}

#[test]
fn ipv6_addresses_that_no_host_is_reached_by_are_named() {
    for (text, why) in [
        ("::", "is the unspecified address"),
        ("::1", "is a loopback address"),
        ("fe80::1", "is a link-local address"),
        ("febf::1", "is a link-local address"),
        ("fec0::1", "is a site-local address, which RFC 3879 withdrew"),
        ("ff02::1", "is a multicast address"),
        ("::ffff:192.0.2.10", "is an IPv4 address in IPv6 notation"),
        ("::192.0.2.10", "is an IPv4 address in IPv6 notation"),
        ("fe80::1%eth0", "has a zone, which means something on one host only"),
        ("2001:db8::10%2", "has a zone, which means something on one host only"),
        ("2001:db8::10/128", "is a prefix, not an address"),
        ("[2001:db8::10]:53", "has a port"),
    ] {
        assert_eq!(members(text), [format!("{text:?} {why}")]);
    }
}

#[test]
fn addresses_that_no_host_can_have_are_refused() {
    for (text, why) in [
        ("0.0.0.0", r#"is in 0.0.0.0/8, which means "this host""#),
        ("0.1.2.3", r#"is in 0.0.0.0/8, which means "this host""#),
        ("127.0.0.1", "is a loopback address"),
        ("127.255.255.255", "is a loopback address"),
        ("169.254.169.254", "is a link-local address"),
        ("224.0.0.5", "is a multicast address"),
        ("239.255.255.255", "is a multicast address"),
        ("240.0.0.1", "is in the reserved range 240.0.0.0/4"),
        ("255.255.255.255", "is the broadcast address"),
    ] {
        assert_eq!(members(text), [format!("{text:?} {why}")]);
    }
}

#[test]
fn the_neighbours_of_refused_ranges_are_accepted() {
    for text in ["1.0.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "223.255.255.255"] {
        assert_eq!(members(text), [text]);
    }
}

#[test]
fn long_and_binary_garbage_is_shortened_and_escaped() {
    let garbage = "\u{1b}[31m\n\u{202e}".to_owned() + &"ä".repeat(2045);
    let [shown] = &members(&garbage)[..] else { panic!("one member") };
    assert!(shown.starts_with(r#""\u{1b}[31m\n\u{202e}ä"#), "{shown}");
    assert!(shown.ends_with("…\" (4099 bytes) is not an IP address"), "{shown}");
    assert!(shown.len() < 200);
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_and_each_member_is_judged(text in any::<String>()) {
        prop_assert_eq!(parse(&text).count(), text.split(',').count());
        for bad in parse(&text).filter_map(Result::err) {
            prop_assert!(bad.to_string().chars().all(|c| !c.is_control()));
            prop_assert!(!bad.remedy().is_empty());
        }
    }

    #[test]
    fn every_host_address_survives_in_its_place(octets in any::<[u8; 4]>(), spaces in "[ \t]{0,3}") {
        let v4 = std::net::Ipv4Addr::from(octets);
        let address = std::net::IpAddr::V4(v4);
        let refused = v4.is_loopback() || v4.is_link_local() || octets[0] == 0 || octets[0] >= 224;
        let parsed: Vec<_> = parse(&format!("banana,{spaces}{address}{spaces}")).collect();
        prop_assert!(parsed[0].is_err());
        prop_assert_eq!(parsed[1].as_ref().ok(), (!refused).then_some(&address));
    }
}
