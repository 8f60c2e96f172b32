/* Trust in the wall clock (D12): jumps, gaps, the hour of steadiness, the operator's word, the time on disk. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/wall.h"

#define H      (3600 * 1000LL)
#define MIN_MS (60 * 1000LL)
#define WALL   1700000000000LL

static WallTime at(int64_t mono_ms, int64_t wall_ms)
{
    return (WallTime){.mono_ms = 77 * H + mono_ms, .wall_ms = WALL + wall_ms};
}

START_TEST(a_steady_clock)
{
    WallTrust w;

    ck_assert(wall_start(&w, at(0, 0), 0)); /* a new node knows no time */
    ck_assert_int_eq(wall_look(&w, at(H, H)), WALL_NO_CHANGE);
    ck_assert_int_eq(wall_look(&w, at(2 * H, 2 * H + 9 * MIN_MS)), WALL_NO_CHANGE); /* adjusted a little */
    ck_assert_int_eq(wall_look(&w, at(3 * H, 3 * H)), WALL_NO_CHANGE);
    ck_assert(wall_is_trusted(&w));
}
END_TEST

START_TEST(a_jump)
{
    WallTrust w;

    (void)wall_start(&w, at(0, 0), WALL);
    ck_assert_int_eq(wall_look(&w, at(H, 7 * H)), WALL_JUMPED);
    ck_assert_int_eq(wall_look(&w, at(2 * H - 1, 8 * H - 1)), WALL_NO_CHANGE);
    ck_assert(!wall_is_trusted(&w));
    ck_assert_int_eq(wall_look(&w, at(2 * H - 1, 2 * H - 1)), WALL_JUMPED); /* and back: the hour begins anew */
    ck_assert_int_eq(wall_look(&w, at(3 * H - 2, 3 * H - 2)), WALL_NO_CHANGE);
    ck_assert(!wall_is_trusted(&w));
    ck_assert_int_eq(wall_look(&w, at(3 * H - 1, 3 * H - 1)), WALL_STEADY);
    ck_assert(wall_is_trusted(&w));
}
END_TEST

START_TEST(a_gap)
{
    static const struct {
        int64_t kept_ms;
        bool is_trusted;
    } cases[] = {
        {WALL - 24 * H,     true },
        {WALL - 24 * H - 1, false}, /* the node was away for long, or the clock runs ahead */
        {WALL + 24 * H,     true },
        {WALL + 24 * H + 1, false}, /* the clock fell back */
    };
    WallTrust w;

    ck_assert_int_eq(wall_start(&w, at(0, 0), cases[_i].kept_ms), cases[_i].is_trusted);
    ck_assert_int_eq(wall_look(&w, at(H, H)), cases[_i].is_trusted ? WALL_NO_CHANGE : WALL_STEADY);
    ck_assert(wall_is_trusted(&w));
}
END_TEST

START_TEST(the_word_of_an_operator)
{
    WallTrust w;

    (void)wall_start(&w, at(0, 0), WALL + 1000 * H);
    ck_assert(!wall_is_trusted(&w));
    wall_accept(&w, at(1, 500 * H)); /* a jump that nobody has looked at yet is accepted with it */
    ck_assert(wall_is_trusted(&w));
    ck_assert_int_eq(wall_look(&w, at(2, 500 * H)), WALL_NO_CHANGE);
    ck_assert_int_eq(wall_look(&w, at(3, 501 * H)), WALL_JUMPED);
}
END_TEST

START_TEST(the_time_on_disk)
{
    char dir[] = "/tmp/leat-wall-XXXXXX", path[64];
    FILE *f;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(wall_kept(dir), 0);
    ck_assert_int_eq(wall_keep(dir, WALL), 0);
    ck_assert_int_eq(wall_kept(dir), WALL);
    snprintf(path, sizeof(path), "%s/last-time", dir);
    f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("yesterday\n", f);
    fclose(f);
    ck_assert_int_eq(wall_kept(dir), 0);
    unlink(path);
    rmdir(dir);
    ck_assert_int_lt(wall_keep(dir, WALL), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wall");
    TCase *c = tcase_create("wall");

    tcase_add_test(c, a_steady_clock);
    tcase_add_test(c, a_jump);
    tcase_add_loop_test(c, a_gap, 0, 4);
    tcase_add_test(c, the_word_of_an_operator);
    tcase_add_test(c, the_time_on_disk);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
