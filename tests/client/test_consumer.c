#include "tests/client/fake_broker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "wire/error.h"

static FakeBroker *broker;
static leat_consumer *consumer;
static leat_client *client;
static leat_record records[256];

static void produce_with(const char *codec, int32_t partition, int from, int to, size_t pad)
{
    leat_producer *p = NULL;
    leat_topic *t = NULL;
    leat_conf *conf = fake_conf(broker, (const char *[]){"compression.type", codec, "batch.size", "4096", "linger.ms", "50", NULL});
    ck_assert_int_eq(leat_producer_new(conf, &p), 0);
    ck_assert_int_eq(leat_topic_open(leat_producer_client(p), "t", &t), 0);
    char *text = calloc(1, pad + 32);
    memset(text, ' ', pad + 31);
    for (int i = from; i < to; i++) {
        leat_header h = {.key = "n", .key_size = 1, .value = text, .value_size = i % 2 ? 4 : -1};
        leat_message m = LEAT_MESSAGE_INIT;
        text[snprintf(text, 16, "%d", i)] = ' ';
        m.topic = t;
        m.partition = partition;
        m.value = text;
        m.value_size = (ptrdiff_t)pad + 16;
        m.headers = &h;
        m.headers_count = i % 3 == 0;
        m.timestamp_ms = 1700000000000 + i;
        int r;
        while ((r = leat_produce(p, &m)) == -EAGAIN)
            leat_wait(leat_producer_client(p), 10);
        ck_assert_int_eq(r, 0);
    }
    free(text);
    ck_assert_int_eq(leat_flush(p, 10000), 0);
    leat_producer_close(p, NULL);
    leat_conf_free(conf);
}

static void produce(int32_t partition, int from, int to)
{
    produce_with("none", partition, from, to, 0);
}

static void open_consumer(const char *const *extra)
{
    leat_conf *conf = fake_conf(broker, extra);
    ck_assert_int_eq(leat_consumer_new(conf, &consumer), 0);
    leat_conf_free(conf);
    client = leat_consumer_client(consumer);
}

static void assign(int32_t partition, int64_t offset)
{
    leat_partition p = {.topic = "t", .partition = partition, .offset = offset};
    ck_assert_int_eq(leat_assign(consumer, &p, 1), 0);
}

static int number(const leat_record *r)
{
    char text[17] = "";
    memcpy(text, r->value, 16);
    return atoi(text);
}

/* Reads until the numbers [from, to) came in this order, from one partition. */
static void expect(int from, int to)
{
    int64_t give_up_ms = clock_mono_ms() + 10000;
    while (from < to) {
        int n = leat_poll(consumer, 50, records, (size_t)MIN(to - from, 256));
        ck_assert_int_ge(n, 0);
        for (int i = 0; i < n; i++)
            ck_assert_int_eq(number(&records[i]), from++);
        ck_assert_msg(clock_mono_ms() < give_up_ms, "missing from %d", from);
    }
}

static void expect_silence(int ms)
{
    ck_assert_int_eq(leat_poll(consumer, ms, records, 256), 0);
}

static void setup(void)
{
    broker = fake_new();
    fake_add_topic(broker, "t", 4);
}

static void teardown(void)
{
    consumer = leat_consumer_close(consumer);
    fake_free(broker);
}

