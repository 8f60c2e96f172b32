/* The small parsers: a table of texts each, good and bad. */

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static const struct {
    const char *text;
    int result;
    int64_t value;
} sizes[] = {
    {"0",                    0,       0               },
    {"64",                   0,       64              },
    {"64K",                  0,       65536           },
    {"64k",                  0,       65536           },
    {"64KiB",                0,       65536           },
    {"64kB",                 0,       64000           },
    {"64KB",                 0,       64000           },
    {"1GiB",                 0,       1073741824      },
    {"1GB",                  0,       1000000000      },
    {"1G",                   0,       1073741824      },
    {"2 MiB",                0,       2097152         },
    {"7E",                   0,       INT64_C(7) << 60},
    {"100B",                 0,       100             },
    {"-1",                   0,       -1              },
    {"-9223372036854775808", 0,       INT64_MIN       },
    {"9223372036854775807",  0,       INT64_MAX       },
    {"9223372036854775808",  -ERANGE, 0               },
    {"8E",                   -ERANGE, 0               },
    {"",                     -EINVAL, 0               },
    {"K",                    -EINVAL, 0               },
    {"1X",                   -EINVAL, 0               },
    {"1KiBs",                -EINVAL, 0               },
    {"1iB",                  -EINVAL, 0               },
    {"1.5G",                 -EINVAL, 0               },
    {"0x10",                 -EINVAL, 0               },
    {"+1",                   -EINVAL, 0               },
    {"1 2",                  -EINVAL, 0               },
};

START_TEST(size_table)
{
    int64_t v = -77;

    ck_assert_int_eq(parse_size(sizes[_i].text, &v), sizes[_i].result);
    ck_assert_int_eq(v, sizes[_i].result == 0 ? sizes[_i].value : -77);
}
END_TEST

static const struct {
    const char *text;
    int64_t unit;
    int result;
    int64_t value;
} durations[] = {
    {"250ms",                    1,       0,       250       },
    {"7d",                       1,       0,       604800000 },
    {"36h",                      1,       0,       129600000 },
    {"90s",                      1,       0,       90000     },
    {"90sec",                    1,       0,       90000     },
    {"10min",                    1,       0,       600000    },
    {"10m",                      1,       0,       600000    },
    {"2w",                       1,       0,       1209600000},
    {"1h30m",                    1,       0,       5400000   },
    {"1h 30m 5s",                1,       0,       5405000   },
    {"168",                      3600000, 0,       604800000 },
    {"-1",                       3600000, 0,       -3600000  },
    {"-1",                       1,       0,       -1        },
    {"0",                        1,       0,       0         },
    {"1h30",                     1,       -EINVAL, 0         },
    {"",                         1,       -EINVAL, 0         },
    {"d",                        1,       -EINVAL, 0         },
    {"5y",                       1,       -EINVAL, 0         },
    {"1.5h",                     1,       -EINVAL, 0         },
    {"9223372036854775807w",     1,       -ERANGE, 0         },
    {"9223372036854775807ms1ms", 1,       -ERANGE, 0         },
};

START_TEST(duration_table)
{
    int64_t v = -77;

    ck_assert_int_eq(parse_duration(durations[_i].text, durations[_i].unit, &v),
                     durations[_i].result);
    ck_assert_int_eq(v, durations[_i].result == 0 ? durations[_i].value : -77);
}
END_TEST

START_TEST(bools_and_numbers)
{
    int64_t v;
    bool b;

    ck_assert_int_eq(parse_bool("Yes", &b), 0);
    ck_assert(b);
    ck_assert_int_eq(parse_bool("OFF", &b), 0);
    ck_assert(!b);
    ck_assert_int_eq(parse_bool("2", &b), -EINVAL);
    ck_assert_int_eq(parse_bool("", &b), -EINVAL);
    ck_assert_int_eq(parse_i64("-9223372036854775808", &v), 0);
    ck_assert_int_eq(v, INT64_MIN);
    ck_assert_int_eq(parse_i64("9223372036854775808", &v), -ERANGE);
    ck_assert_int_eq(parse_i64("12 ", &v), -EINVAL);
    ck_assert_int_eq(parse_i64("--1", &v), -EINVAL);
}
END_TEST

