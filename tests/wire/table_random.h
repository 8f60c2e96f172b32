#pragma once

/*
 * Random messages from the tables, and their comparison: what round-trip tests and the fuzz target share. Fields that a
 * version lacks stay at their defaults, so that a decoded copy must equal the original in every field.
 */

#include <string.h>

#include "base/hash.h"
#include "wire/tables.h"

static void random_struct(Rng *rng, const KStructTable *s, int16_t version, Arena *arena, uint8_t *ret);

static KStr random_text(Rng *rng, Arena *arena)
{
    int32_t len = (int32_t)rng_below(rng, rng_below(rng, 20) == 0 ? 300 : 8);
    char *p = arena_alloc(arena, (size_t)len + 1);
    for (int32_t i = 0; i < len; i++)
        p[i] = (char)('a' + rng_below(rng, 26));
    return (KStr){p, len};
}

static void random_one(Rng *rng, const KField *f, int16_t version, Arena *arena, bool may_be_null, void *ret)
{
    if (f->type == KT_STRUCT) {
        random_struct(rng, f->sub, version, arena, ret);
    } else if (f->type == KT_STR) {
        *(KStr *)ret = may_be_null && rng_below(rng, 3) == 0 ? K_STR_NULL : random_text(rng, arena);
    } else if (f->type == KT_BYTES) {
        KStr s = may_be_null && rng_below(rng, 3) == 0 ? K_STR_NULL : random_text(rng, arena);
        *(KBytes *)ret = (KBytes){s.ptr, s.len};
    } else if (f->type == KT_BOOL) {
        *(bool *)ret = rng_below(rng, 2);
    } else if (f->type == KT_F64) {
        *(double *)ret = (double)rng_below(rng, 1000000) / 8;
    } else {
        for (uint32_t i = 0; i < f->size; i++)
            ((uint8_t *)ret)[i] = (uint8_t)(rng_below(rng, 2) ? rng_next(rng) : 0);
    }
}

static void random_field(Rng *rng, const KField *f, int16_t version, Arena *arena, uint8_t *ret)
{
    bool may_be_null = version >= f->null_since;
    if (f->shape == KS_ARRAY) {
        KAnyArray *a = (KAnyArray *)(void *)ret;
        a->n = may_be_null && rng_below(rng, 3) == 0 ? -1 : (int32_t)rng_below(rng, 4);
        a->items = a->n > 0 ? arena_alloc(arena, (size_t)a->n * f->size) : NULL;
        for (int32_t i = 0; i < a->n; i++)
            random_one(rng, f, version, arena, false, (uint8_t *)a->items + (size_t)i * f->size);
    } else if (f->shape == KS_POINTER) {
        void *p = rng_below(rng, 2) ? arena_alloc(arena, f->size) : NULL;
        *(void **)(void *)ret = p;
        if (p)
            random_struct(rng, f->sub, version, arena, p);
    } else {
        random_one(rng, f, version, arena, may_be_null, ret);
    }
}

static void random_struct(Rng *rng, const KStructTable *s, int16_t version, Arena *arena, uint8_t *ret)
{
    memcpy(ret, s->defaults, s->size);
    for (uint16_t i = 0; i < s->n_fields; i++)
        if (k_field_is_in(&s->fields[i], version) && (s->fields[i].tag < 0 || rng_below(rng, 2)))
            random_field(rng, &s->fields[i], version, arena, ret + s->fields[i].offset);
}

static bool same_struct(const KStructTable *s, const uint8_t *a, const uint8_t *b);

static bool same_one(const KField *f, const void *a, const void *b)
{
    if (f->type == KT_STRUCT)
        return same_struct(f->sub, a, b);
    if (f->type == KT_STR)
        return k_str_same(*(const KStr *)a, *(const KStr *)b);
    if (f->type == KT_BYTES) {
        const KBytes *x = a, *y = b;
        return x->len == y->len && (x->len <= 0 || memcmp(x->ptr, y->ptr, (size_t)x->len) == 0);
    }
    return memcmp(a, b, f->size) == 0;
}

static bool same_field(const KField *f, const uint8_t *a, const uint8_t *b)
{
    if (f->shape == KS_POINTER) {
        const void *x = *(const void *const *)(const void *)a, *y = *(const void *const *)(const void *)b;
        return x && y ? same_struct(f->sub, x, y) : x == y;
    }
    if (f->shape == KS_ONE)
        return same_one(f, a, b);
    const KAnyArray *x = (const KAnyArray *)(const void *)a, *y = (const KAnyArray *)(const void *)b;
    if (x->n != y->n)
        return false;
    for (int32_t i = 0; i < x->n; i++)
        if (!same_one(f, (const uint8_t *)x->items + (size_t)i * f->size, (const uint8_t *)y->items + (size_t)i * f->size))
            return false;
    return true;
}

static bool same_struct(const KStructTable *s, const uint8_t *a, const uint8_t *b)
{
    for (uint16_t i = 0; i < s->n_fields; i++)
        if (!same_field(&s->fields[i], a + s->fields[i].offset, b + s->fields[i].offset))
            return false;
    return true;
}

/* Every message of every schema: requests and responses first, then those that are no API. NULL past the end. */
UNUSED static const KMessage *message_at(size_t i)
{
    if (i < 2 * k_api_table_size)
        return i % 2 ? k_api_table[i / 2].response : k_api_table[i / 2].request;
    i -= 2 * k_api_table_size;
    return i < k_message_table_size ? k_message_table[i] : NULL;
}
