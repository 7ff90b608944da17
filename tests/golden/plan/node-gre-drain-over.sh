ip route replace 192.0.2.10/32 table 10000 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10001 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10002 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10005 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10012 nhid 1795162113 mtu 1476 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162113 mtu 1476 protocol 107
nft -f - <<'EOF'
delete element inet kube_service_tunnel draining_datagrams { 192.0.2.10 . 128, 192.0.2.10 . 129, 192.0.2.10 . 130, 192.0.2.10 . 131, 192.0.2.10 . 133, 192.0.2.10 . 134, 192.0.2.10 . 140, 192.0.2.10 . 143 }
flush chain inet kube_service_tunnel icmp_error
flush chain inet kube_service_tunnel vip
add rule inet kube_service_tunnel icmp_error @th,136,8 { 6, 17, 132 } meta mark set jhash @th,192,32 . @th,160,32 . @th,240,16 . @th,224,16 mod 16 seed 0x6b737401 offset 128 return comment "about protocols with ports #f1b1ae52"
add rule inet kube_service_tunnel icmp_error meta mark set jhash @th,192,32 . @th,160,32 mod 16 seed 0x6b737401 offset 128 return comment "about any other protocol #b06c1a16"
add rule inet kube_service_tunnel vip notrack comment "a flow may come back through another node #c6b78f49"
add rule inet kube_service_tunnel vip icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45 goto icmp_error comment "errors about a flow #ce790f2b"
add rule inet kube_service_tunnel vip meta l4proto { 6, 17, 132 } meta mark set jhash ip saddr . ip daddr . th sport . th dport mod 16 seed 0x6b737401 offset 128 return comment "protocols with ports #734dadcc"
add rule inet kube_service_tunnel vip meta mark set jhash ip saddr . ip daddr mod 16 seed 0x6b737401 offset 128 return comment "any other protocol #10dcad88"
EOF
ip rule del priority 107 fwmark 0xc0/0xff lookup 10016 protocol 107
ip rule del priority 108 fwmark 0xc1/0xff lookup 10017 protocol 107
ip rule del priority 111 fwmark 0xc2/0xff lookup 10018 protocol 107
ip rule del priority 112 fwmark 0xc3/0xff lookup 10019 protocol 107
ip rule del priority 117 fwmark 0xc5/0xff lookup 10021 protocol 107
ip rule del priority 120 fwmark 0xc6/0xff lookup 10022 protocol 107
ip rule del priority 135 fwmark 0xcc/0xff lookup 10028 protocol 107
ip rule del priority 140 fwmark 0xcf/0xff lookup 10031 protocol 107
ip route del 192.0.2.10/32 table 10016 protocol 107
ip route del 192.0.2.10/32 table 10017 protocol 107
ip route del 192.0.2.10/32 table 10018 protocol 107
ip route del 192.0.2.10/32 table 10019 protocol 107
ip route del 192.0.2.10/32 table 10021 protocol 107
ip route del 192.0.2.10/32 table 10022 protocol 107
ip route del 192.0.2.10/32 table 10028 protocol 107
ip route del 192.0.2.10/32 table 10031 protocol 107
nft -f - <<'EOF'
flush chain inet kube_service_tunnel drain
flush chain inet kube_service_tunnel drain_error
delete chain inet kube_service_tunnel drain
delete chain inet kube_service_tunnel drain_error
delete set inet kube_service_tunnel draining
delete set inet kube_service_tunnel draining_datagrams
EOF
