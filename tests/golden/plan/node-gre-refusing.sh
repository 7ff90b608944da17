nft -f - <<'EOF'
add set inet kube_service_tunnel refusing { typeof ip saddr . meta mark; }
flush chain inet kube_service_tunnel forward
add chain inet kube_service_tunnel refuse { type filter hook output priority -5; policy accept; }
add rule inet kube_service_tunnel forward tcp flags & (syn | ack) == syn ip daddr . meta mark @refusing counter reject with tcp reset comment "nobody takes new connections #5c4e63ab"
add rule inet kube_service_tunnel forward ip daddr @served oifname != "kst-*" rt ip nexthop != @mpls_gateways counter reject with icmp type host-unreachable comment "VIP traffic leaves encapsulated or not at all #39528bc2"
add rule inet kube_service_tunnel refuse tcp flags & (syn | ack) == syn ip daddr . meta mark @refusing counter reject with tcp reset comment "nobody takes new connections #5c4e63ab"
add element inet kube_service_tunnel refusing { 192.0.2.10 . 128, 192.0.2.10 . 129, 192.0.2.10 . 130, 192.0.2.10 . 131, 192.0.2.10 . 132, 192.0.2.10 . 133, 192.0.2.10 . 134, 192.0.2.10 . 135, 192.0.2.10 . 136, 192.0.2.10 . 137, 192.0.2.10 . 138, 192.0.2.10 . 139, 192.0.2.10 . 140, 192.0.2.10 . 141, 192.0.2.10 . 142, 192.0.2.10 . 143 }
EOF