START_TEST(uuid_round_trip)
{
    Uuid u, back;
    char text[UUID_TEXT_SIZE];
    static const Uuid known = {
        {0x00, 0x10, 0x83, 0x10, 0x51, 0x87, 0x20, 0x92, 0x8b, 0x30, 0xd3, 0x8f, 0x41, 0x14, 0x93,
         0xff}
    };

    for (int i = 0; i < 300; i++) {
        ck_assert_int_eq(uuid_random(&u), 0);
        uuid_format(&u, text);
        ck_assert_uint_eq(strlen(text), 22);
        ck_assert_int_ne(text[0], '-');
        ck_assert_int_eq(uuid_parse(text, &back), 0);
        ck_assert(uuid_equal(&u, &back));
        ck_assert_int_eq(u.b[6] >> 4, 4);
    }
    uuid_format(&known, text);
    ck_assert_str_eq(text, "ABCDEFGHIJKLMNOPQRST_w");
    ck_assert_int_eq(uuid_parse("ABCDEFGHIJKLMNOPQRST_x", &back),
                     -EINVAL); /* stray bits at the end */
    ck_assert_int_eq(uuid_parse("ABCDEFGHIJKLMNOPQRST_", &back), -EINVAL);
    ck_assert_int_eq(uuid_parse("ABCDEFGHIJKLMNOPQRST+w", &back), -EINVAL);
    ck_assert_int_eq(uuid_parse("ABCDEFGHIJKLMNOPQRST_w=", &back), -EINVAL);
}
END_TEST

START_TEST(printing_for_people)
{
    static const struct {
        int64_t value;
        const char *size, *duration;
    } rows[] = {
        {0,          "0 B",      "0ms"   },
        {999,        "999 B",    "999ms" },
        {1000,       "1.0 kB",   "1s"    },
        {1500,       "1.5 kB",   "1.5s"  },
        {90000,      "90.0 kB",  "1m30s" },
        {999949,     "999.9 kB", "16m39s"},
        {999950,     "1.0 MB",   "16m39s"},
        {5400000,    "5.4 MB",   "1h30m" },
        {1200000000, "1.2 GB",   "13d21h"},
        {-1,         "-1 B",     "-1ms"  },
    };
    char out[32];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        format_size(rows[i].value, out, sizeof(out));
        ck_assert_str_eq(out, rows[i].size);
        format_duration_ms(rows[i].value, out, sizeof(out));
        ck_assert_str_eq(out, rows[i].duration);
    }
    format_size(INT64_MAX, out, sizeof(out));
    ck_assert_str_eq(out, "9.2 EB");
    format_size(INT64_MAX, out, 4);
    ck_assert_str_eq(out, "9.2");
}
END_TEST

START_TEST(suggestions)
{
    static const char *const names[] = {"num.partitions", "log.retention.hours", "listeners", "ab"};
    char longest[4096];

    ck_assert_str_eq(text_suggest("num.partition", names, 4), "num.partitions");
    ck_assert_str_eq(text_suggest("num.partitoins", names, 4), "num.partitions");
    ck_assert_str_eq(text_suggest("listener", names, 4), "listeners");
    ck_assert_ptr_null(text_suggest("xy", names, 4));
    ck_assert_ptr_null(text_suggest("unrelated.name", names, 4));
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    ck_assert_ptr_null(text_suggest(longest, names, 4));
    ck_assert_ptr_null(text_suggest("", names, 4));
}
END_TEST

START_TEST(topic_names)
{
    char name[300];

    ck_assert(topic_name_is_valid("a", 1));
    ck_assert(topic_name_is_valid("...", 3));
    ck_assert(topic_name_is_valid("Az09._-", 7));
    ck_assert(!topic_name_is_valid("", 0));
    ck_assert(!topic_name_is_valid(".", 1));
    ck_assert(!topic_name_is_valid("..", 2));
    ck_assert(!topic_name_is_valid("a/b", 3));
    ck_assert(!topic_name_is_valid("a\0b", 3));
    ck_assert(!topic_name_is_valid("\xc3\xa4", 2));
    memset(name, 'x', sizeof(name));
    ck_assert(topic_name_is_valid(name, 249));
    ck_assert(!topic_name_is_valid(name, 250));
}
END_TEST

START_TEST(utf8)
{
    static const char *const good[] = {"",
                                       "abc",
                                       "\xc2\x80",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "a\xe2\x82\xac"};
    static const char *const bad[] = {"\x80",
                                      "\xc1\xbf",
                                      "\xc3",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xff",
                                      "\xe2\x82",
                                      "\xe2\x28\xa1",
                                      "\xf8\x88\x80\x80\x80"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        ck_assert(utf8_is_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        ck_assert(!utf8_is_valid(bad[i], strlen(bad[i])));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("text");
    TCase *t = tcase_create("text");
    SRunner *r = srunner_create(s);
    int failed;

    suite_add_tcase(s, t);
    tcase_add_loop_test(t, size_table, 0, (int)ARRAY_SIZE(sizes));
    tcase_add_loop_test(t, duration_table, 0, (int)ARRAY_SIZE(durations));
    tcase_add_test(t, bools_and_numbers);
    tcase_add_test(t, uuid_round_trip);
    tcase_add_test(t, printing_for_people);
    tcase_add_test(t, suggestions);
    tcase_add_test(t, topic_names);
    tcase_add_test(t, utf8);
    srunner_run_all(r, CK_ENV);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
