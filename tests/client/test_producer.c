#include "tests/client/fake_broker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/hash.h"
#include "client/producer.h"
#include "wire/batch.h"
#include "wire/error.h"

static FakeBroker *broker;
static leat_producer *producer;
static leat_client *client;
static leat_topic *topic;

static void open_producer(const char *const *extra)
{
    leat_conf *conf = fake_conf(broker, extra);
    ck_assert_int_eq(leat_producer_new(conf, &producer), 0);
    leat_conf_free(conf);
    client = leat_producer_client(producer);
    ck_assert_int_eq(leat_topic_open(client, "t", &topic), 0);
}

static void setup(void)
{
    broker = fake_new();
    fake_add_topic(broker, "t", 4);
}

static void teardown(void)
{
    producer = leat_producer_close(producer, NULL);
    fake_free(broker);
}

static int send_text(int32_t partition, const char *text, void *opaque)
{
    leat_message m = LEAT_MESSAGE_INIT;
    m.topic = topic;
    m.partition = partition;
    m.value = text;
    m.value_size = (ptrdiff_t)strlen(text);
    m.opaque = opaque;
    return leat_produce(producer, &m);
}

static void send_number(int32_t partition, int n)
{
    char text[32];
    int r;
    snprintf(text, sizeof text, "%d", n);
    while ((r = send_text(partition, text, NULL)) == -EAGAIN)
        leat_wait(client, 100);
    ck_assert_int_eq(r, 0);
}

/* Values 0..n-1 stand in the partition in order, each once. */
static void check_numbers(int32_t partition, int n)
{
    ck_assert_int_eq(fake_end_offset(broker, "t", partition), n);
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(atoi(fake_value(broker, "t", partition, i)), i);
}

START_TEST(one_record_goes_at_once)
{
    open_producer(NULL);
    ck_assert_int_eq(send_text(2, "hello", NULL), 0);
    for (int i = 0; i < 1000 && fake_end_offset(broker, "t", 2) == 0; i++) /* no call of ours moves it */
        poll(NULL, 0, 1);
    ck_assert_str_eq(fake_value(broker, "t", 2, 0), "hello");
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_uint_eq(leat_in_flight(producer), 0);
}
END_TEST

START_TEST(batches_grow_while_one_is_under_way)
{
    open_producer(NULL);
    fake_hold_acks(broker, true);
    for (int i = 0; i < 500; i++)
        send_number(0, i);
    for (int i = 0; i < 1000 && fake_end_offset(broker, "t", 0) == 0; i++)
        poll(NULL, 0, 1);
    ck_assert_int_eq(fake_batches(broker, "t", 0), 1); /* the first record alone; 499 wait for its acknowledgement */
    ck_assert_int_eq(leat_flush(producer, 20), -ETIMEDOUT);
    fake_hold_acks(broker, false);
    fake_kill(broker); /* the acknowledgement is lost with the broker: everything is sent again */
    fake_start(broker);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    check_numbers(0, 500);
    ck_assert_int_le(fake_batches(broker, "t", 0), 3);
    ck_assert_int_ge(fake_duplicates(broker), 1);
}
END_TEST

START_TEST(linger_waits_and_then_sends)
{
    open_producer((const char *[]){"linger.ms", "30", NULL});
    send_number(1, 0);
    send_number(1, 1);
    leat_wait(client, 5);
    ck_assert_int_eq(fake_end_offset(broker, "t", 1), 0);
    int64_t timeout = leat_timeout(client);
    ck_assert(timeout > 0 && timeout <= 30);
    for (int i = 0; i < 200 && leat_in_flight(producer); i++)
        leat_wait(client, 5);
    check_numbers(1, 2);
    ck_assert_int_eq(fake_batches(broker, "t", 1), 1);
}
END_TEST

