/*
 * Crashes and damage: kill -9 (the page cache survives), power cuts (what was not synced is lost, zeroed or garbled), flipped
 * bytes before and after the durable mark, lost and wrecked side files.
 */

#include "storage_test.h"

#include <sys/mman.h>

/* What the crashed process tells its parent. */
static struct Told {
    int64_t durable, end;
} *told;

static void setup(void)
{
    told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(told, MAP_FAILED);
}

static void tell(Fixture *f)
{
    told->durable = plog_durable_end(f->log);
    told->end = plog_end(f->log);
}

/* 40 synced batches of two records, then 20 that were not. */
static void forty_synced(Fixture *f)
{
    append_many(f, 40, 2, 500);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    append_many(f, 20, 2, 500);
    tell(f);
}

/* Position of the batch that begins at `offset` in an intact file. */
static int64_t position_of(const Fixture *f, const char *name, int64_t offset)
{
    uint8_t buffer[SEG_WALK_SMALL];
    int fd = open(file_path(f, name), O_RDONLY);
    SegWalk w = SEG_WALK(fd, file_size(f, name), buffer, sizeof(buffer));
    int64_t at = 0;
    BatchHeader h;

    while (seg_walk_header(&w, at, &h) == 1 && h.base_offset < offset)
        at += (int64_t)batch_total_size(&h);
    close(fd);
    return at;
}

static void write_12_mb(Fixture *f)
{
    append_many(f, 12, 1, 1 << 20);
    ck_assert_int_eq(plog_set_start(f->log, 3), 0);
    ck_assert_int_eq(log_dir_sync_log(f->dir, f->log), 0);
    ck_assert_int_eq(log_dir_checkpoint_wait(f->dir), 0);
}

static void crash_in_recovery(void *userdata, const PlogId *id, int64_t done, int64_t total)
{
    Fixture *f = userdata;

    (void)id;
    (void)done;
    (void)total;
    usleep(200000); /* rounds go on meanwhile */
    (void)log_dir_checkpoint_wait(f->dir);
    _exit(0);
}

static void not_reached(Fixture *f)
{
    (void)f;
    _exit(1);
}

/* Bounds of a log under recovery are none: neither its mark nor the checkpoint files may take them. */
START_TEST(a_crash_in_recovery_changes_no_bounds)
{
    Fixture f = fixture_new();
    char path[200], swap[220];

    f.config.flush_ms = 20;
    f.config.segment_bytes = 9 << 20;
    crash_after(write_12_mb, &f);
    (void)snprintf(path, sizeof(path), "%s/t-0/%020d.log", f.path, 0);
    (void)snprintf(swap, sizeof(swap), "%s.swap", path);
    ck_assert_int_eq(link(path, swap), 0); /* finishing it makes the folder dirty */
    f.options.progress = crash_in_recovery;
    f.options.userdata = &f;
    (void)snprintf(path, sizeof(path), "%s/" CHECKPOINT_RECOVERY, f.path);
    ck_assert_int_eq(unlink(path), 0); /* so that everything is read */
    crash_after(not_reached, &f);
    f.options.progress = NULL;
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_start(f.log), 3);
    ck_assert_int_eq(plog_end(f.log), 12);
    fixture_free(&f);
}
END_TEST

START_TEST(kill_loses_nothing)
{
    Fixture f = fixture_new();

    crash_after(forty_synced, &f);
    ck_assert_int_eq(told->durable, 80);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SYNCED);
    ck_assert_int_eq(plog_end(f.log), 120);
    ck_assert_int_eq(read_all(&f, 0, 120, 4096), 120);
    ck_assert_int_ge(plog_durable_end(f.log), 80);
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    ck_assert_int_eq(plog_durable_end(f.log), 120);
    append_many(&f, 5, 2, 500);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(read_all(&f, 0, 130, 4096), 130);
    fixture_free(&f);
}
END_TEST

static bool in_two_lives;

