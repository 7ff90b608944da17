ip nexthop replace id 1795162117 encap ip id 2 src 10.0.0.1 dst 10.244.1.2 ttl 64 key dev kst-vxlan protocol 107
ip route replace 192.0.2.10/32 table 10000 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10001 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10002 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10005 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10012 nhid 1795162117 mtu 1464 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162117 mtu 1464 protocol 107
ip nexthop del id 1795162113
nft -f - <<'EOF'
delete element inet kube_service_tunnel mpls_gateways { 10.0.0.2 }
EOF
