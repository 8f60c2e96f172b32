#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shm/fab_blocks.h"

#define ARENA (1u << 20)

/* What is handed out never overlaps, whatever the order; all merges into one piece in the end. */
START_TEST(random_use)
{
    FabBlocks b = FAB_BLOCKS_NULL;
    struct {
        uint32_t at, size;
    } held[256];
    static uint8_t owner[FAB_BLOCKS_MAX / FAB_BLOCK_GRANULE];
    unsigned n = 0;
    Rng rng;

    rng_init(&rng, (uint64_t)_i + 1);
    memset(owner, 0, sizeof(owner));
    ck_assert_int_eq(fab_blocks_extend(&b, ARENA), 0);
    for (int step = 0; step < 6000; step++) {
        uint64_t what = rng_below(&rng, 10);
        if (what < 5 && n < 256) {
            uint32_t size = (uint32_t)rng_below(&rng, 1u << (6 + rng_below(&rng, 12)));
            uint32_t at = fab_blocks_alloc(&b, size);
            if (at == FAB_BLOCK_NONE)
                continue;
            ck_assert_uint_ge(fab_blocks_size(&b, at), size);
            for (uint32_t g = at; g < at + fab_blocks_size(&b, at); g += FAB_BLOCK_GRANULE)
                ck_assert_uint_eq(owner[g / FAB_BLOCK_GRANULE]++, 0);
            held[n].at = at;
            held[n++].size = size;
        } else if (n > 0) {
            uint64_t i = rng_below(&rng, n);
            uint32_t old = fab_blocks_size(&b, held[i].at), now = 0;
            if (what < 7) {
                held[i].size = (uint32_t)rng_below(&rng, held[i].size + 1);
                fab_blocks_shrink(&b, held[i].at, held[i].size);
                now = fab_blocks_size(&b, held[i].at);
            } else {
                fab_blocks_free(&b, held[i].at);
            }
            for (uint32_t g = held[i].at + now; g < held[i].at + old; g += FAB_BLOCK_GRANULE)
                ck_assert_uint_eq(owner[g / FAB_BLOCK_GRANULE]--, 1);
            if (now == 0)
                held[i] = held[--n];
        }
        if (step % 256 == 0)
            fab_blocks_verify(&b);
        if (step == 3000)
            ck_assert_int_eq(fab_blocks_extend(&b, 4 * ARENA), 0);
    }
    while (n > 0)
        fab_blocks_free(&b, held[--n].at);
    fab_blocks_verify(&b);
    ck_assert_uint_eq(fab_blocks_alloc(&b, 4 * ARENA), 0);
    ck_assert_uint_eq(fab_blocks_alloc(&b, 1), FAB_BLOCK_NONE);
    fab_blocks_deinit(&b);
}
END_TEST

/*
 * A producer's life: open batches of batch.size for many partitions, each cut to what it holds when it is sent, freed in
 * the order of sending with some late; one that finds no room waits for the next to be freed. It must not wait while much
 * of the arena is free.
 */
START_TEST(producer_pattern_does_not_fragment)
{
    FabBlocks b = FAB_BLOCKS_NULL;
    static uint32_t sent[4096];
    uint32_t open[12];
    unsigned head = 0, tail = 0;
    uint64_t n_waits = 0, used_at_wait = 0;
    Rng rng;

    rng_init(&rng, (uint64_t)_i);
    ck_assert_int_eq(fab_blocks_extend(&b, ARENA), 0);
    for (size_t i = 0; i < 12; i++)
        open[i] = fab_blocks_alloc(&b, 16384);
    for (int step = 0; step < 60000; step++) {
        uint64_t p = rng_below(&rng, 12);
        fab_blocks_shrink(&b, open[p], (uint32_t)rng_below(&rng, 16384) + 1);
        sent[tail++ % 4096] = open[p];
        while ((open[p] = fab_blocks_alloc(&b, 16384)) == FAB_BLOCK_NONE) {
            ck_assert_uint_gt(tail - head, 0);
            n_waits++;
            used_at_wait += b.n_used;
            if (tail - head > 4 && rng_below(&rng, 4) == 0) { /* out of order */
                uint32_t late = sent[head % 4096];
                sent[head % 4096] = sent[(head + 3) % 4096];
                sent[(head + 3) % 4096] = late;
            }
            fab_blocks_free(&b, sent[head++ % 4096]);
        }
    }
    fab_blocks_verify(&b);
    ck_assert_uint_gt(used_at_wait / n_waits, b.n / 10 * 6);
    fab_blocks_deinit(&b);
}
END_TEST

START_TEST(exact_fit_is_found)
{
    FabBlocks b = FAB_BLOCKS_NULL;
    ck_assert_int_eq(fab_blocks_extend(&b, ARENA), 0);
    /* the whole arena, again and again: no rounding may hide the only range that fits */
    for (int i = 0; i < 3; i++) {
        ck_assert_uint_eq(fab_blocks_alloc(&b, ARENA), 0);
        fab_blocks_free(&b, 0);
    }
    ck_assert_uint_eq(fab_blocks_alloc(&b, ARENA - 300000), 0);
    ck_assert_uint_ne(fab_blocks_alloc(&b, 299776), FAB_BLOCK_NONE);
    ck_assert_uint_eq(fab_blocks_alloc(&b, ARENA + 1), FAB_BLOCK_NONE);
    ck_assert_uint_eq(fab_blocks_alloc(&b, UINT32_MAX), FAB_BLOCK_NONE);
    fab_blocks_deinit(&b);
}
END_TEST

START_TEST(freed_twice)
{
    FabBlocks b = FAB_BLOCKS_NULL;
    ck_assert_int_eq(fab_blocks_extend(&b, ARENA), 0);
    uint32_t at = fab_blocks_alloc(&b, 1000);
    (void)fab_blocks_alloc(&b, 1000);
    fab_blocks_free(&b, at);
    fab_blocks_free(&b, at);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("blocks");
    TCase *tc = tcase_create("blocks");
    tcase_add_loop_test(tc, random_use, 0, 4);
    tcase_add_loop_test(tc, producer_pattern_does_not_fragment, 0, 2);
    tcase_add_test(tc, exact_fit_is_found);
    const char *fork_mode = getenv("CK_FORK");
    if (!fork_mode || strcmp(fork_mode, "no") != 0)
        tcase_add_test_raise_signal(tc, freed_twice, 6 /* SIGABRT */);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
