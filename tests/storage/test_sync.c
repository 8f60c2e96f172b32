/* Sync rounds, durable marks, checkpoint files, storage failures, the full disk and the pool. */

#include "storage_test.h"

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* ---- a disk that misbehaves ---------------------------------------------------------------------------------------- */

static atomic_int sync_error, sync_calls; /* errno of the next fdatasync or syncfs */
static int write_error, write_short, write_calls, space_error;

int fdatasync(int fd)
{
    atomic_fetch_add(&sync_calls, 1);
    if (atomic_load(&sync_error)) {
        errno = atomic_load(&sync_error);
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

int syncfs(int fd)
{
    if (atomic_load(&sync_error)) {
        errno = atomic_load(&sync_error);
        return -1;
    }
    return (int)syscall(SYS_syncfs, fd);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t position)
{
    write_calls++;
    if (write_error) {
        errno = write_error;
        if (write_error == EINTR)
            write_error = 0;
        return -1;
    }
    if (write_short) /* a few bytes at a time */
        return pwrite(fd, iov[0].iov_base, MIN(iov[0].iov_len, (size_t)write_short), position);
    return (ssize_t)syscall(SYS_pwritev, fd, iov, (unsigned long)n, position, 0);
}

int fallocate(int fd, int mode, off_t from, off_t size)
{
    if (space_error) {
        errno = space_error;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, from, size);
}

/* ---- rounds -------------------------------------------------------------------------------------------------------- */

static void count_round(void *userdata)
{
    atomic_fetch_add((atomic_int *)userdata, 1);
}

static void wait_durable(Fixture *f, int64_t end)
{
    for (int i = 0; i < 2000 && plog_durable_end(f->log) < end; i++)
        usleep(1000);
    ck_assert_int_ge(plog_durable_end(f->log), end);
}

START_TEST(a_round_moves_the_durable_end_and_says_so)
{
    Fixture f = fixture_new();
    atomic_int rounds = 0;
    LogDirStats s;

    f.options.synced = count_round;
    f.options.userdata = &rounds;
    fixture_open(&f);
    append_many(&f, 3, 2, 100);
    ck_assert_int_eq(plog_durable_end(f.log), 0);
    log_dir_want_sync(f.dir, f.log);
    wait_durable(&f, 6);
    for (int i = 0; i < 1000 && atomic_load(&rounds) == 0; i++)
        usleep(1000);
    ck_assert_int_ge(atomic_load(&rounds), 1);
    log_dir_stats(f.dir, &s);
    ck_assert_uint_ge(s.files_synced, 1);
    fixture_free(&f);
}
END_TEST

START_TEST(flush_messages_and_flush_ms)
{
    Fixture f = fixture_new();

    f.config.flush_messages = 10;
    fixture_open(&f);
    append_many(&f, 9, 1, 100);
    usleep(30000);
    ck_assert_int_eq(plog_durable_end(f.log), 0);
    append_many(&f, 1, 1, 100);
    wait_durable(&f, 10);
    f.config.flush_messages = INT64_MAX;
    f.config.flush_ms = 20;
    plog_set_config(f.log, &f.config);
    append_many(&f, 1, 1, 100);
    wait_durable(&f, 11);
    fixture_free(&f);
}
END_TEST

/* The owner appends and asks while rounds run; whatever a round calls durable was asked for before, and nothing is missed. */
START_TEST(appends_race_with_rounds)
{
    Fixture f = fixture_new();
    int64_t last = 0;

    f.config.segment_bytes = 20000; /* files come and go under the rounds */
    fixture_open(&f);
    for (int i = 0; i < 3000; i++) {
        append_many(&f, 1, 1, 100);
        log_dir_want_sync(f.dir, f.log);
        ck_assert_int_ge(plog_durable_end(f.log), last);
        last = plog_durable_end(f.log);
        ck_assert_int_le(last, plog_end(f.log));
    }
    wait_durable(&f, 3000);
    ck_assert_int_eq(read_all(&f, 0, 3000, 30000), 3000);
    fixture_free(&f);
}
END_TEST

START_TEST(many_logs_share_a_round)
{
    enum { N = 100 };
    Fixture f = fixture_new();
    Plog *logs[N];
    LogDirStats s;
    uint64_t rounds;

    fixture_open_dir(&f);
    for (int i = 0; i < N; i++) {
        logs[i] = fixture_open_log(&f, "m", i);
        f.log = logs[i];
        append_many(&f, 1, 1, 100);
    }
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    log_dir_stats(f.dir, &s);
    rounds = s.rounds;
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(plog_durable_end(logs[i]), 1);
        f.log = logs[i];
        append_many(&f, 1, 1, 100);
    }
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    log_dir_stats(f.dir, &s);
    ck_assert_uint_le(s.rounds, rounds + 2);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(plog_durable_end(logs[i]), 2);
        plog_close(logs[i]);
    }
    f.log = NULL;
    fixture_free(&f);
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------------------------------ */

static void note_failure(void *userdata, const char *why)
{
    const Fixture *f = userdata;
    FILE *out = fopen(file_path(f, "said"), "w");
    fprintf(out, "%s", why);
    fclose(out);
}

START_TEST(a_failed_sync_ends_the_process_with_74)
{
    Fixture f = fixture_new();
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        f.options.failed = note_failure;
        f.options.userdata = &f;
        fixture_open(&f);
        append_many(&f, 3, 1, 100);
        ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
        append_many(&f, 3, 1, 100);
        atomic_store(&sync_error, EIO);
        log_dir_want_sync(f.dir, f.log);
        sleep(10);
        _exit(1);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 74);
    ck_assert_int_gt(file_size(&f, "said"), 10);
    ck_assert_int_gt(file_size(&f, "storage-failure"), 5);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SUSPECT);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 5000), plog_end(f.log));
    ck_assert_int_ge(plog_end(f.log), 3);
    fixture_free(&f);
}
END_TEST