START_TEST(records_are_what_was_produced)
{
    produce_with((const char *[]){"none", "gzip", "snappy", "lz4", "zstd"}[_i], 1, 0, 1000, 40);
    open_consumer(NULL);
    assign(1, LEAT_OFFSET_EARLIEST);
    int next = 0;
    while (next < 1000) {
        int n = leat_poll(consumer, 1000, records, 1 + (size_t)next % 200);
        ck_assert_int_gt(n, 0);
        for (int i = 0; i < n; i++, next++) {
            const leat_record *r = &records[i];
            leat_header h;
            ck_assert_int_eq(number(r), next);
            ck_assert_int_eq(r->offset, next);
            ck_assert_int_eq(r->partition, 1);
            ck_assert_int_eq(r->timestamp_ms, 1700000000000 + next);
            ck_assert_int_eq(r->key_size, -1);
            ck_assert_int_eq(r->value_size, 56);
            ck_assert_str_eq(leat_topic_name(r->topic), "t");
            ck_assert_uint_eq(r->headers_count, next % 3 == 0);
            ck_assert_int_eq(leat_record_header(r, 0, &h), next % 3 == 0 ? 0 : -ENOENT);
            if (next % 3 == 0) {
                ck_assert(h.key_size == 1 && memcmp(h.key, "n", 1) == 0);
                ck_assert_int_eq(h.value_size, next % 2 ? 4 : -1);
                ck_assert_int_eq(leat_record_header(r, 1, &h), -ENOENT);
            }
        }
        /* All of this poll's records are still there: the first as well as the last. */
        ck_assert_int_eq(number(&records[0]), next - n);
    }
    ck_assert_int_eq(leat_position(consumer, "t", 1), 1000);
    for (int i = 0; i < 100 && !leat_at_end(consumer); i++)
        expect_silence(10);
    ck_assert(leat_at_end(consumer));
}
END_TEST

START_TEST(an_empty_partition_is_at_its_end)
{
    open_consumer(NULL);
    assign(0, LEAT_OFFSET_EARLIEST);
    for (int i = 0; i < 100 && !leat_at_end(consumer); i++)
        expect_silence(10);
    ck_assert(leat_at_end(consumer));
    produce(0, 0, 10);
    expect(0, 10);
}
END_TEST

START_TEST(latest_begins_at_the_assignment_even_over_a_restart)
{
    produce(0, 0, 10);
    open_consumer(NULL);
    assign(0, LEAT_OFFSET_LATEST);
    while (leat_position(consumer, "t", 0) < 0)
        expect_silence(5);
    fake_kill(broker); /* nothing was read yet */
    fake_start(broker);
    produce(0, 10, 20);
    expect(10, 20);
}
END_TEST

START_TEST(seek_drops_what_is_on_its_way)
{
    produce(0, 0, 3000);
    open_consumer(NULL);
    assign(0, 100);
    expect(100, 105);
    ck_assert_int_eq(leat_seek(consumer, "t", 0, 2000), 0);
    ck_assert_int_eq(leat_position(consumer, "t", 0), 2000);
    expect(2000, 2010);
    ck_assert_int_eq(leat_seek(consumer, "t", 0, LEAT_OFFSET_EARLIEST), 0);
    expect(0, 7);
    ck_assert_int_eq(leat_seek(consumer, "t", 0, 2999), 0);
    expect(2999, 3000);
    ck_assert_int_eq(leat_seek(consumer, "t", 3, 0), -ENOENT);
    ck_assert_int_eq(leat_seek(consumer, "t", 0, -5), -EINVAL);
}
END_TEST

START_TEST(pause_stops_and_resume_goes_on)
{
    produce(0, 0, 500);
    open_consumer(NULL);
    assign(0, 0);
    expect(0, 100);
    ck_assert_int_eq(leat_pause(consumer, "t", 0, true), 0);
    expect_silence(30);
    produce(0, 500, 600);
    expect_silence(30);
    ck_assert_int_eq(leat_pause(consumer, "t", 0, false), 0);
    expect(100, 600);
}
END_TEST

START_TEST(a_dying_broker_skips_and_repeats_nothing)
{
    produce(2, 0, 5000);
    open_consumer(NULL);
    assign(2, LEAT_OFFSET_EARLIEST);
    for (int i = 0; i < 5; i++) {
        expect(i * 600, i * 600 + 600);
        int held = number(&records[0]);
        fake_kill(broker);
        fake_start(broker);
        for (int k = 0; k < 5; k++)
            leat_process(client); /* meets the death; the records of the last poll stay */
        ck_assert_int_eq(number(&records[0]), held);
    }
    expect(3000, 5000);
}
END_TEST

