nft -f - <<'EOF'
add table inet kube_service_tunnel
add set inet kube_service_tunnel endpoint_devices { typeof iifname; }
add element inet kube_service_tunnel endpoint_devices { "veth2" }
add set inet kube_service_tunnel endpoints6 { typeof ip6 saddr; counter; }
add element inet kube_service_tunnel endpoints6 { fd00:244:1::2, fd00:244:2::3 }
add map inet kube_service_tunnel error_source { typeof @th,192,32 : ip saddr; }
add element inet kube_service_tunnel error_source { 3221225994 : 192.0.2.10 }
add set inet kube_service_tunnel mpls_gateways { typeof ip saddr; }
add set inet kube_service_tunnel nodes6 { typeof ip6 saddr; }
add element inet kube_service_tunnel nodes6 { fd00::1, fd00::2 }
add set inet kube_service_tunnel pods6 { typeof ip6 saddr; counter; }
add element inet kube_service_tunnel pods6 { fd00:244:1::2 }
add set inet kube_service_tunnel served { typeof ip saddr; }
add element inet kube_service_tunnel served { 192.0.2.10 }
add set inet kube_service_tunnel vips { typeof ip saddr; counter; }
add chain inet kube_service_tunnel about
add chain inet kube_service_tunnel forward { type filter hook forward priority -5; policy accept; }
add chain inet kube_service_tunnel from_endpoint
add chain inet kube_service_tunnel icmp_error
add chain inet kube_service_tunnel outer
add chain inet kube_service_tunnel outer_source { type filter hook output priority -300; policy accept; }
add chain inet kube_service_tunnel output { type route hook output priority -300; policy accept; }
add chain inet kube_service_tunnel own_error { type filter hook output priority -300; policy accept; }
add chain inet kube_service_tunnel postrouting { type filter hook postrouting priority -150; policy accept; }
add chain inet kube_service_tunnel prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet kube_service_tunnel vip
add rule inet kube_service_tunnel about ct state untracked return comment "owner node=n1 #e534880a"
add rule inet kube_service_tunnel forward ip daddr @served oifname != "kst-*" rt ip nexthop != @mpls_gateways counter reject with icmp type host-unreachable comment "VIP traffic leaves encapsulated or not at all #39528bc2"
add rule inet kube_service_tunnel from_endpoint meta l4proto 47 ip6 saddr @nodes6 drop comment "a pod is not a node #673aabce"
add rule inet kube_service_tunnel from_endpoint udp dport 4790 ip6 saddr @nodes6 drop comment "a pod is not a node #d3b2fdb8"
add rule inet kube_service_tunnel icmp_error @th,136,8 { 6, 17, 132 } meta mark set jhash @th,192,32 . @th,160,32 . @th,240,16 . @th,224,16 mod 16 seed 0x6b737401 offset 128 return comment "about protocols with ports #f1b1ae52"
add rule inet kube_service_tunnel icmp_error meta mark set jhash @th,192,32 . @th,160,32 mod 16 seed 0x6b737401 offset 128 return comment "about any other protocol #b06c1a16"
add rule inet kube_service_tunnel outer meta nfproto ipv4 return comment "tunnels of others #e3f9565d"
add rule inet kube_service_tunnel outer ip6 saddr != @nodes6 ip6 daddr != @pods6 return comment "tunnels of others #a1b40185"
add rule inet kube_service_tunnel outer ip6 saddr @nodes6 ip6 daddr @pods6 comment "they reach the node #8fa014db"
add rule inet kube_service_tunnel outer meta iifkind { "veth", "bridge" } fib saddr . iif oif missing counter drop comment "outer packets of pods come from where their source is #85af3d1a"
add rule inet kube_service_tunnel outer ip6 saddr @nodes6 notrack comment "outer packets of nodes need no entry #c4dab633"
add rule inet kube_service_tunnel outer_source ip6 daddr @endpoints6 meta l4proto 47 ip6 saddr set fd00::1 comment "outer packets come from the node #9eedf8d3"
add rule inet kube_service_tunnel output ip daddr @vips goto vip comment "VIP traffic of this node #7b1f08dd"
add rule inet kube_service_tunnel output meta l4proto 47 ip6 daddr @endpoints6 notrack comment "outer GRE packets need no entry #9494d20b"
add rule inet kube_service_tunnel output udp dport 4790 ip6 daddr @endpoints6 notrack comment "outer VXLAN packets need no entry #523e5345"
add rule inet kube_service_tunnel own_error icmp type { destination-unreachable, time-exceeded } ip saddr set @th,192,32 map @error_source comment "errors about a VIP come from it #e8720344"
add rule inet kube_service_tunnel postrouting oifname "kst-*" counter meta mark set 0 comment "into a tunnel, and the outer packet walks no rules #e1f979b7"
add rule inet kube_service_tunnel postrouting meta l4proto 47 ip6 saddr { fd00::1 } counter comment "outer packets leave #2a74830f"
add rule inet kube_service_tunnel postrouting udp dport 4790 ip6 saddr { fd00::1 } counter comment "outer packets leave #a665bb45"
add rule inet kube_service_tunnel prerouting iifname "kst-*" drop comment "nothing enters the node through a tunnel #1eaf1bd4"
add rule inet kube_service_tunnel prerouting ip daddr @vips goto vip comment "VIP traffic #7b1f08dd"
add rule inet kube_service_tunnel prerouting iifname @endpoint_devices jump from_endpoint comment "what local endpoints send #258cfee7"
add rule inet kube_service_tunnel prerouting ip saddr @served notrack comment "replies from a VIP #365310ad"
add rule inet kube_service_tunnel prerouting meta l4proto 47 jump outer comment "outer packets #486bede2"
add rule inet kube_service_tunnel prerouting udp dport 4790 jump outer comment "outer packets #4809cabc"
add rule inet kube_service_tunnel vip notrack comment "a flow may come back through another node #c6b78f49"
add rule inet kube_service_tunnel vip icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45 goto icmp_error comment "errors about a flow #ce790f2b"
add rule inet kube_service_tunnel vip meta l4proto { 6, 17, 132 } meta mark set jhash ip saddr . ip daddr . th sport . th dport mod 16 seed 0x6b737401 offset 128 return comment "protocols with ports #734dadcc"
add rule inet kube_service_tunnel vip meta mark set jhash ip saddr . ip daddr mod 16 seed 0x6b737401 offset 128 return comment "any other protocol #10dcad88"
EOF
ip link add kst-gre6 type ip6gre external
sysctl -w net/ipv4/conf/kst-gre6/rp_filter=2
ip link set kst-gre6 up
ip nexthop replace id 1795162112 encap ip6 id 0 src fd00::1 dst fd00:244:1::2 hoplimit 64 dev kst-gre6 protocol 107
ip nexthop replace id 1795162113 encap ip6 id 0 src fd00::1 dst fd00:244:2::3 hoplimit 64 dev kst-gre6 protocol 107
ip nexthop replace id 1795162114 dev eth0 protocol 107
ip nexthop replace id 1795162115 dev veth2 protocol 107
ip nexthop replace id 1795162116 group 1795162114/1795162115 protocol 107
ip route replace 192.0.2.10/32 table 10000 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10001 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10002 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10003 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10004 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10005 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10006 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10007 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10008 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10009 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10010 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10011 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10012 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10013 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10014 nhid 1795162112 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10015 nhid 1795162113 mtu 1452 protocol 107
ip route replace 192.0.2.10/32 table 10032 nhid 1795162116 protocol 107
ip rule add priority 32892 fwmark 0x80/0x80 lookup 254 protocol 107
ip rule add priority 32891 fwmark 0x8f/0xff lookup 10015 protocol 107
ip rule add priority 32890 fwmark 0x8e/0xff lookup 10014 protocol 107
ip rule add priority 32889 fwmark 0x8d/0xff lookup 10013 protocol 107
ip rule add priority 32888 fwmark 0x8c/0xff lookup 10012 protocol 107
ip rule add priority 32887 fwmark 0x82/0x82 goto 32890 protocol 107
ip rule add priority 32886 fwmark 0x8b/0xff lookup 10011 protocol 107
ip rule add priority 32885 fwmark 0x8a/0xff lookup 10010 protocol 107
ip rule add priority 32884 fwmark 0x89/0xff lookup 10009 protocol 107
ip rule add priority 32883 fwmark 0x88/0xff lookup 10008 protocol 107
ip rule add priority 32882 fwmark 0x82/0x82 goto 32885 protocol 107
ip rule add priority 32881 fwmark 0x84/0x84 goto 32887 protocol 107
ip rule add priority 32880 fwmark 0x87/0xff lookup 10007 protocol 107
ip rule add priority 32879 fwmark 0x86/0xff lookup 10006 protocol 107
ip rule add priority 32878 fwmark 0x85/0xff lookup 10005 protocol 107
ip rule add priority 32877 fwmark 0x84/0xff lookup 10004 protocol 107
ip rule add priority 32876 fwmark 0x82/0x82 goto 32879 protocol 107
ip rule add priority 32875 fwmark 0x83/0xff lookup 10003 protocol 107
ip rule add priority 32874 fwmark 0x82/0xff lookup 10002 protocol 107
ip rule add priority 32873 fwmark 0x81/0xff lookup 10001 protocol 107
ip rule add priority 32872 fwmark 0x80/0xff lookup 10000 protocol 107
ip rule add priority 32871 fwmark 0x82/0x82 goto 32874 protocol 107
ip rule add priority 32870 fwmark 0x84/0x84 goto 32876 protocol 107
ip rule add priority 32869 fwmark 0x88/0x88 goto 32881 protocol 107
ip rule add priority 102 fwmark 0x0/0xff lookup 10032 protocol 107
ip rule add priority 101 fwmark 0x80/0x80 goto 32869 protocol 107
nft -f - <<'EOF'
add element inet kube_service_tunnel vips { 192.0.2.10 }
EOF
