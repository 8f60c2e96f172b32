/* mqctl log on segment files that are made here byte by byte. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "mqctl/mqctl.h"
#include "mqctl/output.h"
#include "wire/compress.h"

static char root[64];
static int place; /* open partition directory */

static void setup(void)
{
    char path[256];
    int fd = open("/dev/null", O_WRONLY);

    dup2(fd, STDERR_FILENO);
    close(fd);
    snprintf(root, sizeof root, "/tmp/leat-log-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(path, sizeof path, "%s/1/data/log/t-0", root);
    ck_assert_int_eq(fs_mkdir_p(path, 0755), 0);
    place = open(path, O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(place, 0);
}

static void teardown(void)
{
    close(place);
    fs_remove_tree(root);
}

/* One batch of n records at an offset, appended to `out`. Return: its size. */
static size_t add_batch(Buf *out, int64_t offset, int n, BatchCodec codec)
{
    static uint8_t memory[8192];
    Buf packed = BUF_NULL;
    BatchBuilder b;
    size_t size;

    batch_builder_init(&b, memory, sizeof memory);
    for (int i = 0; i < n; i++) {
        RecordView r = {.timestamp = 1000 + i, .key = "key", .key_size = 3, .value = "some value", .value_size = 10};
        ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    }
    size = batch_builder_finish(&b, &BATCH_STAMP_NONE);
    ck_assert_int_eq(batch_compress(memory, size, codec, INT32_MIN, &packed), 0);
    batch_set_base_offset(packed.data, offset);
    ck_assert_int_eq(buf_append(out, packed.data, packed.size), 0);
    size = packed.size;
    buf_deinit(&packed);
    return size;
}

static void segment_name(int64_t base, const char *suffix, char out[64])
{
    snprintf(out, 64, "%020" PRId64 "%s", base, suffix);
}

static void write_segment(int64_t base, const Buf *bytes)
{
    char name[64];
    int fd;

    segment_name(base, ".log", name);
    fd = openat(place, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ck_assert_int_eq(write(fd, bytes->data, bytes->size), (ssize_t)bytes->size);
    close(fd);
}

static void write_file(const char *relative, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/1/data/log/%s", root, relative);
    ck_assert_int_eq(fs_write_file_atomic(path, text, strlen(text), 0644), 0);
}

static void stopped_in_order(const char *points)
{
    write_file(".kafka_cleanshutdown", "");
    write_file("recovery-point-offset-checkpoint", points);
}

static char printed[1 << 16];

static int mqctl(const char *words)
{
    char line[512], *argv[32], path[] = "/tmp/leat-log-out-XXXXXX";
    int argc = 0, saved = dup(STDOUT_FILENO), fd = mkstemp(path), r;
    ssize_t n;

    unlink(path);
    snprintf(line, sizeof line, "mqctl --sandbox %s %s", root, words);
    for (char *save = NULL, *w = strtok_r(line, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    r = mqctl_main(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    n = pread(fd, printed, sizeof printed - 1, 0);
    printed[n > 0 ? n : 0] = '\0';
    close(fd);
    return r;
}

/* "0-1 2-4": offsets of the batches that dump sees; an empty batch shows as (2-4). */
static void expect_dump(const char *want)
{
    char got[512] = "";
    json_t *doc, *batch;
    size_t i;

    (void)mqctl("log dump t-0 -q -o json");
    doc = json_loads(printed, 0, NULL);
    ck_assert_ptr_nonnull(doc);
    json_array_foreach(json_object_get(doc, "batches"), i, batch)
    {
        size_t n = strlen(got);
        bool empty = doc_i64(batch, "count", -1) == 0;
        snprintf(got + n, sizeof got - n, "%s%s%d-%d%s", i ? " " : "", empty ? "(" : "", (int)doc_i64(batch, "base_offset", -1),
                 (int)doc_i64(batch, "last_offset", -1), empty ? ")" : "");
    }
    json_decref(doc);
    ck_assert_str_eq(got, want);
}

static size_t bad_count(void)
{
    json_t *doc;
    size_t n;

    (void)mqctl("log verify --deep -o json");
    doc = json_loads(printed, 0, NULL);
    n = json_array_size(json_object_get(doc, "bad"));
    json_decref(doc);
    return n;
}

START_TEST(good_segments)
{
    Buf b = BUF_NULL;

    add_batch(&b, 0, 3, CODEC_NONE);
    add_batch(&b, 3, 2, CODEC_ZSTD);
    write_segment(0, &b);
    buf_clear(&b);
    add_batch(&b, 5, 1, CODEC_SNAPPY);
    write_segment(5, &b);
    stopped_in_order("0\n1\nt 0 6\n");
    ck_assert_int_eq(mqctl("log verify --all --deep -o json"), MQ_OK);
    json_t *doc = json_loads(printed, 0, NULL);
    ck_assert_int_eq(doc_i64(doc, "partitions", 0), 1);
    ck_assert_int_eq(doc_i64(doc, "segments", 0), 2);
    ck_assert_int_eq(doc_i64(doc, "batches", 0), 3);
    ck_assert_int_eq(doc_i64(doc, "records", 0), 6);
    json_decref(doc);
    expect_dump("0-2 3-4 5-5");
    ck_assert_int_eq(mqctl("log dump t-0 --from 4 --to 5 --deep -o json"), MQ_OK);
    ck_assert_ptr_nonnull(strstr(printed, "\"offset\":4"));
    ck_assert_ptr_null(strstr(printed, "\"offset\":3"));
    ck_assert_ptr_nonnull(strstr(printed, "some value"));
    buf_deinit(&b);
}
END_TEST

START_TEST(every_flipped_byte_is_found)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE), second = add_batch(&b, 2, 3, CODEC_LZ4);

    add_batch(&b, 5, 1, CODEC_NONE);
    stopped_in_order("0\n1\nt 0 6\n");
    for (size_t at = 0; at < second; at++) {
        Buf copy = BUF_NULL;

        if (at >= 12 && at < 16) /* the leader epoch is under no checksum */
            continue;
        ck_assert_int_eq(buf_append(&copy, b.data, b.size), 0);
        copy.data[first + at] ^= 0x40;
        write_segment(0, &copy);
        ck_assert_msg(bad_count() > 0, "byte %zu", at);
        buf_deinit(&copy);
    }
    write_segment(0, &b);
    ck_assert_uint_eq(bad_count(), 0);
    buf_deinit(&b);
}
END_TEST

static bool exists(const char *name)
{
    return faccessat(place, name, F_OK, 0) == 0;
}

START_TEST(repair_drops_exactly_the_bad_batch)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE), second = add_batch(&b, 2, 3, CODEC_NONE);
    struct stat st;

    add_batch(&b, 5, 1, CODEC_NONE);
    b.data[first + 70] ^= 1;
    write_segment(0, &b);
    write_file("t-0/00000000000000000000.index", "");
    write_file("t-0/damaged-ranges", "0\n1\n2 5 0 85 200\n");
    stopped_in_order("0\n1\nt 0 6\n");
    ck_assert_int_eq(mqctl("log verify --all"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 --dry-run"), MQ_E_REFUSED);
    ck_assert_int_eq(mqctl("log verify"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify --deep"), MQ_OK);
    expect_dump("0-1 (2-4) 5-5"); /* nothing moves: an empty batch holds the place */
    ck_assert(!exists("00000000000000000000.index"));
    ck_assert(!exists("damaged-ranges"));
    ck_assert_int_eq(fstatat(place, "00000000000000000000.log", &st, 0), 0);
    ck_assert_int_eq(st.st_size, (off_t)(b.size - second + 61));
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK); /* nothing left to do */
    buf_deinit(&b);
}
END_TEST

START_TEST(repair_of_two_batches_and_of_the_end)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE), second = add_batch(&b, 2, 1, CODEC_NONE), third;

    third = add_batch(&b, 3, 1, CODEC_NONE);
    add_batch(&b, 4, 3, CODEC_NONE);
    b.data[first + 70] ^= 1;
    memset(b.data + first + second + third, 0xee, b.size - first - second - third); /* nothing of the last can be read */
    write_segment(0, &b);
    stopped_in_order("0\n2\nother 0 9\nt 0 7\n");
    ck_assert_uint_eq(bad_count(), 2);
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify --deep"), MQ_OK);
    expect_dump("0-1 (2-2) 3-3 (4-6)"); /* the log still ends at 7 */
    buf_deinit(&b);
}
END_TEST

START_TEST(records_that_lie_under_a_good_checksum)
{
    Buf b = BUF_NULL;
    BatchHeader h;

    add_batch(&b, 0, 2, CODEC_NONE);
    b.data[61] = 0x7e; /* length of the first record */
    ck_assert_int_eq(batch_header_decode(b.data, b.size, &h), 0);
    h.crc = batch_crc_compute(b.data, &h);
    batch_header_encode(&h, b.data);
    write_segment(0, &b);
    stopped_in_order("0\n1\nt 0 2\n");
    ck_assert_int_eq(mqctl("log verify"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify --deep"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify --deep"), MQ_OK);
    expect_dump("(0-1)");
    buf_deinit(&b);
}
END_TEST

START_TEST(a_torn_tail_is_not_damage)
{
    Buf b = BUF_NULL;

    add_batch(&b, 0, 2, CODEC_NONE);
    ck_assert_int_eq(buf_append(&b, "half a batch", 12), 0);
    write_segment(0, &b);
    ck_assert_int_eq(mqctl("log verify"), MQ_OK); /* no clean-shutdown marker: the next start cuts it */
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    expect_dump("0-1");
    ck_assert_int_eq(mqctl("log verify nosuch-0"), MQ_E_NOT_FOUND);
    ck_assert_int_eq(mqctl("log verify t"), MQ_E_USAGE);
    ck_assert_int_eq(mqctl("log verify ../t-0"), MQ_E_USAGE);
    ck_assert_int_eq(mqctl("log dump t-0x"), MQ_E_USAGE);
    buf_deinit(&b);
}
END_TEST

START_TEST(a_node_that_runs_is_left_alone)
{
    static const char *const verbs[] = {"log verify", "log dump t-0", "log repair t-0 -y", "meta dump", "meta restore /dev/null"};
    char path[256];
    int fd;

    snprintf(path, sizeof path, "%s/1/data/.lock", root);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        ck_assert_msg(mqctl(verbs[i]) == MQ_E_CONFLICT, "%s", verbs[i]);
    close(fd);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mqctl/log");
    TCase *t = tcase_create("log");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, t);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, good_segments);
    tcase_add_test(t, every_flipped_byte_is_found);
    tcase_add_test(t, repair_drops_exactly_the_bad_batch);
    tcase_add_test(t, repair_of_two_batches_and_of_the_end);
    tcase_add_test(t, records_that_lie_under_a_good_checksum);
    tcase_add_test(t, a_torn_tail_is_not_damage);
    tcase_add_test(t, a_node_that_runs_is_left_alone);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
