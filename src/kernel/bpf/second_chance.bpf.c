// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The second chance of a packet in an endpoint pod: a packet that no socket here knows goes on to a former owner of its
// bucket, which the packet's tunnel id names.
//
//     bits 0–10  the first former owner     11–21  the second     22  datagrams too     23  passed on by a pod
//
// cls_bpf with direct action, on clsact ingress of a pod's collect-metadata device (gre, ip6gre, vxlan-gpe).
//
//     packet                                                      fate
//     ----------------------------------------------------------- ----------------------------------------
//     no name in the list, and no owner of the VIP has changed    taken
//     a later fragment                                            as its first fragment
//     not TCP, nor an error about TCP, and bit 22 clear           taken
//     opens a connection (SYN)                                    taken
//     of a socket that is not a listener, TIME_WAIT too           taken
//     of a half-open socket, and not for its sequence number      as if there were no socket
//     ends a handshake with a cookie of this pod                  taken
//     anything else: names that are unknown, without an address in the family of the outer header, or this pod's leave
//     the list; a name that is unknown and given out later than the last known stays in it
//       TCP, bit 23 is clear, and the list has room               gets the names of `present`
//       the first name is known                                   passed on: the name leaves the list, bit 22 is
//                                                                 cleared, bit 23 is set
//       the first name is unknown                                 TCP dropped, anything else taken
//       no name is left                                           taken
//
// Each pod makes the list shorter, and only the first one adds names: there is no loop, and there are at most three pods on
// the way. The pure twin of this is `decide` in model/handover.
//
// An ingress node may not know yet that an owner has changed, and a router may move a flow to that node. So for a while
// after a change this node keeps the present owners of a VIP's buckets in `present`. Without any change there, a packet
// without a list costs one look at `any_present`.
//
// What this program must never do: keep state about a flow (only fragments, for a moment); set DF on the outer packet
// (where the path to the former owner is narrower, the packet would vanish without an answer); touch the inner packet.
//
// The licence. The helpers for kernel structures are open to programs only whose licence string is compatible with the
// GPL. The project's licence, Apache-2.0, is not one of the strings that the kernel accepts. So this one file is under
// MIT or GPL-2.0, at the choice of whoever uses it, and says "Dual MIT/GPL" to the kernel.

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
// How a map is declared in BTF (the kernel's Documentation/bpf/btf.rst).
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, type) typeof(type) *name

// The helpers that are used, by their numbers in linux/bpf.h; libbpf's header is not needed for it.
#define HELPER(result, name, ...) static result (*const bpf_##name)(__VA_ARGS__) = (void *)BPF_FUNC_##name
HELPER(void *, map_lookup_elem, void *map, const void *key);
HELPER(long, map_update_elem, void *map, const void *key, const void *value, __u64 flags);
HELPER(long, map_delete_elem, void *map, const void *key);
HELPER(long, skb_load_bytes, const void *skb, __u32 offset, void *to, __u32 length);
HELPER(long, skb_get_tunnel_key, struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size, __u64 flags);
HELPER(long, skb_set_tunnel_key, struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size, __u64 flags);
HELPER(long, redirect, __u32 ifindex, __u64 flags);
HELPER(struct bpf_sock *, skc_lookup_tcp, void *skb, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags);
HELPER(struct bpf_sock *, sk_lookup_udp, void *skb, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags);
HELPER(long, sk_release, void *sock);
HELPER(long, tcp_check_syncookie, void *sock, void *ip, __u32 ip_size, struct tcphdr *tcp, __u32 tcp_size);
HELPER(struct tcp_request_sock *, skc_to_tcp_request_sock, void *sock);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NETWORK16(x) __builtin_bswap16(x)
#define NETWORK32(x) __builtin_bswap32(x)
#define LITTLE32(x) (x)
// A 32-bit register that begins with two bytes, and is zero behind them.
#define REGISTER(x) ((__u32)(x))
#else
#define NETWORK16(x) (x)
#define NETWORK32(x) (x)
#define LITTLE32(x) __builtin_bswap32(x)
#define REGISTER(x) ((__u32)(x) << 16)
#endif