START_TEST(out_of_range_follows_the_policy)
{
    static const char *const policies[] = {"earliest", "latest", "none"};
    produce(0, 0, 100);
    fake_trim(broker, "t", 0, 50);
    open_consumer((const char *[]){"auto.offset.reset", policies[_i], "retry.backoff.ms", "2", NULL});
    assign(0, 10);
    if (_i == 0) {
        int n = 0;
        while (n == 0)
            n = leat_poll(consumer, 100, records, 1);
        ck_assert_int_eq(number(&records[0]), 50);
    } else if (_i == 1) {
        for (int i = 0; i < 200 && leat_position(consumer, "t", 0) != 100; i++)
            expect_silence(5);
        produce(0, 100, 110);
        expect(100, 110);
    } else {
        int r = 0;
        for (int i = 0; i < 100 && r == 0; i++)
            r = leat_poll(consumer, 20, records, 1);
        ck_assert_int_eq(r, -ERANGE);
        ck_assert_int_eq(leat_kafka_error(client), K_OFFSET_OUT_OF_RANGE);
        expect_silence(10); /* said once */
        ck_assert_int_eq(leat_seek(consumer, "t", 0, 60), 0);
        expect(60, 100);
    }
}
END_TEST

START_TEST(commits_without_a_group_membership)
{
    produce(0, 0, 100);
    produce(1, 0, 100);
    open_consumer((const char *[]){"group.id", "g", "enable.auto.commit", "false", "auto.offset.reset", "earliest", NULL});
    leat_partition both[] = {{.topic = "t", .partition = 0, .offset = LEAT_OFFSET_COMMITTED},
                             {.topic = "t", .partition = 1, .offset = LEAT_OFFSET_COMMITTED}};
    ck_assert_int_eq(leat_assign(consumer, both, 2), 0);
    int seen = 0;
    while (seen < 150) {
        int n = leat_poll(consumer, 100, records, 50);
        ck_assert_int_ge(n, 0);
        seen += n;
    }
    ck_assert_int_eq(leat_commit_offsets(consumer, NULL, 0, 1000), 0);
    int64_t first = fake_committed(broker, "t", 0), second = fake_committed(broker, "t", 1);
    ck_assert_int_eq(MAX(first, 0) + MAX(second, 0), seen);
    leat_partition one = {.topic = "t", .partition = 1, .offset = 33};
    ck_assert_int_eq(leat_commit_offsets(consumer, &one, 1, 1000), 0);
    ck_assert_int_eq(fake_committed(broker, "t", 1), 33);
    leat_partition ask[] = {{.topic = "t", .partition = 1}, {.topic = "t", .partition = 3}};
    ck_assert_int_eq(leat_committed(consumer, ask, 2, 1000), 0);
    ck_assert_int_eq(ask[0].offset, 33);
    ck_assert_int_eq(ask[1].offset, -1);
    /* Another consumer of the group goes on there. */
    consumer = leat_consumer_close(consumer);
    open_consumer((const char *[]){"group.id", "g", NULL});
    assign(1, LEAT_OFFSET_COMMITTED);
    expect(33, 100);
}
END_TEST

START_TEST(auto_commit_waits_for_the_next_poll)
{
    produce(0, 0, 10);
    open_consumer((const char *[]){"group.id", "g", "auto.commit.interval.ms", "1", NULL});
    assign(0, 0);
    expect(0, 10);
    for (int i = 0; i < 10; i++)
        leat_wait(client, 2); /* the program may still work on the records */
    ck_assert_int_lt(fake_committed(broker, "t", 0), 10); /* a slow machine polls more than once for ten */
    expect_silence(20);
    expect_silence(20);
    ck_assert_int_eq(fake_committed(broker, "t", 0), 10);
}
END_TEST

