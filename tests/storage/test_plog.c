/* Appending, rolling, reading, closing and opening again. */

#include "storage_test.h"
#include <glob.h>

START_TEST(offsets_are_dense_and_survive_a_clean_stop)
{
    Fixture f = fixture_new();

    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_CLEAN);
    append_many(&f, 100, 3, 200);
    ck_assert_int_eq(plog_end(f.log), 300);
    ck_assert_int_eq(read_all(&f, 0, 300, 4096), 300);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_CLEAN);
    ck_assert_int_eq(plog_end(f.log), 300);
    ck_assert_int_eq(plog_durable_end(f.log), 300);
    ck_assert_int_eq(read_all(&f, 0, 300, 4096), 300);
    append_many(&f, 10, 3, 200);
    ck_assert_int_eq(read_all(&f, 0, 330, 100000), 330);
    fixture_free(&f);
}
END_TEST

START_TEST(a_closed_segment_has_no_byte_too_many)
{
    Fixture f = fixture_new();
    uint8_t *bytes;
    size_t size = 0;

    fixture_open(&f);
    append_many(&f, 20, 1, 1000);
    fixture_close(&f);
    bytes = malloc(1 << 20);
    for (int64_t at = 0; at < file_size(&f, SEGMENT_0 ".log");) {
        BatchHeader h;
        int fd = open(file_path(&f, SEGMENT_0 ".log"), O_RDONLY);
        ck_assert_int_eq(fs_pread_all(fd, bytes, 1 << 20, at, &size), 0);
        close(fd);
        ck_assert_int_eq(batch_header_decode(bytes, size, &h), 0);
        ck_assert(batch_crc_is_valid(bytes, &h));
        at += (int64_t)batch_total_size(&h);
    }
    free(bytes);
    fixture_free(&f);
}
END_TEST

START_TEST(segments_roll_by_size_index_time_and_span)
{
    Fixture f = fixture_new();
    Spec late = {.count = 1, .timestamp = 1000000 + 60000, .value_size = 10};
    int64_t offset;

    f.config.segment_bytes = 10000;
    fixture_open(&f);
    append_many(&f, 30, 1, 1000);
    ck_assert_uint_eq(plog_segments(f.log), 4); /* 9 batches of 1,0xx bytes each */
    ck_assert_int_eq(read_all(&f, 0, 30, 1 << 20), 30);

    f.config.segment_bytes = 1 << 30;
    f.config.segment_ms = 50000;
    plog_set_config(f.log, &f.config);
    ck_assert_int_eq(append_to(f.log, f.memory, &late, &offset), 0);
    ck_assert_uint_eq(plog_segments(f.log), 5);

    f.config.segment_ms = INT64_MAX;
    f.config.index_interval_bytes = 0;
    f.config.segment_index_bytes = 10 * TIMEINDEX_ENTRY_SIZE;
    plog_set_config(f.log, &f.config);
    append_many(&f, 25, 1, 10);
    ck_assert_uint_eq(plog_segments(f.log), 7);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 2000), plog_end(f.log));
    fixture_free(&f);
}
END_TEST

/* Logs of one age and one second: without jitter all close together, with it no two at the same age, and none too late. */
START_TEST(jitter_spreads_the_age_of_segments)
{
    Fixture f = fixture_new();
    int64_t age[8];

    f.config.segment_ms = 1000000;
    f.config.segment_jitter_ms = 400000;
    fixture_open_dir(&f);
    for (int32_t i = 0; i < 8; i++) {
        Plog *log = fixture_open_log(&f, "t", i);
        int64_t offset;
        ck_assert_int_eq(append_to(log, f.memory, &(Spec){.count = 1, .timestamp = 5, .value_size = 10}, &offset), 0);
        age[i] = plog_active_age_max_ms(log);
        ck_assert_int_gt(age[i], 600000);
        ck_assert_int_le(age[i], 1000000);
        for (int32_t j = 0; j < i; j++)
            ck_assert_int_ne(age[i], age[j]);
        f.config.segment_jitter_ms = INT64_MAX; /* never more than the age itself */
        plog_set_config(log, &f.config);
        ck_assert_int_ge(plog_active_age_max_ms(log), 1);
        f.config.segment_jitter_ms = 0;
        plog_set_config(log, &f.config);
        ck_assert_int_eq(plog_active_age_max_ms(log), 1000000);
        f.config.segment_jitter_ms = 400000;
        plog_close(log);
    }
    fixture_free(&f);
}
END_TEST

