//! The second chance with packets: each row of the program's table, in every tunnel, over both families, for both families
//! inside; and how the program is loaded, found again, replaced and removed. What needs GRE is in modules named `gre…`.

mod lab;
mod loader;
pub mod packet;
mod present;
mod rows;

/// One test per row and tunnel.
macro_rules! rows {
    ($($file:ident: $($row:ident)*;)*) => {
        rows!(@vxlan Vxlan(V4): $($($file $row)*)*);
        rows!(@vxlan_over_ipv6 Vxlan(V6): $($($file $row)*)*);
        rows!(@gre Gre(V4): $($($file $row)*)*);
        rows!(@gre_over_ipv6 Gre(V6): $($($file $row)*)*);
    };
    (@$module:ident $tunnel:ident($family:ident): $($file:ident $row:ident)*) => {
        mod $module {
            use super::lab::{Lab, Tunnel};
            use tunnel_router::model::Family;

            $(#[test] fn $row() {
                super::$file::$row(&mut Lab::new(Tunnel::$tunnel(Family::$family)));
            })*
        }
    };
}

rows! {
    rows:
    a_packet_without_former_owners_is_taken
    a_syn_is_taken
    open_connections_stay_and_new_ones_go_to_the_owner
    servers_on_the_vip_itself_pass_on_like_those_on_all_addresses
    what_is_passed_on_is_counted_where_it_leaves_and_where_it_arrives
    bulk_data_is_passed_on_unharmed
    a_handshake_goes_on_where_it_began
    a_half_open_connection_takes_only_its_own_packets
    a_connection_in_time_wait_takes_its_packets
    the_acknowledgement_of_a_cookie_is_taken
    a_packet_that_nobody_knows_visits_each_pod_once_and_is_reset_once
    a_later_name_than_the_last_known_drops_tcp_and_delivers_datagrams
    an_unknown_vip_drops_tcp
    a_retired_name_is_skipped
    the_pods_own_name_is_skipped
    a_name_without_address_in_the_outer_family_is_skipped
    a_list_of_skipped_names_is_taken
    datagrams_are_passed_on_once_and_only_when_the_list_says_so
    a_connected_udp_socket_takes_its_datagrams
    protocols_without_ports_are_datagrams
    later_fragments_follow_the_first
    a_repeated_fragment_id_is_decided_anew
    an_error_about_a_connection_goes_where_the_connection_is
    a_packet_is_passed_on_from_the_address_that_it_came_to;

    present:
    a_packet_sent_to_an_earlier_owner_reaches_the_present_owner
    without_a_change_of_owners_a_packet_without_a_list_is_taken_unread
    a_full_list_gets_no_name
    a_packet_that_was_passed_on_gets_no_name
    a_retired_name_makes_room_for_the_present_owner
    datagrams_stay_with_an_earlier_owner
    an_error_follows_its_connection_to_the_present_owner
    later_fragments_follow_a_first_one_that_got_a_name
    with_affinity_only_addresses_find_the_bucket
    the_program_finds_the_bucket_that_the_ingress_node_finds
    the_program_decides_as_its_twin;
}