// The tunnel id.
#define NAME_BITS 11
#define NAMES 0x7ffu
#define LIST (NAMES << NAME_BITS | NAMES)
#define DATAGRAMS (1u << 22)
#define PASSED_ON (1u << 23)

// A half-open connection, as far as it is read. The offsets are relocated to those of the running kernel.
struct tcp_request_sock {
    __u32 rcv_isn;
    __u32 snt_isn;
} __attribute__((preserve_access_index));

// Network byte order; IPv4 as ::ffff:a.b.c.d.
struct address {
    __u32 word[4];
};

struct endpoint_key {
    struct address vip;
    __u32 name;
};

// Where an endpoint's pod is reached, network byte order. All zero: not in this family.
struct endpoint {
    struct address v6;
    __u32 v4;
};

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
    NUMBER(max_entries, 1 << 10);
    TYPE(key, struct endpoint_key);
    TYPE(value, struct endpoint);
} endpoints SECTION(".maps");

// Per VIP the name that was given out last. It is read before a name is looked up, and written after the names.
struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
    NUMBER(max_entries, 1 << 8);
    TYPE(key, struct address);
    TYPE(value, __u32);
} vips SECTION(".maps");

// The most buckets that a VIP can have, and the most names for one: the present owner, and two to be asked after it.
#define BUCKETS 128
#define OWNERS 3

// Who has the buckets of a VIP; 0: nobody, or nobody else. Hash and names belong together, so they are one value.
struct present {
    __u32 buckets;
    __u32 seed;
    __u32 addresses_only; // ports are not hashed
    __u16 names[BUCKETS][OWNERS];
};

struct {
    NUMBER(type, BPF_MAP_TYPE_HASH);
    NUMBER(map_flags, BPF_F_NO_PREALLOC);
    NUMBER(max_entries, 1 << 8);
    TYPE(key, struct address);
    TYPE(value, struct present);
} present SECTION(".maps");

// Whether `present` has any entry: a look at an array costs next to nothing.
struct {
    NUMBER(type, BPF_MAP_TYPE_ARRAY);
    NUMBER(max_entries, 1);
    TYPE(key, __u32);
    TYPE(value, __u32);
} any_present SECTION(".maps");

// Where the first fragment of a packet went; later ones have no ports. The receiving pod is part of the key: on one node
// several pods may see the same packet, and each has another answer.
struct fragment_key {
    struct address pod, from, vip;
    __u32 id;
    __u32 protocol;
};

struct fragment {
    __u32 name;
    __u32 id;
};

struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    NUMBER(max_entries, 1 << 12);
    TYPE(key, struct fragment_key);
    TYPE(value, struct fragment);
} fragments SECTION(".maps");

// The order is that of `Count` in model/second_chance.
enum count {
    RECEIVED,          // with bit 23
    NO_TUNNEL,         // not from a tunnel: taken
    UNLISTED,          // no name in the list: taken
    MALFORMED,         // not IP, or cut off: taken
    OPENED,            // SYN: taken
    CONNECTION,        // of a socket: taken
    HALF_OPEN,         // for a half-open socket: taken
    FOREIGN_HALF_OPEN, // there is a half-open socket, but the packet belongs to another connection
    COOKIE,            // ends a handshake that was opened with a cookie: taken
    DATAGRAM,          // not TCP, and without bit 22 or of a connected socket: taken
    PASSED,            // passed on
    FRAGMENT,          // of these, later fragments
    COMPLETED,         // of these, with names of `present`
    AHEAD_DROPPED,     // the name is later than the last known, TCP
    AHEAD_TAKEN,       // the same, not TCP
    RETIRED,           // the name is not known any more: skipped
    OWN_NAME,          // the name is this pod's: skipped
    NO_ADDRESS,        // the name has no address in the family of the outer header: skipped
    EXHAUSTED,         // all names of the list were skipped: taken
    FAILED,            // the kernel did not take the new tunnel key: dropped
    COUNTS,
};

