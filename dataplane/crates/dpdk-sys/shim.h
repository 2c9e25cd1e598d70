/* What the bindings are made from: DPDK's headers, the constants that only a C compiler can work out, and the
 * functions of shim.c. Differences between DPDK versions belong here and in shim.c, nowhere else. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_lpm.h>
#include <rte_lpm6.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Where the fields of an mbuf are: src/mbuf.rs asserts that its own layout agrees, when it is compiled. */
enum {
    DPDK_SHIM_MBUF_SIZE = sizeof(struct rte_mbuf),
    DPDK_SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
    DPDK_SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
    DPDK_SHIM_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
    DPDK_SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
    DPDK_SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port),
    DPDK_SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
    DPDK_SHIM_MBUF_PACKET_TYPE = offsetof(struct rte_mbuf, packet_type),
    DPDK_SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
    DPDK_SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
    DPDK_SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
    DPDK_SHIM_MBUF_HASH = offsetof(struct rte_mbuf, hash),
    DPDK_SHIM_MBUF_VLAN_TCI_OUTER = offsetof(struct rte_mbuf, vlan_tci_outer),
    DPDK_SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
    DPDK_SHIM_MBUF_POOL = offsetof(struct rte_mbuf, pool),
    DPDK_SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next),
    DPDK_SHIM_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
    /* The fields inside tx_offload, as widths from its lowest bit: bit-fields have no offset in C. */
    DPDK_SHIM_L2_LEN_BITS = RTE_MBUF_L2_LEN_BITS,
    DPDK_SHIM_L3_LEN_BITS = RTE_MBUF_L3_LEN_BITS,
    DPDK_SHIM_L4_LEN_BITS = RTE_MBUF_L4_LEN_BITS,
    DPDK_SHIM_TSO_SEGSZ_BITS = RTE_MBUF_TSO_SEGSZ_BITS,
};

/* Flags. In the headers they are macros around RTE_BIT64(), which bindgen cannot evaluate. */
#define FLAG(name, value) static const uint64_t DPDK_SHIM_##name = (value)
FLAG(RX_IP_CKSUM_MASK, RTE_MBUF_F_RX_IP_CKSUM_MASK);
FLAG(RX_IP_CKSUM_BAD, RTE_MBUF_F_RX_IP_CKSUM_BAD);
FLAG(RX_IP_CKSUM_GOOD, RTE_MBUF_F_RX_IP_CKSUM_GOOD);
FLAG(RX_IP_CKSUM_NONE, RTE_MBUF_F_RX_IP_CKSUM_NONE);
FLAG(RX_L4_CKSUM_MASK, RTE_MBUF_F_RX_L4_CKSUM_MASK);
FLAG(RX_L4_CKSUM_BAD, RTE_MBUF_F_RX_L4_CKSUM_BAD);
FLAG(RX_L4_CKSUM_GOOD, RTE_MBUF_F_RX_L4_CKSUM_GOOD);
FLAG(RX_L4_CKSUM_NONE, RTE_MBUF_F_RX_L4_CKSUM_NONE);
FLAG(RX_RSS_HASH, RTE_MBUF_F_RX_RSS_HASH);
FLAG(RX_VLAN_STRIPPED, RTE_MBUF_F_RX_VLAN_STRIPPED);
FLAG(TX_IPV4, RTE_MBUF_F_TX_IPV4);
FLAG(TX_IPV6, RTE_MBUF_F_TX_IPV6);
FLAG(TX_IP_CKSUM, RTE_MBUF_F_TX_IP_CKSUM);
FLAG(TX_TCP_CKSUM, RTE_MBUF_F_TX_TCP_CKSUM);
FLAG(TX_UDP_CKSUM, RTE_MBUF_F_TX_UDP_CKSUM);
FLAG(TX_SCTP_CKSUM, RTE_MBUF_F_TX_SCTP_CKSUM);
FLAG(TX_TCP_SEG, RTE_MBUF_F_TX_TCP_SEG);
FLAG(TX_UDP_SEG, RTE_MBUF_F_TX_UDP_SEG);
FLAG(TX_VLAN, RTE_MBUF_F_TX_VLAN);
/* An mbuf that borrows its buffer from another mbuf, or from outside any pool. */
FLAG(MBUF_INDIRECT, RTE_MBUF_F_INDIRECT);
FLAG(MBUF_EXTERNAL, RTE_MBUF_F_EXTERNAL);

