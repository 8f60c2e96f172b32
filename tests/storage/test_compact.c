/* Compaction: what stays, what goes, and a crash at each step of the swap. */

#include "storage_test.h"

#include <stdatomic.h>
#include <sys/syscall.h>

#define KEYS 40

/* ---- a crash at the n-th change of a name -------------------------------------------------------------------------- */

static atomic_int changes_left = -1; /* the worker renames too */

static void count_change(void)
{
    if (atomic_load(&changes_left) >= 0 && atomic_fetch_sub(&changes_left, 1) == 0)
        _exit(0);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    count_change();
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}

int unlinkat(int fd, const char *name, int flags)
{
    count_change();
    return (int)syscall(SYS_unlinkat, fd, name, flags);
}

/* ---- content ------------------------------------------------------------------------------------------------------- */

typedef struct Content { /* newest value of each key as a reader sees it; offset -1: none */
    int64_t offset[KEYS];
    int32_t value_size[KEYS];
    int64_t timestamp[KEYS];
    int records, tombstones, batches, empty_batches;
} Content;

static void put(Fixture *f, int key, int version, BatchCodec codec)
{
    char name[16];
    Spec spec = {.count = 1, .timestamp = 5000 + version, .value_size = 100 + (size_t)version % 50, .key = name, .codec = codec};
    int64_t offset;

    (void)snprintf(name, sizeof(name), "key-%d", key);
    if (version < 0) {
        spec.tombstone = true;
        spec.timestamp = 5000;
    }
    ck_assert_int_eq(append_to(f->log, f->memory, &spec, &offset), 0);
}

static void read_content(Fixture *f, Content *ret)
{
    int64_t next = plog_start(f->log), end = plog_end(f->log), last = -1;
    PlogSlice slice;

    *ret = (Content){0};
    memset(ret->offset, 0xff, sizeof(ret->offset));
    while (next < end) {
        ck_assert_int_eq(plog_read(f->log, next, end, f->memory, 1 << 20, true, &slice), 0);
        if (slice.size == 0)
            break;
        for (size_t at = 0; at < slice.size;) {
            Buf plain = BUF_NULL;
            BatchHeader h;
            BatchIter it;
            Record r;
            const uint8_t *records = f->memory + at + BATCH_HEADER_SIZE;
            size_t size;
            int more;

            ck_assert_int_eq(batch_header_decode(f->memory + at, slice.size - at, &h), 0);
            ck_assert(batch_crc_is_valid(f->memory + at, &h));
            size = batch_total_size(&h) - BATCH_HEADER_SIZE;
            if ((h.attributes & 7) && h.records_count > 0) {
                ck_assert_int_eq(codec_decompress((BatchCodec)(h.attributes & 7), records, size, 1 << 24, &plain), 0);
                records = plain.data;
                size = plain.size;
            }
            ret->batches++;
            ret->empty_batches += h.records_count == 0;
            batch_iter_init(&it, &h, records, size);
            while ((more = batch_iter_next(&it, &r)) == 1) {
                int key = atoi((const char *)r.key + 4);
                ck_assert_int_gt(r.offset, last);
                last = r.offset;
                ret->records++;
                ret->tombstones += r.value_size < 0;
                ret->offset[key] = r.value_size < 0 ? -1 : r.offset;
                ret->value_size[key] = r.value_size;
                ret->timestamp[key] = r.timestamp;
            }
            ck_assert_int_eq(more, 0);
            buf_deinit(&plain);
            at += batch_total_size(&h);
        }
        next = slice.next_offset;
    }
}

static void expect_same(const Content *a, const Content *b)
{
    for (int i = 0; i < KEYS; i++) {
        ck_assert_msg(a->offset[i] == b->offset[i], "key %d: %" PRId64 " and %" PRId64, i, a->offset[i], b->offset[i]);
        if (a->offset[i] >= 0) {
            ck_assert_int_eq(a->value_size[i], b->value_size[i]);
            ck_assert_int_eq(a->timestamp[i], b->timestamp[i]);
        }
    }
}

static Fixture compacted(void)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 8000;
    f.config.index_interval_bytes = 500;
    f.config.cleanup_compact = true;
    f.config.cleanup_delete = false;
    f.config.min_cleanable_dirty_ratio = 0.1;
    return f;
}

