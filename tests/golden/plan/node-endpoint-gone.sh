ip nexthop replace id 1795162118 encap ip id 3 src 10.0.0.1 dst 10.244.1.2 ttl 64 key dev kst-gre protocol 107
ip nexthop replace id 1795162119 encap ip id 4194306 src 10.0.0.1 dst 10.244.1.2 ttl 64 key dev kst-gre protocol 107
ip nexthop replace id 1795162120 encap ip id 3 src 10.0.0.1 dst 10.244.2.3 ttl 64 key dev kst-gre protocol 107
ip route replace 192.0.2.10/32 table 10000 nhid 1795162120 mtu 1472 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162120 mtu 1472 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162119 mtu 1472 protocol 107
ip route replace 192.0.2.10/32 table 10007 nhid 1795162118 mtu 1472 protocol 107
ip route replace 192.0.2.10/32 table 10009 nhid 1795162120 mtu 1472 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162120 mtu 1472 protocol 107
ip nexthop del id 1795162114
