/* Retention by time, size and start offset, and lookups by timestamp. */

#include "storage_test.h"

/* Ten batches of one 1,000-byte record to a segment; timestamps 1,000,000 + offset. */
static Fixture ten_a_segment(void)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 11000;
    f.config.retention_ms = -1;
    fixture_open(&f);
    append_many(&f, 55, 1, 1000);
    ck_assert_uint_eq(plog_segments(f.log), 6);
    return f;
}

static void set(Fixture *f, int64_t ms, int64_t bytes)
{
    f->config.retention_ms = ms;
    f->config.retention_bytes = bytes;
    plog_set_config(f->log, &f->config);
}

START_TEST(by_time)
{
    Fixture f = ten_a_segment();

    set(&f, 100, -1);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0); /* a clock that is not believed */
    ck_assert_int_eq(plog_start(f.log), 0);
    ck_assert_int_eq(plog_retain(f.log, 1000109, 55), 0); /* the first segment's greatest is 1000009: exactly 100 old */
    ck_assert_int_eq(plog_start(f.log), 0);
    ck_assert_int_eq(plog_retain(f.log, 1000110, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 10);
    ck_assert_int_eq(plog_retain(f.log, 2000000, 35), 0); /* only what lies below the bound */
    ck_assert_int_eq(plog_start(f.log), 30);
    ck_assert_int_eq(plog_retain(f.log, 2000000, 55), 0); /* all of it: the active segment rolls first */
    ck_assert_int_eq(plog_start(f.log), 55);
    ck_assert_int_eq(plog_size(f.log), 0);
    append_many(&f, 1, 1, 10);
    ck_assert_int_eq(read_all(&f, 55, 56, 1000), 1);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_start(f.log), 55);
    fixture_free(&f);
}
END_TEST

START_TEST(by_size)
{
    Fixture f = ten_a_segment();
    PlogSlice slice;
    int64_t size = plog_size(f.log);

    set(&f, -1, size);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 0);
    set(&f, -1, size / 2);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 20); /* never below what is asked for */
    ck_assert_int_ge(plog_size(f.log), size / 2);
    set(&f, -1, 0);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 50); /* the active one stays */
    ck_assert_int_eq(plog_read(f.log, 49, 55, f.memory, 5000, true, &slice), PLOG_E_OUT_OF_RANGE);
    ck_assert_int_eq(read_all(&f, 50, 55, 5000), 5);
    fixture_free(&f);
}
END_TEST

START_TEST(by_start_offset)
{
    Fixture f = ten_a_segment();

    f.config.cleanup_delete = false; /* DeleteRecords works on any log */
    plog_set_config(f.log, &f.config);
    ck_assert_int_eq(plog_set_start(f.log, 56), PLOG_E_OUT_OF_RANGE);
    ck_assert_int_eq(plog_set_start(f.log, 25), 0);
    ck_assert_int_eq(plog_set_start(f.log, 5), 0); /* never back */
    ck_assert_int_eq(plog_start(f.log), 25);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0);
    ck_assert_uint_eq(plog_segments(f.log), 4);
    ck_assert_int_eq(read_all(&f, 25, 55, 5000), 30);
    ck_assert_int_eq(plog_set_start(f.log, 55), 0);
    ck_assert_int_eq(plog_retain(f.log, INT64_MIN, 55), 0);
    ck_assert_int_eq(plog_size(f.log), 0);
    ck_assert_int_eq(plog_end(f.log), 55);
    fixture_close(&f);
    fixture_open(&f);
    ck_assert_int_eq(plog_start(f.log), 55);
    ck_assert_int_eq(plog_end(f.log), 55);
    fixture_free(&f);
}
END_TEST

static void delete_and_die(Fixture *f)
{
    append_many(f, 55, 1, 1000);
    ck_assert_int_eq(log_dir_sync_now(f->dir), 0);
    ck_assert_int_eq(plog_set_start(f->log, 33), 0);
    ck_assert_int_eq(log_dir_checkpoint_wait(f->dir), 0);
}

START_TEST(a_start_offset_survives_a_kill)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 11000;
    crash_after(delete_and_die, &f);
    fixture_open(&f);
    ck_assert_int_eq(plog_start(f.log), 33);
    ck_assert_int_eq(read_all(&f, 33, 55, 5000), 22);
    fixture_free(&f);
}
END_TEST

