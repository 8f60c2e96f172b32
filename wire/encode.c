/*
 * k_encode(): structs to Kafka's encoding, appended to a Buf.
 *
 * The first error sticks in Encoder.error and later writes do nothing, so that the walk needs no check after each field;
 * the buffer is cut back to where it began. A tagged field is written only when it differs from its default.
 */

#include "wire/tables.h"

#include <errno.h>
#include <string.h>

#include "wire/bigendian.h"

typedef struct Encoder {
    Buf *out;
    int error;
    int16_t version;
    bool flexible;
} Encoder;

static void encode_struct(Encoder *e, const KStructTable *s, const uint8_t *from);

static uint8_t *room(Encoder *e, size_t size)
{
    if (UNLIKELY(e->out->capacity - e->out->size < size) && !e->error)
        e->error = buf_reserve(e->out, size);
    if (UNLIKELY(e->error))
        return NULL;
    uint8_t *p = e->out->data + e->out->size;
    e->out->size += size;
    return p;
}

static size_t uvarint_write(uint32_t value, uint8_t out[5])
{
    size_t n = 0;
    while (value >= 0x80) {
        out[n++] = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    out[n++] = (uint8_t)value;
    return n;
}

static void put_uvarint(Encoder *e, uint32_t value)
{
    uint8_t bytes[5];
    size_t n = uvarint_write(value, bytes);
    uint8_t *p = room(e, n);
    if (p)
        memcpy(p, bytes, n);
}

/* @len: -1 = null. @wide: i32 in classic versions, else i16 (a string: at most 32767 bytes in every version). */
static void put_length(Encoder *e, const KField *f, int32_t len, bool wide)
{
    bool too_long = wide ? e->flexible && len == INT32_MAX : len > INT16_MAX;
    if (len < -1 || too_long || (len < 0 && e->version < f->null_since)) {
        e->error = e->error ? e->error : -EINVAL;
        return;
    }
    if (e->flexible) {
        put_uvarint(e, (uint32_t)len + 1);
        return;
    }
    uint8_t *p = room(e, wide ? 4 : 2);
    if (p && wide)
        put_be32(p, (uint32_t)len);
    else if (p)
        put_be16(p, (uint16_t)len);
}

static void put_span(Encoder *e, const KField *f, const void *data, int32_t len, bool wide)
{
    put_length(e, f, len, wide);
    uint8_t *p = len > 0 ? room(e, (size_t)len) : NULL;
    if (p)
        memcpy(p, data, (size_t)len);
}

static void put_fixed(Encoder *e, size_t size, const void *from)
{
    uint8_t *p = room(e, size);
    if (!p)
        return;
    switch (size) {
    case 1:
        *p = *(const uint8_t *)from;
        break;
    case 2:
        put_be16(p, *(const uint16_t *)from);
        break;
    case 4:
        put_be32(p, *(const uint32_t *)from);
        break;
    case 8:
        put_be64(p, *(const uint64_t *)from);
        break;
    default:
        memcpy(p, from, size);
    }
}

static void encode_one(Encoder *e, const KField *f, const void *from)
{
    if (f->type == KT_STR) {
        const KStr *s = from;
        put_span(e, f, s->ptr, s->len, false);
    } else if (f->type == KT_BYTES) {
        const KBytes *b = from;
        put_span(e, f, b->ptr, b->len, true);
    } else if (f->type == KT_STRUCT) {
        encode_struct(e, f->sub, from);
    } else {
        put_fixed(e, f->size, from);
    }
}

static void encode_array(Encoder *e, const KField *f, const KAnyArray *a)
{
    put_length(e, f, a->n, true);
    KField element = *f;
    element.null_since = INT16_MAX;
    for (int32_t i = 0; i < a->n && !e->error; i++)
        encode_one(e, &element, (const uint8_t *)a->items + (size_t)i * f->size);
}

static void encode_pointer(Encoder *e, const KField *f, const void *target)
{
    if (!target && e->version < f->null_since)
        e->error = e->error ? e->error : -EINVAL;
    uint8_t *p = room(e, 1);
    if (p)
        *p = target ? 1 : 0xff;
    if (target)
        encode_struct(e, f->sub, target);
}

static void encode_field(Encoder *e, const KField *f, const uint8_t *from)
{
    if (f->shape == KS_ARRAY)
        encode_array(e, f, (const KAnyArray *)(const void *)from);
    else if (f->shape == KS_POINTER)
        encode_pointer(e, f, *(const void *const *)(const void *)from);
    else
        encode_one(e, f, from);
}

static bool is_default(const KField *f, const uint8_t *value, const uint8_t *fallback);

static bool struct_is_default(const KStructTable *s, const uint8_t *value, const uint8_t *fallback)
{
    for (uint16_t i = 0; i < s->n_fields; i++)
        if (!is_default(&s->fields[i], value + s->fields[i].offset, fallback + s->fields[i].offset))
            return false;
    return true;
}

/* Defaults of spans and arrays are empty or null, so equal lengths mean equal values. */
static bool is_default(const KField *f, const uint8_t *value, const uint8_t *fallback)
{
    if (f->shape == KS_ARRAY)
        return ((const KAnyArray *)(const void *)value)->n == ((const KAnyArray *)(const void *)fallback)->n;
    if (f->shape == KS_POINTER)
        return !*(const void *const *)(const void *)value;
    if (f->type == KT_STR)
        return ((const KStr *)(const void *)value)->len == ((const KStr *)(const void *)fallback)->len;
    if (f->type == KT_BYTES)
        return ((const KBytes *)(const void *)value)->len == ((const KBytes *)(const void *)fallback)->len;
    if (f->type == KT_STRUCT)
        return struct_is_default(f->sub, value, fallback);
    return memcmp(value, fallback, f->size) == 0;
}

static bool tag_is_due(const Encoder *e, const KStructTable *s, const KField *f, const uint8_t *from)
{
    return f->tag >= 0 && k_field_is_in(f, e->version) &&
           !is_default(f, from + f->offset, (const uint8_t *)s->defaults + f->offset);
}

/* Written in place, then moved up to make room for its size. */
static void encode_tagged(Encoder *e, const KField *f, const uint8_t *from)
{
    put_uvarint(e, (uint32_t)f->tag);
    size_t start = e->out->size;
    encode_field(e, f, from);
    if (e->error)
        return;
    size_t size = e->out->size - start;
    uint8_t bytes[5];
    size_t n = uvarint_write((uint32_t)size, bytes);
    if (!room(e, n))
        return;
    uint8_t *at = e->out->data + start;
    memmove(at + n, at, size);
    memcpy(at, bytes, n);
}

static void encode_tags(Encoder *e, const KStructTable *s, const uint8_t *from)
{
    uint32_t n = 0;
    for (uint16_t i = 0; i < s->n_fields && s->n_tagged; i++)
        n += tag_is_due(e, s, &s->fields[i], from);
    put_uvarint(e, n);
    for (uint16_t i = 0; i < s->n_fields && n; i++)
        if (tag_is_due(e, s, &s->fields[i], from))
            encode_tagged(e, &s->fields[i], from + s->fields[i].offset);
}

static void encode_struct(Encoder *e, const KStructTable *s, const uint8_t *from)
{
    for (const KField *f = s->fields, *end = f + s->n_fields; f < end && !e->error; f++)
        if (f->tag < 0 && k_field_is_in(f, e->version))
            encode_field(e, f, from + f->offset);
    if (e->flexible)
        encode_tags(e, s, from);
}

int k_encode(const KMessage *m, int16_t version, const void *message, Buf *out)
{
    if (!k_message_has_version(m, version))
        return -EOPNOTSUPP;
    size_t start = out->size;
    Encoder e = {.out = out, .version = version, .flexible = version >= m->flexible_since};
    if (m->prefixed)
        put_fixed(&e, 2, &version);
    encode_struct(&e, m->root, message);
    if (e.error)
        out->size = start;
    return e.error;
}
