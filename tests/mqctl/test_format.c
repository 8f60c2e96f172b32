/* Formats, both ways: what consume prints and how produce cuts its input. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "mqctl/format.h"

static char why[FORMAT_WHY_MAX];

static Format *compile(const char *text, bool input)
{
    Format *f = NULL;
    int r = format_compile(text, input, &f, why);

    ck_assert_msg(r == 0, "'%s': %d %s", text, r, why);
    return f;
}

/* ---- input --------------------------------------------------------------------------------------------------------- */

/* A pipe that gives the bytes in pieces of `step`, so that every field is cut somewhere. */
typedef struct Feeder {
    int fds[2];
    const char *data;
    size_t size, at, step;
} Feeder;

static void feed(void *userdata)
{
    Feeder *f = userdata;
    size_t n = MIN(f->step, f->size - f->at);

    if (n > 0)
        ck_assert_int_eq(write(f->fds[1], f->data + f->at, n), (ssize_t)n);
    f->at += n;
    if (f->at == f->size && f->fds[1] >= 0) {
        close(f->fds[1]);
        f->fds[1] = -1;
    }
}

typedef struct Reader {
    Format *format;
    Feeder feeder;
    Input in;
} Reader;

static void reader_open(Reader *r, const char *format, const void *data, size_t size, size_t step)
{
    *r = (Reader){.format = compile(format, true), .feeder = {.data = data, .size = size, .step = step}};
    ck_assert_int_eq(pipe(r->feeder.fds), 0);
    input_init(&r->in, r->feeder.fds[0], r->format, 1 << 20);
    r->in.before_read = feed;
    r->in.userdata = &r->feeder;
}

static void reader_close(Reader *r)
{
    input_deinit(&r->in);
    format_free(r->format);
    close(r->feeder.fds[0]);
    if (r->feeder.fds[1] >= 0)
        close(r->feeder.fds[1]);
}

static void expect_bytes(const void *p, ptrdiff_t size, const char *want, ptrdiff_t want_size)
{
    if (want == NULL)
        want_size = -1;
    ck_assert_int_eq(size, want_size);
    if (size > 0)
        ck_assert_mem_eq(p, want, (size_t)size);
}

typedef struct Parse {
    const char *format, *input;
    size_t size; /* of input, 0 = strlen */
    struct {
        const char *key, *value;
    } records[4]; /* ends with both NULL and none_left */
    int n;
} Parse;

static const Parse parses[] = {
    {"%v\\n", "a\nbb\n\nlast", 0, {{NULL, "a"}, {NULL, "bb"}, {NULL, ""}, {NULL, "last"}}, 4},
    {"%k:%v\\n", "k1:v1\nk2:v:2\n", 0, {{"k1", "v1"}, {"k2", "v:2"}}, 2},
    {"%k:%v\\n", ":\nk:", 0, {{"", ""}, {"k", ""}}, 2},
    {"%k\\t%v\\n", "a\tb\n", 0, {{"a", "b"}}, 1},
    {"%k\\n%v\\n", "k1\nv1\nk2\nv2\n", 0, {{"k1", "v1"}, {"k2", "v2"}}, 2},
    {"%v %k\\n", "the-value key\n", 0, {{"key", "the-value"}}, 1},
    {"<%k|%v>", "<a|b><c|d>", 0, {{"a", "b"}, {"c", "d"}}, 2},
    {"%v", "everything\nup to the end", 0, {{NULL, "everything\nup to the end"}}, 1},
    {"%V{big32}%v", "\0\0\0\3a\nb\0\0\0\0\0\0\0\1x", 16, {{NULL, "a\nb"}, {NULL, ""}, {NULL, "x"}}, 3},
    {"%K{little16}%k%V{big8}%v", "\2\0kk\3vvv", 8, {{"kk", "vvv"}}, 1},
    {"%K %V %k%v\\n", "1 2 abb\n", 0, {{"a", "bb"}}, 1},
    {"%V{hex8}%v", "03abc", 0, {{NULL, "abc"}}, 1},
    {"%k{hex}=%v{base64}\\n", "6b31=aGVsbG8=\n", 0, {{"k1", "hello"}}, 1},
    {"%k{base64}\\n", "aGk\n", 0, {{"hi", NULL}}, 1},
    {"%k--%v--\\n", "a-b--c--\n", 0, {{"a-b", "c"}}, 1},
};