START_TEST(a_failed_write_is_reported_and_flagged)
{
    Fixture f = fixture_new();
    Spec spec = {.count = 1, .timestamp = 1, .value_size = 10};
    int64_t offset;

    fixture_open(&f);
    append_many(&f, 3, 1, 100);
    write_error = EIO;
    ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), -EIO);
    write_error = 0;
    ck_assert_int_eq(plog_end(f.log), 3);
    ck_assert_int_gt(file_size(&f, "storage-failure"), 5);
    fixture_free(&f);
}
END_TEST

START_TEST(short_and_interrupted_writes_are_finished)
{
    Fixture f = fixture_new();

    fixture_open(&f);
    write_short = 37;
    append_many(&f, 5, 3, 400);
    ck_assert_int_gt(write_calls, 100);
    write_short = 0;
    write_error = EINTR;
    append_many(&f, 1, 3, 400);
    ck_assert_int_eq(read_all(&f, 0, 18, 5000), 18);
    fixture_free(&f);
}
END_TEST

/* ---- no space ------------------------------------------------------------------------------------------------------ */

START_TEST(a_full_disk_changes_nothing)
{
    Fixture f = fixture_new();
    Spec spec = {.count = 2, .timestamp = 50, .value_size = 3000, .producer_id = 4, .leader_epoch = 1};
    int64_t offset, end = 0;
    PlogTimeOffset t;

    fixture_open(&f);
    for (int i = 0; i < 5; i++, spec.sequence += 2)
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    end = plog_end(f.log);
    spec.leader_epoch = 2;
    spec.timestamp = 1000;
    if (_i == 0) { /* the write itself */
        write_error = ENOSPC;
    } else { /* the reservation */
        space_error = ENOSPC;
        while (append_to(f.log, f.memory, &spec, &offset) == 0) { /* fills what was reserved */
            spec.sequence += 2;
            end = plog_end(f.log);
        }
    }
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), PLOG_E_NO_SPACE);
    ck_assert_int_eq(plog_end(f.log), end);
    if (_i == 0) {
        ck_assert_int_eq(plog_last_epoch(f.log), 1);
        ck_assert_int_eq(plog_max_timestamp(f.log, INT64_MAX, &t), 0);
        ck_assert_int_eq(t.timestamp, 51);
    }
    ck_assert_int_eq(read_all(&f, 0, end, 10000), end);
    write_error = space_error = 0; /* freed: the same sequence goes now, and only once */
    ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    ck_assert_int_eq(offset, end);
    ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), PLOG_E_DUPLICATE);
    ck_assert_int_eq(read_all(&f, 0, end + 2, 10000), end + 2);
    ck_assert_int_eq(file_size(&f, "storage-failure"), -ENOENT);
    fixture_free(&f);
}
END_TEST