static void write_versions(Fixture *f, int from, int to)
{
    for (int version = from; version < to; version++)
        for (int key = version % 3; key < KEYS; key += 3)
            put(f, key, version, version % 2 ? CODEC_NONE : (BatchCodec)(version / 2 % CODEC_COUNT));
}

static bool compact(Fixture *f, int64_t now)
{
    bool did;

    ck_assert_int_eq(plog_compact(f->log, now, plog_end(f->log), &did), 0);
    return did;
}

START_TEST(the_newest_of_each_key_stays)
{
    Fixture f = compacted();
    Content before, after;
    int64_t size, end;

    fixture_open(&f);
    write_versions(&f, 0, 30);
    read_content(&f, &before);
    size = plog_size(f.log);
    end = plog_end(f.log);
    ck_assert(compact(&f, 100000));
    read_content(&f, &after);
    expect_same(&before, &after);
    ck_assert_int_eq(plog_end(f.log), end);
    ck_assert_int_lt(plog_size(f.log), size / 3);
    ck_assert_int_lt(after.records, before.records / 3);
    ck_assert(!compact(&f, 100000)); /* clean enough */
    write_versions(&f, 30, 60);
    read_content(&f, &before);
    ck_assert(compact(&f, 100000));
    read_content(&f, &after);
    expect_same(&before, &after);
    fixture_close(&f);
    fixture_open(&f);
    read_content(&f, &after);
    expect_same(&before, &after);
    ck_assert(!compact(&f, 100000)); /* cleaner-offset-checkpoint was kept */
    ck_assert(!plog_is_damaged(f.log));
    fixture_free(&f);
}
END_TEST

START_TEST(several_records_of_a_batch)
{
    for (BatchCodec codec = CODEC_NONE; codec < CODEC_COUNT; codec++) {
        Fixture f = compacted();
        Content before, after;
        int64_t offset;

        fixture_open(&f);
        for (int i = 0; i < 60; i++) {
            Spec spec = {.count = i % 3 == 0 ? KEYS : 7, .timestamp = 5000 + i, .value_size = 50, .key = "key-", .codec = codec};
            ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
        }
        plog_roll(f.log);
        read_content(&f, &before);
        ck_assert(compact(&f, 100000));
        read_content(&f, &after);
        expect_same(&before, &after);
        ck_assert_int_eq(after.records, KEYS);
        fixture_free(&f);
    }
}
END_TEST

START_TEST(tombstones_wait_for_their_horizon)
{
    Fixture f = compacted();
    Content c;

    f.config.delete_retention_ms = 1000;
    f.config.min_cleanable_dirty_ratio = 0;
    fixture_open(&f);
    write_versions(&f, 0, 10);
    for (int key = 0; key < 10; key++)
        put(&f, key, -1, CODEC_NONE);
    plog_roll(f.log);
    put(&f, 20, 50, CODEC_NONE);
    ck_assert(compact(&f, 100000)); /* sets the horizon to 101000 */
    read_content(&f, &c);
    ck_assert_int_eq(c.tombstones, 10);
    for (int key = 0; key < 10; key++)
        ck_assert_int_eq(c.timestamp[key], 5000); /* moved with the base, unchanged in value */
    plog_roll(f.log);
    put(&f, 20, 51, CODEC_NONE);
    ck_assert(compact(&f, 100900));
    read_content(&f, &c);
    ck_assert_int_eq(c.tombstones, 10);
    plog_roll(f.log);
    put(&f, 20, 52, CODEC_NONE);
    ck_assert(compact(&f, INT64_MIN)); /* a clock nobody believes */
    read_content(&f, &c);
    ck_assert_int_eq(c.tombstones, 10);
    plog_roll(f.log);
    put(&f, 20, 53, CODEC_NONE);
    ck_assert(compact(&f, 101000));
    read_content(&f, &c);
    ck_assert_int_eq(c.tombstones, 0);
    for (int key = 0; key < 10; key++)
        ck_assert_int_eq(c.offset[key], -1);
    fixture_free(&f);
}
END_TEST

