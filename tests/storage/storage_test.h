#pragma once

/* What the tests of storage/ share: a scratch directory, logs in it, batches to put in, and a crash. */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "storage/internal.h"
#include "wire/batch.h"
#include "wire/compress.h"

#define UNUSED_FN UNUSED static

typedef struct Fixture {
    char path[64];
    LogDir *dir;
    Plog *log;
    PlogConfig config;
    LogDirOptions options;
    uint8_t *memory; /* scratch for batches and reads */
} Fixture;

#define FIXTURE_MEMORY (4 << 20)

UNUSED_FN Fixture fixture_new(void)
{
    Fixture f = {.config = PLOG_CONFIG_DEFAULT};
    /* Memory by default: hundreds of opens and closes, each with its syncs. LEAT_TEST_DIR=/tmp runs them on a disk. */
    const char *parent = getenv("LEAT_TEST_DIR");

    if (!parent)
        parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    (void)snprintf(f.path, sizeof(f.path), "%s/leat-storage-XXXXXX", parent);
    ck_assert_ptr_nonnull(mkdtemp(f.path));
    f.config.file_delete_delay_ms = 0;
    f.memory = malloc(FIXTURE_MEMORY);
    return f;
}

UNUSED_FN PlogId log_id(const char *topic, int32_t partition)
{
    PlogId id = {.partition = partition};

    (void)snprintf(id.topic, sizeof(id.topic), "%s", topic);
    id.topic_id.b[0] = 7;
    id.topic_id.b[15] = (uint8_t)strlen(topic);
    return id;
}

UNUSED_FN void fixture_open_dir(Fixture *f)
{
    char why[256] = "";

    f->options.path = f->path;
    if (f->options.segment_bytes_default == 0)
        f->options.segment_bytes_default = 1 << 30;
    ck_assert_msg(log_dir_open(&f->options, &f->dir, why, sizeof(why)) == 0, "%s", why);
}

UNUSED_FN Plog *fixture_open_log(Fixture *f, const char *topic, int32_t partition)
{
    PlogId id = log_id(topic, partition);
    char why[256] = "";
    Plog *log = NULL;

    ck_assert_msg(plog_open(f->dir, &id, &f->config, &log, why, sizeof(why)) == 0, "%s", why);
    return log;
}

UNUSED_FN void fixture_open(Fixture *f)
{
    fixture_open_dir(f);
    f->log = fixture_open_log(f, "t", 0);
}

UNUSED_FN void fixture_close(Fixture *f)
{
    f->log = plog_close(f->log);
    f->dir = log_dir_close(f->dir, true);
}

UNUSED_FN void fixture_free(Fixture *f)
{
    if (f->log)
        plog_close(f->log);
    if (f->dir)
        log_dir_close(f->dir, true);
    ck_assert_int_eq(fs_remove_tree(f->path), 0);
    free(f->memory);
}