START_TEST(below_the_reserve_clients_are_refused)
{
    Fixture f = fixture_new();
    Spec spec = {.count = 1, .timestamp = 1, .value_size = 10};
    LogDirStats s;
    int64_t offset;
    Plog *internal;

    fixture_open_dir(&f);
    log_dir_stats(f.dir, &s);
    ck_assert(!s.low);
    f.dir = log_dir_close(f.dir, true);
    f.options.reserve_bytes = s.free_bytes * 2;
    fixture_open(&f);
    f.config.internal = true;
    internal = fixture_open_log(&f, "__consumer_offsets", 0);
    log_dir_stats(f.dir, &s);
    ck_assert(s.low && !s.exhausted);
    ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), PLOG_E_NO_SPACE);
    ck_assert_int_eq(append_to(internal, f.memory, &spec, &offset), 0);
    plog_close(internal);
    f.log = plog_close(f.log);
    f.dir = log_dir_close(f.dir, true);
    f.options.reserve_bytes *= 4;
    fixture_open_dir(&f);
    internal = fixture_open_log(&f, "__consumer_offsets", 0);
    log_dir_stats(f.dir, &s);
    ck_assert(s.exhausted);
    ck_assert_int_eq(append_to(internal, f.memory, &spec, &offset), PLOG_E_NO_SPACE);
    plog_close(internal);
    fixture_free(&f);
}
END_TEST

START_TEST(a_real_full_file_system)
{
    Fixture f = fixture_new();
    Spec spec = {.count = 1, .timestamp = 50, .value_size = 100000, .producer_id = 4};
    int64_t offset, end;
    int r = 0;

    if (mount("none", f.path, "tmpfs", 0, "size=8m") < 0) {
        printf("# skipped: mounting a small file system needs root\n");
        fixture_free(&f);
        return;
    }
    fixture_open(&f);
    for (int i = 0; i < 1000 && r == 0; i++, spec.sequence++)
        r = append_to(f.log, f.memory, &spec, &offset);
    spec.sequence--;
    ck_assert_int_eq(r, PLOG_E_NO_SPACE);
    end = plog_end(f.log);
    ck_assert_int_gt(end, 60); /* of 80 that would fit without anything else: the last chunk shrinks to what is left */
    ck_assert_int_eq(read_all(&f, 0, end, 1 << 20), end);
    f.config.retention_bytes = 0;
    f.config.segment_bytes = 1000000;
    plog_set_config(f.log, &f.config);
    ck_assert_int_eq(plog_roll(f.log), 0);
    ck_assert_int_eq(plog_retain(f.log, 1000, end), 0);
    for (int i = 0; i < 2000 && (r = append_to(f.log, f.memory, &spec, &offset)) != 0; i++)
        usleep(1000); /* the worker deletes */
    ck_assert_msg(r == 0, "%d, free %" PRId64, r, atomic_load(&f.dir->free_bytes));
    ck_assert_int_eq(plog_end(f.log), end + 1);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), end + 1);
    fixture_close(&f);
    ck_assert_int_eq(umount(f.path), 0);
    fixture_free(&f);
}
END_TEST

/* ---- marks --------------------------------------------------------------------------------------------------------- */

static int64_t mark_of(int fd, const Uuid *dir, int n, bool *ret_whole)
{
    Uuid topic = {.b = {1}};
    uint32_t slot;
    int64_t offset;
    Marks *m;

    ck_assert_int_eq(marks_open(fd, dir, &m, ret_whole), 0);
    ck_assert_int_eq(marks_slot(m, &topic, n, &slot, &offset), 0);
    marks_close(m);
    return offset;
}