struct {
    NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    NUMBER(max_entries, COUNTS);
    TYPE(key, __u32);
    TYPE(value, __u64);
} counts SECTION(".maps");

// How many packets one pod has passed on to another, as each of the two has seen it: what the first one counts and the second
// one does not is lost between their nodes.
struct pair {
    struct address from, to;
    __u32 received; // 1: counted by the one that it came to
};

struct {
    NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
    NUMBER(max_entries, 1 << 12);
    TYPE(key, struct pair);
    TYPE(value, __u64);
} pairs SECTION(".maps");

INLINE void count_pair(const struct pair *pair)
{
    __u64 *n = bpf_map_lookup_elem(&pairs, pair);
    __u64 first = 1;
    if (n)
        __sync_fetch_and_add(n, 1);
    else
        bpf_map_update_elem(&pairs, pair, &first, BPF_ANY);
}

INLINE void count(enum count kind)
{
    __u32 key = kind;
    __u64 *n = bpf_map_lookup_elem(&counts, &key);
    if (n)
        *n += 1;
}

enum part { WHOLE, FIRST, LATER };

struct packet {
    struct address from, vip; // from the client to the VIP, also for an error about a packet of the VIP
    __u32 l4;                 // offset of what follows the IP headers
    __u32 fragment_id;
    __u32 seq, ack_seq;       // host byte order
    __be16 sport, dport;      // as from and vip
    enum part part;
    __u8 v6;
    __u8 protocol; // 0 if it is neither TCP nor UDP, nor an error about them
    __u8 ip_protocol;
    __u8 quoted; // an error about a packet
    __u8 syn, ack, rst;
};

INLINE void set_v4(struct address *to, __be32 address)
{
    to->word[0] = to->word[1] = 0;
    to->word[2] = NETWORK32(0xffff);
    to->word[3] = address;
}

INLINE void set_v6(struct address *to, const void *address)
{
    __builtin_memcpy(to, address, sizeof(*to));
}

INLINE int same(const struct address *a, const struct address *b)
{
    return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) | (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3]));
}

// False if the packet ends before.
#define LOAD(skb, offset, into) (bpf_skb_load_bytes(skb, offset, into, sizeof(*(into))) == 0)

// The first eight bytes of TCP and UDP; all that an ICMP error has to quote (RFC 792).
struct ports {
    __be16 source, dest;
    __be32 seq;
};

// The packet that an error quotes was sent by the VIP: its flow is the other way round.
INLINE int read_quoted(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
    struct ports ports;
    __u8 protocol;
    __u32 l4;

    p->quoted = 1;
    if (p->v6) {
        struct ipv6hdr ip;
        if (!LOAD(skb, offset, &ip))
            return 0;
        set_v6(&p->vip, &ip.saddr);
        set_v6(&p->from, &ip.daddr);
        protocol = ip.nexthdr;
        l4 = offset + sizeof(ip);
    } else {
        struct iphdr ip;
        if (!LOAD(skb, offset, &ip))
            return 0;
        set_v4(&p->vip, ip.saddr);
        set_v4(&p->from, ip.daddr);
        protocol = ip.protocol;
        l4 = offset + ip.ihl * 4;
        if (ip.frag_off & NETWORK16(0x1fff)) // a later fragment is quoted: no ports
            return 1;
    }
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
        return 1;
    if (!LOAD(skb, l4, &ports))
        return 0;
    p->protocol = protocol;
    p->sport = ports.dest;
    p->dport = ports.source;
    p->seq = NETWORK32(ports.seq);
    return 1;
}

