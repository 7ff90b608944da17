nft -f - <<'EOF'
delete element inet kube_service_tunnel refusing { 192.0.2.10 . 128, 192.0.2.10 . 129, 192.0.2.10 . 130, 192.0.2.10 . 131, 192.0.2.10 . 132, 192.0.2.10 . 133, 192.0.2.10 . 134, 192.0.2.10 . 135, 192.0.2.10 . 136, 192.0.2.10 . 137, 192.0.2.10 . 138, 192.0.2.10 . 139, 192.0.2.10 . 140, 192.0.2.10 . 141, 192.0.2.10 . 142, 192.0.2.10 . 143 }
flush chain inet kube_service_tunnel forward
add rule inet kube_service_tunnel forward ip daddr @served oifname != "kst-*" rt ip nexthop != @mpls_gateways counter reject with icmp type host-unreachable comment "VIP traffic leaves encapsulated or not at all #39528bc2"
flush chain inet kube_service_tunnel refuse
delete chain inet kube_service_tunnel refuse
delete set inet kube_service_tunnel refusing
EOF
