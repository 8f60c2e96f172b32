/*
 * The allocator of fab_blocks.h.
 *
 * A range of granules [i, i + n) keeps its length and whether it is used in blocks[i], and its first index in
 * blocks[i + n - 1].first: so the range behind and the range before are found without a search. Ranges tile [0, n); two
 * free ones are never neighbours. Indices are granules throughout; bytes appear in the public functions only.
 */

#include "shm/fab_blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE       UINT32_MAX
#define SEARCH_MAX 16 /* ranges looked at in the list whose ranges may or may not be large enough */

struct FabBlock {
    uint32_t n; /* granules, of the range that begins here */
    bool used;
    uint32_t first;      /* where the range begins that ends here */
    uint32_t prev, next; /* in its list, while free */
};

static_assert(FAB_BLOCKS_MAX / FAB_BLOCK_GRANULE <= 1u << 16, "64 bins are enough");

static unsigned log2_floor(uint32_t n)
{
    return 31u - (unsigned)__builtin_clz(n);
}

/* The list that a range of n granules hangs in: 1..7 exactly, then four lists for each power of two. */
static unsigned bin_of(uint32_t n)
{
    assert(n > 0);
    if (n < 8)
        return n;
    unsigned l = log2_floor(n);
    return 8 + (l - 3) * 4 + ((n >> (l - 2)) & 3);
}

/* The first list in which every range has at least n granules. */
static unsigned bin_fitting(uint32_t n)
{
    return n < 8 ? n : bin_of(n + (1u << (log2_floor(n) - 2)) - 1);
}

static void range_set(FabBlocks *b, uint32_t i, uint32_t n, bool used)
{
    assert(n > 0 && i + n <= b->n);
    b->blocks[i].n = n;
    b->blocks[i].used = used;
    b->blocks[i + n - 1].first = i;
}

static void list_insert(FabBlocks *b, uint32_t i)
{
    unsigned bin = bin_of(b->blocks[i].n);
    uint32_t head = (b->bins >> bin & 1) ? b->bin[bin] : NONE;

    b->blocks[i].prev = NONE;
    b->blocks[i].next = head;
    if (head != NONE)
        b->blocks[head].prev = i;
    b->bin[bin] = i;
    b->bins |= 1ull << bin;
}

static void list_take(FabBlocks *b, uint32_t i)
{
    FabBlock *block = &b->blocks[i];
    unsigned bin = bin_of(block->n);

    if (block->next != NONE)
        b->blocks[block->next].prev = block->prev;
    if (block->prev != NONE)
        b->blocks[block->prev].next = block->next;
    else if (block->next != NONE)
        b->bin[bin] = block->next;
    else
        b->bins &= ~(1ull << bin);
}

/* [i, i + n) becomes free and merges with what is free on either side. */
static void release(FabBlocks *b, uint32_t i, uint32_t n)
{
    if (i + n < b->n && !b->blocks[i + n].used) {
        list_take(b, i + n);
        n += b->blocks[i + n].n;
    }
    if (i > 0 && !b->blocks[b->blocks[i - 1].first].used) {
        uint32_t first = b->blocks[i - 1].first;

        list_take(b, first);
        n += i - first;
        i = first;
    }
    range_set(b, i, n, false);
    list_insert(b, i);
}

int fab_blocks_extend(FabBlocks *b, uint32_t size)
{
    uint32_t n = size / FAB_BLOCK_GRANULE, old = b->n;

    assert(size % FAB_BLOCK_GRANULE == 0 && size <= FAB_BLOCKS_MAX && n > old);
    FabBlock *blocks = calloc(n, sizeof(*blocks)); /* untouched pages of it cost nothing */
    if (!blocks)
        return -ENOMEM;
    if (old > 0)
        memcpy(blocks, b->blocks, old * sizeof(*blocks));
    free(b->blocks);
    b->blocks = blocks;
    b->n = n;
    release(b, old, n - old);
    return 0;
}