static void made_again(Fixture *f)
{
    append_many(f, 10, 1, 500);
    ck_assert_int_eq(plog_set_start(f->log, 6), 0);
    ck_assert_int_eq(log_dir_checkpoint_wait(f->dir), 0); /* "t 0": recovery point 10, start 6 */
    ck_assert_int_eq(plog_delete(f->log), 0);
    if (in_two_lives) /* a crash between the two */
        return;
    f->log = fixture_open_log(f, "t", 0);
    append_many(f, 3, 1, 500);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
}

static void new_with_three(Fixture *f)
{
    append_many(f, 3, 1, 500);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
}

/* A log made again under an old name begins at 0 and lacks nothing, whatever the checkpoint files said of the one before. */
START_TEST(a_name_used_again_inherits_nothing)
{
    Fixture f = fixture_new();

    in_two_lives = _i == 1;
    crash_after(made_again, &f);
    if (in_two_lives)
        crash_after(new_with_three, &f);
    fixture_open(&f);
    ck_assert_int_eq(plog_start(f.log), 0);
    ck_assert_int_eq(plog_end(f.log), 3);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(read_all(&f, 0, 3, 4096), 3);
    fixture_free(&f);
}
END_TEST

/* Cut at every kind of place behind the mark: whole batches before the cut stay, nothing else. */
START_TEST(torn_tail_is_cut)
{
    Fixture f = fixture_new();
    int64_t mark, third, cut;

    crash_after(forty_synced, &f);
    mark = position_of(&f, SEGMENT_0 ".log", 80);
    third = position_of(&f, SEGMENT_0 ".log", 86);
    cut = _i == 0 ? mark : _i == 1 ? mark + 1 : _i == 2 ? third - 1 : _i == 3 ? third : third + 30 * _i;
    file_cut(&f, SEGMENT_0 ".log", cut);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SYNCED);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), cut <= mark + 1 ? 80 : cut < third ? 84 : 86);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 4096), plog_end(f.log));
    ck_assert_int_eq(plog_end(f.log) % 2, 0);
    append_many(&f, 3, 2, 500);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 4096), plog_end(f.log));
    fixture_free(&f);
}
END_TEST

/* A hole before newer valid blocks: the log ends at the hole, the rest is kept beside it. */
START_TEST(valid_batches_behind_a_torn_one_are_kept_aside)
{
    Fixture f = fixture_new();
    uint8_t zeros[600] = {0};

    crash_after(forty_synced, &f);
    file_write(&f, SEGMENT_0 ".log", zeros, sizeof(zeros), position_of(&f, SEGMENT_0 ".log", 90));
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 90);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_gt(file_size(&f, SEGMENT_0 ".log.torn"), 1000);
    append_many(&f, 30, 2, 500);
    ck_assert_int_eq(read_all(&f, 0, 150, 4096), 150);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(read_all(&f, 0, 150, 4096), 150);
    fixture_free(&f);
}
END_TEST