FLAG(RX_OFFLOAD_IPV4_CKSUM, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM);
FLAG(RX_OFFLOAD_UDP_CKSUM, RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
FLAG(RX_OFFLOAD_TCP_CKSUM, RTE_ETH_RX_OFFLOAD_TCP_CKSUM);
FLAG(RX_OFFLOAD_SCTP_CKSUM, RTE_ETH_RX_OFFLOAD_SCTP_CKSUM);
FLAG(RX_OFFLOAD_VLAN_STRIP, RTE_ETH_RX_OFFLOAD_VLAN_STRIP);
FLAG(RX_OFFLOAD_TCP_LRO, RTE_ETH_RX_OFFLOAD_TCP_LRO);
FLAG(RX_OFFLOAD_SCATTER, RTE_ETH_RX_OFFLOAD_SCATTER);
FLAG(RX_OFFLOAD_RSS_HASH, RTE_ETH_RX_OFFLOAD_RSS_HASH);
FLAG(TX_OFFLOAD_IPV4_CKSUM, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM);
FLAG(TX_OFFLOAD_UDP_CKSUM, RTE_ETH_TX_OFFLOAD_UDP_CKSUM);
FLAG(TX_OFFLOAD_TCP_CKSUM, RTE_ETH_TX_OFFLOAD_TCP_CKSUM);
FLAG(TX_OFFLOAD_VLAN_INSERT, RTE_ETH_TX_OFFLOAD_VLAN_INSERT);
FLAG(TX_OFFLOAD_UDP_TSO, RTE_ETH_TX_OFFLOAD_UDP_TSO);
FLAG(TX_OFFLOAD_TCP_TSO, RTE_ETH_TX_OFFLOAD_TCP_TSO);
FLAG(TX_OFFLOAD_MULTI_SEGS, RTE_ETH_TX_OFFLOAD_MULTI_SEGS);

FLAG(RSS_IP, RTE_ETH_RSS_IP);
FLAG(RSS_TCP, RTE_ETH_RSS_TCP);
FLAG(RSS_UDP, RTE_ETH_RSS_UDP);
FLAG(RSS_SCTP, RTE_ETH_RSS_SCTP);
#undef FLAG

enum {
    DPDK_SHIM_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS,
    DPDK_SHIM_SPEED_UNKNOWN = -1,
    /* The terminating zero included. */
    DPDK_SHIM_MEMPOOL_NAMESIZE = RTE_MEMPOOL_NAMESIZE,
};

/* rte_errno of the calling thread. It is a macro over a thread-local variable. */
int dpdk_shim_errno(void);

/* rte_pktmbuf_pool_create on any NUMA node, and buffer beside buffer where nothing is against it: where devices see the
 * process's own addresses, a buffer may lie across two pages. Without that each takes a page of its own where pages are
 * small, and net_af_xdp, which has the kernel use as much memory as all buffers would take without gaps between them,
 * loses whatever is sent from those at the end. NULL if it cannot be: rte_errno says why. */
struct rte_mempool *dpdk_shim_pool_create(const char *name, unsigned int mbufs, unsigned int cache, uint16_t data_room);

/* Takes up to `wanted` mbufs from `pool`, reset for use; returns how many. Unlike rte_pktmbuf_alloc_bulk it does
 * not give up all of them where the pool holds fewer. */
unsigned int dpdk_shim_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int wanted);

/* The state of a link, without waiting for it: 0 or a negative errno. Speed in Mbit/s, or
 * DPDK_SHIM_SPEED_UNKNOWN. */
int dpdk_shim_link(uint16_t port, int64_t *speed_mbps, bool *up);

/* Sends DPDK's log to stderr (up to 24.07 it goes to stdout, amid the program's own output) and keeps each
 * thread's last lines, for error messages. Once a process, before rte_eal_init. Returns 0 or a negative errno. */
int dpdk_shim_log_open(void);

/* Forgets the lines kept of the calling thread. */
void dpdk_shim_log_mark(void);

/* Copies the calling thread's lines since the mark to `buffer`; returns how many bytes. */
size_t dpdk_shim_log_tail(char *buffer, size_t room);

/* The time-stamp counter. */
uint64_t dpdk_shim_cycles(void);

/* Lookup tables. Addresses are in the host's byte order for IPv4 and the network's for IPv6. From 24.11 on the headers have a
 * type of its own for the latter, and more fields in a FIB's configuration: hence functions for what is no inline one. */

enum {
    /* Set in an answer of dpdk_shim_lpm_lookup where there is one; below it is the value. */
    DPDK_SHIM_LPM_FOUND = RTE_LPM_LOOKUP_SUCCESS,
};

/* `answers` has `count` words, each with DPDK_SHIM_LPM_FOUND or without meaning. */
void dpdk_shim_lpm_lookup(const struct rte_lpm *lpm, const uint32_t *addrs, uint32_t *answers, unsigned int count);

/* The same, four addresses at a time, and 0 where no route is: `count` is a multiple of four. */
void dpdk_shim_lpm_lookup_x4(const struct rte_lpm *lpm, const uint32_t *addrs, uint32_t *answers, unsigned int count);

int dpdk_shim_lpm6_add(struct rte_lpm6 *lpm, const uint8_t *addr, uint8_t depth, uint32_t value);

/* An answer is negative where no route is. */
int dpdk_shim_lpm6_lookup(const struct rte_lpm6 *lpm, const uint8_t *addrs, int32_t *answers, unsigned int count);

/* DIR24_8 with four bytes a value. NULL if it cannot be: rte_errno says why. */
struct rte_fib *dpdk_shim_fib_create(const char *name, uint32_t routes, uint32_t groups);

/* Chooses how it looks up: by AVX-512, or an address at a time. 0 or a negative errno. */
int dpdk_shim_fib_select(struct rte_fib *fib, bool vector);

/* A trie with four bytes a value. As above. */
struct rte_fib6 *dpdk_shim_fib6_create(const char *name, uint32_t routes, uint32_t groups);

int dpdk_shim_fib6_select(struct rte_fib6 *fib, bool vector);

int dpdk_shim_fib6_add(struct rte_fib6 *fib, const uint8_t *addr, uint8_t depth, uint64_t value);

int dpdk_shim_fib6_lookup(struct rte_fib6 *fib, const uint8_t *addrs, uint64_t *answers, int count);
