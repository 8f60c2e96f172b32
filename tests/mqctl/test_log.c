/* Scanning and repairing segment files, made here byte by byte. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "mqctl/logscan.h"
#include "mqctl/mqctl.h"
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

static void write_segment(int64_t base, const Buf *bytes)
{
    char name[40];
    int fd;

    segment_name(base, ".log", name);
    fd = openat(place, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ck_assert_int_eq(write(fd, bytes->data, bytes->size), (ssize_t)bytes->size);
    close(fd);
}

static int open_segment(int64_t base)
{
    char name[40];
    int fd;

    segment_name(base, ".log", name);
    fd = openat(place, name, O_RDONLY);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* "G0-1 B2-4 G5-5 F" */
static void expect_scan(int64_t base, const char *want)
{
    char got[512] = "";
    int fd = open_segment(base), r;
    ScanItem item;
    Scan s;

    ck_assert_int_eq(scan_open(&s, fd, base, true), 0);
    while ((r = scan_next(&s, &item)) == 1) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s", n ? " " : "");
        n = strlen(got);
        if (item.verdict == SCAN_FREE)
            snprintf(got + n, sizeof got - n, "F");
        else
            snprintf(got + n, sizeof got - n, "%c%lld-%lld", item.verdict == SCAN_GOOD ? 'G' : 'B', (long long)item.first_offset,
                     (long long)(item.next_offset < 0 ? -1 : item.next_offset - 1));
    }
    ck_assert_int_eq(r, 0);
    scan_close(&s);
    close(fd);
    ck_assert_str_eq(got, want);
}

START_TEST(good_segments)
{
    Buf b = BUF_NULL;
    char zeros[5000] = {0};

    add_batch(&b, 10, 3, CODEC_NONE);
    add_batch(&b, 13, 2, CODEC_ZSTD);
    add_batch(&b, 20, 1, CODEC_SNAPPY); /* compaction left a gap */
    write_segment(10, &b);
    expect_scan(10, "G10-12 G13-14 G20-20");
    ck_assert_int_eq(buf_append(&b, zeros, sizeof zeros), 0);
    write_segment(10, &b);
    expect_scan(10, "G10-12 G13-14 G20-20 F");
    buf_clear(&b);
    write_segment(10, &b);
    expect_scan(10, "");
    buf_deinit(&b);
}
END_TEST

START_TEST(every_flipped_byte_is_found)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE), second = add_batch(&b, 2, 3, CODEC_LZ4);

    add_batch(&b, 5, 1, CODEC_NONE);
    for (size_t at = 0; at < second; at++) {
        Buf copy = BUF_NULL;

        ck_assert_int_eq(buf_append(&copy, b.data, b.size), 0);
        copy.data[first + at] ^= 0x40;
        write_segment(0, &copy);
        if (at >= 8 && at < 16) { /* length and epoch lie outside the checksum; the length is found out by what follows */
            if (at < 12)
                expect_scan(0, "G0-1 B2-4 G5-5");
        } else if (at < 8) {
            int fd = open_segment(0);
            ScanItem item;
            Scan s;
            /* a wrong base offset: either it goes back, or what follows does */
            ck_assert_int_eq(scan_open(&s, fd, 0, true), 0);
            bool found = false;
            while (scan_next(&s, &item) == 1)
                found |= item.verdict == SCAN_BAD;
            ck_assert_msg(found, "byte %zu", at);
            scan_close(&s);
            close(fd);
        } else {
            expect_scan(0, "G0-1 B2-4 G5-5");
        }
        buf_deinit(&copy);
    }
    buf_deinit(&b);
}
END_TEST

START_TEST(cut_at_every_byte)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE), second = add_batch(&b, 2, 1, CODEC_NONE);

    for (size_t n = 8; n < second; n++) { /* fewer are zeros: room that was allocated */
        Buf cut = {.data = b.data, .size = first + n};
        write_segment(0, &cut);
        expect_scan(0, "G0-1 B2--1"); /* -1: nothing good behind it */
    }
    buf_deinit(&b);
}
END_TEST

START_TEST(garbage_between)
{
    Buf b = BUF_NULL;

    add_batch(&b, 0, 1, CODEC_NONE);
    ck_assert_int_eq(buf_append(&b, "garbage \2 and more of it", 24), 0);
    add_batch(&b, 7, 1, CODEC_NONE);
    write_segment(0, &b);
    expect_scan(0, "G0-0 B1-6 G7-7");
    buf_deinit(&b);
}
END_TEST

static int mqctl(const char *words)
{
    char line[512], *argv[32];
    int argc = 0, saved = dup(STDOUT_FILENO), fd = open("/dev/null", O_WRONLY), r;

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
    close(fd);
    return r;
}

