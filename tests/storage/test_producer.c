/* The idempotent window, its snapshots and what a restart remembers. */

#include "storage_test.h"

static BatchHeader header(int64_t id, int16_t epoch, int32_t sequence, int32_t count, int64_t offset)
{
    return (BatchHeader){.producer_id = id, .producer_epoch = epoch, .base_sequence = sequence, .last_offset_delta = count - 1,
                         .base_offset = offset, .max_timestamp = offset};
}

static int check(const Producers *p, int16_t epoch, int32_t sequence, int32_t count, int64_t *offset)
{
    BatchHeader h = header(5, epoch, sequence, count, 0);
    return producers_check(p, &h, offset);
}

START_TEST(the_rules_of_section_8)
{
    Producers p = {0};
    int64_t offset = -9;

    ck_assert_int_eq(check(&p, 3, 1234, 10, &offset), 0); /* unknown: any sequence */
    for (int i = 0; i < 7; i++) {
        BatchHeader h = header(5, 3, i * 10, 10, 100 + i * 10);
        ck_assert_int_eq(check(&p, 3, i * 10, 10, &offset), 0);
        ck_assert_int_eq(producers_update(&p, &h), 0);
    }
    for (int i = 2; i < 7; i++) { /* the last five */
        ck_assert_int_eq(check(&p, 3, i * 10, 10, &offset), PLOG_E_DUPLICATE);
        ck_assert_int_eq(offset, 100 + i * 10);
    }
    ck_assert_int_eq(check(&p, 3, 10, 10, &offset), PLOG_E_OUT_OF_ORDER); /* the sixth */
    ck_assert_int_eq(check(&p, 3, 60, 9, &offset), PLOG_E_OUT_OF_ORDER);  /* same start, other end */
    ck_assert_int_eq(check(&p, 3, 71, 1, &offset), PLOG_E_OUT_OF_ORDER);
    ck_assert_int_eq(check(&p, 3, 70, 1, &offset), 0);
    ck_assert_int_eq(check(&p, 2, 70, 1, &offset), PLOG_E_PRODUCER_EPOCH);
    ck_assert_int_eq(check(&p, 4, 70, 1, &offset), PLOG_E_OUT_OF_ORDER); /* a new epoch begins at 0 */
    ck_assert_int_eq(check(&p, 4, 0, 1, &offset), 0);
    producers_deinit(&p);
}
END_TEST

START_TEST(sequences_wrap)
{
    Producers p = {0};
    BatchHeader h = header(5, 0, INT32_MAX - 4, 5, 0), over = header(5, 0, INT32_MAX - 1, 5, 50);
    int64_t offset;

    ck_assert_int_eq(producers_update(&p, &h), 0);
    ck_assert_int_eq(check(&p, 0, 0, 3, &offset), 0);
    ck_assert_int_eq(check(&p, 0, INT32_MAX, 3, &offset), PLOG_E_OUT_OF_ORDER);
    producers_clear(&p);
    ck_assert_int_eq(producers_update(&p, &over), 0); /* MAX-1, MAX, 0, 1, 2 */
    ck_assert_int_eq(check(&p, 0, INT32_MAX - 1, 5, &offset), PLOG_E_DUPLICATE);
    ck_assert_int_eq(check(&p, 0, 3, 1, &offset), 0);
    producers_deinit(&p);
}
END_TEST

START_TEST(markers_move_the_epoch_and_keep_the_sequence)
{
    Producers p = {0};
    BatchHeader data = header(5, 1, 0, 3, 10), marker = header(5, 1, -1, 1, 13);
    int64_t offset;

    data.attributes = BATCH_ATTR_TXN;
    marker.attributes = BATCH_ATTR_TXN | BATCH_ATTR_CONTROL;
    ck_assert_int_eq(producers_update(&p, &data), 0);
    ck_assert_int_eq(producers_find(&p, 5)->txn_first_offset, 10);
    ck_assert_int_eq(producers_update(&p, &marker), 0);
    ck_assert_int_eq(producers_find(&p, 5)->txn_first_offset, -1);
    ck_assert_int_eq(check(&p, 1, 3, 1, &offset), 0); /* same epoch: sequences go on */
    marker.producer_epoch = 2;
    ck_assert_int_eq(producers_update(&p, &marker), 0);
    ck_assert_int_eq(check(&p, 2, 3, 1, &offset), PLOG_E_OUT_OF_ORDER);
    ck_assert_int_eq(check(&p, 2, 0, 1, &offset), 0);
    ck_assert_int_eq(check(&p, 1, 3, 1, &offset), PLOG_E_PRODUCER_EPOCH);
    producers_deinit(&p);
}
END_TEST

