ip nexthop replace id 1795162113 group 1795162115 protocol 107
ip route replace 192.0.2.10/32 table 10000 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10001 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10002 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10005 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10012 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162112 mtu 1468 protocol 107
ip route replace 192.0.2.10/32 table 10032 nhid 1795162113 protocol 107
ip nexthop del id 1795162116
ip nexthop del id 1795162114
ip nexthop del id 1795162117
nft -f - <<'EOF'
delete element inet kube_service_tunnel endpoints { 10.244.2.3 }
EOF
