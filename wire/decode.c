/*
 * k_decode(): Kafka's encoding to structs.
 *
 * Everything is checked against the bytes that remain before it is used: a length before the pointer moves, a count
 * before memory is taken (an element has a least size, from the table). So memory is bounded by a small multiple of the
 * input, whatever the input claims. Depth is bounded by the schema: nothing recursive can be sent.
 */

#include "wire/tables.h"

#include <errno.h>
#include <string.h>

#include "wire/bigendian.h"

typedef struct Decoder {
    const uint8_t *at, *end;
    Arena *arena;
    int16_t version;
    bool flexible;
} Decoder;

static int decode_struct(Decoder *d, const KStructTable *s, void *ret);

static size_t left(const Decoder *d)
{
    return (size_t)(d->end - d->at);
}

static int take_uvarint(Decoder *d, uint32_t *ret)
{
    return uvarint_take(&d->at, d->end, ret);
}

/* @wide: i32 in classic versions, else i16. *ret is -1 (null) or a length. Not yet checked against what remains. */
static int take_length(Decoder *d, bool wide, int32_t *ret)
{
    if (d->flexible) {
        uint32_t n;
        if (take_uvarint(d, &n) < 0 || n > (uint32_t)INT32_MAX)
            return -EBADMSG;
        *ret = (int32_t)n - 1;
        return 0;
    }
    size_t size = wide ? 4 : 2;
    if (left(d) < size)
        return -EBADMSG;
    *ret = wide ? (int32_t)get_be32(d->at) : (int16_t)get_be16(d->at);
    d->at += size;
    return *ret < -1 ? -EBADMSG : 0;
}

static int take_span(Decoder *d, const KField *f, bool wide, const void **ret_ptr, int32_t *ret_len)
{
    int32_t len;
    if (take_length(d, wide, &len) < 0)
        return -EBADMSG;
    if (len < 0) {
        *ret_ptr = NULL;
        *ret_len = -1;
        return d->version >= f->null_since ? 0 : -EBADMSG;
    }
    if ((size_t)len > left(d))
        return -EBADMSG;
    *ret_ptr = d->at;
    *ret_len = len;
    d->at += len;
    return 0;
}

static size_t fixed_size(uint8_t type)
{
    static const uint8_t sizes[] = {
        [KT_BOOL] = 1, [KT_I8] = 1, [KT_I16] = 2, [KT_U16] = 2, [KT_I32] = 4, [KT_U32] = 4, [KT_I64] = 8, [KT_F64] = 8, [KT_UUID] = 16,
    };
    assert(type < ARRAY_SIZE(sizes));
    return sizes[type];
}

static int decode_fixed(Decoder *d, uint8_t type, void *ret)
{
    size_t size = fixed_size(type);
    if (left(d) < size)
        return -EBADMSG;
    const uint8_t *p = d->at;
    d->at += size;
    switch (size) {
    case 1:
        *(uint8_t *)ret = type == KT_BOOL ? *p != 0 : *p;
        break;
    case 2:
        *(uint16_t *)ret = get_be16(p);
        break;
    case 4:
        *(uint32_t *)ret = get_be32(p);
        break;
    case 8:
        *(uint64_t *)ret = get_be64(p);
        break;
    default:
        memcpy(ret, p, size);
    }
    return 0;
}

static int decode_one(Decoder *d, const KField *f, void *ret)
{
    if (f->type == KT_STR) {
        KStr s = {0};
        int r = take_span(d, f, false, (const void **)&s.ptr, &s.len);
        *(KStr *)ret = s;
        return s.len > INT16_MAX ? -EBADMSG : r; /* Kafka's limit in flexible versions too: older ones can repeat it */
    }
    if (f->type == KT_BYTES) {
        KBytes b = {0};
        int r = take_span(d, f, true, &b.ptr, &b.len);
        *(KBytes *)ret = b;
        return r;
    }
    if (f->type == KT_STRUCT)
        return decode_struct(d, f->sub, ret);
    return decode_fixed(d, f->type, ret);
}

static size_t element_size_min(const Decoder *d, const KField *f)
{
    if (f->type == KT_STRUCT)
        return f->sub->size_min;
    if (f->type == KT_STR)
        return d->flexible ? 1 : 2;
    assert(f->type != KT_BYTES);
    return fixed_size(f->type);
}

