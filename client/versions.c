/*
 * Which version of each API this library speaks: one table. The broker says by ApiVersions, once for each session, whether
 * it speaks them too. So a broker of another release is named when it is met, not by some request that fails much later.
 */

#include "client/client.h"
#include "wire/messages.h"

#include <errno.h>
#include <stdio.h>

static const struct {
    int16_t api_key, version;
} spoken[] = {
    {K_API_LIST_OFFSETS, 5},   {K_API_METADATA, 7},       {K_API_OFFSET_COMMIT, 7},  {K_API_OFFSET_FETCH, 7},
    {K_API_JOIN_GROUP, 5},     {K_API_LEAVE_GROUP, 3},    {K_API_SYNC_GROUP, 3},     {K_API_API_VERSIONS, 0},
    {K_API_CREATE_TOPICS, 5},  {K_API_DELETE_TOPICS, 5},  {K_API_DELETE_RECORDS, 1}, {K_API_INIT_PRODUCER_ID, 1},
    {K_API_CREATE_PARTITIONS, 1}, {K_API_INCREMENTAL_ALTER_CONFIGS, 0},
};

int16_t request_version(int16_t api_key)
{
    for (size_t i = 0; i < ARRAY_SIZE(spoken); i++)
        if (spoken[i].api_key == api_key)
            return spoken[i].version;
    assert(false);
    return -1;
}

static void compare(leat_client *c, const KApiVersionsResponse *a)
{
    for (size_t i = 0; i < ARRAY_SIZE(spoken); i++) {
        int16_t min = 0, max = -1;
        for (int32_t k = 0; k < a->api_keys.n; k++)
            if (a->api_keys.items[k].api_key == spoken[i].api_key) {
                min = a->api_keys.items[k].min_version;
                max = a->api_keys.items[k].max_version;
            }
        if (spoken[i].version >= min && spoken[i].version <= max)
            continue;
        snprintf(c->versions_fault, sizeof c->versions_fault,
                 "the library speaks %s version %d, the broker %d to %d; install the same release of both",
                 k_api_find(spoken[i].api_key)->name, spoken[i].version, min, max);
        return;
    }
}

static void answered(void *userdata, int error, const void *body, size_t size)
{
    leat_client *c = userdata;
    Arena arena = ARENA_NULL;
    KApiVersionsResponse a;

    c->versions_request = NULL;
    if (error == 0 && request_decode(K_API_API_VERSIONS, body, size, &arena, &a) < 0)
        snprintf(c->versions_fault, sizeof c->versions_fault, "the broker's list of versions cannot be read");
    else if (error == 0)
        compare(c, &a);
    c->broken |= c->versions_fault[0] != '\0';
    arena_deinit(&arena);
}

void versions_ask(leat_client *c)
{
    RequestOptions o = {.api_key = K_API_API_VERSIONS, .timeout_ms = c->settings.request_timeout_ms, .fn = answered, .userdata = c};
    KApiVersionsRequest q;

    c->versions_fault[0] = '\0';
    c->versions_request = request_cancel(c->versions_request);
    k_message_init(&k_api_versions_request, &q);
    (void)request_start(c, &o, &q, &c->versions_request); /* out of memory: the session goes on unasked */
}

bool versions_are_known(void *userdata)
{
    const leat_client *c = userdata;
    return !c->versions_request;
}
