/* The memory that the processes of perf share, and its histogram: see perf.h. */

#include "mqctl/perf.h"

static size_t bitmap_size(uint64_t records)
{
    return align_up(records / 8 + 1, 4096);
}

size_t perf_shared_size(uint32_t producers, uint32_t consumers, uint64_t records)
{
    return 4096 + (producers + consumers) * WORKER_SIZE + (size_t)producers * consumers * bitmap_size(records);
}

Worker *perf_worker(const Shared *s, size_t i)
{
    return (Worker *)(void *)(s->map + 4096 + i * WORKER_SIZE);
}

uint8_t *perf_bitmap(const Shared *s, size_t consumer, size_t producer)
{
    const Head *h = s->head;
    return s->map + 4096 + (h->producers + h->consumers) * WORKER_SIZE +
           (consumer * h->producers + producer) * bitmap_size(h->records);
}

size_t perf_hist_index(int64_t ns)
{
    uint64_t v = ns < 1 ? 1 : (uint64_t)ns;
    if (v < 1u << SUB_BITS)
        return (size_t)v;
    unsigned shift = 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;
    return ((size_t)(shift + 1) << SUB_BITS) + (size_t)((v >> shift) & ((1u << SUB_BITS) - 1));
}

double perf_hist_ns(size_t i)
{
    if (i < 1u << SUB_BITS)
        return (double)i;
    unsigned shift = (unsigned)(i >> SUB_BITS) - 1;
    return (double)(((1ull << SUB_BITS) + (i & ((1u << SUB_BITS) - 1))) << shift);
}

uint64_t perf_consumed(const Run *run)
{
    uint64_t sum = 0;
    for (size_t i = run->shared.head->producers; i < run->n; i++)
        sum += atomic_load_explicit(&perf_worker(&run->shared, i)->count, memory_order_acquire);
    return sum;
}