START_TEST(one_call_writes_many_batches_and_stops_at_the_bad_one)
{
    enum { N = 200 };
    Fixture f = fixture_new();
    static PlogAppend a[N];
    static BatchHeader h[N];
    static int64_t offsets[N];
    size_t done;

    f.config.segment_bytes = 30000; /* rolls in the middle of the call */
    fixture_open(&f);
    for (int i = 0; i < N; i++) {
        Spec spec = {.count = 2, .timestamp = 5, .value_size = 200, .producer_id = 9, .sequence = i == 150 ? 7 : 2 * i};
        uint8_t *at = f.memory + (size_t)i * 1024;
        size_t size = make_batch(&spec, f.memory + (2 << 20));
        memcpy(at, f.memory + (2 << 20), size);
        ck_assert_int_eq(batch_header_decode(at, size, &h[i]), 0);
        a[i] = (PlogAppend){.batch = at, .size = size, .header = &h[i], .leader_epoch = 4, .from_client = true};
    }
    ck_assert_int_eq(plog_append(f.log, a, N, offsets, &done), PLOG_E_OUT_OF_ORDER);
    ck_assert_uint_eq(done, 150);
    ck_assert_int_eq(plog_end(f.log), 300);
    for (int i = 0; i < 150; i++)
        ck_assert_int_eq(offsets[i], 2 * i);
    ck_assert_uint_gt(plog_segments(f.log), 2);
    ck_assert_int_eq(read_all(&f, 0, 300, 10000), 300);
    ck_assert_int_eq(plog_epoch_at(f.log, 299), 4);
    fixture_free(&f);
}
END_TEST

