/*
 * The answer that refuses a request as a whole. Kafka's APIs tell an error in many shapes - once at the top, once for each
 * topic, group or partition that was asked for - and a client that gets fewer results than it asked for waits or crashes.
 * The tables know the shapes:
 *   - the outermost struct with an error_code takes the error; its arrays stay empty
 *   - a struct without one is gone through: an array that leads to an error_code gets an element for each of the request's,
 *     from the array of the same name, else from the first one
 *   - what says which element this is comes from the request; every other number is -1 and every other text null, where the
 *     schema has no better default and null is legal
 */

#include <errno.h>
#include <string.h>

#include "wire/error.h"
#include "wire/tables.h"

typedef struct Refusal {
    int16_t version;
    KafkaError error;
    KStr why;
    Arena *arena;
} Refusal;

static int refuse_struct(const Refusal *r, const KStructTable *to, uint8_t *ret, const KStructTable *from, const uint8_t *request);

static const KField *find(const Refusal *r, const KStructTable *s, const char *name)
{
    for (uint16_t i = 0; i < s->n_fields; i++)
        if (k_field_is_in(&s->fields[i], r->version) && strcmp(s->fields[i].name, name) == 0)
            return &s->fields[i];
    return NULL;
}

static bool leads_to_error(const Refusal *r, const KField *f)
{
    if (!k_field_is_in(f, r->version) || f->shape != KS_ARRAY || f->type != KT_STRUCT)
        return false;
    if (find(r, f->sub, "error_code"))
        return true;
    for (uint16_t i = 0; i < f->sub->n_fields; i++)
        if (leads_to_error(r, &f->sub->fields[i]))
            return true;
    return false;
}

static bool is_identity(const KField *f)
{
    static const char *const names[] = {"name",      "topic",         "topic_id",      "partition", "partition_index", "index",
                                        "member_id", "resource_type", "resource_name", "group_id",  "key"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcmp(f->name, names[i]) == 0)
            return true;
    return false;
}

/* The request's array that `f` answers to. */
static const KField *asked_in(const Refusal *r, const KStructTable *from, const KField *f)
{
    const KField *same = find(r, from, f->name);
    if (same && same->shape == KS_ARRAY)
        return same;
    for (uint16_t i = 0; i < from->n_fields; i++)
        if (k_field_is_in(&from->fields[i], r->version) && from->fields[i].shape == KS_ARRAY)
            return &from->fields[i];
    return NULL;
}

static void set_number(const KField *f, uint8_t *at, int64_t value)
{
    if (f->type == KT_I16)
        memcpy(at, &(int16_t){(int16_t)value}, 2);
    else if (f->type == KT_I32)
        memcpy(at, &(int32_t){(int32_t)value}, 4);
    else if (f->type == KT_I64)
        memcpy(at, &value, 8);
}

static bool is_zero(const uint8_t *at, size_t size)
{
    while (size > 0 && at[size - 1] == 0)
        size--;
    return size == 0;
}

static void refuse_field(const Refusal *r, const KField *f, uint8_t *at)
{
    if (strcmp(f->name, "error_code") == 0)
        set_number(f, at, r->error);
    else if (strcmp(f->name, "error_message") == 0)
        *(KStr *)(void *)at = r->why;
    else if (f->type == KT_STR && r->version >= f->null_since)
        *(KStr *)(void *)at = K_STR_NULL;
    else if (f->type == KT_BYTES)
        *(KBytes *)(void *)at = (KBytes){"", 0}; /* librdkafka takes null records for a broken answer */
    else if (strcmp(f->name, "throttle_time_ms") != 0 && is_zero(at, f->size))
        set_number(f, at, -1);
}

static void copy_identity(const Refusal *r, const KField *f, uint8_t *to, const uint8_t *from)
{
    memcpy(to, from, f->size);
    if (f->type == KT_STR && ((const KStr *)(const void *)from)->len < 0 && r->version < f->null_since)
        *(KStr *)(void *)to = (KStr){"", 0};
}

/* An element that the request names by one value: a string, a number. */
static void name_it(const Refusal *r, const KStructTable *to, uint8_t *ret, const KField *asked, const uint8_t *value)
{
    for (uint16_t i = 0; i < to->n_fields; i++) {
        const KField *f = &to->fields[i];
        if (k_field_is_in(f, r->version) && f->type == asked->type && is_identity(f)) {
            copy_identity(r, f, ret + f->offset, value);
            return;
        }
    }
}

static int refuse_array(const Refusal *r, const KField *f, KAnyArray *ret, const KField *asked, const KAnyArray *request)
{
    ret->n = MAX(request->n, 0);
    ret->items = arena_alloc(r->arena, (size_t)ret->n * f->size + 1);
    int e = ret->items ? 0 : -ENOMEM;
    for (int32_t i = 0; e == 0 && i < ret->n; i++) {
        uint8_t *to = (uint8_t *)ret->items + (size_t)i * f->size;
        const uint8_t *from = (const uint8_t *)request->items + (size_t)i * asked->size;
        e = refuse_struct(r, f->sub, to, asked->sub, asked->type == KT_STRUCT ? from : NULL);
        if (asked->type != KT_STRUCT)
            name_it(r, f->sub, to, asked, from);
    }
    return e;
}

static int refuse_struct(const Refusal *r, const KStructTable *to, uint8_t *ret, const KStructTable *from, const uint8_t *request)
{
    bool says_it = find(r, to, "error_code") != NULL;
    int e = 0;

    memcpy(ret, to->defaults, to->size);
    for (uint16_t i = 0; e == 0 && i < to->n_fields; i++) {
        const KField *f = &to->fields[i], *same = from ? find(r, from, f->name) : NULL;
        if (!k_field_is_in(f, r->version))
            continue;
        if (f->shape == KS_ONE && same && same->type == f->type && is_identity(f)) {
            copy_identity(r, f, ret + f->offset, request + same->offset);
        } else if (f->shape == KS_ONE && f->type != KT_STRUCT && f->tag < 0) {
            refuse_field(r, f, ret + f->offset);
        } else if (!says_it && from && leads_to_error(r, f)) {
            const KField *asked = asked_in(r, from, f);
            if (asked)
                e = refuse_array(r, f, (KAnyArray *)(void *)(ret + f->offset), asked,
                                 (const KAnyArray *)(const void *)(request + asked->offset));
        }
    }
    return e;
}

int k_refusal(const KApi *api, int16_t version, const void *request, KafkaError error, const char *why, Arena *arena, void *ret_response)
{
    Refusal r = {.version = version, .error = error, .why = k_str(why), .arena = arena};
    return refuse_struct(&r, api->response->root, ret_response, api->request->root, request);
}
