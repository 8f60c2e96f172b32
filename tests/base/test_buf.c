/* Buf and Arena at their edges. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

START_TEST(grows_and_keeps_content)
{
    Buf b = BUF_NULL;
    char expected[16];

    for (int i = 0; i < 1000; i++)
        ck_assert_int_eq(buf_printf(&b, "%03d", i % 1000), 0);
    ck_assert_uint_eq(b.size, 3000);
    for (int i = 0; i < 1000; i++) {
        snprintf(expected, sizeof(expected), "%03d", i);
        ck_assert_mem_eq(b.data + 3 * i, expected, 3);
    }
    ck_assert_int_eq(b.data[b.size], '\0');
    buf_consume(&b, 2997);
    ck_assert_uint_eq(b.size, 3);
    ck_assert_mem_eq(b.data, "999", 3);
    buf_deinit(&b);
}
END_TEST

START_TEST(impossible_size_is_refused)
{
    Buf b = BUF_NULL;

    ck_assert_int_eq(buf_append(&b, "x", 1), 0);
    ck_assert_int_eq(buf_reserve(&b, SIZE_MAX), -ENOMEM);
    ck_assert_int_eq(buf_reserve(&b, SIZE_MAX - 1), -ENOMEM);
    ck_assert_uint_eq(b.size, 1);
    buf_deinit(&b);
}
END_TEST

START_TEST(arena_is_aligned_zeroed_and_limited)
{
    Arena a = {.limit_bytes = 8192};
    uint8_t *first = arena_alloc(&a, 1), *p;
    size_t n = 1;

    ck_assert_ptr_nonnull(first);
    *first = 0xff;
    while ((p = arena_alloc(&a, 33)) != NULL) {
        ck_assert_uint_eq((uintptr_t)p % 16, 0);
        for (int i = 0; i < 33; i++)
            ck_assert_int_eq(p[i], 0);
        memset(p, 0xff, 33);
        n++;
    }
    ck_assert_uint_eq(n, 1 + (8192 - 16) / 48);
    ck_assert_uint_eq(*first, 0xff);
    ck_assert_uint_le(a.used_bytes, a.limit_bytes);
    ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX));
    ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX - 15));

    arena_reset(&a); /* memory that was used is zero again */
    p = arena_alloc(&a, 64);
    ck_assert_ptr_nonnull(p);
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(p[i], 0);
    arena_deinit(&a);
}
END_TEST

START_TEST(arena_takes_more_than_a_chunk)
{
    Arena a = ARENA_NULL;
    char *big = arena_alloc(&a, 3u << 20), *s;

    ck_assert_ptr_nonnull(big);
    memset(big, 'x', 3u << 20);
    s = arena_strndup(&a, "hello world", 5);
    ck_assert_str_eq(s, "hello");
    arena_deinit(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("buf");
    TCase *t = tcase_create("buf");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_test(t, grows_and_keeps_content);
    tcase_add_test(t, impossible_size_is_refused);
    tcase_add_test(t, arena_is_aligned_zeroed_and_limited);
    tcase_add_test(t, arena_takes_more_than_a_chunk);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
