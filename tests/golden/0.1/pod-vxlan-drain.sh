nft -f - <<'EOF'
add table inet kube_service_tunnel
add set inet kube_service_tunnel nodes { type ipv4_addr; }
add element inet kube_service_tunnel nodes { 10.0.0.1, 10.0.0.2 }
add set inet kube_service_tunnel nodes6 { type ipv6_addr; }
add set inet kube_service_tunnel peers { type ipv4_addr; }
add element inet kube_service_tunnel peers { 10.244.2.4 }
add map inet kube_service_tunnel saved_arp_announce { type ifname : mark; }
add element inet kube_service_tunnel saved_arp_announce { "eth0" : 0 }
add map inet kube_service_tunnel saved_arp_ignore { type ifname : mark; }
add element inet kube_service_tunnel saved_arp_ignore { "eth0" : 0 }
add set inet kube_service_tunnel sent { type ipv4_addr; counter; }
add element inet kube_service_tunnel sent { 192.0.2.10 }
add set inet kube_service_tunnel sent6 { type ipv6_addr; counter; }
add element inet kube_service_tunnel sent6 { 2001:db8::10 }
add set inet kube_service_tunnel served { type ipv4_addr; }
add element inet kube_service_tunnel served { 192.0.2.10 }
add set inet kube_service_tunnel served6 { type ipv6_addr; }
add element inet kube_service_tunnel served6 { 2001:db8::10 }
add set inet kube_service_tunnel vips { type ipv4_addr; counter; }
add set inet kube_service_tunnel vips6 { type ipv6_addr; counter; }
add chain inet kube_service_tunnel about
add chain inet kube_service_tunnel account { type filter hook postrouting priority 300; policy accept; }
add chain inet kube_service_tunnel mss { type filter hook postrouting priority -150; policy accept; }
add chain inet kube_service_tunnel output { type filter hook output priority -300; policy accept; }
add chain inet kube_service_tunnel prerouting { type filter hook prerouting priority -300; policy accept; }
add chain inet kube_service_tunnel vip
add chain inet kube_service_tunnel wildcard_udp { type nat hook prerouting priority -100; policy accept; }
add rule inet kube_service_tunnel about ct state untracked return comment "owner node=n1 #e534880a"
add rule inet kube_service_tunnel account ip saddr @sent comment "answers #a1355300"
add rule inet kube_service_tunnel account ip6 saddr @sent6 comment "answers #4348ff54"
add rule inet kube_service_tunnel mss tcp flags & (syn | rst) == syn ip saddr @served tcp option maxseg size set 1424 comment "clients send what fits #1b69b16a"
add rule inet kube_service_tunnel mss tcp flags & (syn | rst) == syn ip6 saddr @served6 tcp option maxseg size set 1404 comment "clients send what fits #7790049e"
add rule inet kube_service_tunnel output ip saddr @served notrack comment "replies from a VIP #365310ad"
add rule inet kube_service_tunnel output ip6 saddr @served6 notrack comment "replies from a VIP #49c568fb"
add rule inet kube_service_tunnel prerouting iifname "kst-*" ip daddr @vips goto vip comment "VIP traffic #03fa0a15"
add rule inet kube_service_tunnel prerouting iifname "kst-*" ip6 daddr @vips6 goto vip comment "VIP traffic #ae6bc8a3"
add rule inet kube_service_tunnel prerouting iifname "kst-*" drop comment "only VIPs leave a tunnel #1eaf1bd4"
add rule inet kube_service_tunnel prerouting udp dport 4790 ip saddr != @nodes ip saddr != @peers drop comment "VXLAN only from nodes #510b00f6"
add rule inet kube_service_tunnel prerouting udp dport 4790 ip6 saddr != @nodes6 drop comment "VXLAN only from nodes #d2b4925a"
add rule inet kube_service_tunnel vip meta l4proto udp socket wildcard 1 return comment "tracked, so that the reply is turned round #9f9bb81f"
add rule inet kube_service_tunnel vip notrack comment "VIP traffic #c6b78f49"
add rule inet kube_service_tunnel wildcard_udp iifname "kst-*" ip daddr @served meta l4proto udp socket wildcard 1 dnat ip to 10.244.1.2 comment "servers bound to any address answer from the VIP #4c5c25a7"
add rule inet kube_service_tunnel wildcard_udp iifname "kst-*" ip6 daddr @served6 meta l4proto udp socket wildcard 1 dnat ip6 to fd00:244:1::2 comment "servers bound to any address answer from the VIP #d0b81220"
add table ip kube_service_tunnel
add map ip kube_service_tunnel onward { type ipv4_addr . mark : ipv4_addr; }
add table ip6 kube_service_tunnel
add map ip6 kube_service_tunnel onward { type ipv6_addr . mark : ipv6_addr; }
EOF
ip link add kst-vxlan type vxlan external gpe dstport 4790 udp6zerocsumrx
sysctl -w net/ipv4/conf/kst-vxlan/rp_filter=2
sysctl -w net/ipv4/conf/eth0/arp_ignore=1
sysctl -w net/ipv4/conf/eth0/arp_announce=2
sysctl -w net/ipv6/conf/kst-vxlan/disable_ipv6=0
ip link set kst-vxlan up
ip address add 192.0.2.10/32 dev kst-vxlan proto 107
ip address add 2001:db8::10/128 dev kst-vxlan nodad preferred_lft 0 proto 107
ip nexthop replace id 1795162112 encap ip id 0 src 10.244.1.2 dst 10.244.2.3 ttl 64 dev kst-vxlan protocol 107
ip -6 nexthop replace id 1795162113 encap ip id 0 src 10.244.1.2 dst 10.244.2.3 ttl 64 dev kst-vxlan protocol 107
ip route replace 250.244.2.3/32 table 10000 nhid 1795162112 mtu 65520 protocol 107
ip route replace 100::af4:203/128 table 10000 nhid 1795162113 mtu lock 65520 protocol 107
ip -6 rule add priority 101 lookup 10000 protocol 107
ip rule add priority 101 lookup 10000 protocol 107
nft -f - <<'EOF'
add element ip kube_service_tunnel onward { 192.0.2.10 . 133 : 250.244.2.3 }
add chain ip kube_service_tunnel about
add chain ip kube_service_tunnel onward
add chain ip kube_service_tunnel onward_error
add chain ip kube_service_tunnel prerouting { type filter hook prerouting priority -301; policy accept; }
add chain ip kube_service_tunnel stray
add chain ip kube_service_tunnel stray_error
add rule ip kube_service_tunnel about return comment "owner node=n1 #85ee37bf"
add rule ip kube_service_tunnel onward ip daddr { 192.0.2.10 } meta mark set jhash ip saddr . ip daddr . th sport . th dport mod 16 seed 0x6b737401 offset 128 comment "its bucket #690f60fc"
add rule ip kube_service_tunnel onward ip ttl > 1 dup to ip daddr . meta mark map @onward drop comment "ask the next pod #a17cbf65"
add rule ip kube_service_tunnel onward meta mark set 0 comment "this pod's own bucket #e0e50511"
add rule ip kube_service_tunnel onward_error ip daddr { 192.0.2.10 } meta mark set jhash @th,192,32 . @th,160,32 . @th,240,16 . @th,224,16 mod 16 seed 0x6b737401 offset 128 comment "its bucket #3a4e6597"
add rule ip kube_service_tunnel onward_error ip ttl > 1 dup to ip daddr . meta mark map @onward drop comment "ask the next pod #a17cbf65"
add rule ip kube_service_tunnel onward_error meta mark set 0 comment "this pod's own bucket #e0e50511"
add rule ip kube_service_tunnel prerouting iifname "kst-*" ip daddr { 192.0.2.10 } tcp flags & (syn | ack) != syn goto stray comment "may belong to another pod #9f06e012"
add rule ip kube_service_tunnel prerouting iifname "kst-*" ip daddr { 192.0.2.10 } icmp type { destination-unreachable, time-exceeded, parameter-problem } @th,64,8 0x45 @th,136,8 6 goto stray_error comment "may belong to another pod #319c062c"
add rule ip kube_service_tunnel stray socket wildcard 0 return comment "an open connection #d30b4474"
add rule ip kube_service_tunnel stray socket wildcard 1 goto onward comment "only a listener #ba723ccf"
add rule ip kube_service_tunnel stray socket transparent 0 return comment "being opened or closed #811b317c"
add rule ip kube_service_tunnel stray socket transparent 1 return comment "being opened or closed #042606a9"
add rule ip kube_service_tunnel stray goto onward comment "no socket at all #000b3ef9"
add rule ip kube_service_tunnel stray_error socket wildcard 0 return comment "an open connection #d30b4474"
add rule ip kube_service_tunnel stray_error socket wildcard 1 goto onward_error comment "only a listener #7fb7dd36"
add rule ip kube_service_tunnel stray_error socket transparent 0 return comment "being opened or closed #811b317c"
add rule ip kube_service_tunnel stray_error socket transparent 1 return comment "being opened or closed #042606a9"
add rule ip kube_service_tunnel stray_error goto onward_error comment "no socket at all #c834bb94"
add element ip6 kube_service_tunnel onward { 2001:db8::10 . 133 : 100::af4:203 }
add chain ip6 kube_service_tunnel about
add chain ip6 kube_service_tunnel onward
add chain ip6 kube_service_tunnel onward_error
add chain ip6 kube_service_tunnel prerouting { type filter hook prerouting priority -301; policy accept; }
add chain ip6 kube_service_tunnel stray
add chain ip6 kube_service_tunnel stray_error
add rule ip6 kube_service_tunnel about return comment "owner node=n1 #85ee37bf"
add rule ip6 kube_service_tunnel onward ip6 daddr { 2001:db8::10 } meta mark set jhash ip6 saddr . ip6 daddr . th sport . th dport mod 16 seed 0x6b737401 offset 128 comment "its bucket #aed10e49"
add rule ip6 kube_service_tunnel onward ip6 hoplimit > 1 dup to ip6 daddr . meta mark map @onward drop comment "ask the next pod #ab45167b"
add rule ip6 kube_service_tunnel onward meta mark set 0 comment "this pod's own bucket #e0e50511"
add rule ip6 kube_service_tunnel onward_error ip6 daddr { 2001:db8::10 } meta mark set jhash @th,256,128 . @th,128,128 . @th,400,16 . @th,384,16 mod 16 seed 0x6b737401 offset 128 comment "its bucket #eda733fc"
add rule ip6 kube_service_tunnel onward_error ip6 hoplimit > 1 dup to ip6 daddr . meta mark map @onward drop comment "ask the next pod #ab45167b"
add rule ip6 kube_service_tunnel onward_error meta mark set 0 comment "this pod's own bucket #e0e50511"
add rule ip6 kube_service_tunnel prerouting iifname "kst-*" ip6 daddr { 2001:db8::10 } tcp flags & (syn | ack) != syn goto stray comment "may belong to another pod #43344291"
add rule ip6 kube_service_tunnel prerouting iifname "kst-*" ip6 daddr { 2001:db8::10 } icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } @th,112,8 6 goto stray_error comment "may belong to another pod #2a77a18c"
add rule ip6 kube_service_tunnel stray socket wildcard 0 return comment "an open connection #d30b4474"
add rule ip6 kube_service_tunnel stray socket wildcard 1 goto onward comment "only a listener #ba723ccf"
add rule ip6 kube_service_tunnel stray socket transparent 0 return comment "being opened or closed #811b317c"
add rule ip6 kube_service_tunnel stray socket transparent 1 return comment "being opened or closed #042606a9"
add rule ip6 kube_service_tunnel stray goto onward comment "no socket at all #000b3ef9"
add rule ip6 kube_service_tunnel stray_error socket wildcard 0 return comment "an open connection #d30b4474"
add rule ip6 kube_service_tunnel stray_error socket wildcard 1 goto onward_error comment "only a listener #7fb7dd36"
add rule ip6 kube_service_tunnel stray_error socket transparent 0 return comment "being opened or closed #811b317c"
add rule ip6 kube_service_tunnel stray_error socket transparent 1 return comment "being opened or closed #042606a9"
add rule ip6 kube_service_tunnel stray_error goto onward_error comment "no socket at all #c834bb94"
add element inet kube_service_tunnel vips { 192.0.2.10 }
add element inet kube_service_tunnel vips6 { 2001:db8::10 }
EOF