INLINE int read_v4(struct __sk_buff *skb, struct packet *p)
{
    struct iphdr ip;

    if (!LOAD(skb, 0, &ip))
        return 0;
    set_v4(&p->from, ip.saddr);
    set_v4(&p->vip, ip.daddr);
    p->ip_protocol = ip.protocol;
    p->l4 = ip.ihl * 4;
    if (ip.frag_off & NETWORK16(0x3fff)) {
        p->part = ip.frag_off & NETWORK16(0x1fff) ? LATER : FIRST;
        p->fragment_id = ip.id;
    }
    return 1;
}

// More extension headers than that in front of TCP are not seen; the packet is then a datagram.
#define EXTENSIONS 6

INLINE int read_v6(struct __sk_buff *skb, struct packet *p)
{
    struct ipv6hdr ip;
    __u8 next;

    if (!LOAD(skb, 0, &ip))
        return 0;
    set_v6(&p->from, &ip.saddr);
    set_v6(&p->vip, &ip.daddr);
    p->v6 = 1;
    p->l4 = sizeof(ip);
    next = ip.nexthdr;
#pragma unroll
    for (int i = 0; i < EXTENSIONS; i++) {
        struct {
            __u8 next, length;
        } header;
        if (next == IPPROTO_FRAGMENT) {
            struct {
                __u8 next, reserved;
                __be16 offset;
                __be32 id;
            } fragment;
            if (!LOAD(skb, p->l4, &fragment))
                return 0;
            next = fragment.next;
            p->l4 += sizeof(fragment);
            p->fragment_id = fragment.id;
            p->part = fragment.offset & NETWORK16(0xfff8) ? LATER : fragment.offset & NETWORK16(1) ? FIRST : WHOLE;
            if (p->part == LATER)
                break;
        } else if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS || next == IPPROTO_AH) {
            if (!LOAD(skb, p->l4, &header))
                return 0;
            p->l4 += next == IPPROTO_AH ? (header.length + 2) * 4 : (header.length + 1) * 8;
            next = header.next;
        } else {
            break;
        }
    }
    p->ip_protocol = next;
    return 1;
}

INLINE int is_error(const struct packet *p, __u8 type)
{
    if (p->v6)
        return type < 128;
    // Destination unreachable, source quench, time exceeded, parameter problem.
    return type == 3 || type == 4 || type == 11 || type == 12;
}

// False if the packet is not IP or ends early.
INLINE int read_packet(struct __sk_buff *skb, struct packet *p)
{
    __u8 version;

    if (!LOAD(skb, 0, &version))
        return 0;
    if (version >> 4 == 4) {
        if (!read_v4(skb, p))
            return 0;
    } else if (version >> 4 != 6 || !read_v6(skb, p)) {
        return 0;
    }
    if (p->part == LATER)
        return 1;
    if (p->ip_protocol == IPPROTO_TCP) {
        struct tcphdr tcp;
        if (!LOAD(skb, p->l4, &tcp))
            return 0;
        p->protocol = IPPROTO_TCP;
        p->sport = tcp.source;
        p->dport = tcp.dest;
        p->seq = NETWORK32(tcp.seq);
        p->ack_seq = NETWORK32(tcp.ack_seq);
        p->syn = tcp.syn;
        p->ack = tcp.ack;
        p->rst = tcp.rst;
    } else if (p->ip_protocol == IPPROTO_UDP) {
        struct ports ports;
        if (!LOAD(skb, p->l4, &ports))
            return 0;
        p->protocol = IPPROTO_UDP;
        p->sport = ports.source;
        p->dport = ports.dest;
    } else if (p->ip_protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
        __u8 type;
        if (!LOAD(skb, p->l4, &type))
            return 0;
        if (is_error(p, type))
            return read_quoted(skb, p, p->l4 + 8);
    }
    return 1;
}

