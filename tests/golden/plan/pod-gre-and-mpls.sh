nft -f - <<'EOF'
add table inet kube_service_tunnel
add set inet kube_service_tunnel nodes { type ipv4_addr; }
add element inet kube_service_tunnel nodes { 10.0.0.1, 10.0.0.2 }
add map inet kube_service_tunnel saved_arp_announce { type ifname : mark; }
add element inet kube_service_tunnel saved_arp_announce { "eth0" : 0 }
add map inet kube_service_tunnel saved_arp_ignore { type ifname : mark; }
add element inet kube_service_tunnel saved_arp_ignore { "eth0" : 0 }
add map inet kube_service_tunnel saved_mpls_input { type ifname : mark; }
add element inet kube_service_tunnel saved_mpls_input { "eth0" : 0 }
add map inet kube_service_tunnel saved_platform_labels { type ifname : mark; }
add element inet kube_service_tunnel saved_platform_labels { "." : 0 }
add map inet kube_service_tunnel saved_rp_filter { type ifname : mark; }
add element inet kube_service_tunnel saved_rp_filter { "lo" : 1 }
add set inet kube_service_tunnel vips { type ipv4_addr; }
add chain inet kube_service_tunnel about
add chain inet kube_service_tunnel mss { type filter hook postrouting priority -150; policy accept; }
add chain inet kube_service_tunnel output { type filter hook output priority -300; policy accept; }
add chain inet kube_service_tunnel prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet kube_service_tunnel wildcard_udp { type nat hook prerouting priority -100; policy accept; }
add rule inet kube_service_tunnel about ct state untracked return comment "owner node=n1 #e534880a"
add rule inet kube_service_tunnel mss ip saddr @vips tcp flags & (syn | rst) == syn tcp option maxseg size set 1436 comment "clients send what fits #669a498e"
add rule inet kube_service_tunnel output ip saddr @vips notrack comment "replies from a VIP #bbc68ef4"
add rule inet kube_service_tunnel prerouting ip daddr 10.244.1.2 ip protocol gre ip saddr != @nodes drop comment "GRE only from nodes #9714b787"
add rule inet kube_service_tunnel prerouting iifname "kst-*" ip daddr != @vips drop comment "only VIPs leave a tunnel #380c8d10"
add rule inet kube_service_tunnel prerouting iifname "kst-*" meta nfproto != ipv4 drop comment "only IPv4 leaves a tunnel #3a88d240"
add rule inet kube_service_tunnel prerouting iifname "lo" fib saddr type != local ip daddr != @vips drop comment "only VIPs leave MPLS #65a8d426"
add rule inet kube_service_tunnel prerouting iifname { "lo", "kst-*" } ip daddr @vips meta l4proto udp socket wildcard 1 return comment "tracked, so that the reply is turned round #2abbc702"
add rule inet kube_service_tunnel prerouting iifname { "lo", "kst-*" } ip daddr @vips notrack comment "VIP traffic #67f3fcd4"
add rule inet kube_service_tunnel wildcard_udp iifname { "lo", "kst-*" } ip daddr @vips meta l4proto udp socket wildcard 1 dnat ip to 10.244.1.2 comment "servers bound to 0.0.0.0 answer from the VIP #0aead47f"
EOF
ip link add kst-gre type gre local 10.244.1.2
sysctl -w net/ipv4/conf/kst-gre/rp_filter=2
sysctl -w net/ipv4/conf/lo/rp_filter=2
sysctl -w net/ipv4/conf/eth0/arp_ignore=1
sysctl -w net/ipv4/conf/eth0/arp_announce=2
sysctl -w net/mpls/conf/eth0/input=1
sysctl -w net/mpls/platform_labels=101
ip link set kst-gre up
ip address add 192.0.2.10/32 dev kst-gre proto 107
ip address add 192.0.2.11/32 dev lo proto 107
ip -f mpls route replace 100 dev lo protocol 107
nft -f - <<'EOF'
add element inet kube_service_tunnel vips { 192.0.2.10, 192.0.2.11 }
EOF