START_TEST(input_is_cut_into_records)
{
    const Parse *p = &parses[_i];
    size_t size = p->size ? p->size : strlen(p->input);

    for (size_t step = 1; step <= size; step++) {
        Reader r;

        reader_open(&r, p->format, p->input, size, step);
        for (int i = 0; i < p->n; i++) {
            int e = input_next(&r.in, why);
            const char *k = p->records[i].key, *v = p->records[i].value;

            ck_assert_msg(e == 1, "'%s' step %zu record %d: %d %s", p->format, step, i, e, why);
            expect_bytes(r.in.out.key, r.in.out.key_size, k, k ? (ptrdiff_t)strlen(k) : 0);
            expect_bytes(r.in.out.value, r.in.out.value_size, v, v ? (ptrdiff_t)strlen(v) : 0);
        }
        ck_assert_int_eq(input_next(&r.in, why), 0);
        ck_assert_int_eq(r.in.bytes, (int64_t)size);
        reader_close(&r);
    }
}
END_TEST

typedef struct Refuse {
    const char *format, *input, *says;
    int good; /* records before it */
} Refuse;

static const Refuse refuses[] = {
    {"%k:%v\\n", "a:b\nnodelimiter\nc:d\n", "line 2: no ':' key delimiter", 1},
    {"%k:%v\\n", "nodelimiter", "line 1: no ':' key delimiter", 0},
    {"%k:%v\\n", "a:b\n\n", "line 2: no ':'", 1},
    {"%k\\t%v\\n", "a:b\n", "no '\\t' key delimiter", 0},
    {"%V{big32}%v", "\1", "input ends inside a number", 0},
    {"%V %v\\n", "10 abc\n", "input ends inside a value of 10 bytes", 0},
    {"%V %v\\n", "2 abc\n", "expected '\\n'", 0},
    {"%V %v\\n", "x abc\n", "expected a number", 0},
    {"%V %v\\n", "-3 abc\n", "not possible", 0},
    {"%V %v\\n", "99999999999 a\n", "not possible", 0},
    {"%v{hex}\\n", "abc\n", "not valid hex", 0},
    {"%v{hex}\\n", "zz\n", "not valid hex", 0},
    {"%v{base64}\\n", "a!\n", "not valid base64", 0},
    {"<%v>\\n", "[x]\n", "expected '<'", 0},
    {"%H{big8}%h{%k=%v,}%v\\n", "\1a=1v\n", "no ','", 0},
};

START_TEST(bad_input_is_refused_where_it_is)
{
    const Refuse *p = &refuses[_i];
    Reader r;
    int e;

    reader_open(&r, p->format, p->input, strlen(p->input), 3);
    for (int i = 0; i < p->good; i++)
        ck_assert_int_eq(input_next(&r.in, why), 1);
    e = input_next(&r.in, why);
    ck_assert_msg(e == -EBADMSG, "'%s': %d", p->input, e);
    ck_assert_msg(strstr(why, p->says) != NULL, "'%s' does not say '%s'", why, p->says);
    reader_close(&r);
}
END_TEST

START_TEST(a_missing_key_may_be_null)
{
    Reader r;

    reader_open(&r, "%k:%v\\n", "a:b\nplain\nc:d\n", 14, 2);
    r.in.missing_key_is_null = true;
    ck_assert_int_eq(input_next(&r.in, why), 1);
    ck_assert_int_eq(input_next(&r.in, why), 1);
    ck_assert_int_eq(r.in.out.key_size, -1);
    expect_bytes(r.in.out.value, r.in.out.value_size, "plain", 5);
    ck_assert_int_eq(input_next(&r.in, why), 1);
    expect_bytes(r.in.out.key, r.in.out.key_size, "c", 1);
    ck_assert_int_eq(input_next(&r.in, why), 0);
    reader_close(&r);
}
END_TEST