START_TEST(reads_stop_at_the_bound_and_begin_inside_a_batch)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    fixture_open(&f);
    append_many(&f, 10, 10, 50);
    ck_assert_int_eq(plog_read(f.log, 37, 60, f.memory, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_int_eq(slice.first_offset, 30);
    ck_assert_int_eq(slice.next_offset, 60);
    ck_assert_int_eq(plog_locate(f.log, 37, 60, 1 << 20, true, &slice), 0);
    ck_assert_int_eq(slice.first_offset, 30);
    ck_assert_int_eq(slice.next_offset, 60);
    ck_assert_int_ge(plog_slice_fd(f.log, &slice), 0);
    /* the bound lies inside the batch: it is not given out */
    ck_assert_int_eq(plog_read(f.log, 37, 55, f.memory, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_int_eq(slice.next_offset, 50);
    ck_assert_int_eq(plog_read(f.log, 55, 55, f.memory, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_uint_eq(slice.size, 0);
    ck_assert_int_eq(plog_read(f.log, 100, 100, f.memory, 100, true, &slice), 0);
    ck_assert_uint_eq(slice.size, 0);
    ck_assert_int_eq(plog_read(f.log, 101, 200, f.memory, 100, true, &slice), PLOG_E_OUT_OF_RANGE);
    ck_assert_int_eq(plog_read(f.log, -1, 200, f.memory, 100, true, &slice), PLOG_E_OUT_OF_RANGE);
    fixture_free(&f);
}
END_TEST

START_TEST(a_batch_larger_than_the_space_is_named)
{
    Fixture f = fixture_new();
    PlogSlice slice;
    size_t need;

    fixture_open(&f);
    append_many(&f, 3, 1, 5000);
    for (size_t space = 0; space < 5000; space += 37) {
        ck_assert_int_eq(plog_read(f.log, 1, 3, f.memory, space, true, &slice), PLOG_E_TOO_LARGE);
        ck_assert_int_eq(plog_read(f.log, 1, 3, f.memory, space, false, &slice), 0);
        ck_assert_uint_eq(slice.size, 0);
    }
    ck_assert_int_eq(plog_read(f.log, 1, 3, f.memory, 100, true, &slice), PLOG_E_TOO_LARGE);
    need = slice.size;
    ck_assert_int_eq(plog_read(f.log, 1, 3, f.memory, need, true, &slice), 0);
    ck_assert_uint_eq(slice.size, need);
    ck_assert_int_eq(plog_locate(f.log, 1, 3, 100, true, &slice), 0);
    ck_assert_uint_eq(slice.size, need);
    ck_assert_int_eq(plog_locate(f.log, 1, 3, 100, false, &slice), 0);
    ck_assert_uint_eq(slice.size, 0);
    fixture_free(&f);
}
END_TEST

/* locate and read must agree everywhere, through index jumps, segments and bounds. */
START_TEST(locate_agrees_with_read)
{
    Fixture f = fixture_new();
    Rng rng;

    rng_init(&rng, 42);
    f.config.segment_bytes = 60000;
    f.config.index_interval_bytes = 1000;
    fixture_open(&f);
    for (int i = 0; i < 400; i++)
        append_many(&f, 1, 1 + (int)rng_below(&rng, 5), rng_below(&rng, 700));
    for (int i = 0; i < 3000; i++) {
        int64_t end = (int64_t)rng_below(&rng, (uint64_t)plog_end(f.log)) + 1;
        int64_t from = (int64_t)rng_below(&rng, (uint64_t)end);
        size_t space = rng_below(&rng, 20000);
        PlogSlice a, b;
        int r = plog_read(f.log, from, end, f.memory, space, false, &a);
        ck_assert_int_eq(r, 0);
        ck_assert_int_eq(plog_locate(f.log, from, end, space, false, &b), 0);
        ck_assert_msg(a.size == b.size && a.next_offset == b.next_offset, "[%" PRId64 ",%" PRId64 ") in %zu: %zu %" PRId64 " %zu %" PRId64,
                      from, end, space, a.size, a.next_offset, b.size, b.next_offset);
        if (a.size > 0) {
            uint8_t *copy = f.memory + (2 << 20);
            size_t got;
            ck_assert_int_eq(a.first_offset, b.first_offset);
            ck_assert_int_eq(fs_pread_all(plog_slice_fd(f.log, &b), copy, b.size, b.position, &got), 0);
            ck_assert_int_eq(memcmp(copy, f.memory, a.size), 0);
        }
    }
    fixture_free(&f);
}
END_TEST

START_TEST(sizes_beyond_the_segment_are_refused)
{
    Fixture f = fixture_new();
    Spec big = {.count = 1, .value_size = 5000, .timestamp = 1};
    int64_t offset;

    f.config.segment_bytes = 4000;
    fixture_open(&f);
    ck_assert_int_eq(append_to(f.log, f.memory, &big, &offset), PLOG_E_TOO_LARGE);
    ck_assert_int_eq(plog_end(f.log), 0);
    fixture_free(&f);
}
END_TEST

START_TEST(a_copy_keeps_its_offsets)
{
    Fixture f = fixture_new();
    Spec spec = {.count = 2, .timestamp = 1, .value_size = 10};
    BatchHeader h;
    PlogAppend a = {.header = &h, .keep_offset = true};
    int64_t offset;
    size_t done;

    fixture_open(&f);
    a.batch = f.memory;
    a.size = make_batch(&spec, f.memory);
    batch_set_base_offset(f.memory, 50); /* the leader's log was compacted below */
    batch_set_leader_epoch(f.memory, 3);
    ck_assert_int_eq(batch_header_decode(f.memory, a.size, &h), 0);
    ck_assert_int_eq(plog_append(f.log, &a, 1, &offset, &done), 0);
    ck_assert_int_eq(offset, 50);
    ck_assert_int_eq(plog_end(f.log), 52);
    ck_assert_int_eq(plog_append(f.log, &a, 1, &offset, &done), PLOG_E_OUT_OF_RANGE);
    ck_assert_int_eq(plog_epoch_at(f.log, 51), 3);
    fixture_free(&f);
}
END_TEST

START_TEST(another_topic_id_is_refused)
{
    Fixture f = fixture_new();
    PlogId id = log_id("t", 0);
    char why[256] = "";
    Plog *log;

    fixture_open(&f);
    append_many(&f, 1, 1, 10);
    fixture_close(&f);
    fixture_open_dir(&f);
    id.topic_id.b[3] = 99;
    ck_assert_int_eq(plog_open(f.dir, &id, &f.config, &log, why, sizeof(why)), -ESTALE);
    ck_assert_msg(strstr(why, "topic id") != NULL, "%s", why);
    f.log = fixture_open_log(&f, "t", 0); /* and nothing was harmed */
    ck_assert_int_eq(plog_end(f.log), 1);
    fixture_free(&f);
}
END_TEST

START_TEST(names_that_leave_the_directory_are_refused)
{
    static const char *const names[] = {"../x", "a/b", ".", "..", "", "a b"};
    Fixture f = fixture_new();
    char why[256];
    Plog *log;

    fixture_open_dir(&f);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        PlogId id = log_id(names[i], 0);
        ck_assert_int_eq(plog_open(f.dir, &id, &f.config, &log, why, sizeof(why)), -EINVAL);
        ck_assert_int_eq(log_dir_create_logs(f.dir, &id, 1), -EINVAL);
    }
    fixture_free(&f);
}
END_TEST

static int open_fds(void)
{
    char path[64];
    int n = 0;

    for (int fd = 0; fd < 1024; fd++) {
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n += access(path, F_OK) == 0;
    }
    return n;
}

START_TEST(a_busy_writer_leaves_few_files_open)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 10000;
    fixture_open(&f);
    append_many(&f, 9 * 200, 1, 1000);
    ck_assert_uint_eq(plog_segments(f.log), 200);
    log_dir_want_sync(f.dir, f.log);
    for (int i = 0; i < 2000 && plog_durable_end(f.log) < plog_end(f.log); i++) /* the sync thread holds its own */
        usleep(10000);
    ck_assert_int_lt(open_fds(), 30);
    ck_assert_int_eq(read_all(&f, 0, 9 * 200, 1 << 20), 9 * 200);
    fixture_free(&f);
}
END_TEST

START_TEST(many_logs_open_cheaply)
{
    enum { N = 500 };
    Fixture f = fixture_new();
    PlogId *ids = calloc(N, sizeof(*ids)), *listed;
    Plog **logs = calloc(N, sizeof(Plog *));
    size_t n;

    fixture_open_dir(&f);
    for (int i = 0; i < N; i++)
        ids[i] = log_id("many", i);
    ck_assert_int_eq(log_dir_create_logs(f.dir, ids, N), 0);
    ck_assert_int_eq(log_dir_list(f.dir, &listed, &n), 0);
    ck_assert_uint_eq(n, N);
    free(listed);
    for (int i = 0; i < N; i++)
        logs[i] = fixture_open_log(&f, "many", i);
    ck_assert_int_lt(open_fds(), 20); /* none of them holds a file */
    for (int i = 0; i < N; i++)
        plog_close(logs[i]);
    free(logs);
    free(ids);
    fixture_free(&f);
}
END_TEST

START_TEST(deleted_logs_leave_the_disk)
{
    Fixture f = fixture_new();
    PlogId *ids;
    size_t n;

    fixture_open(&f);
    append_many(&f, 5, 1, 100);
    ck_assert_int_eq(plog_delete(f.log), 0);
    f.log = NULL;
    ck_assert_int_eq(log_dir_list(f.dir, &ids, &n), 0);
    ck_assert_uint_eq(n, 0);
    free(ids);
    f.log = fixture_open_log(&f, "t", 0); /* the same name again: a new, empty log */
    ck_assert_int_eq(plog_end(f.log), 0);
    append_many(&f, 1, 1, 100);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 1);
    fixture_free(&f);
}
END_TEST

START_TEST(a_log_that_cannot_be_deleted_is_closed)
{
    Fixture f = fixture_new();
    char folder[FOLDER_NAME_MAX];

    fixture_open(&f);
    append_many(&f, 5, 1, 100);
    ck_assert_int_eq(log_dir_rename_folder(f.dir, "t-0", "elsewhere", folder), 0);
    ck_assert_int_eq(plog_delete(f.log), -ENOENT);
    ck_assert_int_eq(renameat(log_dir_fd(f.dir), folder, log_dir_fd(f.dir), "t-0"), 0);
    f.log = fixture_open_log(&f, "t", 0);
    ck_assert_int_eq(plog_end(f.log), 5);
    fixture_free(&f); /* the clean stop asks whether all logs are closed */
}
END_TEST

/* A topic that goes before its log was opened, or whose log cannot be. */
START_TEST(a_closed_log_is_deleted)
{
    Fixture f = fixture_new();
    PlogId a = log_id("a", 0), b = log_id("bb", 0), other = log_id("a", 0), *ids;
    Plog *log;
    size_t n;

    fixture_open(&f);
    append_many(&f, 5, 1, 100);
    ck_assert_int_eq(log_dir_create_logs(f.dir, &a, 1), 0);
    plog_close(fixture_open_log(&f, "bb", 0));
    other.topic_id.b[1] = 9;
    ck_assert_int_eq(plog_delete_closed(f.dir, &other, 0), -ENOENT);
    ck_assert_int_eq(log_dir_list(f.dir, &ids, &n), 0);
    ck_assert_uint_eq(n, 3);
    free(ids);
    ck_assert_int_eq(plog_delete_closed(f.dir, &a, 0), 0);
    ck_assert_int_eq(plog_delete_closed(f.dir, &b, 0), 0);
    ck_assert_int_eq(plog_delete_closed(f.dir, &b, 0), -ENOENT);
    ck_assert_int_eq(log_dir_create_logs(f.dir, &other, 1), 0); /* the name again, another topic */
    ck_assert_int_eq(plog_open(f.dir, &other, &f.config, &log, (char[256]){0}, 256), 0);
    plog_close(log);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 5);
    ck_assert_int_eq(f.log->mark_at_open, 5); /* nobody took its mark */
    fixture_free(&f);
}
END_TEST

START_TEST(a_log_set_aside_stays_on_the_disk)
{
    Fixture f = fixture_new();
    PlogId *ids, id = log_id("t", 0);
    size_t n;
    char pattern[300];
    glob_t found;

    fixture_open(&f);
    append_many(&f, 5, 1, 100);
    fixture_close(&f);
    fixture_open_dir(&f);
    ck_assert_int_eq(plog_set_aside(f.dir, &(PlogId){.topic = "t"}), -ENOENT); /* another topic's */
    ck_assert_int_eq(plog_set_aside(f.dir, &id), 0);
    ck_assert_int_eq(plog_set_aside(f.dir, &id), -ENOENT);
    f.log = fixture_open_log(&f, "t", 0); /* the name is free */
    ck_assert_int_eq(plog_end(f.log), 0);
    fixture_close(&f);
    fixture_open(&f); /* a start leaves it alone, too */
    ck_assert_int_eq(log_dir_list(f.dir, &ids, &n), 0);
    ck_assert_uint_eq(n, 1);
    free(ids);
    (void)snprintf(pattern, sizeof(pattern), "%s/t-0.*-stray/00000000000000000000.log", f.path);
    ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
    ck_assert_uint_eq(found.gl_pathc, 1);
    globfree(&found);
    fixture_free(&f);
}
END_TEST

START_TEST(epochs_answer_like_kafka)
{
    Fixture f = fixture_new();
    int32_t epoch;
    int64_t end;

    fixture_open(&f);
    for (int32_t e = 1; e <= 5; e += 2) {
        Spec spec = {.count = 10, .timestamp = 1, .value_size = 1, .leader_epoch = e};
        int64_t offset;
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    }
    ck_assert_int_eq(plog_last_epoch(f.log), 5);
    ck_assert_int_eq(plog_epoch_at(f.log, 19), 3);
    plog_end_for_epoch(f.log, 5, &epoch, &end);
    ck_assert(epoch == 5 && end == 30);
    plog_end_for_epoch(f.log, 4, &epoch, &end); /* between: the floor's end */
    ck_assert(epoch == 3 && end == 20);
    plog_end_for_epoch(f.log, 1, &epoch, &end);
    ck_assert(epoch == 1 && end == 10);
    plog_end_for_epoch(f.log, 0, &epoch, &end); /* before the first */
    ck_assert(epoch == 0 && end == 0);
    plog_end_for_epoch(f.log, 6, &epoch, &end);
    ck_assert(epoch == -1 && end == -1);
    ck_assert_int_eq(plog_assign_epoch(f.log, 9), 0);
    plog_end_for_epoch(f.log, 5, &epoch, &end);
    ck_assert(epoch == 5 && end == 30);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_last_epoch(f.log), 9);
    ck_assert_int_eq(plog_epoch_at(f.log, 5), 1);
    fixture_free(&f);
}
END_TEST

