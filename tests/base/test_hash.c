/* CRC-32C against the published vectors (RFC 3720 B.4), and the generator's promises. */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "base/hash.h"

START_TEST(crc_vectors)
{
    uint8_t block[32];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(crc32c(0, "", 0), 0);
    memset(block, 0, sizeof(block));
    ck_assert_uint_eq(crc32c(0, block, sizeof(block)), 0x8a9136aau);
    memset(block, 0xff, sizeof(block));
    ck_assert_uint_eq(crc32c(0, block, sizeof(block)), 0x62a8ab43u);
    for (int i = 0; i < 32; i++)
        block[i] = (uint8_t)i;
    ck_assert_uint_eq(crc32c(0, block, sizeof(block)), 0x46dd794eu);
}
END_TEST

START_TEST(crc_continues_over_any_cut)
{
    const char *text = "123456789";

    for (size_t cut = 0; cut <= 9; cut++)
        ck_assert_uint_eq(crc32c(crc32c(0, text, cut), text + cut, 9 - cut), 0xe3069283u);
}
END_TEST

START_TEST(rng_is_reproducible_and_even)
{
    Rng a, b;
    unsigned counts[3] = {0};

    rng_init(&a, 7);
    rng_init(&b, 7);
    for (int i = 0; i < 100; i++)
        ck_assert_uint_eq(rng_next(&a), rng_next(&b));
    rng_init(&b, 8);
    ck_assert_uint_ne(rng_next(&a), rng_next(&b));
    for (int i = 0; i < 30000; i++)
        counts[rng_below(&a, 3)]++;
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
        ck_assert_uint_gt(counts[i], 9600);
    ck_assert_uint_eq(rng_below(&a, 1), 0);
    for (int i = 0; i < 100; i++)
        ck_assert_uint_lt(rng_below(&a, (1ull << 63) + 1), (1ull << 63) + 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hash");
    TCase *t = tcase_create("hash");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_test(t, crc_vectors);
    tcase_add_test(t, crc_continues_over_any_cut);
    tcase_add_test(t, rng_is_reproducible_and_even);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
