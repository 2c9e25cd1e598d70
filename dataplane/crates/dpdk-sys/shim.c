/* The few things that Rust cannot call, since DPDK has them as macros and inline functions. */
#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_log.h>
#include <rte_mbuf_pool_ops.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "DPDK 22.11 or newer is needed"
#endif

int dpdk_shim_errno(void)
{
    return rte_errno;
}

struct rte_mempool *dpdk_shim_pool_create(const char *name, unsigned int mbufs, unsigned int cache, uint16_t data_room)
{
    struct rte_pktmbuf_pool_private sizes;
    struct rte_mempool *pool;
    int error;

    if (rte_eal_iova_mode() != RTE_IOVA_VA)
        return rte_pktmbuf_pool_create(name, mbufs, cache, 0, data_room, SOCKET_ID_ANY);
    memset(&sizes, 0, sizeof(sizes));
    sizes.mbuf_data_room_size = data_room;
    pool = rte_mempool_create_empty(name, mbufs, sizeof(struct rte_mbuf) + data_room, cache, sizeof(sizes),
                                    SOCKET_ID_ANY, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
    if (pool == NULL)
        return NULL;
    error = rte_mempool_set_ops_byname(pool, rte_mbuf_best_mempool_ops(), NULL);
    if (error == 0) {
        rte_pktmbuf_pool_init(pool, &sizes);
        error = rte_mempool_populate_default(pool);
    }
    if (error < 0) {
        rte_mempool_free(pool);
        rte_errno = -error;
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    return pool;
}

unsigned int dpdk_shim_alloc(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int wanted)
{
    unsigned int done = 0;
    unsigned int step = wanted;

    while (step > 0) {
        if (rte_pktmbuf_alloc_bulk(pool, mbufs + done, step) == 0) {
            done += step;
            if (step > wanted - done)
                step = wanted - done;
        } else {
            step /= 2;
        }
    }
    return done;
}

int dpdk_shim_link(uint16_t port, int64_t *speed_mbps, bool *up)
{
    /* Its fields moved into an anonymous union in 24.07, which bindgen names anew each time. */
    struct rte_eth_link link;
    int error;

    memset(&link, 0, sizeof(link));
    error = rte_eth_link_get_nowait(port, &link);
    if (error != 0)
        return error;
    *up = link.link_status == RTE_ETH_LINK_UP;
    *speed_mbps = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? DPDK_SHIM_SPEED_UNKNOWN : (int64_t)link.link_speed;
    return 0;
}

/* The stream lives as long as the process: DPDK's own threads may be writing to it at any time. */
static FILE *log_stream;

/* Each thread's own: DPDK flushes after each message, so a message is written by the thread that logs it, and one
 * thread's error is not explained by another's messages. */
static __thread struct {
    size_t used;
    char text[1024];
} log_tail;

static ssize_t log_write(void *cookie, const char *text, size_t size)
{
    size_t room = sizeof(log_tail.text);

    (void)cookie;
    if (size >= room) {
        memcpy(log_tail.text, text + size - room, room);
        log_tail.used = room;
    } else {
        if (log_tail.used + size > room) {
            size_t keep = room - size;
            memmove(log_tail.text, log_tail.text + log_tail.used - keep, keep);
            log_tail.used = keep;
        }
        memcpy(log_tail.text + log_tail.used, text, size);
        log_tail.used += size;
    }
    /* A log that cannot be written is no reason to stop. */
    if (write(STDERR_FILENO, text, size) < 0)
        return (ssize_t)size;
    return (ssize_t)size;
}

int dpdk_shim_log_open(void)
{
    cookie_io_functions_t calls = {.write = log_write};

    if (log_stream != NULL)
        return 0;
    log_stream = fopencookie(NULL, "w", calls);
    if (log_stream == NULL)
        return -ENOMEM;
    /* A line at a time: rte_log flushes after each message as well. */
    setvbuf(log_stream, NULL, _IOLBF, 0);
    return rte_openlog_stream(log_stream);
}

void dpdk_shim_log_mark(void)
{
    log_tail.used = 0;
}

size_t dpdk_shim_log_tail(char *buffer, size_t room)
{
    size_t size;

    size = log_tail.used < room ? log_tail.used : room;
    memcpy(buffer, log_tail.text + log_tail.used - size, size);
    return size;
}

uint64_t dpdk_shim_cycles(void)
{
    return rte_rdtsc_precise();
}

void dpdk_shim_lpm_lookup(const struct rte_lpm *lpm, const uint32_t *addrs, uint32_t *answers, unsigned int count)
{
    /* It fails for null pointers alone. */
    rte_lpm_lookup_bulk(lpm, addrs, answers, count);
}

void dpdk_shim_lpm_lookup_x4(const struct rte_lpm *lpm, const uint32_t *addrs, uint32_t *answers, unsigned int count)
{
    unsigned int at;
    xmm_t four;

    for (at = 0; at < count; at += 4) {
        memcpy(&four, addrs + at, sizeof(four));
        rte_lpm_lookupx4(lpm, four, answers + at, 0);
    }
}

/* `void *` becomes whatever pointer this version's header asks for. */

int dpdk_shim_lpm6_add(struct rte_lpm6 *lpm, const uint8_t *addr, uint8_t depth, uint32_t value)
{
    return rte_lpm6_add(lpm, (const void *)addr, depth, value);
}

int dpdk_shim_lpm6_lookup(const struct rte_lpm6 *lpm, const uint8_t *addrs, int32_t *answers, unsigned int count)
{
    return rte_lpm6_lookup_bulk_func(lpm, (void *)(uintptr_t)addrs, answers, count);
}

struct rte_fib *dpdk_shim_fib_create(const char *name, uint32_t routes, uint32_t groups)
{
    struct rte_fib_conf conf;

    memset(&conf, 0, sizeof(conf));
    conf.type = RTE_FIB_DIR24_8;
    conf.max_routes = (int)routes;
    conf.dir24_8.nh_sz = RTE_FIB_DIR24_8_4B;
    conf.dir24_8.num_tbl8 = groups;
    return rte_fib_create(name, SOCKET_ID_ANY, &conf);
}

int dpdk_shim_fib_select(struct rte_fib *fib, bool vector)
{
    return rte_fib_select_lookup(fib, vector ? RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512
                                             : RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO);
}

struct rte_fib6 *dpdk_shim_fib6_create(const char *name, uint32_t routes, uint32_t groups)
{
    struct rte_fib6_conf conf;

    memset(&conf, 0, sizeof(conf));
    conf.type = RTE_FIB6_TRIE;
    conf.max_routes = (int)routes;
    conf.trie.nh_sz = RTE_FIB6_TRIE_4B;
    conf.trie.num_tbl8 = groups;
    return rte_fib6_create(name, SOCKET_ID_ANY, &conf);
}

int dpdk_shim_fib6_select(struct rte_fib6 *fib, bool vector)
{
    return rte_fib6_select_lookup(fib, vector ? RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512 : RTE_FIB6_LOOKUP_TRIE_SCALAR);
}

int dpdk_shim_fib6_add(struct rte_fib6 *fib, const uint8_t *addr, uint8_t depth, uint64_t value)
{
    return rte_fib6_add(fib, (const void *)addr, depth, value);
}

int dpdk_shim_fib6_lookup(struct rte_fib6 *fib, const uint8_t *addrs, uint64_t *answers, int count)
{
    return rte_fib6_lookup_bulk(fib, (void *)(uintptr_t)addrs, answers, count);
}