static int decode_array(Decoder *d, const KField *f, KAnyArray *ret)
{
    int32_t n;
    if (take_length(d, true, &n) < 0)
        return -EBADMSG;
    *ret = (KAnyArray){NULL, n};
    if (n < 0)
        return d->version >= f->null_since ? 0 : -EBADMSG;
    if ((size_t)n > left(d) / element_size_min(d, f))
        return -EBADMSG;
    if (n == 0)
        return 0;
    uint8_t *items = arena_alloc(d->arena, (size_t)n * f->size);
    if (!items)
        return -ENOMEM;
    /* A string inside an array of strings may not be null, whatever the array itself may be. */
    KField element = *f;
    element.null_since = INT16_MAX;
    for (int32_t i = 0; i < n; i++) {
        int r = decode_one(d, &element, items + (size_t)i * f->size);
        if (r < 0)
            return r;
    }
    ret->items = items;
    return 0;
}

static int decode_pointer(Decoder *d, const KField *f, void **ret)
{
    if (left(d) < 1)
        return -EBADMSG;
    int8_t present = (int8_t)*d->at++;
    *ret = NULL;
    if (present == -1)
        return d->version >= f->null_since ? 0 : -EBADMSG;
    if (present != 1)
        return -EBADMSG;
    void *s = arena_alloc(d->arena, f->size);
    if (!s)
        return -ENOMEM;
    *ret = s;
    return decode_struct(d, f->sub, s);
}

static int decode_field(Decoder *d, const KField *f, void *ret)
{
    if (f->shape == KS_ARRAY)
        return decode_array(d, f, ret);
    if (f->shape == KS_POINTER)
        return decode_pointer(d, f, ret);
    return decode_one(d, f, ret);
}

static const KField *find_tagged(const Decoder *d, const KStructTable *s, uint32_t tag)
{
    if (s->n_tagged)
        for (uint16_t i = 0; i < s->n_fields; i++)
            if (s->fields[i].tag >= 0 && (uint32_t)s->fields[i].tag == tag && k_field_is_in(&s->fields[i], d->version))
                return &s->fields[i];
    return NULL;
}

static int decode_tags(Decoder *d, const KStructTable *s, uint8_t *ret)
{
    uint32_t n;
    if (take_uvarint(d, &n) < 0 || n > left(d) / 2)
        return -EBADMSG;
    int64_t last = -1;
    for (; n > 0; n--) {
        uint32_t tag, size;
        if (take_uvarint(d, &tag) < 0 || take_uvarint(d, &size) < 0 || (int64_t)tag <= last || size > left(d))
            return -EBADMSG;
        last = tag;
        const KField *f = find_tagged(d, s, tag);
        if (f) {
            Decoder inner = *d;
            inner.end = d->at + size;
            int r = decode_field(&inner, f, ret + f->offset);
            if (r < 0)
                return r;
            if (inner.at != inner.end)
                return -EBADMSG;
        }
        d->at += size;
    }
    return 0;
}

static int decode_struct(Decoder *d, const KStructTable *s, void *ret)
{
    memcpy(ret, s->defaults, s->size);
    for (const KField *f = s->fields, *end = f + s->n_fields; f < end; f++) {
        if (f->tag >= 0 || !k_field_is_in(f, d->version))
            continue;
        int r = decode_field(d, f, (uint8_t *)ret + f->offset);
        if (UNLIKELY(r < 0))
            return r;
    }
    return d->flexible ? decode_tags(d, s, ret) : 0;
}

/* The version in front of a prefixed message rules. A lenient one is read as far as our newest version knows it. */
static int take_prefix(const KMessage *m, Decoder *d)
{
    if (left(d) < 2)
        return -EBADMSG;
    int16_t prefix = (int16_t)get_be16(d->at);
    d->at += 2;
    if (d->version >= 0 && prefix != d->version)
        return -EBADMSG;
    d->version = m->lenient ? MIN(prefix, m->version_max) : prefix;
    return 0;
}

int k_decode(const KMessage *m, int16_t version, const void *data, size_t size, Arena *arena, void *ret_struct)
{
    Decoder d = {.at = data, .end = bytes_end(data, size), .arena = arena, .version = version};
    if (m->prefixed) {
        int r = take_prefix(m, &d);
        if (r < 0)
            return r;
    }
    if (!k_message_has_version(m, d.version))
        return -EOPNOTSUPP;
    d.flexible = d.version >= m->flexible_since;
    int r = decode_struct(&d, m->root, ret_struct);
    if (r < 0)
        return r;
    return d.at == d.end || m->lenient ? 0 : -EBADMSG;
}
