tunnel-router bpf-object > second_chance.o
nft -f - <<'EOF'
add table inet kube_service_tunnel
add ct timeout inet kube_service_tunnel udp_5s_ip { protocol udp; l3proto ip; policy = { unreplied : 5 }; }
add set inet kube_service_tunnel nodes { typeof ip saddr; }
add element inet kube_service_tunnel nodes { 10.0.0.1, 10.0.0.2 }
add set inet kube_service_tunnel peers { typeof ip saddr; }
add element inet kube_service_tunnel peers { 10.244.2.4 }
add map inet kube_service_tunnel saved_arp_announce { typeof iifname : meta mark; }
add element inet kube_service_tunnel saved_arp_announce { "eth0" : 0 }
add map inet kube_service_tunnel saved_arp_ignore { typeof iifname : meta mark; }
add element inet kube_service_tunnel saved_arp_ignore { "eth0" : 0 }
add set inet kube_service_tunnel sent { typeof ip saddr; counter; }
add element inet kube_service_tunnel sent { 192.0.2.10, 192.0.2.11 }
add set inet kube_service_tunnel served { typeof ip saddr; }
add element inet kube_service_tunnel served { 192.0.2.10, 192.0.2.11 }
add set inet kube_service_tunnel vips { typeof ip saddr; counter; }
add chain inet kube_service_tunnel about
add chain inet kube_service_tunnel account { type filter hook postrouting priority 300; policy accept; }
add chain inet kube_service_tunnel mss { type filter hook postrouting priority -150; policy accept; }
add chain inet kube_service_tunnel output { type filter hook output priority -300; policy accept; }
add chain inet kube_service_tunnel prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet kube_service_tunnel vip
add chain inet kube_service_tunnel wildcard_udp { type nat hook prerouting priority -100; policy accept; }
add rule inet kube_service_tunnel about ct state untracked return comment "owner node=n1 #e534880a"
add rule inet kube_service_tunnel account ip saddr @sent comment "answers #a1355300"
add rule inet kube_service_tunnel mss tcp flags & (syn | rst) == syn ip saddr @served tcp option maxseg size set 1432 comment "clients send what fits #1f6bf64d"
add rule inet kube_service_tunnel output ip saddr @served notrack comment "replies from a VIP #365310ad"
add rule inet kube_service_tunnel output meta l4proto 47 ip daddr @peers notrack comment "what is passed on needs no entry #7732bad6"
add rule inet kube_service_tunnel prerouting iifname "kst-*" meta mark 0x6b737401 drop comment "no tunnel inside a tunnel #953b1c1e"
add rule inet kube_service_tunnel prerouting iifname "kst-*" ip daddr @vips goto vip comment "VIP traffic #03fa0a15"
add rule inet kube_service_tunnel prerouting iifname "kst-*" drop comment "only VIPs leave a tunnel #1eaf1bd4"
add rule inet kube_service_tunnel prerouting meta l4proto 47 ip saddr != @nodes ip saddr != @peers drop comment "GRE only from nodes and endpoints #7e96b3d4"
add rule inet kube_service_tunnel prerouting meta l4proto 47 counter notrack comment "outer packets arrive and need no entry #53c89f9d"
add rule inet kube_service_tunnel vip meta l4proto 47 meta mark set 0x6b737401 comment "GRE of clients #4148a275"
add rule inet kube_service_tunnel vip meta l4proto 17 socket wildcard 1 return comment "tracked, so that the reply is turned round #1992ee22"
add rule inet kube_service_tunnel vip notrack comment "VIP traffic #c6b78f49"
add rule inet kube_service_tunnel wildcard_udp iifname "kst-*" ip daddr @served meta l4proto 17 socket wildcard 1 ct timeout set "udp_5s_ip" dnat ip to 10.244.1.2 comment "servers bound to any address answer from the VIP #45e18fc0"
EOF
ip link add kst-xgre type gre external
sysctl -w net/ipv4/conf/kst-xgre/rp_filter=2
sysctl -w net/ipv4/conf/eth0/arp_ignore=1
sysctl -w net/ipv4/conf/eth0/arp_announce=2
tc qdisc replace dev kst-xgre clsact
tc filter replace dev kst-xgre ingress pref 1 handle 1 bpf direct-action object-file second_chance.o section classifier
ip link set kst-xgre up
ip address add 192.0.2.10/32 dev kst-xgre proto 107
ip address add 192.0.2.11/32 dev kst-xgre proto 107
nft -f - <<'EOF'
add element inet kube_service_tunnel vips { 192.0.2.10, 192.0.2.11 }
EOF