void fab_blocks_deinit(FabBlocks *b)
{
    free(b->blocks);
    *b = FAB_BLOCKS_NULL;
}

static uint32_t find(const FabBlocks *b, uint32_t n)
{
    unsigned bin = bin_fitting(n);
    uint64_t fitting = bin < 64 ? b->bins >> bin << bin : 0;

    if (fitting)
        return b->bin[__builtin_ctzll(fitting)];
    bin = bin_of(n); /* some of its ranges may do */
    if (!(b->bins >> bin & 1))
        return NONE;
    uint32_t i = b->bin[bin];
    for (unsigned steps = 0; i != NONE && steps < SEARCH_MAX; steps++, i = b->blocks[i].next)
        if (b->blocks[i].n >= n)
            return i;
    return NONE;
}

uint32_t fab_blocks_alloc(FabBlocks *b, uint32_t size)
{
    if (size > FAB_BLOCKS_MAX)
        return FAB_BLOCK_NONE;
    uint32_t n = size == 0 ? 1 : (size + FAB_BLOCK_GRANULE - 1) / FAB_BLOCK_GRANULE;
    uint32_t i = find(b, n);

    if (i == NONE)
        return FAB_BLOCK_NONE;
    uint32_t found = b->blocks[i].n;
    assert(!b->blocks[i].used && found >= n);
    list_take(b, i);
    range_set(b, i, n, true);
    if (found > n) {
        range_set(b, i + n, found - n, false);
        list_insert(b, i + n);
    }
    b->n_used += n;
    return i * FAB_BLOCK_GRANULE;
}

static uint32_t used_index(const FabBlocks *b, uint32_t position)
{
    uint32_t i = position / FAB_BLOCK_GRANULE;

    assert(position % FAB_BLOCK_GRANULE == 0 && i < b->n && b->blocks[i].used);
    assert(b->blocks[i].n > 0 && b->blocks[i + b->blocks[i].n - 1].first == i); /* begins here */
    return i;
}

void fab_blocks_shrink(FabBlocks *b, uint32_t position, uint32_t size)
{
    uint32_t i = used_index(b, position), old = b->blocks[i].n;
    uint32_t n = size == 0 ? 1 : (size + FAB_BLOCK_GRANULE - 1) / FAB_BLOCK_GRANULE;

    assert(n <= old);
    if (n == old)
        return;
    range_set(b, i, n, true);
    release(b, i + n, old - n);
    b->n_used -= old - n;
}

void fab_blocks_free(FabBlocks *b, uint32_t position)
{
    uint32_t i = used_index(b, position), n = b->blocks[i].n;

    b->blocks[i].used = false;
    release(b, i, n);
    b->n_used -= n;
}

uint32_t fab_blocks_size(const FabBlocks *b, uint32_t position)
{
    return b->blocks[used_index(b, position)].n * FAB_BLOCK_GRANULE;
}

void fab_blocks_verify(const FabBlocks *b)
{
    uint32_t n_used = 0, n_free = 0, listed = 0;
    bool last_free = false;

    for (uint32_t i = 0; i < b->n; i += b->blocks[i].n) {
        const FabBlock *block = &b->blocks[i];

        assert(block->n > 0 && i + block->n <= b->n);
        assert(b->blocks[i + block->n - 1].first == i);
        assert(block->used || !last_free);
        last_free = !block->used;
        if (block->used)
            n_used += block->n;
        else
            n_free++;
    }
    assert(n_used == b->n_used);
    for (unsigned bin = 0; bin < 64; bin++)
        for (uint32_t i = (b->bins >> bin & 1) ? b->bin[bin] : NONE; i != NONE;
             i = b->blocks[i].next) {
            assert(!b->blocks[i].used && bin_of(b->blocks[i].n) == bin);
            listed++;
        }
    assert(listed == n_free);
}
