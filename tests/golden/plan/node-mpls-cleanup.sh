nft -f - <<'EOF'
delete element inet kube_service_tunnel vips { 192.0.2.10 }
EOF
ip rule del priority 101 fwmark 0x0/0x80 goto 141 protocol 107
ip rule del priority 102 fwmark 0x88/0x88 goto 122 protocol 107
ip rule del priority 103 fwmark 0x84/0x84 goto 113 protocol 107
ip rule del priority 104 fwmark 0x82/0x82 goto 109 protocol 107
ip rule del priority 105 fwmark 0x80/0xff lookup 10000 protocol 107
ip rule del priority 106 fwmark 0x81/0xff lookup 10001 protocol 107
ip rule del priority 109 fwmark 0x82/0xff lookup 10002 protocol 107
ip rule del priority 110 fwmark 0x83/0xff lookup 10003 protocol 107
ip rule del priority 113 fwmark 0x82/0x82 goto 118 protocol 107
ip rule del priority 114 fwmark 0x84/0xff lookup 10004 protocol 107
ip rule del priority 115 fwmark 0x85/0xff lookup 10005 protocol 107
ip rule del priority 118 fwmark 0x86/0xff lookup 10006 protocol 107
ip rule del priority 119 fwmark 0x87/0xff lookup 10007 protocol 107
ip rule del priority 122 fwmark 0x84/0x84 goto 132 protocol 107
ip rule del priority 123 fwmark 0x82/0x82 goto 128 protocol 107
ip rule del priority 124 fwmark 0x88/0xff lookup 10008 protocol 107
ip rule del priority 125 fwmark 0x89/0xff lookup 10009 protocol 107
ip rule del priority 128 fwmark 0x8a/0xff lookup 10010 protocol 107
ip rule del priority 129 fwmark 0x8b/0xff lookup 10011 protocol 107
ip rule del priority 132 fwmark 0x82/0x82 goto 137 protocol 107
ip rule del priority 133 fwmark 0x8c/0xff lookup 10012 protocol 107
ip rule del priority 134 fwmark 0x8d/0xff lookup 10013 protocol 107
ip rule del priority 137 fwmark 0x8e/0xff lookup 10014 protocol 107
ip rule del priority 138 fwmark 0x8f/0xff lookup 10015 protocol 107
ip rule del priority 141 nop protocol 107
ip rule del priority 142 fwmark 0x0/0xff lookup 10032 protocol 107
ip route del 192.0.2.10/32 table 10000 protocol 107
ip route del 192.0.2.10/32 table 10001 protocol 107
ip route del 192.0.2.10/32 table 10002 protocol 107
ip route del 192.0.2.10/32 table 10003 protocol 107
ip route del 192.0.2.10/32 table 10004 protocol 107
ip route del 192.0.2.10/32 table 10005 protocol 107
ip route del 192.0.2.10/32 table 10006 protocol 107
ip route del 192.0.2.10/32 table 10007 protocol 107
ip route del 192.0.2.10/32 table 10008 protocol 107
ip route del 192.0.2.10/32 table 10009 protocol 107
ip route del 192.0.2.10/32 table 10010 protocol 107
ip route del 192.0.2.10/32 table 10011 protocol 107
ip route del 192.0.2.10/32 table 10012 protocol 107
ip route del 192.0.2.10/32 table 10013 protocol 107
ip route del 192.0.2.10/32 table 10014 protocol 107
ip route del 192.0.2.10/32 table 10015 protocol 107
ip route del 192.0.2.10/32 table 10032 protocol 107
ip nexthop del id 1795162116
ip nexthop del id 1795162112
ip nexthop del id 1795162113
ip nexthop del id 1795162114
ip nexthop del id 1795162115
ip -f mpls route del 65794
ip neighbour del 10.0.0.2 dev eth0
ip link del kst-vxlan
sysctl -w net/mpls/conf/eth0/input=0
sysctl -w net/mpls/platform_labels=0
nft -f - <<'EOF'
delete table inet kube_service_tunnel
delete table netdev kube_service_tunnel
EOF
