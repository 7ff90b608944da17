nft -f - <<'EOF'
delete element inet kube_service_tunnel vips { 192.0.2.10 }
EOF
ip rule del priority 101 fwmark 0x80/0x80 goto 32869 protocol 107
ip rule del priority 102 fwmark 0x0/0xff lookup 10032 protocol 107
ip rule del priority 32869 fwmark 0x88/0x88 goto 32881 protocol 107
ip rule del priority 32870 fwmark 0x84/0x84 goto 32876 protocol 107
ip rule del priority 32871 fwmark 0x82/0x82 goto 32874 protocol 107
ip rule del priority 32872 fwmark 0x80/0xff lookup 10000 protocol 107
ip rule del priority 32873 fwmark 0x81/0xff lookup 10001 protocol 107
ip rule del priority 32874 fwmark 0x82/0xff lookup 10002 protocol 107
ip rule del priority 32875 fwmark 0x83/0xff lookup 10003 protocol 107
ip rule del priority 32876 fwmark 0x82/0x82 goto 32879 protocol 107
ip rule del priority 32877 fwmark 0x84/0xff lookup 10004 protocol 107
ip rule del priority 32878 fwmark 0x85/0xff lookup 10005 protocol 107
ip rule del priority 32879 fwmark 0x86/0xff lookup 10006 protocol 107
ip rule del priority 32880 fwmark 0x87/0xff lookup 10007 protocol 107
ip rule del priority 32881 fwmark 0x84/0x84 goto 32887 protocol 107
ip rule del priority 32882 fwmark 0x82/0x82 goto 32885 protocol 107
ip rule del priority 32883 fwmark 0x88/0xff lookup 10008 protocol 107
ip rule del priority 32884 fwmark 0x89/0xff lookup 10009 protocol 107
ip rule del priority 32885 fwmark 0x8a/0xff lookup 10010 protocol 107
ip rule del priority 32886 fwmark 0x8b/0xff lookup 10011 protocol 107
ip rule del priority 32887 fwmark 0x82/0x82 goto 32890 protocol 107
ip rule del priority 32888 fwmark 0x8c/0xff lookup 10012 protocol 107
ip rule del priority 32889 fwmark 0x8d/0xff lookup 10013 protocol 107
ip rule del priority 32890 fwmark 0x8e/0xff lookup 10014 protocol 107
ip rule del priority 32891 fwmark 0x8f/0xff lookup 10015 protocol 107
ip rule del priority 32892 fwmark 0x80/0x80 lookup 254 protocol 107
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