INLINE __u32 tuple_of(const struct packet *p, struct bpf_sock_tuple *tuple)
{
    if (p->v6) {
        __builtin_memcpy(tuple->ipv6.saddr, &p->from, 16);
        __builtin_memcpy(tuple->ipv6.daddr, &p->vip, 16);
        tuple->ipv6.sport = p->sport;
        tuple->ipv6.dport = p->dport;
        return sizeof(tuple->ipv6);
    }
    tuple->ipv4.saddr = p->from.word[3];
    tuple->ipv4.daddr = p->vip.word[3];
    tuple->ipv4.sport = p->sport;
    tuple->ipv4.dport = p->dport;
    return sizeof(tuple->ipv4);
}

// A UDP socket that is connected to the client.
INLINE int is_connected(struct __sk_buff *skb, const struct packet *p)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sock;
    int connected;

    tuple_of(p, &tuple);
    // The size must be a constant for the verifier.
    sock = p->v6 ? bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0)
                 : bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!sock)
        return 0;
    connected = sock->dst_port != 0;
    bpf_sk_release(sock);
    return connected;
}

// Whether this pod gave the cookie that the packet brings back. A kernel that has sent no cookie of late says no.
INLINE int is_cookie(struct __sk_buff *skb, const struct packet *p, struct bpf_sock *listener)
{
    struct tcphdr tcp;

    if (p->quoted || !p->ack || p->syn || p->rst || !LOAD(skb, p->l4, &tcp))
        return 0;
    if (p->v6) {
        struct ipv6hdr ip;
        return LOAD(skb, 0, &ip) && bpf_tcp_check_syncookie(listener, &ip, sizeof(ip), &tcp, sizeof(tcp)) == 0;
    } else {
        struct iphdr ip;
        return LOAD(skb, 0, &ip) && bpf_tcp_check_syncookie(listener, &ip, sizeof(ip), &tcp, sizeof(tcp)) == 0;
    }
}

// Whether the packet goes on with the handshake that the half-open socket has begun. Otherwise anybody who sends a SYN
// with the address and port of a client would cut its connection at the former owner off.
INLINE int is_of_handshake(const struct packet *p, struct bpf_sock *sock)
{
    struct tcp_request_sock *request = bpf_skc_to_tcp_request_sock(sock);

    if (!request)
        return 1;
    if (p->quoted)
        return p->seq == request->snt_isn;
    if (p->ack)
        return p->ack_seq == request->snt_isn + 1;
    return p->rst && p->seq == request->rcv_isn + 1;
}

INLINE int takes_tcp(struct __sk_buff *skb, const struct packet *p, int reads_half_open)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sock;
    int taken;

    if (p->syn && !p->ack) {
        count(OPENED);
        return 1;
    }
    tuple_of(p, &tuple);
    sock = p->v6 ? bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0)
                 : bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!sock)
        return 0;
    if (sock->state == BPF_TCP_LISTEN) {
        taken = is_cookie(skb, p, sock);
        if (taken)
            count(COOKIE);
    } else if (sock->state == BPF_TCP_NEW_SYN_RECV) {
        taken = !reads_half_open || is_of_handshake(p, sock);
        count(taken ? HALF_OPEN : FOREIGN_HALF_OPEN);
    } else {
        taken = 1;
        count(CONNECTION);
    }
    bpf_sk_release(sock);
    return taken;
}

INLINE int takes(struct __sk_buff *skb, const struct packet *p, __u32 id, int reads_half_open)
{
    if (p->protocol == IPPROTO_TCP)
        return takes_tcp(skb, p, reads_half_open);
    if (id & DATAGRAMS && !(p->protocol == IPPROTO_UDP && is_connected(skb, p)))
        return 0;
    count(DATAGRAM);
    return 1;
}

// What came in: tunnel key, and the family of the outer header.
struct outer {
    struct bpf_tunnel_key key;
    int v6;
};

INLINE int read_outer(struct __sk_buff *skb, struct outer *outer)
{
    if (bpf_skb_get_tunnel_key(skb, &outer->key, sizeof(outer->key), 0) == 0)
        return 1;
    outer->v6 = 1;
    return bpf_skb_get_tunnel_key(skb, &outer->key, sizeof(outer->key), BPF_F_TUNINFO_IPV6) == 0;
}