/* One flipped bit in each byte of a durable batch, header and records: that batch and no other is refused. */
START_TEST(a_flipped_byte_before_the_mark_is_corruption)
{
    Fixture f = fixture_new();
    int64_t at, expected = 20;
    PlogSlice slice;

    crash_after(forty_synced, &f);
    at = position_of(&f, SEGMENT_0 ".log", 20);
    if (_i >= 12 && _i < 16) { /* leader epoch: outside the CRC, and nobody's business here */
        fixture_free(&f);
        return;
    }
    file_flip(&f, SEGMENT_0 ".log", at + (_i < 70 ? _i : 5 * _i));
    fixture_open(&f);
    ck_assert_msg(plog_is_damaged(f.log), "byte %d", _i);
    ck_assert_int_eq(plog_end(f.log), 120);
    ck_assert_int_eq(read_all(&f, 0, 20, 4096), 20);
    ck_assert_int_eq(plog_read(f.log, 20, 120, f.memory, 1 << 20, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(slice.next_offset, 22);
    ck_assert_int_eq(plog_read(f.log, 21, 120, f.memory, 1 << 20, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(plog_locate(f.log, 20, 120, 1 << 20, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(read_all(&f, 22, 120, 4096), 98);
    ck_assert_int_eq(plog_read(f.log, 0, 120, f.memory, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_int_eq(slice.next_offset, expected); /* a longer read ends before it */
    ck_assert_int_eq(plog_locate(f.log, 0, 120, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_int_eq(slice.next_offset, expected);
    append_many(&f, 2, 2, 10);
    fixture_close(&f);
    fixture_open(&f); /* a clean stop does not forget */
    ck_assert(plog_is_damaged(f.log));
    ck_assert_int_eq(plog_read(f.log, 20, 120, f.memory, 1 << 20, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(read_all(&f, 22, 124, 4096), 102);
    fixture_free(&f);
}
END_TEST

START_TEST(a_flipped_byte_behind_the_mark_is_a_torn_tail)
{
    Fixture f = fixture_new();

    crash_after(forty_synced, &f);
    file_flip(&f, SEGMENT_0 ".log", position_of(&f, SEGMENT_0 ".log", 80) + 100);
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 80);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SYNCED);
    fixture_free(&f);
}
END_TEST

/* The last durable batch, with nothing valid behind it. */
START_TEST(offsets_that_were_durable_are_never_given_again)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    crash_after(forty_synced, &f);
    file_cut(&f, SEGMENT_0 ".log", position_of(&f, SEGMENT_0 ".log", 70) + 10);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SUSPECT); /* recovery did not reach the mark */
    ck_assert(plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 80);
    ck_assert_int_eq(plog_read(f.log, 70, 80, f.memory, 4096, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(slice.next_offset, 80);
    append_many(&f, 5, 2, 100);
    ck_assert_int_eq(read_all(&f, 80, 90, 4096), 10);
    ck_assert_int_eq(read_all(&f, 0, 70, 4096), 70);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_read(f.log, 75, 90, f.memory, 4096, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(read_all(&f, 80, 90, 4096), 10);
    fixture_free(&f);
}
END_TEST

START_TEST(a_lost_segment_file_is_noticed)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    crash_after(forty_synced, &f);
    run("rm %s", file_path(&f, SEGMENT_0 ".log"));
    fixture_open(&f);
    ck_assert(plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 80);
    ck_assert_int_eq(plog_read(f.log, 0, 80, f.memory, 4096, true, &slice), PLOG_E_CORRUPT);
    append_many(&f, 1, 1, 10);
    ck_assert_int_eq(read_all(&f, 80, 81, 4096), 1);
    fixture_free(&f);
}
END_TEST

/* Cut and flipped after a clean stop, when nothing is scanned: found on the first look. */
START_TEST(damage_after_a_clean_stop_is_found_on_use)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    f.config.segment_bytes = 20000;
    fixture_open(&f);
    append_many(&f, 60, 2, 500);
    fixture_close(&f);
    file_flip(&f, SEGMENT_0 ".log", 2000); /* a closed segment, inside the records of the second batch */
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_read(f.log, 2, 120, f.memory, 4096, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(slice.next_offset, 4);
    ck_assert(plog_is_damaged(f.log));
    ck_assert_int_eq(read_all(&f, 4, 120, 4096), 116);
    fixture_free(&f);
}
END_TEST

START_TEST(an_active_segment_cut_after_a_clean_stop)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    fixture_open(&f);
    append_many(&f, 10, 2, 500);
    fixture_close(&f);
    file_cut(&f, SEGMENT_0 ".log", file_size(&f, SEGMENT_0 ".log") - 5);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 20);
    ck_assert_int_eq(read_all(&f, 0, 18, 4096), 18);
    ck_assert_int_eq(plog_read(f.log, 18, 20, f.memory, 4096, true, &slice), PLOG_E_CORRUPT);
    append_many(&f, 1, 2, 500);
    ck_assert_int_eq(read_all(&f, 20, 22, 4096), 2);
    fixture_free(&f);
}
END_TEST

/* ---- rolls and power cuts ------------------------------------------------------------------------------------------ */

static void several_segments(Fixture *f)
{
    append_many(f, 60, 2, 500);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    append_many(f, 60, 2, 500);
    tell(f);
}

START_TEST(a_roll_whose_cut_was_lost)
{
    Fixture f = fixture_new();
    uint8_t zeros[5000] = {0};
    PlogSlice slice;

    f.config.segment_bytes = 20000;
    crash_after(several_segments, &f);
    file_write(&f, SEGMENT_0 ".log", zeros, sizeof(zeros), file_size(&f, SEGMENT_0 ".log"));
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(read_all(&f, 0, 240, 4096), 240);
    ck_assert_int_eq(plog_locate(f.log, 0, 240, FIXTURE_MEMORY, true, &slice), 0);
    ck_assert_int_lt((int64_t)slice.size, 20001); /* the zeros are not given out */
    fixture_free(&f);
}
END_TEST

START_TEST(a_hole_past_the_mark_takes_later_segments_along)
{
    Fixture f = fixture_new();
    char name[64];
    int64_t base = 0;

    f.config.segment_bytes = 20000;
    crash_after(several_segments, &f);
    fixture_open(&f);
    ck_assert_uint_gt(plog_segments(f.log), 5);
    base = f.log->segments[plog_segment_floor(f.log, told->durable) + 1]->base_offset;
    fixture_close(&f);
    run("rm -f %s/.kafka_cleanshutdown %s/recovery-point-offset-checkpoint", f.path, f.path);
    (void)snprintf(name, sizeof(name), "t-0/%020" PRId64 ".log", base);
    file_cut(&f, name, 100);
    /* The clean stop moved the mark to the end; a cut there would be corruption. Play the older mark. */
    run("rm %s/durable-marks", f.path);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SUSPECT);
    ck_assert_int_eq(plog_end(f.log), base);
    ck_assert_int_eq(read_all(&f, 0, base, 4096), base);
    append_many(&f, 10, 2, 500);
    ck_assert_int_eq(read_all(&f, 0, base + 20, 4096), base + 20);
    fixture_free(&f);
}
END_TEST

static uint64_t seed_of_test;

static void random_work(Fixture *f)
{
    Rng rng;

    rng_init(&rng, seed_of_test);
    for (int i = 0; i < 60; i++) {
        append_many(f, 1 + (int)rng_below(&rng, 4), 1 + (int)rng_below(&rng, 3), rng_below(&rng, 2000));
        if (rng_below(&rng, 6) == 0)
            ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
        if (rng_below(&rng, 15) == 0)
            ck_assert_int_eq(log_dir_checkpoint_wait(f->dir), 0);
        if (rng_below(&rng, 15) == 0)
            ck_assert_int_eq(plog_checkpoint(f->log), 0);
    }
    tell(f);
}

/* Every 512-byte sector of [from, size) that was not synced is kept, zeroed or garbled. */
static void lose_sectors(const char *path, int64_t from, Rng *rng, unsigned mode)
{
    int fd = open(path, O_RDWR);
    struct stat st;
    uint8_t sector[512];

    if (fd < 0)
        return;
    ck_assert_int_eq(fstat(fd, &st), 0);
    for (int64_t at = from; at < st.st_size;) {
        int64_t end = MIN((at / 512 + 1) * 512, st.st_size);
        uint64_t what = mode == 0 ? 1 : rng_below(rng, 3);
        if (what > 0) {
            for (size_t i = 0; i < sizeof(sector); i++)
                sector[i] = what == 1 ? 0 : (uint8_t)rng_next(rng);
            ck_assert_int_eq(pwrite(fd, sector, (size_t)(end - at), at), end - at);
        }
        at = end;
    }
    if (rng_below(rng, 3) == 0 && st.st_size > from)
        ck_assert_int_eq(ftruncate(fd, from + (int64_t)rng_below(rng, (uint64_t)(st.st_size - from))), 0);
    close(fd);
}

static void cut_the_power(Fixture *f, int64_t durable, Rng *rng)
{
    static const char *const caches[] = {".index", ".timeindex", ".snapshot"};
    unsigned mode = (unsigned)rng_below(rng, 2);
    char name[128];

    for (int64_t base = 0; base <= told->end; base++) { /* bases are few, offsets are few hundred: look for all */
        (void)snprintf(name, sizeof(name), "t-0/%020" PRId64 ".log", base);
        if (file_size(f, name) >= 0)
            lose_sectors(file_path(f, name), base >= durable ? 0 : position_of(f, name, durable), rng, mode);
        for (size_t i = 0; i < ARRAY_SIZE(caches); i++) {
            (void)snprintf(name, sizeof(name), "t-0/%020" PRId64 "%s", base, caches[i]);
            if (rng_below(rng, 2) == 0 && file_size(f, name) >= 0)
                lose_sectors(file_path(f, name), (int64_t)rng_below(rng, 100), rng, 1);
        }
    }
}

START_TEST(power_cuts_keep_what_was_durable)
{
    Fixture f = fixture_new();
    Rng rng;

    seed_of_test = (uint64_t)_i + 1;
    rng_init(&rng, seed_of_test * 77);
    f.config.segment_bytes = 15000;
    f.config.index_interval_bytes = 500;
    crash_after(random_work, &f);
    cut_the_power(&f, told->durable, &rng);
    fixture_open(&f);
    ck_assert_msg(!plog_is_damaged(f.log), "seed %d", _i);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SYNCED);
    ck_assert_msg(plog_end(f.log) >= told->durable, "seed %d: end %" PRId64 " durable %" PRId64, _i, plog_end(f.log), told->durable);
    ck_assert_int_le(plog_end(f.log), told->end);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 20000), plog_end(f.log));
    append_many(&f, 20, 2, 500);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(read_all(&f, 0, plog_end(f.log), 20000), plog_end(f.log));
    ck_assert(!plog_is_damaged(f.log));
    fixture_free(&f);
}
END_TEST

/* ---- side files ---------------------------------------------------------------------------------------------------- */

static void check_lookups(Fixture *f, int64_t end)
{
    for (int64_t offset = 0; offset < end; offset += 7) {
        PlogSlice slice;
        PlogTimeOffset t;
        ck_assert_int_eq(plog_read(f->log, offset, end, f->memory, FIXTURE_MEMORY, true, &slice), 0);
        ck_assert_int_le(slice.first_offset, offset);
        ck_assert_int_gt(slice.next_offset, offset);
        ck_assert_int_ge(slice.first_offset, offset - 1);
        ck_assert_int_eq(plog_offset_for_time(f->log, 1000000 + offset, end, &t), 0);
        ck_assert_int_eq(t.offset, offset);
    }
}

START_TEST(wrecked_indexes_are_rebuilt)
{
    static const char *const wrecks[] = {
        "rm -f", "truncate -s 0", "truncate -s 13", "truncate -s 7", "truncate -s +24", "dd if=/dev/zero bs=1 count=40 conv=notrunc of=",
        "dd if=/dev/urandom bs=1 count=64 conv=notrunc of=", "dd if=/dev/urandom bs=1 seek=8 count=1 conv=notrunc of=",
        "dd if=/dev/urandom bs=1 seek=12 count=8 conv=notrunc of=", "cp /etc/passwd"};
    static const char *const kinds[] = {"*.index", "*.timeindex", "*index"};
    Fixture f = fixture_new();
    const char *wreck = wrecks[_i / 3];

    f.config.segment_bytes = 20000;
    f.config.index_interval_bytes = 1000;
    fixture_open(&f);
    append_many(&f, 100, 2, 400);
    fixture_close(&f);
    run("cd %s/t-0; for i in %s; do %s%s$i 2>/dev/null; done", f.path, kinds[_i % 3], wreck, strchr(wreck, '=') ? "" : " ");
    fixture_open(&f);
    check_lookups(&f, 200);
    ck_assert(!plog_is_damaged(f.log));
    append_many(&f, 10, 2, 400);
    check_lookups(&f, 220);
    fixture_close(&f);
    fixture_open(&f);
    check_lookups(&f, 220);
    fixture_free(&f);
}
END_TEST

START_TEST(wrecked_side_files_are_rebuilt)
{
    static const char *const wrecks[] = {
        "rm -f recovery-point-offset-checkpoint",
        "echo garbage > recovery-point-offset-checkpoint",
        "printf '0\\n5\\nt 0 3\\n' > recovery-point-offset-checkpoint",
        "printf '0\\n1\\nt 0 3\\n' > recovery-point-offset-checkpoint",
        "rm -f log-start-offset-checkpoint",
        "head -c 100 /dev/urandom > log-start-offset-checkpoint",
        "printf '0\\n1\\nt 0 99999\\n' > replication-offset-checkpoint",
        "head -c 100 /dev/urandom > replication-offset-checkpoint",
        "rm -f t-0/*.snapshot",
        "for i in t-0/*.snapshot; do head -c 60 /dev/urandom > $i; done",
        "for i in t-0/*.snapshot; do : > $i; done",
        "rm -f t-0/leader-epoch-checkpoint",
        "head -c 60 /dev/urandom > t-0/leader-epoch-checkpoint",
        "printf '0\\n2\\n3 10\\n2 20\\n' > t-0/leader-epoch-checkpoint",
        "rm -f t-0/partition.metadata",
        "head -c 100 /dev/urandom > t-0/damaged-ranges",
        "touch t-0/00000000000000000099.log.deleted t-0/00000000000000000099.log.cleaned t-0/nonsense t-0/123.log",
        "head -c 5000 /dev/urandom > cleaner-offset-checkpoint",
        "rm -f .kafka_cleanshutdown; rm -f durable-marks",
        "head -c 5000 /dev/urandom > durable-marks",
        "rm -f .kafka_cleanshutdown; head -c 50000 /dev/urandom > durable-marks",
        "rm -f .kafka_cleanshutdown meta.properties",
    };
    Fixture f = fixture_new();
    int64_t offset;

    if ((size_t)_i >= ARRAY_SIZE(wrecks))
        ck_abort_msg("the loop is too long");
    f.config.segment_bytes = 20000;
    fixture_open(&f);
    for (int i = 0; i < 100; i++) {
        Spec spec = {.count = 2, .timestamp = 1000000 + 2 * i, .value_size = 400, .producer_id = 77, .sequence = 2 * i,
                     .leader_epoch = 1 + i / 40};
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    }
    fixture_close(&f);
    run("cd %s; %s", f.path, wrecks[_i]);
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), 200);
    check_lookups(&f, 200);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_epoch_at(f.log, 79), 1);
    ck_assert_int_eq(plog_epoch_at(f.log, 80), 2);
    ck_assert_int_eq(plog_last_epoch(f.log), 3);
    {
        Spec again = {.count = 2, .timestamp = 1, .value_size = 400, .producer_id = 77, .sequence = 194};
        Spec next = {.count = 2, .timestamp = 1, .value_size = 400, .producer_id = 77, .sequence = 200};
        Spec gap = {.count = 2, .timestamp = 1, .value_size = 400, .producer_id = 77, .sequence = 210};
        ck_assert_int_eq(append_to(f.log, f.memory, &again, &offset), PLOG_E_DUPLICATE);
        ck_assert_int_eq(offset, 194);
        ck_assert_int_eq(append_to(f.log, f.memory, &gap, &offset), PLOG_E_OUT_OF_ORDER);
        ck_assert_int_eq(append_to(f.log, f.memory, &next, &offset), 0);
    }
    fixture_free(&f);
}
END_TEST

START_TEST(after_a_storage_failure_everything_is_read_and_written_again)
{
    Fixture f = fixture_new();

    crash_after(forty_synced, &f);
    run("echo broken > %s/storage-failure", f.path);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_SUSPECT);
    ck_assert_int_eq(plog_end(f.log), 120);
    ck_assert_int_eq(read_all(&f, 0, 120, 4096), 120);
    ck_assert_int_eq(log_dir_sync_now(f.dir), 0);
    ck_assert_int_eq(file_size(&f, "storage-failure"), 7);
    ck_assert_int_eq(log_dir_checkpoint_wait(f.dir), 0); /* all logs are recovered and synced: the flag goes */
    ck_assert_int_eq(file_size(&f, "storage-failure"), -ENOENT);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(log_dir_state(f.dir), LOG_DIR_CLEAN);
    fixture_free(&f);
}
END_TEST