START_TEST(the_last_batch_of_a_producer_stays)
{
    Fixture f = compacted();
    Content c;
    int64_t offset;
    Spec next = {.count = 1, .timestamp = 9000, .value_size = 10, .key = "key-1", .producer_id = 33, .sequence = 50};

    fixture_open(&f);
    for (int i = 0; i < 50; i++) {
        Spec spec = {.count = 1, .timestamp = 6000, .value_size = 500, .key = "key-1", .producer_id = 33, .sequence = i};
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    }
    for (int i = 0; i < 50; i++)
        put(&f, 1, 100 + i, CODEC_NONE);
    ck_assert(compact(&f, 100000));
    read_content(&f, &c);
    ck_assert_int_eq(c.empty_batches, 1);
    fixture_close(&f);
    run("rm -f %s/t-0/*.snapshot %s/.kafka_cleanshutdown", f.path, f.path); /* only the log knows now */
    fixture_open(&f);
    ck_assert_int_eq(append_to(f.log, f.memory, &next, &offset), 0);
    next.sequence = 60;
    ck_assert_int_eq(append_to(f.log, f.memory, &next, &offset), PLOG_E_OUT_OF_ORDER);
    fixture_free(&f);
}
END_TEST

START_TEST(lags_ratio_and_bound_are_kept)
{
    Fixture f = compacted();
    bool did;

    f.config.min_compaction_lag_ms = 10000;
    fixture_open(&f);
    write_versions(&f, 0, 20);
    ck_assert(!compact(&f, 10000));  /* records of 5000 and later are too young */
    ck_assert(!compact(&f, INT64_MIN));
    ck_assert(compact(&f, 20000));
    f.config.min_compaction_lag_ms = 0;
    f.config.min_cleanable_dirty_ratio = 0.99;
    plog_set_config(f.log, &f.config);
    write_versions(&f, 20, 28);
    ck_assert(!compact(&f, 100000));
    f.config.max_compaction_lag_ms = 1000;
    plog_set_config(f.log, &f.config);
    ck_assert_int_eq(plog_compact(f.log, 100000, 5, &did), 0);
    ck_assert(!did); /* nothing wholly below the bound is dirty */
    ck_assert(compact(&f, 100000)); /* overdue */
    fixture_free(&f);
}
END_TEST