static bool exists(const char *name)
{
    return faccessat(place, name, F_OK, 0) == 0;
}

static void touch(const char *name)
{
    int fd = openat(place, name, O_WRONLY | O_CREAT, 0644);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

START_TEST(repair_drops_exactly_the_bad_batch)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE);
    size_t second = add_batch(&b, 2, 3, CODEC_NONE);
    char path[256];
    struct stat st;

    add_batch(&b, 5, 1, CODEC_NONE);
    b.data[first + 70] ^= 1;
    write_segment(0, &b);
    touch("00000000000000000000.index");
    touch("00000000000000000000.timeindex");
    touch("damaged-ranges");
    snprintf(path, sizeof path, "%s/1/data/log/.kafka_cleanshutdown", root);
    ck_assert_int_eq(fs_write_file_atomic(path, "", 0, 0644), 0);
    ck_assert_int_eq(mqctl("log verify --all"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 --dry-run"), MQ_E_REFUSED);
    ck_assert_int_eq(mqctl("log verify"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify"), MQ_OK);
    expect_scan(0, "G0-1 G5-5");
    ck_assert(exists("00000000000000000000.log.damaged"));
    ck_assert(!exists("00000000000000000000.log.tmp"));
    ck_assert(!exists("00000000000000000000.index"));
    ck_assert(!exists("00000000000000000000.timeindex"));
    ck_assert(!exists("damaged-ranges"));
    ck_assert_int_eq(fstatat(place, "00000000000000000000.log", &st, 0), 0);
    ck_assert_int_eq(st.st_size, (off_t)(b.size - second));
    buf_deinit(&b);
}
END_TEST

START_TEST(repair_keeps_the_end_of_the_log)
{
    Buf b = BUF_NULL;
    size_t first = add_batch(&b, 0, 2, CODEC_NONE);
    char path[256];
    ScanItem item;
    Scan s;
    int fd;

    add_batch(&b, 2, 3, CODEC_NONE);
    memset(b.data + first, 0xee, b.size - first); /* nothing of the last batch can be read */
    write_segment(0, &b);
    snprintf(path, sizeof path, "%s/1/data/log/.kafka_cleanshutdown", root);
    ck_assert_int_eq(fs_write_file_atomic(path, "", 0, 0644), 0);
    snprintf(path, sizeof path, "%s/1/data/log/recovery-point-offset-checkpoint", root);
    ck_assert_int_eq(fs_write_file_atomic(path, "0\n2\nother 0 9\nt 0 5\n", 19, 0644), 0);
    ck_assert_int_eq(mqctl("log verify"), MQ_E_FAILED);
    ck_assert_int_eq(mqctl("log repair t-0 -y"), MQ_OK);
    ck_assert_int_eq(mqctl("log verify"), MQ_OK);
    expect_scan(0, "G0-1 G2-4"); /* an empty batch covers 2 to 4 */
    fd = open_segment(0);
    ck_assert_int_eq(scan_open(&s, fd, 0, true), 0);
    ck_assert_int_eq(scan_next(&s, &item), 1);
    ck_assert_int_eq(scan_next(&s, &item), 1);
    ck_assert_int_eq(item.header.records_count, 0);
    scan_close(&s);
    close(fd);
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
    ck_assert_int_eq(mqctl("log dump t-0 --deep -o json"), MQ_E_FAILED); /* dump shows all there is */
    ck_assert_int_eq(mqctl("log verify nosuch-0"), MQ_E_NOT_FOUND);
    ck_assert_int_eq(mqctl("log verify t"), MQ_E_USAGE);
    buf_deinit(&b);
}
END_TEST

START_TEST(names)
{
    static const struct {
        const char *name;
        int partition; /* -1: no log */
        size_t size;
    } v[] = {{"t-0", 0, 1}, {"a-b-12", 12, 3}, {"t", -1, 0}, {"-1", -1, 0}, {"t--1", 1, 2}, {"t-x", -1, 0},
             {"t-1.abc-delete", -1, 0}, {"t-99999999999", -1, 0}, {"../t-1", -1, 0}};

    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        size_t size = 0;
        int32_t partition = -1;
        bool good = log_name_parse(v[i].name, &size, &partition);
        ck_assert_msg(good == (v[i].partition >= 0), "%s", v[i].name);
        if (good) {
            ck_assert_int_eq(partition, v[i].partition);
            ck_assert_uint_eq(size, v[i].size);
        }
    }
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
    tcase_add_test(t, cut_at_every_byte);
    tcase_add_test(t, garbage_between);
    tcase_add_test(t, repair_drops_exactly_the_bad_batch);
    tcase_add_test(t, repair_keeps_the_end_of_the_log);
    tcase_add_test(t, a_torn_tail_is_not_damage);
    tcase_add_test(t, names);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