START_TEST(compacted_logs_keep_their_age)
{
    Fixture f = ten_a_segment();

    f.config.cleanup_delete = false;
    f.config.cleanup_compact = true;
    set(&f, 0, 0);
    ck_assert_int_eq(plog_retain(f.log, 9000000, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 0);
    fixture_free(&f);
}
END_TEST

/* A time index that claims an older segment than it is must not cost data. */
START_TEST(a_lying_time_index_deletes_nothing)
{
    Fixture f = ten_a_segment();
    uint8_t old[8] = {0, 0, 0, 0, 0, 0, 0, 1};

    fixture_close(&f);
    file_write(&f, SEGMENT_0 ".timeindex", old, sizeof(old), file_size(&f, SEGMENT_0 ".timeindex") - 12);
    file_cut(&f, "t-0/00000000000000000010.timeindex", 0);
    fixture_open(&f);
    set(&f, 1000, -1);
    ck_assert_int_eq(plog_retain(f.log, 1000500, 55), 0);
    ck_assert_int_eq(plog_start(f.log), 0);
    fixture_free(&f);
}
END_TEST

/* ---- time ---------------------------------------------------------------------------------------------------------- */

/* Timestamps that go up and down, in batches of every codec: the answer must be the smallest offset, found by brute force. */
START_TEST(lookups_by_time_are_exact)
{
    enum { BATCHES = 120, PER = 5 };
    Fixture f = fixture_new();
    static int64_t times[BATCHES * PER];
    Rng rng;

    rng_init(&rng, 5 + (uint64_t)_i);
    f.config.segment_bytes = 9000;
    f.config.index_interval_bytes = 700;
    fixture_open(&f);
    for (int b = 0; b < BATCHES; b++) {
        Spec spec = {.count = PER, .value_size = 80, .codec = (BatchCodec)(b % CODEC_COUNT)};
        int64_t offset;
        spec.timestamp = 1000 + b * 3 + (int64_t)rng_below(&rng, 40);
        for (int i = 0; i < PER; i++)
            times[b * PER + i] = spec.timestamp + i;
        ck_assert_int_eq(append_to(f.log, f.memory, &spec, &offset), 0);
    }
    for (int round = 0; round < 2; round++) {
        for (int64_t wanted = 990; wanted < 1430; wanted++) {
            int64_t end = round == 0 ? BATCHES * PER : 1 + (int64_t)rng_below(&rng, BATCHES * PER), expected = -1;
            PlogTimeOffset t;
            for (int64_t i = plog_start(f.log); i < end && expected < 0; i++)
                if (times[i] >= wanted)
                    expected = i;
            ck_assert_int_eq(plog_offset_for_time(f.log, wanted, end, &t), 0);
            ck_assert_msg(t.offset == expected, "time %" PRId64 " below %" PRId64 ": %" PRId64 " not %" PRId64, wanted, end, t.offset, expected);
            if (expected >= 0)
                ck_assert_int_eq(t.timestamp, times[expected]);
        }
        for (int64_t end = 5; end <= BATCHES * PER; end += 5) { /* ListOffsets -3: first record with the greatest timestamp */
            int64_t best = -1;
            PlogTimeOffset t;
            for (int64_t i = plog_start(f.log); i < end; i++)
                if (best < 0 || times[i] > times[best])
                    best = i;
            ck_assert_int_eq(plog_max_timestamp(f.log, end, &t), 0);
            ck_assert_int_eq(t.offset, best);
        }
        fixture_close(&f);
        fixture_open(&f);
        if (round == 0)
            ck_assert_int_eq(plog_set_start(f.log, 3), 0);
    }
    fixture_free(&f);
}
END_TEST

/* The youngest record of a batch is below the log start: its header still claims the time, the other records count. */
START_TEST(the_youngest_record_may_be_trimmed)
{
    Fixture f = fixture_new();
    PlogTimeOffset t;
    int64_t offset;

    f.config.segment_bytes = 100000;
    fixture_open(&f);
    for (int round = 0; round < 2; round++) { /* in the active segment, in a closed one */
        int64_t first = plog_end(f.log);
        Spec falling = {.count = 5, .timestamp = 9000 + round, .back = true, .value_size = 10, .codec = round ? CODEC_ZSTD : CODEC_NONE};
        ck_assert_int_eq(append_to(f.log, f.memory, &falling, &offset), 0);
        ck_assert_int_eq(append_to(f.log, f.memory, &(Spec){.count = 2, .timestamp = 500, .value_size = 10}, &offset), 0);
        if (round == 1)
            ck_assert_int_eq(plog_roll(f.log), 0);
        for (int64_t start = first; start < first + 5; start++) {
            ck_assert_int_eq(plog_set_start(f.log, start), 0);
            ck_assert_int_eq(plog_max_timestamp(f.log, plog_end(f.log), &t), 0);
            ck_assert_int_eq(t.offset, start);
            ck_assert_int_eq(t.timestamp, 9000 + round - (start - first));
        }
        ck_assert_int_eq(plog_set_start(f.log, first + 5), 0);
        ck_assert_int_eq(plog_max_timestamp(f.log, plog_end(f.log), &t), 0);
        ck_assert_int_eq(t.offset, first + 6);
    }
    fixture_free(&f);
}
END_TEST

START_TEST(an_empty_log_has_no_time)
{
    Fixture f = fixture_new();
    PlogTimeOffset t;

    fixture_open(&f);
    ck_assert_int_eq(plog_offset_for_time(f.log, 0, INT64_MAX, &t), 0);
    ck_assert(t.offset == -1 && t.timestamp == -1);
    ck_assert_int_eq(plog_max_timestamp(f.log, INT64_MAX, &t), 0);
    ck_assert(t.offset == -1 && t.timestamp == -1);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/retain");
    TCase *t = tcase_create("retain");

    tcase_add_test(t, by_time);
    tcase_add_test(t, by_size);
    tcase_add_test(t, by_start_offset);
    tcase_add_test(t, a_start_offset_survives_a_kill);
    tcase_add_test(t, compacted_logs_keep_their_age);
    tcase_add_test(t, a_lying_time_index_deletes_nothing);
    tcase_add_loop_test(t, lookups_by_time_are_exact, 0, 3);
    tcase_add_test(t, the_youngest_record_may_be_trimmed);
    tcase_add_test(t, an_empty_log_has_no_time);
    suite_add_tcase(s, t);
    return run_suite(s);
}