START_TEST(the_other_fields)
{
    Reader r;
    const char *text = "orders 3 1700000000123 2 a=1,b=,v\n";

    reader_open(&r, "%t %p %d %H %h{%k=%v,}%v\\n", text, strlen(text), 5);
    ck_assert_int_eq(input_next(&r.in, why), 1);
    expect_bytes(r.in.out.topic, r.in.out.topic_size, "orders", 6);
    ck_assert_int_eq(r.in.out.partition, 3);
    ck_assert_int_eq(r.in.out.timestamp_ms, 1700000000123);
    ck_assert_uint_eq(r.in.out.headers_count, 2);
    ck_assert_uint_eq(r.in.out.headers[0].key_size, 1);
    ck_assert_mem_eq(r.in.out.headers[0].value, "1", 1);
    ck_assert_int_eq(r.in.out.headers[1].value_size, 0);
    ck_assert_ptr_nonnull(r.in.out.headers[1].value); /* empty, not null */
    reader_close(&r);
}
END_TEST

START_TEST(a_record_has_a_largest_size)
{
    static char big[3 << 20];
    Reader r;

    memset(big, 'x', sizeof big);
    reader_open(&r, "%v\\n", big, sizeof big, 60000);
    ck_assert_int_eq(input_next(&r.in, why), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(why, "larger than"));
    ck_assert_uint_le(r.in.buf.capacity, 4 << 20);
    reader_close(&r);
}
END_TEST

/* ---- compiling ----------------------------------------------------------------------------------------------------- */

START_TEST(bad_formats)
{
    static const struct {
        const char *text;
        bool input;
        const char *says;
    } v[] = {
        {"%z", false, "unknown verb"},     {"%v{rot13}", false, "unknown encoding"}, {"%v{hex", false, "no }"},
        {"%", false, "at the end"},        {"\\q", false, "unknown escape"},         {"\\x4", false, "unknown escape"},
        {"%h", false, "needs a format"},   {"%h{%p}", false, "only"},                {"%V{big12}", false, "unknown encoding"},
        {"%k%v\\n", true, "nothing says where %k ends"}, {"hello", true, "needs %k or %v"},
        {"%h{%k=%v,}%v\\n", true, "needs %H"}, {"%o %v\\n", true, "cannot be read"}, {"%v{json}\\n", true, "cannot be read"},
        {"%V{big4}%v", true, "unknown encoding"},
    };

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        Format *f = NULL;
        int r = format_compile(v[i].text, v[i].input, &f, why);
        ck_assert_msg(r == -EINVAL, "'%s': %d", v[i].text, r);
        ck_assert_msg(strstr(why, v[i].says) != NULL, "'%s': '%s'", v[i].text, why);
    }
}
END_TEST

/* ---- printing: without a topic handle, so the verbs that need none -------------------------------------------------- */

static void expect_print(const char *format, const leat_record *r, const char *want, size_t size)
{
    FormatContext context = {.number = 7, .start_offset = 10, .end_offset = 99};
    Format *f = compile(format, false);
    Buf out = BUF_NULL;

    ck_assert_int_eq(format_record(f, r, &context, &out), 0);
    ck_assert_msg(out.size == size && memcmp(out.data, want, size) == 0, "'%s' gave '%.*s'", format, (int)out.size,
                  (char *)out.data);
    buf_deinit(&out);
    format_free(f);
}