START_TEST(closing_commits_what_was_read)
{
    produce(0, 0, 10);
    open_consumer((const char *[]){"group.id", "g", NULL});
    assign(0, 0);
    expect(0, 10);
    consumer = leat_consumer_close(consumer);
    ck_assert_int_eq(fake_committed(broker, "t", 0), 10);
}
END_TEST

/* The ring is full of batches nobody polls, and their first one is borrowed: the answer must get through. */
START_TEST(an_answer_passes_a_full_ring)
{
    produce_with("none", 0, 0, 4000, 1000);
    open_consumer((const char *[]){"group.id", "g", "session.delivery.bytes", "65536", NULL});
    assign(0, 0);
    for (int i = 0; i < 20; i++) {
        expect(i * 3, i * 3 + 3);
        int64_t start_ms = clock_mono_ms();
        ck_assert_int_eq(leat_commit_offsets(consumer, NULL, 0, 2000), 0);
        ck_assert_int_lt(clock_mono_ms() - start_ms, 1000);
        ck_assert_int_eq(fake_committed(broker, "t", 0), i * 3 + 3);
        ck_assert_int_eq(number(&records[2]), i * 3 + 2);
    }
    expect(60, 4000);
}
END_TEST

START_TEST(large_batches_come_as_they_are)
{
    produce_with("none", 0, 0, 3, 500000);
    open_consumer(NULL);
    assign(0, 0);
    expect(0, 3);
    ck_assert_int_eq(records[0].value_size, 500016);
}
END_TEST

static const double damages[] = {-1, 0, 0.3, 0.999};

START_TEST(catching_up_by_lease_gives_the_same_records)
{
    produce_with("none", 0, 0, 6000, 100);
    fake_damage_leases(broker, damages[_i]);
    open_consumer((const char *[]){"lease.min.bytes", "100000", "check.crcs", "false", NULL});
    assign(0, 0);
    expect(0, 2500);
    ck_assert_int_gt(fake_leases(broker), 0);
    if (_i == 0)
        ck_assert_int_eq(fake_leases_held(broker), 1);
    ck_assert_int_eq(leat_seek(consumer, "t", 0, 500), 0);
    expect(500, 900);
    int held = number(&records[0]);
    fake_kill(broker);
    fake_start(broker);
    for (int k = 0; k < 5; k++)
        leat_process(client);
    ck_assert_int_eq(number(&records[0]), held);
    expect(900, 6000);
    produce(0, 6000, 6100);
    expect(6000, 6100);
}
END_TEST

START_TEST(two_consumers_of_a_client_do_not_share_a_partition)
{
    produce(0, 0, 10);
    produce(1, 0, 10);
    open_consumer(NULL);
    leat_conf *conf = fake_conf(broker, NULL);
    leat_consumer *other = NULL;
    ck_assert_int_eq(leat_consumer_attach(client, conf, &other), 0);
    leat_partition zero = {.topic = "t", .partition = 0, .offset = 0}, one = {.topic = "t", .partition = 1, .offset = 0};
    ck_assert_int_eq(leat_assign(other, &zero, 1), 0);
    ck_assert_int_eq(leat_assign(consumer, &zero, 1), -EBUSY);
    ck_assert_int_eq(leat_assign(consumer, &one, 1), 0);
    expect(0, 10);
    ck_assert_int_eq(records[0].partition, 1);
    int n = 0;
    while (n == 0)
        n = leat_poll(other, 100, records, 256);
    ck_assert_int_eq(records[0].partition, 0);
    leat_consumer_close(other);
    leat_conf_free(conf);
}
END_TEST

