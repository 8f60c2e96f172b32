/* Offline dump, verify and repair. */

#include "storage/inspect.h"
#include "storage_test.h"

typedef struct Seen {
    int batches, records, problems, bad;
    InspectProblem last_bad;
    int kinds[8];
    int64_t next;
} Seen;

static int on_batch(void *userdata, const InspectBatch *b)
{
    Seen *seen = userdata;

    ck_assert(batch_crc_is_valid(b->bytes, &b->header));
    seen->batches++;
    seen->records += b->header.records_count;
    return 0;
}

static int on_problem(void *userdata, const InspectProblem *p)
{
    Seen *seen = userdata;

    seen->problems++;
    seen->kinds[p->kind]++;
    if (p->kind == INSPECT_BAD_BATCH) {
        seen->bad++;
        seen->last_bad = *p;
    }
    return 0;
}

static Fixture closed_log(int batches)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 20000;
    f.config.index_interval_bytes = 1000;
    fixture_open(&f);
    for (int i = 0; i < batches; i++) {
        Spec spec = {.count = 2, .timestamp = 1000000 + 2 * i, .value_size = 500, .producer_id = 3, .sequence = 2 * i, .leader_epoch = 1};
        int64_t offset;
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    }
    fixture_close(&f);
    return f;
}

START_TEST(a_sound_log_has_no_problems)
{
    Fixture f = closed_log(60);
    InspectSummary s;
    Seen seen = {0};

    ck_assert_int_eq(inspect_verify(file_path(&f, "t-0"), on_problem, &seen, &s), 0);
    ck_assert_int_eq(seen.problems, 0);
    ck_assert_uint_eq(s.batches, 60);
    ck_assert_uint_eq(s.records, 120);
    ck_assert_int_eq(s.end_offset, 120);
    ck_assert_int_eq(inspect_log(file_path(&f, "t-0"), on_batch, on_problem, &seen, &s), 0);
    ck_assert_int_eq(seen.records, 120);
    ck_assert_int_eq(inspect_segment(file_path(&f, SEGMENT_0 ".log"), on_batch, on_problem, &seen, &s), 0);
    ck_assert_uint_gt(s.batches, 10);
    fixture_free(&f);
}
END_TEST

/* Flip a byte somewhere in one batch; verify finds that batch, repair drops it and no other. */
START_TEST(repair_drops_exactly_the_bad_batch)
{
    Fixture f = closed_log(60);
    static const int64_t inside[] = {9, 16, 18, 30, 57, 70, 600, 0, 7};
    int64_t size, at;
    InspectSummary s;
    Seen seen = {0};
    PlogSlice slice;
    int batch = _i % 3 == 0 ? 0 : _i % 3 == 1 ? 5 : 17; /* first, middle, last of its segment */
    int64_t offset = 2 * batch;

    size = file_size(&f, SEGMENT_0 ".log");
    ck_assert_int_eq(size % 18, 0);
    at = size / 18 * batch;
    file_flip(&f, SEGMENT_0 ".log", at + inside[_i / 3]);
    ck_assert_int_eq(inspect_verify(file_path(&f, "t-0"), on_problem, &seen, &s), 0);
    ck_assert_int_eq(seen.bad, 1);
    ck_assert_int_eq(seen.last_bad.first_offset, offset);
    ck_assert_int_eq(seen.last_bad.next_offset, offset + 2);
    ck_assert_int_eq(seen.last_bad.position, at);
    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &seen.last_bad), 0);
    seen = (Seen){0};
    ck_assert_int_eq(inspect_verify(file_path(&f, "t-0"), on_problem, &seen, &s), 0);
    ck_assert_int_eq(seen.bad, 0);
    ck_assert_int_eq(seen.kinds[INSPECT_GAP], 0);
    ck_assert_uint_eq(s.records, 118);
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 120);
    ck_assert_int_eq(read_all(&f, 0, 120, 5000), 118);
    ck_assert_int_eq(plog_read(f.log, offset, 120, f.memory, 5000, true, &slice), 0);
    append_many(&f, 1, 1, 10);
    ck_assert_int_eq(plog_end(f.log), 121);
    fixture_free(&f);
}
END_TEST

static void sync_and_die(Fixture *f)
{
    append_many(f, 30, 2, 500);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
}