START_TEST(records_are_printed)
{
    leat_record r = {.partition = 3, .offset = 41120, .timestamp_ms = 1777716672031, .leader_epoch = 5,
                     .key = "k\x01", .key_size = 2, .value = "a\"\xff", .value_size = 3};

#define SAME(format, want) expect_print(format, &r, want, sizeof(want) - 1)
    SAME("%p:%o %e %i%%\\n", "3:41120 5 7%\n");
    SAME("%k%v", "k\x01"
                 "a\"\xff");
    SAME("%k{hex} %v{base64} %v{base64raw}", "6b01 YSL/ YSL/");
    SAME("%v{json}", "{\"base64\":\"YSL/\"}");
    SAME("%K{big32}%k", "\0\0\0\2k\x01");
    SAME("%V{little16}", "\3\0");
    SAME("%o{hex32} %o{hex64}", "0000a0a0 000000000000a0a0");
    SAME("%o{big8}", "\xa0");
    SAME("%d %d{s} %d{iso}", "1777716672031 1777716672 2026-05-02T10:11:12.031Z");
    SAME("%d{strftime[%F %H]}", "2026-05-02 10");
    SAME("%[ %] %x %H", "10 99 -1 0");
    SAME("%{%}\\x41\\t", "{}A\t");
    r.key_size = -1;
    r.value = "text";
    r.value_size = 4;
    SAME("[%k]%K %v{json}", "[]0 \"text\"");
    r.timestamp_ms = -1;
    SAME("%d{iso}", "1969-12-31T23:59:59.999Z");
}
END_TEST

/* What a framed format prints, the same format reads. */
START_TEST(framed_formats_are_inverse)
{
    static const char format[] = "%K{big32}%k%V{big32}%v";
    Rng rng;
    Buf stream = BUF_NULL;
    static struct {
        uint8_t key[40], value[300];
        int key_size, value_size;
    } records[50];
    Format *f = compile(format, false);
    FormatContext context = {0};
    Reader reader;

    rng_init(&rng, 42);
    for (size_t i = 0; i < 50; i++) {
        records[i].key_size = (int)rng_below(&rng, 40);
        records[i].value_size = (int)rng_below(&rng, 300);
        for (int k = 0; k < 40; k++)
            records[i].key[k] = (uint8_t)rng_next(&rng);
        for (int k = 0; k < 300; k++)
            records[i].value[k] = (uint8_t)rng_next(&rng);
        leat_record r = {.key = records[i].key, .key_size = records[i].key_size, .value = records[i].value,
                         .value_size = records[i].value_size};
        ck_assert_int_eq(format_record(f, &r, &context, &stream), 0);
    }
    reader_open(&reader, format, stream.data, stream.size, 61);
    for (size_t i = 0; i < 50; i++) {
        ck_assert_msg(input_next(&reader.in, why) == 1, "%s", why);
        expect_bytes(reader.in.out.key, reader.in.out.key_size, (char *)records[i].key, records[i].key_size);
        expect_bytes(reader.in.out.value, reader.in.out.value_size, (char *)records[i].value, records[i].value_size);
    }
    ck_assert_int_eq(input_next(&reader.in, why), 0);
    reader_close(&reader);
    format_free(f);
    buf_deinit(&stream);
}
END_TEST

START_TEST(json_lines)
{
    Reader r;
    const char *line;
    size_t size;

    reader_open(&r, "%v\\n", "{}\n{\"a\":1}", 10, 4);
    ck_assert_int_eq(input_next_line(&r.in, &line, &size, why), 1);
    ck_assert_uint_eq(size, 2);
    ck_assert_int_eq(input_next_line(&r.in, &line, &size, why), 1);
    ck_assert_uint_eq(size, 7);
    ck_assert_mem_eq(line, "{\"a\":1}", 7);
    ck_assert_int_eq(input_next_line(&r.in, &line, &size, why), 0);
    reader_close(&r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mqctl/format");
    TCase *t = tcase_create("format");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, t);
    tcase_add_loop_test(t, input_is_cut_into_records, 0, (int)(sizeof parses / sizeof *parses));
    tcase_add_loop_test(t, bad_input_is_refused_where_it_is, 0, (int)(sizeof refuses / sizeof *refuses));
    tcase_add_test(t, a_missing_key_may_be_null);
    tcase_add_test(t, the_other_fields);
    tcase_add_test(t, a_record_has_a_largest_size);
    tcase_add_test(t, bad_formats);
    tcase_add_test(t, records_are_printed);
    tcase_add_test(t, framed_formats_are_inverse);
    tcase_add_test(t, json_lines);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
