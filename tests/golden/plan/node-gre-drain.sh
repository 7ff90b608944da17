nft -f - <<'EOF'
add set inet kube_service_tunnel draining { typeof ip saddr . meta mark; }
add set inet kube_service_tunnel draining_datagrams { typeof ip saddr . meta mark; }
add chain inet kube_service_tunnel drain
add chain inet kube_service_tunnel drain_error
flush chain inet kube_service_tunnel icmp_error
flush chain inet kube_service_tunnel vip
add rule inet kube_service_tunnel drain tcp flags & (syn | ack) == syn return comment "who opens a connection gets the owner #026409ed"
add rule inet kube_service_tunnel drain meta l4proto 6 ip daddr . meta mark @draining meta mark set meta mark or 0x40 comment "open connections, while the owner is not prepared #3b3fc9e7"
add rule inet kube_service_tunnel drain meta l4proto != 6 ip daddr . meta mark @draining_datagrams meta mark set meta mark or 0x40 comment "datagrams stay for a while #076b4132"
add rule inet kube_service_tunnel drain_error @th,136,8 6 ip daddr . meta mark @draining meta mark set meta mark or 0x40 return comment "about open connections #08a37e74"
add rule inet kube_service_tunnel drain_error @th,136,8 6 return comment "about those that the owner is asked for #9a416623"
add rule inet kube_service_tunnel drain_error ip daddr . meta mark @draining_datagrams meta mark set meta mark or 0x40 comment "about datagrams #504f9929"
add rule inet kube_service_tunnel icmp_error @th,136,8 { 6, 17, 132 } meta mark set jhash @th,192,32 . @th,160,32 . @th,240,16 . @th,224,16 mod 16 seed 0x6b737401 offset 128 goto drain_error comment "about protocols with ports #04b48b4c"
add rule inet kube_service_tunnel icmp_error meta mark set jhash @th,192,32 . @th,160,32 mod 16 seed 0x6b737401 offset 128 goto drain_error comment "about any other protocol #d83b15d8"
add rule inet kube_service_tunnel vip notrack comment "a flow may come back through another node #c6b78f49"
add rule inet kube_service_tunnel vip icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45 goto icmp_error comment "errors about a flow #ce790f2b"
add rule inet kube_service_tunnel vip meta l4proto { 6, 17, 132 } meta mark set jhash ip saddr . ip daddr . th sport . th dport mod 16 seed 0x6b737401 offset 128 goto drain comment "protocols with ports #0df2cd5b"
add rule inet kube_service_tunnel vip meta mark set jhash ip saddr . ip daddr mod 16 seed 0x6b737401 offset 128 goto drain comment "any other protocol #31adacd7"
EOF
ip route replace 192.0.2.10/32 table 10016 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10017 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10018 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10019 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10021 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10022 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10028 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10031 nhid 1795162113 mtu 1476 protocol 107
ip rule add priority 140 fwmark 0xcf/0xff lookup 10031 protocol 107
ip rule add priority 135 fwmark 0xcc/0xff lookup 10028 protocol 107
ip rule add priority 120 fwmark 0xc6/0xff lookup 10022 protocol 107
ip rule add priority 117 fwmark 0xc5/0xff lookup 10021 protocol 107
ip rule add priority 112 fwmark 0xc3/0xff lookup 10019 protocol 107
ip rule add priority 111 fwmark 0xc2/0xff lookup 10018 protocol 107
ip rule add priority 108 fwmark 0xc1/0xff lookup 10017 protocol 107
ip rule add priority 107 fwmark 0xc0/0xff lookup 10016 protocol 107
nft -f - <<'EOF'
add element inet kube_service_tunnel draining { 192.0.2.10 . 128, 192.0.2.10 . 129, 192.0.2.10 . 130, 192.0.2.10 . 131, 192.0.2.10 . 133, 192.0.2.10 . 134, 192.0.2.10 . 140, 192.0.2.10 . 143 }
add element inet kube_service_tunnel draining_datagrams { 192.0.2.10 . 128, 192.0.2.10 . 129, 192.0.2.10 . 130, 192.0.2.10 . 131, 192.0.2.10 . 133, 192.0.2.10 . 134, 192.0.2.10 . 140, 192.0.2.10 . 143 }
EOF
ip route replace 192.0.2.10/32 table 10000 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10001 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10002 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10005 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10012 nhid 1795162112 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162112 mtu 1476 protocol 107