START_TEST(reports_carry_offsets_in_order)
{
    open_producer(NULL);
    for (intptr_t i = 0; i < 100; i++)
        ck_assert_int_eq(send_text(3, "x", i % 3 ? (void *)(i + 1) : NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    leat_report reports[128];
    size_t n = leat_reports(producer, reports, 128);
    ck_assert_uint_eq(n, 66); /* those with an opaque */
    for (size_t i = 0; i < n; i++) {
        intptr_t id = (intptr_t)reports[i].opaque - 1;
        ck_assert_int_eq(reports[i].error, 0);
        ck_assert_int_eq(reports[i].offset, id);
        ck_assert_int_eq(reports[i].partition, 3);
        ck_assert_ptr_eq(reports[i].topic, topic);
        ck_assert_int_gt(reports[i].timestamp_ms, 1600000000000);
        if (i > 0)
            ck_assert_int_gt(id, (intptr_t)reports[i - 1].opaque - 1);
    }
    ck_assert_uint_eq(leat_reports(producer, reports, 128), 0);
}
END_TEST

static const char *const acks[] = {"0", "1", "all"};

START_TEST(every_acks_arrives_in_order)
{
    open_producer((const char *[]){"acks", acks[_i], NULL});
    for (int i = 0; i < 20000; i++)
        send_number(0, i);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    for (int i = 0; i < 2000 && fake_end_offset(broker, "t", 0) < 20000; i++)
        poll(NULL, 0, 1); /* acks=0 was only taken */
    check_numbers(0, 20000);
}
END_TEST

START_TEST(retriable_errors_keep_the_order)
{
    open_producer((const char *[]){"retry.backoff.ms", "5", "batch.size", "256", NULL});
    for (int i = 0; i < 3000; i++) {
        if (i % 250 == 0)
            fake_refuse(broker, K_NOT_ENOUGH_REPLICAS, 1 + i / 1000);
        send_number(0, i);
    }
    ck_assert_int_eq(leat_flush(producer, 10000), 0);
    check_numbers(0, 3000);
}
END_TEST

START_TEST(a_refusal_for_good_is_told_and_the_rest_goes_on)
{
    open_producer((const char *[]){"retry.backoff.ms", "5", "batch.size", "256", NULL});
    send_number(0, 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    fake_refuse(broker, K_INVALID_RECORD, 1);
    int r = 0, sent = 1;
    for (int i = 1; r == 0; i++) {
        char text[32];
        snprintf(text, sizeof text, "%d", i);
        r = send_text(0, text, (void *)(intptr_t)i);
        if (r == 0)
            sent++;
        else if (r == -EAGAIN)
            r = 0 * leat_wait(client, 10);
    }
    ck_assert_int_eq(r, -EIO);
    ck_assert_int_eq(leat_flush(producer, 5000), -EIO);
    ck_assert_uint_eq(leat_in_flight(producer), 0);
    leat_report report;
    size_t n = 0, failed = 0;
    for (; leat_reports(producer, &report, 1) == 1; n++) {
        if (report.error == 0)
            continue;
        ck_assert_int_eq(report.error, -EBADMSG);
        ck_assert_int_eq(report.kafka_error, K_INVALID_RECORD);
        ck_assert_int_eq(report.offset, -1);
        failed++;
    }
    ck_assert_uint_eq(n, (size_t)sent - 1);
    ck_assert_uint_gt(failed, 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), (int64_t)sent - (int64_t)failed); /* those behind the hole arrived */
    int last = 0;
    for (int64_t i = 1; i < fake_end_offset(broker, "t", 0); i++) {
        int value = atoi(fake_value(broker, "t", 0, i));
        ck_assert_int_gt(value, last);
        last = value;
    }
    ck_assert_int_eq(send_text(0, "again", NULL), 0); /* the report was read: it goes on */
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
}
END_TEST

START_TEST(a_dying_broker_loses_and_doubles_nothing)
{
    Rng rng;
    rng_init(&rng, (uint64_t)_i);
    open_producer((const char *[]){"retry.backoff.ms", "5", "batch.size", "512", "compression.type", _i & 1 ? "lz4" : "none", NULL});
    int next[4] = {0};
    for (int i = 0; i < 8000; i++) {
        if (i % 1500 == 700) {
            fake_hold_acks(broker, rng_below(&rng, 2)); /* appended but not acknowledged: the dangerous case */
            for (int k = 0; k < 50; k++, i++) {
                int32_t p = (int32_t)rng_below(&rng, 4);
                send_number(p, next[p]++);
            }
            fake_kill(broker);
            fake_hold_acks(broker, false);
            for (int k = 0; k < 20; k++, i++) {
                int32_t p = (int32_t)rng_below(&rng, 4);
                send_number(p, next[p]++); /* without a broker */
            }
            fake_start(broker);
        }
        int32_t p = (int32_t)rng_below(&rng, 4);
        send_number(p, next[p]++);
    }
    ck_assert_int_eq(leat_flush(producer, 10000), 0);
    for (int32_t p = 0; p < 4; p++) {
        ck_assert_int_eq(fake_end_offset(broker, "t", p), next[p]);
        if (!(_i & 1))
            check_numbers(p, next[p]);
    }
}
END_TEST

static int wait_refused(void)
{
    leat_report report;
    int n = 0;
    leat_flush(producer, 5000);
    while (leat_reports(producer, &report, 1))
        n += report.error < 0;
    return n;
}

/* A batch that died unanswered with its session is in the log. The one before it is given up, which costs an epoch; stamped
 * under the new one it would be there twice. */
START_TEST(what_may_be_in_the_log_is_not_sent_under_a_new_stamp)
{
    open_producer((const char *[]){"delivery.timeout.ms", "400", "retry.backoff.ms", "5", "reconnect.backoff.ms", "5", NULL});
    send_number(0, 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    fake_hold_acks(broker, true);
    send_number(0, 1);
    for (int64_t end = clock_mono_ms() + 250; clock_mono_ms() < end;)
        leat_wait(client, 20);
    leat_flush(producer, 0);
    send_number(0, 2);
    leat_flush(producer, 20); /* both are appended, none acknowledged */
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 3);
    fake_kill(broker);
    fake_hold_acks(broker, false);
    for (int64_t end = clock_mono_ms() + 250; clock_mono_ms() < end;)
        leat_wait(client, 20);
    ck_assert_uint_eq(leat_in_flight(producer), 1); /* the first is given up */
    fake_start(broker);
    ck_assert_int_eq(wait_refused(), 1);
    send_number(0, 3);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    check_numbers(0, 4);
    ck_assert_int_eq(fake_duplicates(broker), 1);
}
END_TEST

START_TEST(epochs_run_out_and_another_id_goes_on)
{
    open_producer((const char *[]){"retry.backoff.ms", "5", NULL});
    int n = 0;
    send_number(1, n++);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    Lane *lane = producer->topics[topic->index].lanes[1];
    int64_t id = lane->producer_id;
    lane->epoch = INT16_MAX - 2;
    lane->raise_epoch = true; /* as after so many losses */
    for (int losses = 0; losses < 4; losses++) {
        send_number(1, n++);
        ck_assert_int_eq(leat_flush(producer, 5000), 0);
        fake_refuse(broker, K_UNKNOWN_SERVER_ERROR, 1);
        send_number(1, 999);
        ck_assert_int_eq(wait_refused(), 1);
        if (losses == 0)
            ck_assert_int_eq(lane->epoch, INT16_MAX - 1);
    }
    ck_assert_int_ne(lane->producer_id, id);
    ck_assert_int_lt(lane->epoch, 10);
    send_number(0, 0); /* other partitions go on as they were */
    send_number(1, n++);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    check_numbers(1, n);
}
END_TEST

START_TEST(keys_choose_partitions_as_java_does)
{
    static const struct {
        const char *key;
        int32_t of_four;
    } keys[] = {{"", 275646681 % 4}, {"a", 584102524 % 4}, {"abc", 479470107 % 4}, {"kafka", 1348980580 % 4}, {"key-42", 1960397127 % 4}};
    open_producer(NULL);
    int counts[4] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = topic;
        m.key = keys[i].key;
        m.key_size = (ptrdiff_t)strlen(keys[i].key);
        ck_assert_int_eq(leat_produce(producer, &m), 0);
        counts[keys[i].of_four]++;
    }
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    for (int32_t p = 0; p < 4; p++)
        ck_assert_int_eq(fake_end_offset(broker, "t", p), counts[p]);
}
END_TEST

START_TEST(records_without_key_spread_over_all)
{
    open_producer((const char *[]){"partitioner", _i ? "roundrobin" : "murmur2", NULL});
    for (int i = 0; i < 4000; i++)
        send_number(LEAT_PARTITION_ANY, i);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    int64_t total = 0;
    for (int32_t p = 0; p < 4; p++) {
        ck_assert_int_gt(fake_end_offset(broker, "t", p), _i ? 999 : 0);
        total += fake_end_offset(broker, "t", p);
    }
    ck_assert_int_eq(total, 4000);
}
END_TEST

static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd"};

START_TEST(compressed_batches_are_marked)
{
    open_producer((const char *[]){"compression.type", codecs[_i], "linger.ms", "5", NULL});
    for (int i = 0; i < 200; i++)
        ck_assert_int_eq(send_text(0, "the same words over and over, the same words over and over", NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 200);
    ck_assert_int_eq(fake_codec(broker, "t", 0), _i);
}
END_TEST

START_TEST(large_records_travel_whole)
{
    open_producer(NULL);
    size_t size = 3 << 20;
    char *big = malloc(size);
    memset(big, 'x', size);
    leat_message m = LEAT_MESSAGE_INIT;
    m.topic = topic;
    m.partition = 0;
    m.value = big;
    for (int i = 0; i < 5; i++) {
        m.value_size = (ptrdiff_t)(size >> i);
        int r;
        while ((r = leat_produce(producer, &m)) == -EAGAIN)
            leat_wait(client, 100);
        ck_assert_int_eq(r, 0);
    }
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 5);
    m.value_size = (ptrdiff_t)size * 3;
    ck_assert_int_eq(leat_produce(producer, &m), -EMSGSIZE); /* beyond the broker's message.max.bytes */
    free(big);
}
END_TEST

START_TEST(claims_are_filled_in_place)
{
    open_producer((const char *[]){"linger.ms", "20", NULL});
    leat_message m = LEAT_MESSAGE_INIT;
    void *room = NULL;
    m.topic = topic;
    m.partition = 0;
    m.key = "k";
    m.key_size = 1;
    ck_assert_int_eq(leat_commit(producer), -EINVAL);
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(leat_claim(producer, &m, 8, &room), 0);
        ck_assert_int_eq(leat_claim(producer, &m, 8, &room), -EBUSY);
        ck_assert_int_eq(send_text(0, "between", NULL), -EBUSY);
        snprintf(room, 8, "%07d", i);
        ck_assert_int_eq(i % 2 ? leat_abort(producer) : leat_commit(producer), 0);
    }
    ck_assert_int_eq(send_text(0, "end", NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 6);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(atoi(fake_value(broker, "t", 0, i)), 2 * i);
    ck_assert_str_eq(fake_value(broker, "t", 0, 5), "end");
}
END_TEST

START_TEST(a_full_buffer_says_again_and_recovers)
{
    open_producer((const char *[]){"buffer.memory", "65536", "session.arena.bytes", "262144", NULL});
    fake_hold_acks(broker, true);
    char text[1000];
    memset(text, 'a', sizeof text);
    leat_message m = LEAT_MESSAGE_INIT;
    m.topic = topic;
    m.partition = 0;
    m.value = text;
    m.value_size = sizeof text;
    int n = 0, r;
    while ((r = leat_produce(producer, &m)) == 0 && n < 100000)
        n++;
    ck_assert_int_eq(r, -EAGAIN);
    ck_assert_int_gt(n, 100);
    ck_assert_uint_eq(leat_in_flight(producer), (uint64_t)n);
    fake_hold_acks(broker, false);
    fake_kill(broker);
    fake_start(broker);
    ck_assert_int_eq(leat_flush(producer, 10000), 0);
    ck_assert_int_eq(leat_produce(producer, &m), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), n + 1);
}
END_TEST

