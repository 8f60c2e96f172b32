/* The TCP road against librdkafka's mock cluster: the same program as on shared memory, and what it refuses. Groups are left
 * to the system tests: the mock's coordinator waits three seconds for every join. */

#include <check.h>
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "client/include/leat/leat.h"

static rd_kafka_t *handle;
static rd_kafka_mock_cluster_t *cluster;
static leat_record records[64];

static void setup(void)
{
    char why[128];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, NULL);
    handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    ck_assert_ptr_nonnull(handle);
    cluster = rd_kafka_mock_cluster_new(handle, 1);
    ck_assert_ptr_nonnull(cluster);
    rd_kafka_mock_topic_create(cluster, "t", 3, 1);
}

static void teardown(void)
{
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(handle);
}

static leat_conf *conf_new(const char *const *extra)
{
    leat_conf *conf = leat_conf_new();
    ck_assert_int_eq(leat_conf_set(conf, "enable.idempotence", "false"), 0); /* spares the mock half a second each */
    ck_assert_int_eq(leat_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster)), 0);
    for (size_t i = 0; extra && extra[i]; i += 2)
        ck_assert_int_eq(leat_conf_set(conf, extra[i], extra[i + 1]), 0);
    return conf;
}

static void produce(int from, int to)
{
    leat_producer *p = NULL;
    leat_topic *t = NULL;
    leat_conf *conf = conf_new(NULL);
    ck_assert_int_eq(leat_producer_new(conf, &p), 0);
    ck_assert_int_eq(leat_topic_open(leat_producer_client(p), "t", &t), 0);
    ck_assert_int_eq(leat_topic_partitions(t), 3);
    for (int i = from; i < to; i++) {
        char key[16], value[16];
        leat_header h[] = {{.key = "a", .key_size = 1, .value = "1", .value_size = 1}, {.key = "none", .key_size = 4, .value_size = -1}};
        leat_message m = LEAT_MESSAGE_INIT;
        m.topic = t;
        m.key = key;
        m.key_size = snprintf(key, sizeof key, "k%d", i % 7);
        m.value = value;
        m.value_size = i % 5 ? snprintf(value, sizeof value, "%d", i) : -1;
        m.timestamp_ms = 1700000000000 + i;
        m.headers = h;
        m.headers_count = 2;
        m.opaque = (void *)(intptr_t)(i + 1);
        ck_assert_int_eq(leat_produce(p, &m), 0);
    }
    ck_assert_int_eq(leat_flush(p, 10000), 0);
    leat_report reports[16];
    size_t n, total = 0;
    while ((n = leat_reports(p, reports, 16)) > 0)
        for (size_t i = 0; i < n; i++, total++) {
            ck_assert_int_eq(reports[i].error, 0);
            ck_assert_int_ge(reports[i].offset, 0);
            ck_assert_ptr_eq(reports[i].topic, t);
        }
    ck_assert_uint_eq(total, (size_t)(to - from));
    ck_assert_uint_eq(leat_in_flight(p), 0);
    uint64_t lost = 1;
    leat_producer_close(p, &lost);
    ck_assert_uint_eq(lost, 0);
    leat_conf_free(conf);
}

static leat_consumer *consumer_new(const char *const *extra)
{
    leat_consumer *k = NULL;
    leat_conf *conf = conf_new(extra);
    ck_assert_int_eq(leat_consumer_new(conf, &k), 0);
    leat_conf_free(conf);
    return k;
}

START_TEST(records_survive_the_road)
{
    produce(0, 100);
    leat_consumer *k = consumer_new(NULL);
    leat_partition all[3];
    for (int i = 0; i < 3; i++)
        all[i] = (leat_partition){.topic = "t", .partition = i, .offset = LEAT_OFFSET_EARLIEST};
    ck_assert_int_eq(leat_assign(k, all, 3), 0);
    int seen = 0, last[7];
    memset(last, -1, sizeof last);
    int64_t give_up_ms = clock_mono_ms() + 15000;
    while (seen < 100 || !leat_at_end(k)) {
        int n = leat_poll(k, 500, records, 64);
        ck_assert_int_ge(n, 0);
        ck_assert_int_lt(clock_mono_ms(), give_up_ms);
        for (int i = 0; i < n; i++, seen++) {
            const leat_record *r = &records[i];
            leat_header h;
            int number = (int)(r->timestamp_ms - 1700000000000), key = ((const char *)r->key)[1] - '0';
            ck_assert_int_eq(key, number % 7);
            ck_assert_int_gt(number, last[key]);
            last[key] = number;
            ck_assert_int_eq(r->value_size == -1, number % 5 == 0);
            ck_assert_uint_eq(r->headers_count, 2);
            ck_assert_int_eq(leat_record_header(r, 0, &h), 0);
            ck_assert(h.key_size == 1 && h.value_size == 1 && *(const char *)h.value == '1');
            ck_assert_int_eq(leat_record_header(r, 1, &h), 0);
            ck_assert(h.key_size == 4 && h.value_size == -1);
            ck_assert_int_ge(leat_position(k, "t", r->partition), r->offset + 1);
        }
    }
    leat_consumer_close(k);
}
END_TEST

