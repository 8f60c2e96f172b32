/* Refusals: every API and version has one that can be encoded, names what was asked for and carries the error where clients look. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "wire/error.h"
#include "wire/messages.h"
#include "table_random.h"

static const KApi *api_named(const char *name)
{
    const KApi *api = NULL;
    for (size_t i = 0; (api = k_api_at(i)) != NULL && strcmp(api->name, name) != 0; i++)
        ;
    ck_assert_ptr_nonnull(api);
    return api;
}

/* The refusal as it arrives, in JSON. */
static char *refusal(const KApi *api, int16_t version, const void *request, KafkaError error, const char *why)
{
    static Buf json;
    Arena arena = {0};
    Buf bytes = BUF_NULL;
    void *answer = calloc(1, k_message_struct_size(api->response));

    buf_clear(&json);
    ck_assert_int_eq(k_refusal(api, version, request, error, why, &arena, answer), 0);
    ck_assert_msg(k_encode(api->response, version, answer, &bytes) == 0, "%s v%d", api->name, version);
    ck_assert_int_eq(k_decode(api->response, version, bytes.data, bytes.size, &arena, answer), 0);
    ck_assert_int_eq(k_dump(api->response, version, answer, &json), 0);
    ck_assert_int_eq(buf_append(&json, "", 1), 0);
    buf_deinit(&bytes);
    arena_deinit(&arena);
    free(answer);
    return (char *)json.data;
}

START_TEST(every_api_refuses_in_every_version)
{
    const KApi *api;
    Rng rng;

    rng_init(&rng, 5);
    for (size_t i = 0; (api = k_api_at(i)) != NULL; i++)
        for (int16_t v = api->version_min; v <= api->version_max; v++)
            for (int round = 0; round < 50; round++) {
                Arena arena = {0};
                void *request = arena_alloc(&arena, k_message_struct_size(api->request));
                random_struct(&rng, api->request->root, v, &arena, request);
                (void)refusal(api, v, request, K_REQUEST_TIMED_OUT, "why");
                arena_deinit(&arena);
            }
}
END_TEST

#define EXPECT(api, version, request, json) ck_assert_str_eq(refusal(api_named(api), version, request, K_NOT_COORDINATOR, "why"), json)

START_TEST(groups_are_told_where_they_look)
{
    KStr names[] = {k_str("a"), k_str("b")};
    KDescribeGroupsRequest describe = {.groups = {names, 2}};
    KDeleteGroupsRequest delete = {.groups_names = {names, 2}};
    KFindCoordinatorRequest find = {.key = k_str("a"), .coordinator_keys = {names, 1}};
    KJoinGroupRequestProtocols protocol = {.name = k_str("range")};
    KJoinGroupRequest join = {.member_id = k_str("m"), .protocol_type = k_str("consumer"), .protocols = {&protocol, 1}};
    KLeaveGroupRequestMembers leaver = {.member_id = k_str("m")};
    KLeaveGroupRequest leave = {.members = {&leaver, 1}};

    EXPECT("DescribeGroups", 0, &describe, "{\"groups\":["
        "{\"error_code\":16,\"group_id\":\"a\",\"group_state\":\"\",\"protocol_type\":\"\",\"protocol_data\":\"\",\"members\":[]},"
        "{\"error_code\":16,\"group_id\":\"b\",\"group_state\":\"\",\"protocol_type\":\"\",\"protocol_data\":\"\",\"members\":[]}]}");
    ck_assert_ptr_nonnull(strstr(refusal(api_named("DescribeGroups"), 6, &describe, 16, "why"),
        "{\"error_code\":16,\"error_message\":\"why\",\"group_id\":\"a\",\"group_state\":\"\",\"protocol_type\":\"\",\"protocol_data\":\"\","
        "\"members\":[],\"authorized_operations\":-2147483648}"));
    EXPECT("DeleteGroups", 2, &delete,
           "{\"throttle_time_ms\":0,\"results\":[{\"group_id\":\"a\",\"error_code\":16},{\"group_id\":\"b\",\"error_code\":16}]}");
    EXPECT("FindCoordinator", 1, &find,
           "{\"throttle_time_ms\":0,\"error_code\":16,\"error_message\":\"why\",\"node_id\":-1,\"host\":\"\",\"port\":-1}");
    EXPECT("FindCoordinator", 5, &find,
           "{\"throttle_time_ms\":0,\"coordinators\":[{\"key\":\"a\",\"node_id\":-1,\"host\":\"\",\"port\":-1,\"error_code\":16,"
           "\"error_message\":\"why\"}]}");
    EXPECT("JoinGroup", 6, &join, "{\"throttle_time_ms\":0,\"error_code\":16,\"generation_id\":-1,\"protocol_name\":\"\",\"leader\":\"\","
           "\"member_id\":\"m\",\"members\":[]}");
    EXPECT("JoinGroup", 9, &join, "{\"throttle_time_ms\":0,\"error_code\":16,\"generation_id\":-1,\"protocol_type\":null,"
           "\"protocol_name\":null,\"leader\":\"\",\"skip_assignment\":false,\"member_id\":\"m\",\"members\":[]}");
    EXPECT("SyncGroup", 5, &(KSyncGroupRequest){.protocol_type = k_str("consumer")},
           "{\"throttle_time_ms\":0,\"error_code\":16,\"protocol_type\":null,\"protocol_name\":null,\"assignment\":\"\"}");
    EXPECT("LeaveGroup", 5, &leave, "{\"throttle_time_ms\":0,\"error_code\":16,\"members\":[]}");
}
END_TEST

