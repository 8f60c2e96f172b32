#pragma once

/*
 * The client's allocator: hands out ranges of [0, size) without touching them, so the arena may be any memory and nothing
 * that the broker maps steers it. Constant time: free ranges hang in 64 lists by size, four for each power of two, and a
 * bitmap finds a list whose every range is large enough. Neighbours merge when freed. Pure; not thread-safe.
 */

#include "base/compiler.h"

#define FAB_BLOCK_GRANULE 256u
#define FAB_BLOCKS_MAX    (16u << 20)
#define FAB_BLOCK_NONE    UINT32_MAX

typedef struct FabBlock FabBlock;

typedef struct FabBlocks {
    FabBlock *blocks; /* one for each granule; only those where a range begins or ends hold anything */
    uint32_t n;       /* granules */
    uint32_t n_used;
    uint64_t bins; /* bit i: bin[i] is not empty */
    uint32_t bin[64];
} FabBlocks;

#define FAB_BLOCKS_NULL (FabBlocks){0}

/* Makes the range [0, size), or [0, larger size) later; a multiple of the granule. Return: 0 or -ENOMEM. */
int fab_blocks_extend(FabBlocks *b, uint32_t size);
void fab_blocks_deinit(FabBlocks *b);
uint32_t fab_blocks_alloc(FabBlocks *b, uint32_t size); /* position or FAB_BLOCK_NONE */
void fab_blocks_shrink(FabBlocks *b, uint32_t position, uint32_t size);
void fab_blocks_free(FabBlocks *b, uint32_t position);
uint32_t fab_blocks_size(const FabBlocks *b, uint32_t position); /* of a block in use */
void fab_blocks_verify(const FabBlocks *b);                      /* walks everything; asserts */