INLINE void local_address(const struct outer *outer, struct address *to)
{
    // The kernel keeps IPv4 addresses of a tunnel key in host byte order, IPv6 ones in network byte order.
    if (outer->v6)
        set_v6(to, outer->key.local_ipv6);
    else
        set_v4(to, NETWORK32(outer->key.local_ipv4));
}

INLINE void count_received(const struct outer *outer)
{
    struct pair pair = {.received = 1};

    if (outer->v6)
        set_v6(&pair.from, outer->key.remote_ipv6);
    else
        set_v4(&pair.from, NETWORK32(outer->key.remote_ipv4));
    local_address(outer, &pair.to);
    count_pair(&pair);
}

INLINE void count_passed(const struct outer *outer, const struct address *to)
{
    struct pair pair = {.to = *to};

    local_address(outer, &pair.from);
    count_pair(&pair);
}

// The endpoint's address in the family of the outer header; false if it has none.
INLINE int address_of(const struct outer *outer, const struct endpoint *endpoint, struct address *to)
{
    if (outer->v6) {
        *to = endpoint->v6;
        return to->word[0] | to->word[1] | to->word[2] | to->word[3];
    }
    set_v4(to, endpoint->v4);
    return endpoint->v4;
}

// From the address that the packet came to, for the pod may have others that its routes prefer.
INLINE int send(struct __sk_buff *skb, const struct outer *outer, const struct address *to, __u32 id)
{
    // Without a checksum, as the ingress node sends: GRE would be four bytes longer.
    __u64 flags = BPF_F_ZERO_CSUM_TX;
    struct bpf_tunnel_key key = {};

    key.tunnel_id = id;
    key.tunnel_ttl = 64;
    if (outer->v6) {
        flags |= BPF_F_TUNINFO_IPV6;
        __builtin_memcpy(key.remote_ipv6, to, 16);
        __builtin_memcpy(key.local_ipv6, outer->key.local_ipv6, 16);
    } else {
        key.remote_ipv4 = NETWORK32(to->word[3]);
        key.local_ipv4 = outer->key.local_ipv4;
    }
    if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) < 0) {
        count(FAILED);
        return TC_ACT_SHOT;
    }
    count(PASSED);
    count_passed(outer, to);
    return bpf_redirect(skb->ifindex, 0);
}

INLINE void fragment_key(const struct outer *outer, const struct packet *p, struct fragment_key *key)
{
    local_address(outer, &key->pod);
    key->from = p->from;
    key->vip = p->vip;
    key->id = p->fragment_id;
    // What follows the fragment header may stand behind more extension headers; the id is enough there.
    key->protocol = p->v6 ? 0 : p->ip_protocol;
}

INLINE int send_fragment(struct __sk_buff *skb, const struct outer *outer, const struct packet *p)
{
    struct endpoint_key name = {};
    struct fragment_key key = {};
    struct endpoint *endpoint;
    struct fragment *first;
    struct address to;

    fragment_key(outer, p, &key);
    first = bpf_map_lookup_elem(&fragments, &key);
    if (!first)
        return TC_ACT_OK;
    name.vip = p->vip;
    name.name = first->name;
    endpoint = bpf_map_lookup_elem(&endpoints, &name);
    if (!endpoint || !address_of(outer, endpoint, &to))
        return TC_ACT_OK;
    count(FRAGMENT);
    return send(skb, outer, &to, first->id);
}

// Identifications repeat: what was decided about an earlier packet must not hold for this one.
INLINE int take(const struct outer *outer, const struct packet *p)
{
    if (p->part == FIRST) {
        struct fragment_key key = {};
        fragment_key(outer, p, &key);
        bpf_map_delete_elem(&fragments, &key);
    }
    return TC_ACT_OK;
}

// Names are 1 to 2047, given out ascending, and 1 again after 2047. The half of the ring before the last one given out
// is earlier, the half behind it later.
INLINE int is_later(__u32 name, __u32 last)
{
    __u32 distance = name > last ? name - last : name + NAMES - last;
    return distance <= NAMES / 2;
}