START_TEST(truncation_drops_the_tail_for_good)
{
    Fixture f = fixture_new();
    int64_t lengths[] = {95, 40, 39, 7, 0};

    f.config.segment_bytes = 12000;
    fixture_open(&f);
    append_many(&f, 100, 1, 1000);
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        ck_assert_int_eq(plog_truncate(f.log, lengths[i]), 0);
        ck_assert_int_eq(plog_end(f.log), lengths[i]);
        ck_assert_int_eq(plog_durable_end(f.log), lengths[i]);
        ck_assert_int_eq(read_all(&f, 0, lengths[i], 1 << 20), lengths[i]);
    }
    append_many(&f, 20, 1, 1000);
    ck_assert_int_eq(read_all(&f, 0, 20, 1 << 20), 20);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(read_all(&f, 0, 20, 1 << 20), 20);
    ck_assert(!plog_is_damaged(f.log));
    fixture_free(&f);
}
END_TEST

START_TEST(leases_mark_the_inode)
{
    Fixture f = fixture_new();
    PlogLease lease;
    struct stat st;

    f.config.segment_bytes = 12000;
    fixture_open(&f);
    append_many(&f, 30, 1, 1000);
    ck_assert_int_eq(plog_lease(f.log, 29, 30, &lease), -ENODATA); /* active */
    ck_assert_int_eq(plog_lease(f.log, 5, 8, &lease), -ENODATA);   /* not wholly committed */
    ck_assert_int_eq(plog_lease(f.log, 5, 30, &lease), 0);
    ck_assert_int_eq(lease.first_offset, 5);
    ck_assert_int_eq(lease.next_offset, 11);
    ck_assert_int_eq(fstat(lease.fd, &st), 0);
    ck_assert(st.st_mode & S_ISVTX);
    ck_assert_int_eq(lease.end_position, st.st_size);
    ck_assert_int_eq(write(lease.fd, "x", 1), -1);
    ck_assert_int_eq(plog_truncate(f.log, 8), 0); /* a new file: the leased one keeps its bytes */
    ck_assert_int_eq(fstat(lease.fd, &st), 0);
    ck_assert_int_eq(lease.end_position, st.st_size);
    plog_lease_end(f.log, lease.segment_id);
    close(lease.fd);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/plog");
    TCase *t = tcase_create("plog");

    tcase_set_timeout(t, 30);
    tcase_add_test(t, offsets_are_dense_and_survive_a_clean_stop);
    tcase_add_test(t, a_closed_segment_has_no_byte_too_many);
    tcase_add_test(t, segments_roll_by_size_index_time_and_span);
    tcase_add_test(t, jitter_spreads_the_age_of_segments);
    tcase_add_test(t, one_call_writes_many_batches_and_stops_at_the_bad_one);
    tcase_add_test(t, reads_stop_at_the_bound_and_begin_inside_a_batch);
    tcase_add_test(t, a_batch_larger_than_the_space_is_named);
    tcase_add_test(t, locate_agrees_with_read);
    tcase_add_test(t, sizes_beyond_the_segment_are_refused);
    tcase_add_test(t, a_copy_keeps_its_offsets);
    tcase_add_test(t, another_topic_id_is_refused);
    tcase_add_test(t, names_that_leave_the_directory_are_refused);
    tcase_add_test(t, a_busy_writer_leaves_few_files_open);
    tcase_add_test(t, many_logs_open_cheaply);
    tcase_add_test(t, deleted_logs_leave_the_disk);
    tcase_add_test(t, a_log_that_cannot_be_deleted_is_closed);
    tcase_add_test(t, a_closed_log_is_deleted);
    tcase_add_test(t, a_log_set_aside_stays_on_the_disk);
    tcase_add_test(t, epochs_answer_like_kafka);
    tcase_add_test(t, truncation_drops_the_tail_for_good);
    tcase_add_test(t, leases_mark_the_inode);
    suite_add_tcase(s, t);
    return run_suite(s);
}