START_TEST(snapshots_hold_the_window)
{
    Producers p = {0}, q = {0};
    Buf data = BUF_NULL;
    int64_t offset;

    for (int64_t id = 1; id <= 300; id++)
        for (int i = 0; i < 7; i++) {
            BatchHeader h = header(id, (int16_t)(id % 5), i * 2, 2, id * 100 + i * 2);
            ck_assert_int_eq(producers_update(&p, &h), 0);
        }
    ck_assert_int_eq(producers_encode(&p, &data), 0);
    ck_assert_int_eq(producers_decode(&q, data.data, data.size), 0);
    ck_assert_uint_eq(q.n, 300);
    for (int64_t id = 1; id <= 300; id++)
        ck_assert_int_eq(memcmp(producers_find(&p, id), producers_find(&q, id), sizeof(ProducerState)), 0);
    for (size_t i = 0; i < data.size; i += 131) { /* a torn or flipped one is refused as a whole */
        ck_assert_int_eq(producers_decode(&q, data.data, i), -EBADMSG);
        ck_assert_uint_eq(q.n, 0);
        data.data[i] ^= 1;
        ck_assert_int_eq(producers_decode(&q, data.data, data.size), -EBADMSG);
        data.data[i] ^= 1;
    }
    /* Kafka's own file ends behind the array: one batch each. */
    data.size = 10 + 300 * 46;
    for (size_t crc = 0; crc < 1; crc++) {
        uint32_t c = __builtin_bswap32(crc32c(0, data.data + 6, data.size - 6));
        memcpy(data.data + 2, &c, sizeof(c));
    }
    ck_assert_int_eq(producers_decode(&q, data.data, data.size), 0);
    ck_assert_uint_eq(q.n, 300);
    {
        BatchHeader last = header(200, 0, 12, 2, 0), before = header(200, 0, 10, 2, 0);
        ck_assert_int_eq(producers_check(&q, &last, &offset), PLOG_E_DUPLICATE);
        ck_assert_int_eq(offset, 200 * 100 + 12);
        ck_assert_int_eq(producers_check(&q, &before, &offset), PLOG_E_OUT_OF_ORDER);
    }
    buf_deinit(&data);
    producers_deinit(&p);
    producers_deinit(&q);
}
END_TEST

START_TEST(the_table_is_bounded)
{
    Producers p = {0};

    for (int64_t id = 1; id <= PLOG_PRODUCERS_MAX + 10; id++) {
        BatchHeader h = header(id, 0, 0, 1, id);
        ck_assert_int_eq(producers_update(&p, &h), 0);
    }
    ck_assert_uint_le(p.n, PLOG_PRODUCERS_MAX);
    ck_assert_ptr_null(producers_find(&p, 1)); /* the longest idle went */
    ck_assert_ptr_nonnull(producers_find(&p, PLOG_PRODUCERS_MAX + 10));
    ck_assert_ptr_nonnull(producers_find(&p, PLOG_PRODUCERS_MAX / 2));
    producers_deinit(&p);
}
END_TEST

START_TEST(expiry_leaves_open_transactions)
{
    Producers p = {0};
    BatchHeader a = header(1, 0, 0, 1, 10), b = header(2, 0, 0, 1, 10), c = header(3, 0, 0, 1, 90);

    b.attributes = BATCH_ATTR_TXN;
    ck_assert_int_eq(producers_update(&p, &a), 0);
    ck_assert_int_eq(producers_update(&p, &b), 0);
    ck_assert_int_eq(producers_update(&p, &c), 0);
    producers_expire(&p, 50);
    ck_assert_ptr_null(producers_find(&p, 1));
    ck_assert_ptr_nonnull(producers_find(&p, 2));
    ck_assert_ptr_nonnull(producers_find(&p, 3));
    producers_deinit(&p);
}
END_TEST