START_TEST(damage_is_left_alone)
{
    Fixture f = compacted();
    Content before, after;
    PlogSlice slice;
    bool did;

    fixture_open(&f);
    write_versions(&f, 0, 20);
    fixture_close(&f);
    file_flip(&f, SEGMENT_0 ".log", 100);
    fixture_open(&f);
    ck_assert_int_eq(plog_compact(f.log, 100000, plog_end(f.log), &did), 0);
    ck_assert(!did);
    ck_assert(plog_is_damaged(f.log));
    ck_assert_int_eq(plog_read(f.log, 0, 10, f.memory, 4000, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(plog_set_start(f.log, slice.next_offset), 0);
    read_content(&f, &before);
    ck_assert(!compact(&f, 100000)); /* its segment is never cleaned, and hides what comes behind */
    read_content(&f, &after);
    expect_same(&before, &after);
    fixture_free(&f);
}
END_TEST

START_TEST(in_the_background_and_cancelled)
{
    Fixture f = compacted();
    Content before, after;
    bool did = false;

    fixture_open(&f);
    write_versions(&f, 0, 30);
    read_content(&f, &before);
    ck_assert_int_eq(plog_compact_background(f.log, 100000, plog_end(f.log), &did), 0);
    ck_assert(!did);
    put(&f, 39, 777, CODEC_NONE); /* the owner goes on */
    for (int i = 0; i < 1000 && !did; i++) {
        usleep(1000);
        ck_assert_int_eq(plog_compact_background(f.log, 100000, plog_end(f.log), &did), 0);
    }
    ck_assert(did);
    read_content(&f, &after);
    before.offset[39] = after.offset[39];
    before.value_size[39] = after.value_size[39];
    before.timestamp[39] = after.timestamp[39];
    expect_same(&before, &after);
    write_versions(&f, 30, 50);
    ck_assert_int_eq(plog_compact_background(f.log, 100000, plog_end(f.log), &did), 0);
    fixture_close(&f); /* with a job under way */
    run("test -z \"$(ls %s/t-0 | grep cleaned)\"", f.path);
    fixture_free(&f);
}
END_TEST

START_TEST(the_cleaner_keeps_its_limits)
{
    Fixture f = compacted();
    Content before, after;
    int64_t begin_ms, size, dirty_end;
    bool did;

    fixture_open(&f);
    write_versions(&f, 0, 20);
    read_content(&f, &before);
    size = plog_size(f.log);
    log_dir_set_cleaner(f.dir, 0, size * 5); /* the least of maps, far smaller than the number of keys */
    begin_ms = clock_mono_ms();
    ck_assert(compact(&f, 100000));
    ck_assert_int_ge(clock_mono_ms() - begin_ms, 150); /* all of it is read once at least */
    dirty_end = atomic_load(&f.log->cleaned_to);
    ck_assert_int_lt(dirty_end, f.log->segments[f.log->n_segments - 1]->base_offset); /* one pass did not do */
    log_dir_set_cleaner(f.dir, 0, INT64_MAX);
    for (int i = 0; i < 100 && compact(&f, 100000); i++)
        ck_assert_int_gt(atomic_load(&f.log->cleaned_to), dirty_end);
    read_content(&f, &after);
    expect_same(&before, &after);

    write_versions(&f, 20, 30);
    log_dir_set_cleaner(f.dir, 1 << 20, 1); /* a pass of hours */
    ck_assert_int_eq(plog_compact_background(f.log, 100000, plog_end(f.log), &did), 0);
    begin_ms = clock_mono_ms();
    fixture_close(&f); /* does not wait for it */
    ck_assert_int_lt(clock_mono_ms() - begin_ms, 5000);
    fixture_free(&f);
}
END_TEST

/* ---- crashes ------------------------------------------------------------------------------------------------------- */

static int crash_step;

static void compact_and_crash(Fixture *f)
{
    bool did;

    write_versions(f, 0, 24);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    changes_left = crash_step;
    ck_assert_int_eq(plog_compact(f->log, 100000, plog_end(f->log), &did), 0);
    changes_left = -1;
}

START_TEST(a_crash_at_any_step_loses_and_doubles_nothing)
{
    Fixture f = compacted(), whole = compacted();
    Content expected, seen;

    fixture_open(&whole);
    write_versions(&whole, 0, 24);
    read_content(&whole, &expected);
    fixture_free(&whole);

    crash_step = _i;
    crash_after(compact_and_crash, &f);
    fixture_open(&f);
    read_content(&f, &seen);
    expect_same(&expected, &seen);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    run("test -z \"$(ls %s/t-0 | grep -E 'cleaned|swap')\"", f.path);
    (void)compact(&f, 100000);
    read_content(&f, &seen);
    expect_same(&expected, &seen);
    fixture_close(&f);
    fixture_open(&f);
    read_content(&f, &seen);
    expect_same(&expected, &seen);
    fixture_free(&f);
}
END_TEST

/* The recovery of a swap may itself be interrupted. */
static void just_open(Fixture *f)
{
    (void)f;
}

START_TEST(a_crash_while_finishing_a_swap)
{
    Fixture f = compacted(), whole = compacted();
    Content expected, seen;

    fixture_open(&whole);
    write_versions(&whole, 0, 24);
    read_content(&whole, &expected);
    fixture_free(&whole);
    crash_step = 6;
    crash_after(compact_and_crash, &f);
    changes_left = _i;
    crash_after(just_open, &f);
    changes_left = -1;
    fixture_open(&f);
    read_content(&f, &seen);
    expect_same(&expected, &seen);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/compact");
    TCase *t = tcase_create("compact");

    tcase_set_timeout(t, 30);
    tcase_add_test(t, the_newest_of_each_key_stays);
    tcase_add_test(t, several_records_of_a_batch);
    tcase_add_test(t, tombstones_wait_for_their_horizon);
    tcase_add_test(t, the_last_batch_of_a_producer_stays);
    tcase_add_test(t, lags_ratio_and_bound_are_kept);
    tcase_add_test(t, damage_is_left_alone);
    tcase_add_test(t, in_the_background_and_cancelled);
    tcase_add_test(t, the_cleaner_keeps_its_limits);
    tcase_add_loop_test(t, a_crash_at_any_step_loses_and_doubles_nothing, 0, 40);
    tcase_add_loop_test(t, a_crash_while_finishing_a_swap, 0, 12);
    suite_add_tcase(s, t);
    return run_suite(s);
}
