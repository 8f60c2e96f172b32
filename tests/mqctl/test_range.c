/* The range grammar of consume -r, group reset --to and topic trim --before. */

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mqctl/range.h"

#define NOW  INT64_C(1777716672031) /* 2026-05-02T10:11:12.031Z */
#define HOUR INT64_C(3600000)
#define DAY  (24 * HOUR)
#define MAY2 INT64_C(1777680000000)

typedef struct Case {
    const char *text;
    Range range;
} Case;

#define P(kind_, n_) {.kind = POINT_##kind_, .n = (n_)}

static const Case good[] = {
    {"start", {P(START, 0), P(NONE, 0)}},
    {"end", {P(END, 0), P(NONE, 0)}},
    {":end", {P(START, 0), P(END, 0)}},
    {"start:end", {P(START, 0), P(END, 0)}},
    {"47", {P(OFFSET, 47), P(NONE, 0)}},
    {"47:", {P(OFFSET, 47), P(NONE, 0)}},
    {":90", {P(START, 0), P(OFFSET, 90)}},
    {"47:90", {P(OFFSET, 47), P(OFFSET, 90)}},
    {"2:3", {P(OFFSET, 2), P(OFFSET, 3)}},
    {"+5", {P(PLUS, 5), P(NONE, 0)}},
    {"+5:+9", {P(PLUS, 5), P(PLUS, 9)}},
    {"-3", {P(MINUS, 3), P(END, 0)}}, /* the last three, and then it ends */
    {"-3:", {P(MINUS, 3), P(NONE, 0)}},
    {"-10:-3", {P(MINUS, 10), P(MINUS, 3)}},
    {"@-1h", {P(TIME, NOW - HOUR), P(NONE, 0)}},
    {"@-1h:end", {P(TIME, NOW - HOUR), P(END, 0)}},
    {"@-2h:-1h", {P(TIME, NOW - 2 * HOUR), P(TIME, NOW - HOUR)}},
    {"@-2h:@-1h", {P(TIME, NOW - 2 * HOUR), P(TIME, NOW - HOUR)}},
    {"@-1h30m", {P(TIME, NOW - HOUR - HOUR / 2), P(NONE, 0)}},
    {"@:-1h", {P(START, 0), P(TIME, NOW - HOUR)}},
    {"@2026-05-02", {P(TIME, MAY2), P(NONE, 0)}},
    {"@2026-05-02:1d", {P(TIME, MAY2), P(TIME, MAY2 + DAY)}},
    {"@2026-05-01:2026-05-02", {P(TIME, MAY2 - DAY), P(TIME, MAY2)}},
    {"@2026-05-02T09:00Z", {P(TIME, MAY2 + 9 * HOUR), P(NONE, 0)}},
    {"@2026-05-02T09:00Z:10m", {P(TIME, MAY2 + 9 * HOUR), P(TIME, MAY2 + 9 * HOUR + 600000)}},
    {"@2026-05-02T09:00:10m", {P(TIME, MAY2 + 9 * HOUR), P(TIME, MAY2 + 9 * HOUR + 600000)}},
    {"@2026-05-02T09:00:10", {P(TIME, MAY2 + 9 * HOUR + 10000), P(NONE, 0)}},
    {"@2026-05-02T09:00:10.250Z:end", {P(TIME, MAY2 + 9 * HOUR + 10250), P(END, 0)}},
    {"@2026-05-02T11:00+02:00", {P(TIME, MAY2 + 9 * HOUR), P(NONE, 0)}},
    {"@2026-05-02T04:30-0430:@2026-05-02T09:00Z", {P(TIME, MAY2 + 9 * HOUR), P(TIME, MAY2 + 9 * HOUR)}},
    {"@1777716672031", {P(TIME, NOW), P(NONE, 0)}},
    {"@1777716672", {P(TIME, NOW - 31), P(NONE, 0)}},
    {"@1777716672:5s", {P(TIME, NOW - 31), P(TIME, NOW - 31 + 5000)}},
};

START_TEST(good_ranges)
{
    const Case *c = &good[_i];
    const char *why;
    Range r;

    ck_assert_msg(range_parse(c->text, NOW, &r, &why) == 0, "%s", c->text);
    ck_assert_msg(r.from.kind == c->range.from.kind && r.from.n == c->range.from.n, "%s: from %d %lld", c->text,
                  (int)r.from.kind, (long long)r.from.n);
    ck_assert_msg(r.to.kind == c->range.to.kind && r.to.n == c->range.to.n, "%s: to %d %lld", c->text, (int)r.to.kind,
                  (long long)r.to.n);
}
END_TEST

static const char *const bad[] = {
    "",          ":",           "strat",       "1x",          "90:47",        "--3",        "+",         "-",
    "@",         "@yesterday",  "@2026-13-01", "@2026-02-30", "@2026-05-02T25:00", "@2026-05-02T9:00", "@-1parsec",
    "47:90:100", "end:",        "@-1h:-2h",    "start end",   "1777777777777777777777", "@99999999999999999999",
    "+1:x",      "@2026-05-02T09:00Z:", ":@", "47:@", "10m",
};

START_TEST(bad_ranges)
{
    const char *why = NULL;
    Range r = {.from = {.n = 77}};

    if (strcmp(bad[_i], "end:") == 0 || strcmp(bad[_i], "@2026-05-02T09:00Z:") == 0) {
        ck_assert_int_eq(range_parse(bad[_i], NOW, &r, &why), 0); /* an open end may be written out */
        return;
    }
    ck_assert_msg(range_parse(bad[_i], NOW, &r, &why) == -EINVAL, "'%s'", bad[_i]);
    ck_assert_ptr_nonnull(why);
    ck_assert_int_eq(r.from.n, 77);
}
END_TEST

START_TEST(points)
{
    const char *why;
    Point p;

    ck_assert_int_eq(point_parse("@-1h", NOW, &p, &why), 0);
    ck_assert_int_eq(p.n, NOW - HOUR);
    ck_assert_int_eq(point_parse("end", NOW, &p, &why), 0);
    ck_assert_int_eq(p.kind, POINT_END);
    ck_assert_int_eq(point_parse("1:2", NOW, &p, &why), -EINVAL);
    ck_assert_int_eq(point_parse("", NOW, &p, &why), -EINVAL);
}
END_TEST

START_TEST(resolving)
{
    static const struct {
        Point p;
        int64_t time_offset, expect;
    } v[] = {
        {P(START, 0), -1, 100}, {P(END, 0), -1, 200},       {P(OFFSET, 150), -1, 150}, {P(OFFSET, 5), -1, 100},
        {P(OFFSET, 999), -1, 200}, {P(PLUS, 5), -1, 105},   {P(PLUS, 100), -1, 200},   {P(PLUS, INT64_MAX), -1, 200},
        {P(MINUS, 1), -1, 199}, {P(MINUS, 100), -1, 100},   {P(MINUS, INT64_MAX), -1, 100},
        {P(TIME, 1), 120, 120}, {P(TIME, 1), -1, 200},      {P(TIME, 1), 50, 100},
    };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        ck_assert_int_eq(point_resolve(&v[i].p, 100, 200, v[i].time_offset), v[i].expect);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mqctl/range");
    TCase *t = tcase_create("range");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, t);
    tcase_add_loop_test(t, good_ranges, 0, (int)(sizeof good / sizeof *good));
    tcase_add_loop_test(t, bad_ranges, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, points);
    tcase_add_test(t, resolving);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