/* ---- in a log ------------------------------------------------------------------------------------------------------ */

static void send(Fixture *f, int from, int to)
{
    for (int i = from; i < to; i++) {
        Spec spec = {.count = 3, .timestamp = i, .value_size = 300, .producer_id = 8, .epoch = 2, .sequence = 3 * i};
        int64_t offset;
        ck_assert_int_eq(append_to(f->log, f->memory, &spec, &offset), 0);
        ck_assert_int_eq(offset, 3 * i);
    }
}

static void forty_batches(Fixture *f)
{
    send(f, 0, 30);
    ck_assert_int_eq(plog_checkpoint(f->log), 0);
    send(f, 30, 40);
}

static void expect_window(Fixture *f, int last)
{
    int64_t offset;
    size_t segments = plog_segments(f->log);

    for (int i = last - 4; i <= last; i++) {
        Spec again = {.count = 3, .timestamp = i, .value_size = 300, .producer_id = 8, .epoch = 2, .sequence = 3 * i};
        ck_assert_int_eq(append_to(f->log, f->memory, &again, &offset), PLOG_E_DUPLICATE);
        ck_assert_int_eq(offset, 3 * i);
    }
    ck_assert_int_eq(plog_end(f->log), 3 * (last + 1));
    ck_assert_uint_eq(plog_segments(f->log), segments);
}

START_TEST(a_restart_remembers_the_window)
{
    Fixture f = fixture_new();
    PlogProducer known;

    if (_i & 2)
        f.config.segment_bytes = 5000;
    if (_i & 1) {
        crash_after(forty_batches, &f);
    } else {
        fixture_open(&f);
        forty_batches(&f);
        fixture_close(&f);
    }
    fixture_open(&f);
    expect_window(&f, 39);
    send(&f, 40, 45);
    ck_assert_uint_eq(plog_producers(f.log, &known, 1), 1);
    ck_assert(known.producer_id == 8 && known.epoch == 2 && known.last_sequence == 134 && known.last_offset == 134);
    fixture_free(&f);
}
END_TEST

START_TEST(the_window_follows_a_truncation)
{
    Fixture f = fixture_new();

    f.config.segment_bytes = 5000;
    fixture_open(&f);
    send(&f, 0, 40);
    ck_assert_int_eq(plog_truncate(f.log, 3 * 20), 0);
    expect_window(&f, 19);
    send(&f, 20, 25);
    fixture_free(&f);
}
END_TEST

START_TEST(a_refused_write_leaves_the_window_alone)
{
    Fixture f = fixture_new();
    Spec gap = {.count = 3, .timestamp = 1, .value_size = 300, .producer_id = 8, .epoch = 2, .sequence = 300};
    int64_t offset;

    fixture_open(&f);
    send(&f, 0, 10);
    ck_assert_int_eq(append_to(f.log, f.memory, &gap, &offset), PLOG_E_OUT_OF_ORDER);
    expect_window(&f, 9);
    send(&f, 10, 12);
    fixture_free(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage/producer");
    TCase *t = tcase_create("producer");

    tcase_add_test(t, the_rules_of_section_8);
    tcase_add_test(t, sequences_wrap);
    tcase_add_test(t, markers_move_the_epoch_and_keep_the_sequence);
    tcase_add_test(t, snapshots_hold_the_window);
    tcase_add_test(t, the_table_is_bounded);
    tcase_add_test(t, expiry_leaves_open_transactions);
    tcase_add_loop_test(t, a_restart_remembers_the_window, 0, 4);
    tcase_add_test(t, the_window_follows_a_truncation);
    tcase_add_test(t, a_refused_write_leaves_the_window_alone);
    suite_add_tcase(s, t);
    return run_suite(s);
}