static void with_a_checkpoint(Fixture *f)
{
    append_many(f, 200, 2, 5000);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    ck_assert_int_eq(plog_checkpoint(f->log), 0);
    ck_assert_int_eq(log_dir_checkpoint_wait(f->dir), 0);
    append_many(f, 10, 2, 5000);
    tell(f);
}

/* Bytes below the checkpoint are not read again: a flip there is invisible to recovery and found by the reader. */
static struct Life {
    int64_t done, total, longest;
    int calls;
} life;

static void on_progress(void *userdata, const PlogId *id, int64_t done, int64_t total)
{
    ck_assert_ptr_null(userdata);
    ck_assert_str_eq(id->topic, "t");
    ck_assert_int_gt(done, life.done);
    ck_assert_int_le(done, total);
    life.longest = MAX(life.longest, done - life.done);
    life.done = done;
    life.total = total;
    life.calls++;
}

static void many_segments(Fixture *f)
{
    append_many(f, 80, 1, 1 << 20);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    tell(f);
}

/* A log of many GiB whose checkpoints are lost is read for longer than a watchdog waits. */
START_TEST(a_long_recovery_shows_life)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 30 << 20;
    crash_after(many_segments, &f);
    (void)unlink(file_path(&f, CHECKPOINT_RECOVERY)); /* a checkpoint every 5 s: there may be none yet */
    f.options.progress = on_progress;
    life = (struct Life){0};
    fixture_open(&f);
    ck_assert_int_eq(plog_end(f.log), told->end);
    ck_assert_int_ge(life.total, 80 << 20);
    ck_assert_int_ge(life.done, life.total * 8 / 10);
    ck_assert_int_ge(life.calls, 8);
    ck_assert_int_le(life.longest, 12 << 20);
    fixture_free(&f);
}
END_TEST