START_TEST(a_torn_mark_costs_one_round)
{
    Fixture f = fixture_new();
    int fd = open(f.path, O_RDONLY | O_DIRECTORY);
    Uuid dir = {.b = {9}}, topic = {.b = {1}};
    uint8_t noise[4096];
    uint32_t slot = 0;
    int64_t offset, seen;
    bool whole;
    Marks *m;

    memset(noise, 0x5a, sizeof(noise));
    ck_assert_int_eq(marks_open(fd, &dir, &m, &whole), 0);
    ck_assert(!whole); /* it was not there */
    for (int n = 0; n < 300; n++) { /* three pages */
        ck_assert_int_eq(marks_slot(m, &topic, n, &slot, &offset), 0);
        ck_assert_int_eq(offset, -1);
    }
    for (int64_t round = 1; round <= 5; round++) {
        for (uint32_t i = 0; i < 300; i++)
            marks_set(m, i, round * 1000 + i);
        ck_assert_int_eq(marks_write(m, false), 0);
    }
    ck_assert_int_eq(marks_sync(m), 0);
    marks_close(m);
    ck_assert_int_eq(mark_of(fd, &dir, 299, &whole), 5299);
    ck_assert(whole);
    /* The two copies of page 0 lie at 4096 and 8192. Tear the newest: the round before answers. */
    for (int copy = 1; copy <= 2; copy++) {
        run("cp %s/durable-marks %s/saved", f.path, f.path);
        file_write(&f, "durable-marks", noise, sizeof(noise), 4096 * copy);
        seen = mark_of(fd, &dir, 7, &whole);
        ck_assert(whole);
        ck_assert(seen == 5007 || seen == 4007);
        run("cp %s/saved %s/durable-marks", f.path, f.path);
        file_flip(&f, "durable-marks", 4096 * copy + 100); /* one sector of eight */
        ck_assert_int_eq(mark_of(fd, &dir, 30, &whole), 5030);
        ck_assert(whole);
        run("cp %s/saved %s/durable-marks", f.path, f.path);
    }
    file_write(&f, "durable-marks", noise, sizeof(noise), 4096);
    file_write(&f, "durable-marks", noise, sizeof(noise), 8192);
    ck_assert_int_eq(mark_of(fd, &dir, 7, &whole), -1);
    ck_assert(!whole);
    run("cp %s/saved %s/durable-marks", f.path, f.path);
    dir.b[3] = 1; /* another directory's marks say nothing here */
    ck_assert_int_eq(mark_of(fd, &dir, 7, &whole), -1);
    ck_assert(!whole);
    close(fd);
    fixture_free(&f);
}
END_TEST

START_TEST(mark_slots_come_and_go)
{
    Fixture f = fixture_new();
    int fd = open(f.path, O_RDONLY | O_DIRECTORY);
    Uuid dir = {.b = {9}}, topic = {.b = {1}};
    uint32_t slot;
    int64_t offset;
    bool whole;
    Marks *m;

    ck_assert_int_eq(marks_open(fd, &dir, &m, &whole), 0);
    for (int n = 0; n < 9000; n++) { /* past the pages there are at first */
        ck_assert_int_eq(marks_slot(m, &topic, n, &slot, &offset), 0);
        marks_set(m, slot, n);
    }
    for (int n = 0; n < 9000; n += 2) {
        ck_assert_int_eq(marks_slot(m, &topic, n, &slot, &offset), 0);
        ck_assert_int_eq(offset, n);
        marks_drop(m, slot);
    }
    topic.b[1] = 5;
    for (int n = 0; n < 4000; n++) {
        ck_assert_int_eq(marks_slot(m, &topic, n, &slot, &offset), 0);
        ck_assert_int_eq(offset, -1);
        marks_set(m, slot, 7);
    }
    ck_assert_int_eq(marks_write(m, true), 0);
    marks_close(m);
    ck_assert_int_eq(mark_of(fd, &dir, 8999, &whole), 8999);
    ck_assert_int_eq(mark_of(fd, &dir, 8998, &whole), -1);
    ck_assert(whole);
    close(fd);
    fixture_free(&f);
}
END_TEST

/* ---- checkpoint files ---------------------------------------------------------------------------------------------- */

START_TEST(checkpoints_are_kafkas)
{
    Fixture f = fixture_new();
    PlogId id = log_id("t", 0);

    fixture_open(&f);
    append_many(&f, 10, 2, 100);
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    log_dir_set_high_watermark(f.dir, f.log, 15);
    ck_assert_int_eq(plog_set_start(f.log, 4), 0);
    ck_assert_int_eq(log_dir_checkpoint_wait(f.dir), 0);
    run("test \"$(cat %s/log-start-offset-checkpoint)\" = \"$(printf '0\\n1\\nt 0 4\\n')\"", f.path);
    run("test \"$(cat %s/recovery-point-offset-checkpoint)\" = \"$(printf '0\\n1\\nt 0 20\\n')\"", f.path);
    run("test \"$(cat %s/replication-offset-checkpoint)\" = \"$(printf '0\\n1\\nt 0 15\\n')\"", f.path);
    fixture_close(&f);
    run("grep -q '\"version\":0' %s/.kafka_cleanshutdown", f.path);
    run("grep -q ^directory.id= %s/meta.properties; echo cluster.id=abc >> %s/meta.properties", f.path, f.path);
    fixture_open(&f);
    ck_assert_int_eq(file_size(&f, ".kafka_cleanshutdown"), -ENOENT);
    ck_assert_int_eq(log_dir_checkpointed_high_watermark(f.dir, &id), 15);
    ck_assert_int_eq(plog_start(f.log), 4);
    ck_assert_int_eq(log_dir_checkpointed_high_watermark(f.dir, &(PlogId){.topic = "none"}), -1);
    run("grep -q cluster.id=abc %s/meta.properties", f.path);
    fixture_free(&f);
}
END_TEST