/* Runs fn in a process that ends without closing anything, as kill -9 does. */
UNUSED_FN void crash_after(void (*fn)(Fixture *f), Fixture *f)
{
    int status;
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        fixture_open(f);
        fn(f);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process that should crash failed: status %x", (unsigned)status);
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

typedef struct Spec {
    int count;
    int64_t timestamp; /* of the first record; each next one +1, or less 1 if `back` */
    bool back;
    size_t value_size;
    const char *key;   /* NULL: none; a record's key is key + its number when count > 1 */
    bool tombstone;
    int64_t producer_id; /* 0: none */
    int16_t epoch;
    int32_t sequence;
    BatchCodec codec;
    int32_t leader_epoch;
} Spec;

UNUSED_FN size_t make_batch(const Spec *spec, uint8_t *out)
{
    BatchStamp stamp = BATCH_STAMP_NONE;
    BatchBuilder b;
    size_t size;
    char key[64];
    uint8_t *value = malloc(spec->value_size + 1);

    if (spec->producer_id > 0)
        stamp = (BatchStamp){spec->producer_id, spec->epoch, spec->sequence, 0};
    batch_builder_init(&b, out, FIXTURE_MEMORY / 2);
    for (int i = 0; i < spec->count; i++) {
        RecordView r = {.timestamp = spec->timestamp + (spec->back ? -i : i), .key_size = -1, .value = value, .value_size = (int32_t)spec->value_size};
        memset(value, 'a' + i % 26, spec->value_size);
        if (spec->key) {
            (void)snprintf(key, sizeof(key), spec->count > 1 ? "%s%d" : "%s", spec->key, i);
            r.key = key;
            r.key_size = (int32_t)strlen(key);
        }
        if (spec->tombstone) {
            r.value = NULL;
            r.value_size = -1;
        }
        ck_assert_int_eq(batch_builder_append(&b, &r), 0);
    }
    size = batch_builder_finish(&b, &stamp);
    if (spec->codec != CODEC_NONE) {
        Buf packed = BUF_NULL;
        ck_assert_int_eq(batch_compress(out, size, spec->codec, INT32_MIN, &packed), 0);
        memcpy(out, packed.data, packed.size);
        size = packed.size;
        buf_deinit(&packed);
    }
    free(value);
    return size;
}

UNUSED_FN int append_to(Plog *log, uint8_t *memory, const Spec *spec, int64_t *ret_offset)
{
    size_t size = make_batch(spec, memory), done = 9;
    BatchHeader h;
    PlogAppend a = {.batch = memory, .size = size, .header = &h, .leader_epoch = spec->leader_epoch, .from_client = true};
    int r;

    ck_assert_int_eq(batch_header_decode(memory, size, &h), 0);
    r = plog_append(log, &a, 1, ret_offset, &done);
    ck_assert_uint_eq(done, r == 0);
    return r;
}

/* n batches of `count` records of `value_size`; timestamps go on by offset. */
UNUSED_FN void append_many(Fixture *f, int n, int count, size_t value_size)
{
    for (int i = 0; i < n; i++) {
        Spec spec = {.count = count, .timestamp = 1000000 + plog_end(f->log), .value_size = value_size};
        int64_t offset, expected = plog_end(f->log);
        ck_assert_int_eq(append_to(f->log, f->memory, &spec, &offset), 0);
        ck_assert_int_eq(offset, expected);
    }
}

/* Reads [from, end) and checks that every offset is there once, in order; returns the number of records. */
UNUSED_FN int64_t read_all(Fixture *f, int64_t from, int64_t end, size_t step)
{
    int64_t next = from, records = 0;
    PlogSlice slice;

    while (next < end) {
        int r = plog_read(f->log, next, end, f->memory, step, true, &slice);
        ck_assert_msg(r == 0, "plog_read at %" PRId64 ": %d", next, r);
        ck_assert_msg(slice.size > 0, "nothing at %" PRId64 " of %" PRId64, next, end);
        for (size_t at = 0; at < slice.size;) {
            BatchHeader h;
            ck_assert_int_eq(batch_header_decode(f->memory + at, slice.size - at, &h), 0);
            ck_assert(batch_crc_is_valid(f->memory + at, &h));
            ck_assert_int_ge(h.base_offset, at == 0 ? 0 : next);
            next = batch_last_offset(&h) + 1;
            records += h.records_count;
            at += batch_total_size(&h);
        }
        ck_assert_int_eq(next, slice.next_offset);
    }
    return records;
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

UNUSED_FN char *file_path(const Fixture *f, const char *name)
{
    static char path[4][256];
    static int turn;
    char *p = path[turn++ % 4];

    (void)snprintf(p, 256, "%s/%s", f->path, name);
    return p;
}

UNUSED_FN int64_t file_size(const Fixture *f, const char *name)
{
    struct stat st;
    return stat(file_path(f, name), &st) < 0 ? -errno : st.st_size;
}

UNUSED_FN void file_flip(const Fixture *f, const char *name, int64_t position)
{
    int fd = open(file_path(f, name), O_RDWR);
    uint8_t b;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pread(fd, &b, 1, position), 1);
    b ^= 0x40;
    ck_assert_int_eq(pwrite(fd, &b, 1, position), 1);
    close(fd);
}

UNUSED_FN void file_write(const Fixture *f, const char *name, const void *data, size_t size, int64_t position)
{
    int fd = open(file_path(f, name), O_RDWR | O_CREAT, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, data, size, position), (ssize_t)size);
    close(fd);
}

UNUSED_FN void file_cut(const Fixture *f, const char *name, int64_t size)
{
    ck_assert_int_eq(truncate(file_path(f, name), size), 0);
}

UNUSED_FN void run(const char *fmt, ...) PRINTF_LIKE(1, 2);
UNUSED_FN void run(const char *fmt, ...)
{
    char command[1024];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(command, sizeof(command), fmt, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

#define SEGMENT_0 "t-0/00000000000000000000"

UNUSED_FN int run_suite(Suite *s)
{
    SRunner *runner = srunner_create(s);
    int failed;

    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