START_TEST(list_offsets_asks_for_both_ends)
{
    produce(0, 0, 30);
    fake_trim(broker, "t", 0, 5);
    open_consumer(NULL);
    leat_partition p[] = {{.topic = "t", .partition = 0, .offset = LEAT_OFFSET_EARLIEST},
                          {.topic = "t", .partition = 1, .offset = LEAT_OFFSET_LATEST}};
    ck_assert_int_eq(leat_list_offsets(client, p, 2, 1000), 0);
    ck_assert_int_eq(p[0].offset, 5);
    ck_assert_int_eq(p[1].offset, 0);
    leat_partition twice[] = {{.topic = "t", .partition = 0, .offset = LEAT_OFFSET_LATEST},
                              {.topic = "t", .partition = 1, .offset = LEAT_OFFSET_LATEST},
                              {.topic = "t", .partition = 0, .offset = LEAT_OFFSET_EARLIEST}};
    ck_assert_int_eq(leat_list_offsets(client, twice, 3, 1000), 0); /* Kafka refuses requests that name a partition twice */
    ck_assert_int_eq(twice[0].offset, 30);
    ck_assert_int_eq(twice[1].offset, 0);
    ck_assert_int_eq(twice[2].offset, 5);
    leat_partition no = {.topic = "none", .partition = 0, .offset = LEAT_OFFSET_LATEST};
    ck_assert_int_eq(leat_list_offsets(client, &no, 1, 1000), -ENOENT);
}
END_TEST

START_TEST(an_event_loop_gets_records_through_the_fd)
{
    open_consumer(NULL);
    assign(0, 0);
    expect_silence(20);
    int got = 0;
    produce(0, 0, 300);
    for (int i = 0; i < 1000 && got < 300; i++) {
        int64_t timeout = leat_timeout(client);
        struct pollfd p = {.fd = leat_fd(client), .events = (short)leat_events(client)};
        poll(&p, 1, timeout < 0 ? 1000 : (int)timeout);
        ck_assert_int_eq(leat_process(client), 0);
        int n = leat_poll(consumer, 0, records, 64);
        ck_assert_int_ge(n, 0);
        got += n;
    }
    ck_assert_int_eq(got, 300);
}
END_TEST

/* Waiting for a topic that is not there yet costs a look now and then, not a turn a millisecond. */
START_TEST(a_missing_topic_is_waited_for)
{
    open_consumer(NULL);
    ck_assert_int_eq(leat_assign(consumer, &(leat_partition){.topic = "later", .offset = 0}, 1), 0);
    expect_silence(20);
    int turns = 0;
    for (int64_t end = clock_mono_ms() + 300; clock_mono_ms() < end; turns++)
        leat_wait(client, 300);
    ck_assert_int_lt(turns, 40);
    fake_add_topic(broker, "later", 1);
    for (int i = 0; i < 100 && !leat_at_end(consumer); i++)
        ck_assert_int_eq(leat_poll(consumer, 20, records, 64), 0);
    ck_assert(leat_at_end(consumer));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("consumer");
    TCase *t = tcase_create("consumer");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_loop_test(t, records_are_what_was_produced, 0, 5);
    tcase_add_test(t, an_empty_partition_is_at_its_end);
    tcase_add_test(t, latest_begins_at_the_assignment_even_over_a_restart);
    tcase_add_test(t, seek_drops_what_is_on_its_way);
    tcase_add_test(t, pause_stops_and_resume_goes_on);
    tcase_add_test(t, a_dying_broker_skips_and_repeats_nothing);
    tcase_add_loop_test(t, out_of_range_follows_the_policy, 0, 3);
    tcase_add_test(t, commits_without_a_group_membership);
    tcase_add_test(t, auto_commit_waits_for_the_next_poll);
    tcase_add_test(t, closing_commits_what_was_read);
    tcase_add_test(t, an_answer_passes_a_full_ring);
    tcase_add_test(t, large_batches_come_as_they_are);
    tcase_add_loop_test(t, catching_up_by_lease_gives_the_same_records, 0, 4);
    tcase_add_test(t, two_consumers_of_a_client_do_not_share_a_partition);
    tcase_add_test(t, list_offsets_asks_for_both_ends);
    tcase_add_test(t, an_event_loop_gets_records_through_the_fd);
    tcase_add_test(t, a_missing_topic_is_waited_for);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