/* ---- pool ---------------------------------------------------------------------------------------------------------- */

static void wait_pool(Fixture *f, int64_t bytes)
{
    LogDirStats s = {0};

    for (int i = 0; i < 500 && s.pool_bytes < bytes; i++) {
        usleep(10000);
        log_dir_stats(f->dir, &s);
    }
    ck_assert_int_ge(s.pool_bytes, bytes);
}

START_TEST(a_busy_log_takes_prewritten_files)
{
    Fixture f = fixture_new();
    LogDirStats s;

    f.options.pool_bytes = 8 << 20;
    f.options.segment_bytes_default = 2 << 20;
    fixture_open(&f);
    wait_pool(&f, 8 << 20);
    append_many(&f, 40, 1, 100000); /* 4 MB: 1 MiB of its own, then 2 MiB files */
    log_dir_stats(f.dir, &s);
    ck_assert_int_le(s.pool_bytes, 4 << 20);
    ck_assert_uint_eq(plog_segments(f.log), 3);
    ck_assert_int_eq(plog_tail(f.log)->prewritten, 2 << 20);
    ck_assert_int_eq(read_all(&f, 0, 40, 1 << 20), 40);
    fixture_close(&f);
    fixture_open(&f); /* the rest of the pool is found again */
    wait_pool(&f, 2 << 20);
    ck_assert_int_eq(read_all(&f, 0, 40, 1 << 20), 40);
    fixture_free(&f);
}
END_TEST

static void fill_from_pool(Fixture *f)
{
    wait_pool(f, 8 << 20);
    append_many(f, 25, 1, 100000);
    ck_assert_int_gt(plog_tail(f->log)->prewritten, 0);
}

START_TEST(a_crash_in_a_prewritten_segment)
{
    Fixture f = fixture_new();

    f.options.pool_bytes = 8 << 20;
    f.options.segment_bytes_default = 2 << 20;
    crash_after(fill_from_pool, &f);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 25);
    ck_assert_int_eq(read_all(&f, 0, 25, 1 << 20), 25);
    append_many(&f, 25, 1, 100000);
    ck_assert_int_eq(read_all(&f, 0, 50, 1 << 20), 50);
    fixture_free(&f);
}
END_TEST

/* Segments that retention drops come back zeroed, unless somebody may still look at them. */
START_TEST(dropped_segments_enter_the_pool)
{
    Fixture f = fixture_new();
    PlogLease lease = {.fd = -1};
    PlogSlice slice;
    struct stat before, now;
    int found = 0;

    f.options.pool_bytes = 2 << 20;
    f.options.segment_bytes_default = 2 << 20;
    f.config.segment_bytes = 2 << 20;
    f.config.retention_bytes = 0;
    fixture_open(&f);
    f.dir->pool.target_bytes = 0; /* nothing but what is recycled */
    append_many(&f, 30, 1, 100000);
    ck_assert_uint_eq(plog_segments(f.log), 2);
    ck_assert_int_eq(stat(file_path(&f, SEGMENT_0 ".log"), &before), 0);
    if (_i == 1)
        ck_assert_int_eq(plog_lease(f.log, 0, 30, &lease), 0);
    if (_i == 2)
        ck_assert_int_eq(link(file_path(&f, SEGMENT_0 ".log"), file_path(&f, "backup")), 0);
    if (_i == 3) {
        ck_assert_int_eq(plog_locate(f.log, 0, 30, 1 << 20, true, &slice), 0);
        ck_assert_int_ge(plog_slice_fd(f.log, &slice), 0);
    }
    pthread_mutex_lock(&f.dir->mutex);
    f.dir->pool.target_bytes = 2 << 20;
    pthread_mutex_unlock(&f.dir->mutex);
    atomic_fetch_add(&f.dir->appended_bytes, 100 << 20); /* not idle: the pool is not filled from nothing */
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 30), 0);
    ck_assert_uint_eq(plog_segments(f.log), 1);
    for (int i = 0; i < 100 && !found; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "pool.%08d", i % 10);
        found = stat(file_path(&f, name), &now) == 0 && now.st_ino == before.st_ino;
        usleep(2000);
    }
    ck_assert_int_eq(found, _i == 0);
    if (found) {
        run("test \"$(tr -d '\\0' < %s/pool.00000001 | wc -c)\" = 0", f.path);
        ck_assert_int_eq(now.st_size, 2 << 20);
    }
    if (lease.fd >= 0) { /* the holder of a lease keeps an inode, but no space */
        ck_assert_int_eq(fstat(lease.fd, &now), 0);
        for (int i = 0; i < 500 && now.st_blocks > 0; i++) {
            usleep(1000);
            ck_assert_int_eq(fstat(lease.fd, &now), 0);
        }
        ck_assert_int_eq(now.st_blocks, 0);
        ck_assert_int_eq(now.st_size, before.st_size);
        close(lease.fd);
    }
    fixture_free(&f);
}
END_TEST