START_TEST(delivery_timeout_gives_up_without_a_broker)
{
    open_producer((const char *[]){"delivery.timeout.ms", "50", NULL});
    fake_kill(broker);
    ck_assert_int_eq(send_text(0, "lost", (void *)1), 0);
    leat_report report;
    for (int i = 0; i < 100 && leat_in_flight(producer); i++)
        leat_wait(client, 10);
    ck_assert_uint_eq(leat_reports(producer, &report, 1), 1);
    ck_assert_int_lt(report.error, 0);
    ck_assert_ptr_eq(report.opaque, (void *)1);
    fake_start(broker);
    for (int i = 0; i < 200 && !leat_is_connected(client); i++)
        leat_wait(client, 10);
    ck_assert_int_eq(send_text(0, "kept", NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_str_eq(fake_value(broker, "t", 0, 0), "kept");
}
END_TEST

START_TEST(a_broker_that_keeps_refusing_is_quoted_at_the_end)
{
    leat_report report;

    open_producer((const char *[]){"delivery.timeout.ms", "100", "retry.backoff.ms", "5", NULL});
    fake_refuse(broker, K_KAFKA_STORAGE_ERROR, 1000);
    ck_assert_int_eq(send_text(0, "no room", NULL), 0);
    for (int i = 0; i < 200 && leat_in_flight(producer); i++)
        leat_wait(client, 10);
    ck_assert_uint_eq(leat_reports(producer, &report, 1), 1);
    ck_assert_int_eq(report.error, -ETIMEDOUT);
    ck_assert_int_eq(report.kafka_error, K_KAFKA_STORAGE_ERROR);
    ck_assert_ptr_nonnull(strstr(leat_error_text(client), "disk"));
}
END_TEST

START_TEST(a_new_partition_is_found)
{
    open_producer(NULL);
    ck_assert_int_eq(send_text(5, "early", NULL), -ENOENT); /* asks for metadata */
    fake_grow_topic(broker, "t", 6);
    int r = -ENOENT;
    for (int i = 0; i < 200 && r == -ENOENT; i++) {
        leat_wait(client, 5);
        r = send_text(5, "late", NULL);
    }
    ck_assert_int_eq(r, 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_str_eq(fake_value(broker, "t", 5, 0), "late");
}
END_TEST

START_TEST(wrong_calls_are_refused)
{
    open_producer(NULL);
    leat_message m = LEAT_MESSAGE_INIT;
    leat_topic *none = NULL;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.topic = topic;
    m.key_size = -2;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.key_size = -1;
    m.partition = -7;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.partition = 4;
    ck_assert_int_eq(leat_produce(producer, &m), -ENOENT);
    ck_assert_int_eq(leat_topic_open(client, "missing", &none), -ENOENT);
    ck_assert_int_eq(leat_kafka_error(client), K_UNKNOWN_TOPIC_OR_PARTITION);
    ck_assert_int_eq(leat_topic_open(client, "auto-1", &none), 0); /* a producer asks for it, this broker makes such names */
    none = NULL;
    ck_assert_int_eq(leat_topic_open(client, "../x", &none), -EINVAL);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(leat_topic_create(client, "t", 1, -1, NULL, 0, 1000), -EEXIST);
    ck_assert_ptr_nonnull(strstr(leat_error_text(client), "there is one already"));
    ck_assert_int_eq(leat_topic_create(client, "u", 2, -1, NULL, 0, 1000), 0);
    ck_assert_int_eq(leat_topic_open(client, "u", &none), 0);
    ck_assert_int_eq(leat_topic_partitions(none), 2);
}
END_TEST

START_TEST(bytes_that_are_not_there_are_refused)
{
    open_producer(NULL);
    leat_header header = {.key = "h", .key_size = 1, .value_size = 4};
    leat_message m = LEAT_MESSAGE_INIT;
    m.topic = topic;
    m.value_size = 5;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.value_size = PTRDIFF_MAX;
    m.value = "v";
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.value_size = 1;
    m.key_size = 3;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.key_size = -1;
    m.headers_count = 1;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    m.headers = &header;
    ck_assert_int_eq(leat_produce(producer, &m), -EINVAL);
    ck_assert_int_eq(leat_topic_create(client, "u", 1, 1, NULL, 1, -1), -EINVAL);
    ck_assert_int_eq(leat_topic_create(client, "u", 1, 1, &(leat_config_item){"retention.ms", NULL}, 1, -1), -EINVAL);
    ck_assert_int_eq(leat_list_offsets(client, NULL, 1, -1), -EINVAL);
}
END_TEST

START_TEST(waiting_records_say_what_for)
{
    open_producer(NULL);
    fake_refuse(broker, K_NOT_ENOUGH_REPLICAS, 1000);
    send_number(0, 0);
    ck_assert_int_eq(leat_flush(producer, 50), -ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(leat_error_text(client), leat_strerror(K_NOT_ENOUGH_REPLICAS)));
    fake_refuse(broker, 0, 0);
    fake_kill(broker);
    ck_assert_int_eq(leat_flush(producer, 50), -ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(leat_error_text(client), "no broker"));
    fake_start(broker);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
}
END_TEST

START_TEST(transactions_are_refused_by_name)
{
    leat_conf *conf = fake_conf(broker, (const char *[]){"transactional.id", "x", NULL});
    ck_assert_int_eq(leat_producer_new(conf, &producer), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(leat_error_text(NULL), "transactional.id"));
    leat_conf_free(conf);
}
END_TEST

START_TEST(a_broker_of_another_release_is_named)
{
    leat_conf *conf = fake_conf(broker, (const char *[]){"reconnect.backoff.ms", "5", NULL});
    fake_lag(broker, 3, 6); /* Metadata */
    ck_assert_int_eq(leat_producer_new(conf, &producer), -EPROTONOSUPPORT);
    ck_assert_ptr_nonnull(strstr(leat_error_text(NULL), "Metadata version 7, the broker 0 to 6"));
    leat_conf_free(conf);
    fake_lag(broker, -1, -1);

    open_producer((const char *[]){"reconnect.backoff.ms", "5", NULL});
    fake_kill(broker);
    fake_lag(broker, 3, 6);
    fake_start(broker);
    for (int i = 0; i < 1000 && !strstr(leat_error_text(client), "Metadata"); i++)
        leat_wait(client, 5);
    ck_assert_ptr_nonnull(strstr(leat_error_text(client), "Metadata version 7"));
    ck_assert(!leat_is_connected(client));
    fake_lag(broker, -1, -1); /* upgraded */
    ck_assert_int_eq(send_text(0, "after", NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
}
END_TEST

START_TEST(a_forked_child_may_do_nothing)
{
    open_producer(NULL);
    ck_assert_int_eq(send_text(0, "before", NULL), 0);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = send_text(0, "child", NULL) == -ECHILD && leat_flush(producer, 10) == -ECHILD &&
                  leat_process(client) == -ECHILD && leat_fd(client) == -ECHILD && leat_reports(producer, NULL, 0) == 0;
        leat_producer_close(producer, NULL);
        _exit(ok ? 0 : 1);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(send_text(0, "after", NULL), 0);
    ck_assert_int_eq(leat_flush(producer, 5000), 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 2);
}
END_TEST

START_TEST(an_event_loop_needs_only_the_fd)
{
    open_producer(NULL);
    fake_hold_acks(broker, true);
    ck_assert_int_eq(send_text(0, "x", (void *)1), 0);
    fake_hold_acks(broker, false);
    int fd = leat_fd(client);
    fake_kill(broker);
    fake_start(broker);
    leat_report report;
    for (int i = 0; i < 500 && leat_reports(producer, &report, 1) == 0; i++) {
        int64_t timeout = leat_timeout(client);
        struct pollfd p = {.fd = fd, .events = (short)leat_events(client)};
        poll(&p, 1, timeout < 0 ? 2000 : (int)timeout);
        ck_assert_int_eq(leat_process(client), 0);
        ck_assert_int_eq(leat_fd(client), fd);
    }
    ck_assert_int_eq(report.error, 0);
    ck_assert_int_eq(fake_end_offset(broker, "t", 0), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer");
    TCase *t = tcase_create("producer");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, one_record_goes_at_once);
    tcase_add_test(t, batches_grow_while_one_is_under_way);
    tcase_add_test(t, linger_waits_and_then_sends);
    tcase_add_test(t, reports_carry_offsets_in_order);
    tcase_add_loop_test(t, every_acks_arrives_in_order, 0, 3);
    tcase_add_test(t, retriable_errors_keep_the_order);
    tcase_add_test(t, a_refusal_for_good_is_told_and_the_rest_goes_on);
    tcase_add_loop_test(t, a_dying_broker_loses_and_doubles_nothing, 0, 4);
    tcase_add_test(t, what_may_be_in_the_log_is_not_sent_under_a_new_stamp);
    tcase_add_test(t, epochs_run_out_and_another_id_goes_on);
    tcase_add_test(t, keys_choose_partitions_as_java_does);
    tcase_add_loop_test(t, records_without_key_spread_over_all, 0, 2);
    tcase_add_loop_test(t, compressed_batches_are_marked, 0, 5);
    tcase_add_test(t, large_records_travel_whole);
    tcase_add_test(t, claims_are_filled_in_place);
    tcase_add_test(t, a_full_buffer_says_again_and_recovers);
    tcase_add_test(t, delivery_timeout_gives_up_without_a_broker);
    tcase_add_test(t, a_broker_that_keeps_refusing_is_quoted_at_the_end);
    tcase_add_test(t, a_new_partition_is_found);
    tcase_add_test(t, wrong_calls_are_refused);
    tcase_add_test(t, bytes_that_are_not_there_are_refused);
    tcase_add_test(t, waiting_records_say_what_for);
    tcase_add_test(t, transactions_are_refused_by_name);
    tcase_add_test(t, a_broker_of_another_release_is_named);
    tcase_add_test(t, a_forked_child_may_do_nothing);
    tcase_add_test(t, an_event_loop_needs_only_the_fd);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
