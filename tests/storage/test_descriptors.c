/* Running out of descriptors: files that nobody uses are closed, a call fails with -EMFILE at worst, and the disk is not blamed. */

#include "storage_test.h"

#include <sys/resource.h>

enum { LOGS = 300 };

static void allow(rlim_t n)
{
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = n;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static rlim_t lowest_free(void)
{
    int fd = dup(0);

    ck_assert_int_ge(fd, 0);
    close(fd);
    return (rlim_t)fd;
}

static void append_one(Fixture *f, Plog *log)
{
    Spec spec = {.count = 1, .timestamp = 5, .value_size = 100};
    int64_t offset;

    ck_assert_int_eq(append_to(log, f->memory, &spec, &offset), 0);
}

START_TEST(many_logs_share_few_descriptors)
{
    Fixture f = fixture_new();
    Plog **logs = calloc(LOGS, sizeof(Plog *));
    PlogSlice slice;

    fixture_open_dir(&f);
    for (int i = 0; i < LOGS; i++)
        logs[i] = fixture_open_log(&f, "many", i);
    allow(lowest_free() + 80);
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < LOGS; i++)
            append_one(&f, logs[i]);
    for (int i = 0; i < LOGS; i++) {
        ck_assert_int_eq(plog_read(logs[i], 0, 3, f.memory, FIXTURE_MEMORY, true, &slice), 0);
        ck_assert_int_eq(slice.next_offset, 3);
        ck_assert_int_eq(plog_locate(logs[i], 1, 3, 1 << 20, true, &slice), 0);
        ck_assert_int_ge(plog_slice_fd(logs[i], &slice), 0);
        ck_assert_int_eq(plog_retain(logs[i], INT64_MIN, 3), 0);
    }
    int client = dup(0);
    ck_assert(!sock_is_in_reserve(client)); /* idle files keep nobody out */
    close(client);
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    for (int i = 0; i < LOGS; i++) {
        ck_assert_int_eq(plog_durable_end(logs[i]), 3);
        plog_close(logs[i]);
    }
    free(logs);
    fixture_free(&f);
}
END_TEST

/* Everything that opens a file, with `room` descriptors left. Each call works or says -EMFILE. */
static void try_all(Fixture *f, rlim_t room)
{
    Spec spec = {.count = 1, .timestamp = 1000000, .value_size = 900, .key = "k", .producer_id = 77};
    rlim_t used = lowest_free();
    PlogTimeOffset t;
    PlogLease lease;
    PlogSlice slice;
    int64_t offset;
    bool did;

    allow(used + room);
    for (int i = 0; i < 12; i++) { /* over a segment's end at least once */
        spec.sequence = (int32_t)plog_end(f->log);
        int r = append_to(f->log, f->memory, &spec, &offset);
        ck_assert_msg(r == 0 || r == -EMFILE, "append: %d", r);
        log_dir_want_sync(f->dir, f->log);
    }
    int64_t end = plog_end(f->log);
    int results[] = {plog_checkpoint(f->log),
                     end > 0 ? plog_read(f->log, 0, end, f->memory, FIXTURE_MEMORY, true, &slice) : 0,
                     end > 0 ? plog_locate(f->log, end / 2, end, 1000, true, &slice) : 0,
                     plog_offset_for_time(f->log, 1000000, end, &t),
                     plog_max_timestamp(f->log, end, &t),
                     plog_compact(f->log, INT64_MAX / 2, end, &did),
                     plog_retain(f->log, INT64_MIN, end),
                     log_dir_checkpoint_wait(f->dir),
                     plog_roll(f->log)};
    for (size_t i = 0; i < ARRAY_SIZE(results); i++)
        ck_assert_msg(results[i] == 0 || results[i] == -EMFILE, "call %zu with room for %d: %d", i, (int)room, results[i]);
    int r = plog_lease(f->log, plog_start(f->log), end, &lease);
    ck_assert_msg(r == 0 || r == -EMFILE || r == -ENODATA, "lease: %d", r);
    if (r == 0) {
        close(lease.fd);
        plog_lease_end(f->log, lease.segment_id);
    }
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    ck_assert_int_eq(plog_durable_end(f->log), plog_end(f->log));
    allow(1024);
}

START_TEST(no_call_takes_want_of_descriptors_for_a_broken_disk)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 5000;
    f.config.cleanup_compact = true;
    f.config.min_cleanable_dirty_ratio = 0;
    fixture_open(&f);
    for (rlim_t room = 0; room < 16; room++) {
        try_all(&f, room);
        ck_assert_int_eq(file_size(&f, STORAGE_FAILURE_FILE), -ENOENT);
    }
    int64_t end = plog_end(f.log);
    ck_assert_int_gt(end, 12 * 10);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_CLEAN);
    ck_assert_int_eq(plog_end(f.log), end);
    ck_assert(!plog_is_damaged(f.log));
    Spec next = {.count = 1, .timestamp = 1000000, .value_size = 10, .key = "k", .producer_id = 77, .sequence = (int32_t)end};
    int64_t offset;
    ck_assert_int_eq(append_to(f.log, f.memory, &next, &offset), 0);
    fixture_free(&f);
}
END_TEST

static void forty(Fixture *f)
{
    append_many(f, 40, 1, 900);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
}

START_TEST(a_log_that_could_not_be_opened_opens_later)
{
    Fixture f = fixture_new();
    PlogId id = log_id("t", 0);
    char why[256] = "";
    int r = -EMFILE;

    f.config.segment_bytes = 5000;
    crash_after(forty, &f);
    fixture_open_dir(&f);
    rlim_t used = lowest_free();
    for (rlim_t room = 0; r == -EMFILE; room++) {
        allow(used + room);
        r = plog_open(f.dir, &id, &f.config, &f.log, why, sizeof(why));
        ck_assert_msg(r == 0 || (r == -EMFILE && room < 16), "open with room for %d: %d %s", (int)room, r, why);
    }
    allow(1024);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 40);
    ck_assert_int_eq(read_all(&f, 0, 40, 1 << 20), 40);
    ck_assert_int_eq(file_size(&f, STORAGE_FAILURE_FILE), -ENOENT);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("descriptors");
    TCase *t = tcase_create("all");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, many_logs_share_few_descriptors);
    tcase_add_test(t, no_call_takes_want_of_descriptors_for_a_broken_disk);
    tcase_add_test(t, a_log_that_could_not_be_opened_opens_later);
    suite_add_tcase(s, t);
    return run_suite(s);
}