/* On tmpfs prewritten files are memory that nobody gains from; who sets log.pool.bytes gets them all the same. */
START_TEST(no_pool_in_memory_unless_asked)
{
    Fixture f = fixture_new();
    struct statfs st;

    ck_assert_int_eq(statfs(f.path, &st), 0);
    f.options.pool_bytes = 8 << 20;
    f.options.segment_bytes_default = 2 << 20;
    f.options.pool_on_disk_only = true;
    fixture_open(&f);
    ck_assert_int_eq(f.dir->pool.target_bytes, st.f_type == TMPFS_MAGIC ? 0 : 8 << 20);
    fixture_close(&f);
    f.options.pool_on_disk_only = false;
    fixture_open(&f);
    wait_pool(&f, 8 << 20);
    fixture_close(&f);
    f.options.pool_on_disk_only = true;
    fixture_open(&f); /* what is left of it goes */
    ck_assert_int_eq(f.dir->pool.ready_bytes, st.f_type == TMPFS_MAGIC ? 0 : 8 << 20);
    fixture_free(&f);
}
END_TEST

START_TEST(an_idle_log_takes_nothing_from_the_pool)
{
    Fixture f = fixture_new();
    LogDirStats s;

    f.options.pool_bytes = 4 << 20;
    f.options.segment_bytes_default = 1 << 20;
    fixture_open(&f);
    wait_pool(&f, 4 << 20);
    append_many(&f, 5, 1, 100);
    ck_assert_int_eq(plog_roll(f.log), 0);
    append_many(&f, 5, 1, 100);
    log_dir_stats(f.dir, &s);
    ck_assert_int_eq(s.pool_bytes, 4 << 20);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/sync");
    TCase *t = tcase_create("sync");

    tcase_set_timeout(t, 30);
    tcase_add_test(t, a_round_moves_the_durable_end_and_says_so);
    tcase_add_test(t, flush_messages_and_flush_ms);
    tcase_add_test(t, appends_race_with_rounds);
    tcase_add_test(t, many_logs_share_a_round);
    tcase_add_test(t, a_failed_sync_ends_the_process_with_74);
    tcase_add_test(t, a_failed_write_is_reported_and_flagged);
    tcase_add_test(t, short_and_interrupted_writes_are_finished);
    tcase_add_loop_test(t, a_full_disk_changes_nothing, 0, 2);
    tcase_add_test(t, below_the_reserve_clients_are_refused);
    tcase_add_test(t, a_real_full_file_system);
    tcase_add_test(t, a_torn_mark_costs_one_round);
    tcase_add_test(t, mark_slots_come_and_go);
    tcase_add_test(t, checkpoints_are_kafkas);
    tcase_add_test(t, a_busy_log_takes_prewritten_files);
    tcase_add_test(t, a_crash_in_a_prewritten_segment);
    tcase_add_loop_test(t, dropped_segments_enter_the_pool, 0, 4);
    tcase_add_test(t, no_pool_in_memory_unless_asked);
    tcase_add_test(t, an_idle_log_takes_nothing_from_the_pool);
    suite_add_tcase(s, t);
    return run_suite(s);
}
