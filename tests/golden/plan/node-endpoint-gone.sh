ip route replace 192.0.2.10/32 table 10000 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10007 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10009 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162113 mtu 1476 protocol 107
ip nexthop del id 1795162114
nft -f - <<'EOF'
delete element inet kube_service_tunnel endpoints { 10.244.2.4 }
EOF
