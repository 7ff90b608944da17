tunnel-router bpf-object > second_chance.o
nft -f - <<'EOF'
add table inet kube_service_tunnel
add ct timeout inet kube_service_tunnel udp_5s_ip { protocol udp; l3proto ip; policy = { unreplied : 5 }; }
add set inet kube_service_tunnel nodes { typeof ip saddr; }
add set inet kube_service_tunnel nodes6 { typeof ip6 saddr; }
add element inet kube_service_tunnel nodes6 { fd00::1, fd00::2 }
add set inet kube_service_tunnel peers { typeof ip saddr; }
add set inet kube_service_tunnel peers6 { typeof ip6 saddr; }
add element inet kube_service_tunnel peers6 { fd00:244:2::4 }
add map inet kube_service_tunnel saved_arp_announce { typeof iifname : meta mark; }
add element inet kube_service_tunnel saved_arp_announce { "eth0" : 0 }
add map inet kube_service_tunnel saved_arp_ignore { typeof iifname : meta mark; }
add element inet kube_service_tunnel saved_arp_ignore { "eth0" : 0 }
add set inet kube_service_tunnel sent { typeof ip saddr; counter; }
add element inet kube_service_tunnel sent { 192.0.2.10 }
add set inet kube_service_tunnel served { typeof ip saddr; }
add element inet kube_service_tunnel served { 192.0.2.10 }
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
add rule inet kube_service_tunnel mss tcp flags & (syn | rst) == syn ip saddr @served tcp option maxseg size set 1404 comment "clients send what fits #87644b40"
add rule inet kube_service_tunnel output ip saddr @served notrack comment "replies from a VIP #365310ad"
add rule inet kube_service_tunnel output udp dport 4790 ip daddr @peers notrack comment "what is passed on needs no entry #b87d2600"
add rule inet kube_service_tunnel output udp dport 4790 ip6 daddr @peers6 notrack comment "what is passed on needs no entry #9ec4a0cc"
add rule inet kube_service_tunnel prerouting iifname "kst-*" ip daddr @vips goto vip comment "VIP traffic #03fa0a15"
add rule inet kube_service_tunnel prerouting iifname "kst-*" drop comment "only VIPs leave a tunnel #1eaf1bd4"
add rule inet kube_service_tunnel prerouting udp dport 4790 ip saddr != @nodes ip saddr != @peers drop comment "VXLAN only from nodes and endpoints #510b00f6"
add rule inet kube_service_tunnel prerouting udp dport 4790 ip6 saddr != @nodes6 ip6 saddr != @peers6 drop comment "VXLAN only from nodes and endpoints #d63fffb2"
add rule inet kube_service_tunnel prerouting udp dport 4790 counter notrack comment "outer packets arrive and need no entry #f48a73cb"
add rule inet kube_service_tunnel vip udp dport 4790 drop comment "no tunnel inside a tunnel #46eb8a5a"
add rule inet kube_service_tunnel vip meta l4proto 17 socket wildcard 1 return comment "tracked, so that the reply is turned round #1992ee22"
add rule inet kube_service_tunnel vip notrack comment "VIP traffic #c6b78f49"
add rule inet kube_service_tunnel wildcard_udp iifname "kst-*" ip daddr @served meta l4proto 17 socket wildcard 1 ct timeout set "udp_5s_ip" dnat ip to 10.244.1.2 comment "servers bound to any address answer from the VIP #45e18fc0"
EOF
ip link add kst-vxlan type vxlan external gpe dstport 4790 udp6zerocsumrx
sysctl -w net/ipv4/conf/kst-vxlan/rp_filter=2
sysctl -w net/ipv4/conf/eth0/arp_ignore=1
sysctl -w net/ipv4/conf/eth0/arp_announce=2
tc qdisc replace dev kst-vxlan clsact
tc filter replace dev kst-vxlan ingress pref 1 handle 1 bpf direct-action object-file second_chance.o section classifier
ip link set kst-vxlan up
ip address add 192.0.2.10/32 dev kst-vxlan proto 107
nft -f - <<'EOF'
add element inet kube_service_tunnel vips { 192.0.2.10 }
EOF