#define ROTATE(x, by) ((x) << (by) | (x) >> (32 - (by)))

// jhash of include/linux/jhash.h over a constant number of words. nft hashes bytes: there the last words, up to three, are
// little-endian on every machine.
INLINE __u32 jhash(const __u32 *key, __u32 words, __u32 seed)
{
    __u32 a, b, c;

    a = b = c = 0xdeadbeef + words * 4 + seed;
#pragma unroll
    for (; words > 3; words -= 3, key += 3) {
        a += key[0];
        b += key[1];
        c += key[2];
        a -= c, a ^= ROTATE(c, 4), c += b;
        b -= a, b ^= ROTATE(a, 6), a += c;
        c -= b, c ^= ROTATE(b, 8), b += a;
        a -= c, a ^= ROTATE(c, 16), c += b;
        b -= a, b ^= ROTATE(a, 19), a += c;
        c -= b, c ^= ROTATE(b, 4), b += a;
    }
    a += LITTLE32(key[0]);
    b += words > 1 ? LITTLE32(key[1]) : 0;
    c += words > 2 ? LITTLE32(key[2]) : 0;
    c ^= b, c -= ROTATE(b, 14);
    a ^= c, a -= ROTATE(c, 11);
    b ^= a, b -= ROTATE(a, 25);
    c ^= b, c -= ROTATE(b, 16);
    a ^= c, a -= ROTATE(c, 4);
    b ^= a, b -= ROTATE(a, 14);
    c ^= b, c -= ROTATE(b, 24);
    return c;
}

// The bucket of a TCP packet, or of an error about one, as nft on the ingress node finds it (model/hash.rs): each port is in
// a register of its own.
INLINE __u32 bucket_of(const struct packet *p, const struct present *present)
{
    __u32 hash;

    if (p->v6) {
        __u32 key[10];
        __builtin_memcpy(key, &p->from, 16);
        __builtin_memcpy(key + 4, &p->vip, 16);
        key[8] = REGISTER(p->sport);
        key[9] = REGISTER(p->dport);
        hash = present->addresses_only ? jhash(key, 8, present->seed) : jhash(key, 10, present->seed);
    } else {
        __u32 key[4] = {p->from.word[3], p->vip.word[3], REGISTER(p->sport), REGISTER(p->dport)};
        hash = present->addresses_only ? jhash(key, 2, present->seed) : jhash(key, 4, present->seed);
    }
    return (__u64)hash * present->buckets >> 32;
}

// Who is asked about a packet: at most two names, and where the first one is reached.
struct list {
    __u32 first, second;
    struct address to;
};

INLINE void append(struct list *list, __u32 name, const struct address *to)
{
    if (!list->first) {
        list->first = name;
        list->to = *to;
    } else if (!list->second) {
        list->second = name;
    }
}

enum state {
    REACHED,
    UNKNOWN,
    ADDRESSLESS,
    OWN,
};

INLINE enum state state_of(const struct outer *outer, const struct packet *p, __u32 name, struct address *to)
{
    struct endpoint_key key = {.vip = p->vip, .name = name};
    struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &key);
    struct address own;

    if (!endpoint)
        return UNKNOWN;
    if (!address_of(outer, endpoint, to))
        return ADDRESSLESS;
    local_address(outer, &own);
    return same(to, &own) ? OWN : REACHED;
}

// Fills the list up with the present owner of the packet's bucket, and those to be asked after it.
INLINE void complete(const struct outer *outer, const struct packet *p, const struct present *present, struct list *list)
{
    __u32 bucket = bucket_of(p, present);
    int is_completed = 0;

    if (bucket >= BUCKETS)
        return;
#pragma unroll
    for (int i = 0; i < OWNERS; i++) {
        __u32 name = present->names[bucket][i];
        struct address to;
        if (!name || list->second || name == list->first || state_of(outer, p, name, &to) != REACHED)
            continue;
        append(list, name, &to);
        is_completed = 1;
    }
    if (is_completed)
        count(COMPLETED);
}