/* What a start recorded as damaged is no longer so after repair, also when the bytes were gone. */
START_TEST(repair_settles_what_recovery_recorded)
{
    Fixture f = fixture_new();
    InspectSummary s;
    Seen seen = {0};

    crash_after(sync_and_die, &f);
    if (_i == 0)
        file_flip(&f, SEGMENT_0 ".log", 5000);
    else
        file_cut(&f, SEGMENT_0 ".log", 20000);
    fixture_open(&f);
    ck_assert(plog_is_damaged(f.log));
    fixture_close(&f);
    ck_assert_int_eq(inspect_verify(file_path(&f, "t-0"), on_problem, &seen, &s), 0);
    ck_assert_int_eq(seen.bad, 1);
    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &seen.last_bad), 0);
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 60);
    ck_assert_int_lt(read_all(&f, 0, 60, 5000), 60);
    append_many(&f, 3, 2, 500);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert(!plog_is_damaged(f.log));
    ck_assert_int_eq(plog_end(f.log), 66);
    fixture_free(&f);
}
END_TEST

START_TEST(other_files_are_checked)
{
    static const struct {
        const char *command;
        InspectKind kind;
    } wrecks[] = {
        {"rm t-0/00000000000000000000.index", INSPECT_INDEX},
        {"truncate -s 13 t-0/00000000000000000000.index", INSPECT_INDEX},
        {"dd if=/dev/urandom of=t-0/00000000000000000000.timeindex bs=1 count=30 conv=notrunc 2>/dev/null", INSPECT_INDEX},
        {"for i in t-0/*.snapshot; do echo x > $i; done", INSPECT_SNAPSHOT},
        {"echo x > t-0/leader-epoch-checkpoint", INSPECT_EPOCHS},
        {"truncate -s +100 t-0/00000000000000000000.log", INSPECT_TAIL},
        {"rm t-0/00000000000000000036.*", INSPECT_GAP},
    };
    Fixture f = closed_log(60);
    InspectSummary s;
    Seen seen = {0};

    run("cd %s; %s", f.path, wrecks[_i].command);
    ck_assert_int_eq(inspect_verify(file_path(&f, "t-0"), on_problem, &seen, &s), 0);
    ck_assert_int_ge(seen.kinds[wrecks[_i].kind], wrecks[_i].kind == INSPECT_GAP ? 0 : 1);
    ck_assert_int_ge(seen.problems, 1);
    fixture_free(&f);
}
END_TEST

static int count_entry(void *userdata, const InspectIndexEntry *e)
{
    ++*(int *)userdata;
    ck_assert_int_ge(e->offset, 0);
    return 0;
}

static int count_producer(void *userdata, const InspectProducer *p)
{
    ++*(int *)userdata;
    ck_assert_int_eq(p->producer_id, 3);
    ck_assert_int_eq(p->last_sequence, 119);
    return 0;
}

START_TEST(indexes_and_snapshots_are_dumped)
{
    Fixture f = closed_log(60);
    int n = 0;

    ck_assert_int_eq(inspect_index(file_path(&f, SEGMENT_0 ".index"), count_entry, &n), 0);
    ck_assert_int_gt(n, 5);
    n = 0;
    ck_assert_int_eq(inspect_index(file_path(&f, SEGMENT_0 ".timeindex"), count_entry, &n), 0);
    ck_assert_int_gt(n, 5);
    n = 0;
    ck_assert_int_eq(inspect_snapshot(file_path(&f, "t-0/00000000000000000120.snapshot"), count_producer, &n), 0);
    ck_assert_int_eq(n, 1);
    ck_assert_int_eq(inspect_index(file_path(&f, "no-such-file"), count_entry, &n), -ENOENT);
    fixture_free(&f);
}
END_TEST

START_TEST(nonsense_is_not_repaired)
{
    Fixture f = closed_log(60);
    InspectProblem p = {.kind = INSPECT_BAD_BATCH, .position = 100, .end_position = 50, .first_offset = 1, .next_offset = 2};

    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &p), -EINVAL);
    p.end_position = 1 << 30;
    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &p), -EINVAL);
    p = (InspectProblem){.kind = INSPECT_TAIL};
    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &p), -EINVAL);
    p = (InspectProblem){.kind = INSPECT_BAD_BATCH, .segment_base = 77};
    ck_assert_int_eq(inspect_repair(file_path(&f, "t-0"), &p), -ENOENT);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/inspect");
    TCase *t = tcase_create("inspect");

    tcase_add_test(t, a_sound_log_has_no_problems);
    tcase_add_loop_test(t, repair_drops_exactly_the_bad_batch, 0, 27);
    tcase_add_loop_test(t, repair_settles_what_recovery_recorded, 0, 2);
    tcase_add_loop_test(t, other_files_are_checked, 0, 7);
    tcase_add_test(t, indexes_and_snapshots_are_dumped);
    tcase_add_test(t, nonsense_is_not_repaired);
    suite_add_tcase(s, t);
    return run_suite(s);
}