START_TEST(recovery_reads_past_the_checkpoint_only)
{
    Fixture f = fixture_new();
    PlogSlice slice;

    crash_after(with_a_checkpoint, &f);
    file_flip(&f, SEGMENT_0 ".log", 5000);
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 420);
    ck_assert_int_eq(plog_read(f.log, 0, 420, f.memory, 1 << 20, true, &slice), PLOG_E_CORRUPT);
    ck_assert_int_eq(slice.next_offset, 2);
    ck_assert_int_eq(read_all(&f, 2, 420, 20000), 418);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/recover");
    TCase *t = tcase_create("recover");

    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, a_crash_in_recovery_changes_no_bounds);
    tcase_add_test(t, kill_loses_nothing);
    tcase_add_loop_test(t, a_name_used_again_inherits_nothing, 0, 2);
    tcase_add_loop_test(t, torn_tail_is_cut, 0, 8);
    tcase_add_test(t, valid_batches_behind_a_torn_one_are_kept_aside);
    tcase_add_loop_test(t, a_flipped_byte_before_the_mark_is_corruption, 0, 80);
    tcase_add_test(t, a_flipped_byte_behind_the_mark_is_a_torn_tail);
    tcase_add_test(t, offsets_that_were_durable_are_never_given_again);
    tcase_add_test(t, a_lost_segment_file_is_noticed);
    tcase_add_test(t, damage_after_a_clean_stop_is_found_on_use);
    tcase_add_test(t, an_active_segment_cut_after_a_clean_stop);
    tcase_add_test(t, a_roll_whose_cut_was_lost);
    tcase_add_test(t, a_hole_past_the_mark_takes_later_segments_along);
    tcase_add_loop_test(t, power_cuts_keep_what_was_durable, 0, 60);
    tcase_add_loop_test(t, wrecked_indexes_are_rebuilt, 0, 30);
    tcase_add_loop_test(t, wrecked_side_files_are_rebuilt, 0, 22);
    tcase_add_test(t, after_a_storage_failure_everything_is_read_and_written_again);
    tcase_add_test(t, a_long_recovery_shows_life);
    tcase_add_test(t, recovery_reads_past_the_checkpoint_only);
    suite_add_tcase(s, t);
    return run_suite(s);
}