// `owners` are those of the VIP; null if they have not been looked up.
INLINE int pass_on(struct __sk_buff *skb, const struct outer *outer, const struct packet *p, const struct present *owners)
{
    __u32 id = outer->key.tunnel_id;
    __u32 *last = bpf_map_lookup_elem(&vips, &p->vip);
    __u32 known = last ? *last : 0;
    int tcp = p->protocol == IPPROTO_TCP;
    struct list list = {};

#pragma unroll
    for (int i = 0; i < 2; i++) {
        __u32 name = id >> i * NAME_BITS & NAMES;
        struct address to = {};
        enum state state;
        if (!name)
            continue;
        state = state_of(outer, p, name, &to);
        if (state == OWN) {
            count(OWN_NAME);
        } else if (state == ADDRESSLESS) {
            count(NO_ADDRESS);
        } else if (state == UNKNOWN && known && !is_later(name, known)) {
            count(RETIRED);
        } else if (state == UNKNOWN && !list.first) {
            // To take TCP would be to reset it; dropped, it is sent again, when this node knows as much as the ingress.
            count(tcp ? AHEAD_DROPPED : AHEAD_TAKEN);
            return tcp ? TC_ACT_SHOT : take(outer, p);
        } else {
            append(&list, name, &to);
        }
    }
    if (tcp && !(id & PASSED_ON) && !list.second) {
        if (!owners)
            owners = bpf_map_lookup_elem(&present, &p->vip);
        if (owners)
            complete(outer, p, owners, &list);
    }
    if (!list.first) {
        count(id & LIST ? EXHAUSTED : UNLISTED);
        return take(outer, p);
    }
    id = list.second | PASSED_ON;
    if (p->part == FIRST) {
        struct fragment first = {.name = list.first, .id = id};
        struct fragment_key fragment = {};
        fragment_key(outer, p, &fragment);
        bpf_map_update_elem(&fragments, &fragment, &first, BPF_ANY);
    }
    return send(skb, outer, &list.to, id);
}

INLINE int is_any_present(void)
{
    __u32 key = 0;
    __u32 *any = bpf_map_lookup_elem(&any_present, &key);
    return any && *any;
}

INLINE int decide(struct __sk_buff *skb, int reads_half_open)
{
    struct present *owners = 0;
    struct outer outer = {};
    struct packet p = {};
    __u32 id;

    if (!read_outer(skb, &outer)) {
        count(NO_TUNNEL);
        return TC_ACT_OK;
    }
    id = outer.key.tunnel_id;
    if (id & PASSED_ON) {
        count(RECEIVED);
        count_received(&outer);
    }
    if (!(id & LIST) && (id & PASSED_ON || !is_any_present())) {
        count(UNLISTED);
        return TC_ACT_OK;
    }
    if (!read_packet(skb, &p)) {
        count(MALFORMED);
        return TC_ACT_OK;
    }
    if (!(id & LIST)) {
        owners = bpf_map_lookup_elem(&present, &p.vip);
        if (!owners || (p.part != LATER && p.protocol != IPPROTO_TCP)) {
            count(UNLISTED);
            return take(&outer, &p);
        }
    }
    if (p.part == LATER)
        return send_fragment(skb, &outer, &p);
    if (takes(skb, &p, id, reads_half_open))
        return take(&outer, &p);
    return pass_on(skb, &outer, &p, owners);
}

SECTION("classifier") int second_chance(struct __sk_buff *skb)
{
    return decide(skb, 1);
}

// For kernels without type information: there a half-open socket takes whatever comes to it.
SECTION("classifier/plain") int second_chance_0(struct __sk_buff *skb)
{
    return decide(skb, 0);
}

char gpl_compatible[] SECTION("license") = "Dual MIT/GPL";
