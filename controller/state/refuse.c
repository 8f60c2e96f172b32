/*
 * A decided answer whose records could not be committed: every item that had succeeded now carries the error. Needs nothing
 * but the answer itself, so nobody keeps requests around for the rare case.
 */

#include <errno.h>
#include <string.h>

#include "controller/state/decide.h"

/* Items of all five admin responses differ in type only. */
#define REFUSE_ITEMS(list, error, why)                                                             \
    for (int32_t i = 0; i < (list).n; i++)                                                         \
        if ((list).items[i].error_code == K_NONE) {                                                \
            (list).items[i].error_code = (error);                                                  \
            (list).items[i].error_message = (why);                                                 \
        }

static void refuse_created(KCreateTopicsResponse *a, KafkaError error, KStr why)
{
    for (int32_t i = 0; i < a->topics.n; i++)
        if (a->topics.items[i].error_code == K_NONE) {
            a->topics.items[i].num_partitions = -1;
            a->topics.items[i].replication_factor = -1;
            a->topics.items[i].topic_id = (Uuid){{0}};
            a->topics.items[i].configs.n = -1;
        }
    REFUSE_ITEMS(a->topics, error, why)
}

static void refuse_all(int16_t api_key, void *response, KafkaError error, KStr why)
{
    switch (api_key) {
    case K_API_CREATE_TOPICS:
        refuse_created(response, error, why);
        break;
    case K_API_DELETE_TOPICS: {
        KDeleteTopicsResponse *a = response;
        REFUSE_ITEMS(a->responses, error, why)
        break;
    }
    case K_API_CREATE_PARTITIONS: {
        KCreatePartitionsResponse *a = response;
        REFUSE_ITEMS(a->results, error, why)
        break;
    }
    case K_API_ALTER_CONFIGS: {
        KAlterConfigsResponse *a = response;
        REFUSE_ITEMS(a->responses, error, why)
        break;
    }
    case K_API_INCREMENTAL_ALTER_CONFIGS: {
        KIncrementalAlterConfigsResponse *a = response;
        REFUSE_ITEMS(a->responses, error, why)
        break;
    }
    default:
        *(int16_t *)response = error; /* internal: the error code is the first field (ctl.c) */
        break;
    }
}

int ctl_refuse(int16_t api_key, int16_t api_version, KafkaError error, const char *why, Buf *inout_response)
{
    const KApi *api = k_api_find(api_key);
    Arena arena = ARENA_NULL;
    Buf refused = BUF_NULL;
    assert(api);
    void *response = arena_alloc(&arena, k_message_struct_size(api->response));
    int r = response ? k_decode(api->response, api_version, inout_response->data, inout_response->size, &arena, response) : -ENOMEM;
    if (r == 0) {
        refuse_all(api_key, response, error, k_str(why));
        r = k_encode(api->response, api_version, response, &refused);
    }
    arena_deinit(&arena);
    if (r < 0) {
        buf_deinit(&refused);
        return r;
    }
    buf_deinit(inout_response);
    *inout_response = refused;
    return 0;
}