START_TEST(offsets_are_told_for_each_partition)
{
    KOffsetCommitRequestTopicsPartitions commit_parts[] = {{.partition_index = 3, .committed_offset = 7}, {.partition_index = 4}};
    KOffsetCommitRequestTopics commit_topic = {.name = k_str("t"), .partitions = {commit_parts, 2}};
    KOffsetCommitRequest commit = {.topics = {&commit_topic, 1}};
    int32_t indexes[] = {3, 4};
    KOffsetFetchRequestTopics fetch_topic = {.name = k_str("t"), .partition_indexes = {indexes, 2}};
    KOffsetFetchRequestGroups group = {.group_id = k_str("g")};
    KOffsetFetchRequest fetch = {.topics = {&fetch_topic, 1}, .groups = {&group, 1}};

    EXPECT("OffsetCommit", 8, &commit, "{\"throttle_time_ms\":0,\"topics\":[{\"name\":\"t\",\"partitions\":["
           "{\"partition_index\":3,\"error_code\":16},{\"partition_index\":4,\"error_code\":16}]}]}");
    EXPECT("OffsetFetch", 1, &fetch, "{\"topics\":[{\"name\":\"t\",\"partitions\":["
           "{\"partition_index\":3,\"committed_offset\":-1,\"metadata\":null,\"error_code\":16},"
           "{\"partition_index\":4,\"committed_offset\":-1,\"metadata\":null,\"error_code\":16}]}]}");
    EXPECT("OffsetFetch", 5, &fetch, "{\"throttle_time_ms\":0,\"topics\":[],\"error_code\":16}");
    EXPECT("OffsetFetch", 9, &fetch, "{\"throttle_time_ms\":0,\"groups\":[{\"group_id\":\"g\",\"topics\":[],\"error_code\":16}]}");
}
END_TEST

START_TEST(topics_and_configs_are_told_one_by_one)
{
    Uuid id = {{1}};
    char uuid[UUID_TEXT_SIZE], expected[300];
    KStr names[] = {k_str("a")};
    KDeleteTopicsRequestTopics doomed = {.name = K_STR_NULL, .topic_id = id};
    KDeleteTopicsRequest delete = {.topics = {&doomed, 1}, .topic_names = {names, 1}};
    KCreateTopicsRequestTopics wanted = {.name = k_str("a"), .num_partitions = 5, .replication_factor = 1};
    KCreateTopicsRequest create = {.topics = {&wanted, 1}};
    KIncrementalAlterConfigsRequestResources resource = {.resource_type = 2, .resource_name = k_str("a")};
    KIncrementalAlterConfigsRequest alter = {.resources = {&resource, 1}};

    uuid_format(&id, uuid);
    EXPECT("DeleteTopics", 5, &delete, "{\"throttle_time_ms\":0,\"responses\":[{\"name\":\"a\",\"error_code\":16,\"error_message\":\"why\"}]}");
    (void)snprintf(expected, sizeof(expected), "{\"throttle_time_ms\":0,\"responses\":[{\"name\":null,\"topic_id\":\"%s\","
                   "\"error_code\":16,\"error_message\":\"why\"}]}", uuid);
    EXPECT("DeleteTopics", 6, &delete, expected);
    EXPECT("CreateTopics", 5, &create, "{\"throttle_time_ms\":0,\"topics\":[{\"name\":\"a\",\"error_code\":16,\"error_message\":\"why\","
           "\"num_partitions\":-1,\"replication_factor\":-1,\"configs\":null,\"topic_config_error_code\":0}]}");
    EXPECT("IncrementalAlterConfigs", 1, &alter, "{\"throttle_time_ms\":0,\"responses\":[{\"error_code\":16,\"error_message\":\"why\","
           "\"resource_type\":2,\"resource_name\":\"a\"}]}");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("refusal");
    TCase *t = tcase_create("all");
    tcase_add_test(t, every_api_refuses_in_every_version);
    tcase_add_test(t, groups_are_told_where_they_look);
    tcase_add_test(t, offsets_are_told_for_each_partition);
    tcase_add_test(t, topics_and_configs_are_told_one_by_one);
    suite_add_tcase(s, t);
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
