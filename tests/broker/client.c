/* See client.h. */

#include "tests/broker/client.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "wire/batch.h"

Rig *rig;
static const char *exe;

void send_produce(int fd, int16_t version, int16_t acks, const char *topic, int32_t partition, const Buf *batch)
{
    KProduceRequestTopicDataPartitionData p = {.index = partition, .records = {batch->data, (int32_t)batch->size}};
    KProduceRequestTopicData t = {.name = k_str(topic), .partition_data = {&p, 1}};
    KProduceRequest q = {.transactional_id = K_STR_NULL, .acks = acks, .timeout_ms = 5000, .topic_data = {&t, 1}};
    rig_send(fd, 0, version, &q);
}

Produced produce(int fd, int16_t version, const char *topic, int32_t partition, const Buf *batch)
{
    Arena arena = ARENA_NULL;
    KProduceRequestTopicDataPartitionData p = {.index = partition, .records = {batch->data, (int32_t)batch->size}};
    KProduceRequestTopicData t = {.name = k_str(topic), .partition_data = {&p, 1}};
    KProduceRequest q = {.transactional_id = K_STR_NULL, .acks = -1, .timeout_ms = 5000, .topic_data = {&t, 1}};
    KProduceResponse a;
    rig_ask(fd, 0, version, &q, &arena, &a);
    ck_assert_int_eq(a.responses.n, 1);
    ck_assert_int_eq(a.responses.items[0].partition_responses.n, 1);
    Produced result = a.responses.items[0].partition_responses.items[0];
    result.record_errors.items = NULL;
    result.error_message = K_STR_NULL;
    arena_deinit(&arena);
    return result;
}

Fetched fetch(int fd, int16_t version, const char *topic, int64_t offset, int32_t wait_ms, int32_t min_bytes, int32_t max_bytes,
                     Arena *arena)
{
    KFetchRequestTopicsPartitions p = {.fetch_offset = offset,
                                       .partition_max_bytes = max_bytes,
                                       .current_leader_epoch = -1,
                                       .last_fetched_epoch = -1,
                                       .high_watermark = INT64_MAX};
    KFetchRequestTopics t = {.topic = k_str(topic), .partitions = {&p, 1}};
    KFetchRequest q = {.replica_id = -1,
                       .max_wait_ms = wait_ms,
                       .min_bytes = min_bytes,
                       .max_bytes = INT32_MAX,
                       .session_epoch = -1,
                       .topics = {&t, 1},
                       .cluster_id = K_STR_NULL};
    KFetchResponse a;
    rig_ask(fd, 1, version, &q, arena, &a);
    ck_assert_int_eq(a.responses.n, 1);
    ck_assert_int_eq(a.responses.items[0].partitions.n, 1);
    ck_assert_int_ge(a.responses.items[0].partitions.items[0].records.len, 0); /* null would break librdkafka */
    return a.responses.items[0].partitions.items[0];
}

int walk(KBytes records, int64_t from, int64_t first_value_offset, int first_value)
{
    const uint8_t *at = records.ptr;
    size_t left = (size_t)records.len;
    int n = 0;
    while (left > 0) {
        BatchHeader h;
        BatchIter it;
        Record r;
        ck_assert_int_eq(batch_header_decode(at, left, &h), 0);
        ck_assert_uint_le(batch_total_size(&h), left);
        ck_assert(batch_crc_is_valid(at, &h));
        batch_iter_init(&it, &h, at + BATCH_HEADER_SIZE, batch_total_size(&h) - BATCH_HEADER_SIZE);
        while (batch_iter_next(&it, &r) == 1) {
            char want[24];
            int size = snprintf(want, sizeof(want), "v%d", first_value + (int)(r.offset - first_value_offset));
            if (r.offset < from)
                continue;
            ck_assert_int_eq(r.value_size, size);
            ck_assert_mem_eq(r.value, want, (size_t)size);
            n++;
        }
        at += batch_total_size(&h);
        left -= batch_total_size(&h);
    }
    return n;
}

void answers_quickly(void)
{
    int fd = rig_connect(rig);
    Arena arena = ARENA_NULL;
    KApiVersionsRequest q = {.client_software_name = k_str("t"), .client_software_version = k_str("1")};
    KApiVersionsResponse a;
    int64_t start_ms = clock_mono_ms();
    rig_ask(fd, 18, 3, &q, &arena, &a);
    ck_assert_int_eq(a.error_code, 0);
    ck_assert_int_lt(clock_mono_ms() - start_ms, 2000);
    arena_deinit(&arena);
    close(fd);
}

/* --- the program --- */

static void start(void)
{
    rig = rig_start(&(RigOptions){.exe = exe, .conf = "log.pool.bytes = 0\n"});
}

static void stop(void)
{
    rig_stop(rig);
}

int process_main(int argc, char **argv, const char *name, const ProcessTest *tests, size_t n)
{
    if (argc < 2)
        return 64;
    exe = argv[1];
    alarm(120);
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create("process");
    tcase_set_timeout(tc, 60);
    tcase_add_unchecked_fixture(tc, start, stop);
    for (size_t i = 0; i < n; i++)
        tcase_add_test(tc, tests[i].test);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