START_TEST(an_event_loop_gets_reports_and_a_session_is_refused)
{
    leat_producer *p = NULL;
    leat_topic *t = NULL;
    leat_conf *conf = conf_new(NULL);
    void *room = NULL;
    size_t size = 0;
    ck_assert_int_eq(leat_producer_new(conf, &p), 0);
    leat_client *c = leat_producer_client(p);
    ck_assert_int_eq(leat_topic_open(c, "t", &t), 0);
    leat_message m = LEAT_MESSAGE_INIT;
    m.topic = t;
    ck_assert_int_eq(leat_claim(p, &m, 8, &room), -ENOTSUP);
    ck_assert_int_eq(leat_request(c, 3, 1, "", 0, 1000, &room, &size), -ENOTSUP);
    m.partition = 17;
    ck_assert_int_eq(leat_produce(p, &m), -ENOENT);
    m.partition = LEAT_PARTITION_ANY;
    m.opaque = &m;
    ck_assert_int_eq(leat_produce(p, &m), 0);
    leat_report report = {0};
    for (int i = 0; i < 100 && leat_reports(p, &report, 1) == 0; i++) {
        struct pollfd at = {.fd = leat_fd(c), .events = (short)leat_events(c)};
        ck_assert_int_gt(poll(&at, 1, 5000), 0);
        leat_process(c);
    }
    ck_assert_ptr_eq(report.opaque, &m);
    ck_assert_int_eq(report.error, 0);
    leat_producer_close(p, NULL);
    leat_conf_free(conf);
}
END_TEST

/* Small polls leave records in a queue that has signalled already. */
START_TEST(an_event_loop_gets_every_record)
{
    produce(0, 300);
    leat_consumer *k = consumer_new(NULL);
    leat_client *c = leat_consumer_client(k);
    leat_partition all[3];
    for (int i = 0; i < 3; i++)
        all[i] = (leat_partition){.topic = "t", .partition = i, .offset = LEAT_OFFSET_EARLIEST};
    ck_assert_int_eq(leat_assign(k, all, 3), 0);
    int seen = 0;
    while (seen < 300) {
        int64_t timeout = leat_timeout(c);
        struct pollfd at = {.fd = leat_fd(c), .events = (short)leat_events(c)};
        ck_assert_int_ge(poll(&at, 1, timeout < 0 ? 5000 : (int)timeout), timeout < 0 ? 1 : 0);
        leat_process(c);
        int n = leat_poll(k, 0, records, 7);
        ck_assert_int_ge(n, 0);
        seen += n;
    }
    leat_consumer_close(k);
}
END_TEST

/* auto.offset.reset=none ends the fetching of a partition until a seek says where to go on. */
START_TEST(a_seek_goes_on_after_an_offset_out_of_range)
{
    produce(0, 30);
    const char *extra[] = {"auto.offset.reset", "none", NULL};
    leat_consumer *k = consumer_new(extra);
    leat_partition first = {.topic = "t", .partition = 0, .offset = 1000000};
    ck_assert_int_eq(leat_assign(k, &first, 1), 0);
    int r = 0;
    for (int i = 0; i < 30 && r == 0; i++)
        r = leat_poll(k, 500, records, 64);
    ck_assert_int_eq(r, -ERANGE);
    ck_assert_int_eq(leat_seek(k, "t", 0, 0), 0);
    for (int i = 0; i < 30 && (r = leat_poll(k, 500, records, 64)) == 0; i++)
        ;
    ck_assert_int_gt(r, 0);
    ck_assert_int_eq(records[0].offset, 0);
    leat_consumer_close(k);
}
END_TEST

START_TEST(a_wrong_property_shows_at_the_first_use)
{
    leat_client *c = NULL;
    leat_conf *conf = leat_conf_new();
    ck_assert_int_eq(leat_conf_set(conf, "bootstrap.servers", "127.0.0.1:1"), 0);
    ck_assert_int_eq(leat_conf_set(conf, "ssl.ca.location", "/nonexistent"), 0);
    ck_assert_int_eq(leat_conf_set(conf, "security.protocol", "ssl"), 0);
    ck_assert_int_eq(leat_client_new(conf, &c), 0); /* connecting is lazy: the first use says what is wrong */
    leat_topic *t = NULL;
    ck_assert_int_lt(leat_topic_open(c, "t", &t), 0);
    ck_assert_ptr_null(t);
    ck_assert_uint_gt(strlen(leat_error_text(c)), 10);
    leat_client_free(c);
    leat_conf_free(conf);
}
END_TEST

int main(void)
{
#ifdef __SANITIZE_THREAD__
    puts("1..0 # SKIP librdkafka starts C11 threads, and gcc 12's TSan does not know thrd_create()");
    return 0;
#endif
    Suite *suite = suite_create("tcp");
    TCase *t = tcase_create("tcp");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 40);
    tcase_add_test(t, records_survive_the_road);
    tcase_add_test(t, an_event_loop_gets_reports_and_a_session_is_refused);
    tcase_add_test(t, an_event_loop_gets_every_record);
    tcase_add_test(t, a_seek_goes_on_after_an_offset_out_of_range);
    suite_add_tcase(suite, t);
    t = tcase_create("without");
    tcase_add_test(t, a_wrong_property_shows_at_the_first_use);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
