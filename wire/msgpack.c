/*
 * k_pack(), k_unpack(): the same tables as msgpack arrays, [type, version, fields...]; structs are arrays of the fields
 * that the version has. Metadata records, the control socket and supervisor datagrams use it: any msgpack tool reads them.
 *
 * msgpack-c writes. Reading is by hand, because msgpack-c's parser takes memory for a count before it has seen the
 * elements, and these bytes come from disks and sockets. The reader accepts every width of an integer, string, binary or
 * array header, and nothing else (no maps, no extensions).
 */

#include <errno.h>
#include <msgpack.h>
#include <string.h>

#include "wire/bigendian.h"
#include "wire/tables.h"

/* Writing */

typedef struct Packer {
    msgpack_packer pk;
    int16_t version;
    int error;
} Packer;

static int write_to_buf(void *data, const char *bytes, size_t size)
{
    return buf_append(data, bytes, size) < 0 ? -1 : 0;
}

static void check(Packer *p, int r)
{
    if (r < 0 && !p->error)
        p->error = -ENOMEM;
}

static void refuse(Packer *p)
{
    p->error = p->error ? p->error : -EINVAL;
}

static void pack_null(Packer *p, const KField *f)
{
    if (p->version < f->null_since)
        refuse(p);
    check(p, msgpack_pack_nil(&p->pk));
}

static void pack_struct(Packer *p, const KStructTable *s, const uint8_t *from);

static void pack_binary(Packer *p, const void *data, size_t size)
{
    check(p, msgpack_pack_bin(&p->pk, size));
    if (size)
        check(p, msgpack_pack_bin_body(&p->pk, data, size));
}

static void pack_str(Packer *p, const KField *f, const KStr *s)
{
    if (s->len < 0) {
        pack_null(p, f);
        return;
    }
    check(p, msgpack_pack_str(&p->pk, (size_t)s->len));
    if (s->len)
        check(p, msgpack_pack_str_body(&p->pk, s->ptr, (size_t)s->len));
}

static void pack_one(Packer *p, const KField *f, const void *from)
{
    msgpack_packer *pk = &p->pk;
    switch ((KType)f->type) {
    case KT_BOOL:
        check(p, *(const bool *)from ? msgpack_pack_true(pk) : msgpack_pack_false(pk));
        break;
    case KT_I8:
        check(p, msgpack_pack_int64(pk, *(const int8_t *)from));
        break;
    case KT_I16:
        check(p, msgpack_pack_int64(pk, *(const int16_t *)from));
        break;
    case KT_U16:
        check(p, msgpack_pack_int64(pk, *(const uint16_t *)from));
        break;
    case KT_I32:
        check(p, msgpack_pack_int64(pk, *(const int32_t *)from));
        break;
    case KT_U32:
        check(p, msgpack_pack_int64(pk, *(const uint32_t *)from));
        break;
    case KT_I64:
        check(p, msgpack_pack_int64(pk, *(const int64_t *)from));
        break;
    case KT_F64:
        check(p, msgpack_pack_double(pk, *(const double *)from));
        break;
    case KT_UUID:
        pack_binary(p, from, sizeof(Uuid));
        break;
    case KT_STR:
        pack_str(p, f, from);
        break;
    case KT_BYTES:
        if (((const KBytes *)from)->len < 0)
            pack_null(p, f);
        else
            pack_binary(p, ((const KBytes *)from)->ptr, (size_t)((const KBytes *)from)->len);
        break;
    case KT_STRUCT:
        pack_struct(p, f->sub, from);
        break;
    }
}

static void pack_array(Packer *p, const KField *f, const KAnyArray *a)
{
    if (a->n < 0) {
        pack_null(p, f);
        return;
    }
    check(p, msgpack_pack_array(&p->pk, (size_t)a->n));
    KField element = *f;
    element.null_since = INT16_MAX;
    for (int32_t i = 0; i < a->n && !p->error; i++)
        pack_one(p, &element, (const uint8_t *)a->items + (size_t)i * f->size);
}

static void pack_field(Packer *p, const KField *f, const void *from)
{
    if (f->shape == KS_ARRAY) {
        pack_array(p, f, from);
    } else if (f->shape == KS_POINTER) {
        const void *target = *(const void *const *)from;
        if (target)
            pack_struct(p, f->sub, target);
        else
            pack_null(p, f);
    } else {
        pack_one(p, f, from);
    }
}

static size_t fields_in(const KStructTable *s, int16_t version)
{
    size_t n = 0;
    for (uint16_t i = 0; i < s->n_fields; i++)
        n += k_field_is_in(&s->fields[i], version);
    return n;
}

static void pack_fields(Packer *p, const KStructTable *s, const uint8_t *from)
{
    for (uint16_t i = 0; i < s->n_fields && !p->error; i++)
        if (k_field_is_in(&s->fields[i], p->version))
            pack_field(p, &s->fields[i], from + s->fields[i].offset);
}

static void pack_struct(Packer *p, const KStructTable *s, const uint8_t *from)
{
    check(p, msgpack_pack_array(&p->pk, fields_in(s, p->version)));
    pack_fields(p, s, from);
}

int k_pack(const KMessage *m, int16_t version, const void *message, Buf *out)
{
    if (!k_message_has_version(m, version))
        return -EOPNOTSUPP;
    size_t start = out->size;
    Packer p = {.version = version};
    msgpack_packer_init(&p.pk, out, write_to_buf);
    check(&p, msgpack_pack_array(&p.pk, 2 + fields_in(m->root, version)));
    check(&p, msgpack_pack_int64(&p.pk, m->number));
    check(&p, msgpack_pack_int64(&p.pk, version));
    pack_fields(&p, m->root, message);
    if (p.error)
        out->size = start;
    return p.error;
}

/* Reading */

typedef struct Unpacker {
    const uint8_t *at, *end;
    Arena *arena;
    int16_t version;
} Unpacker;

static size_t left(const Unpacker *u)
{
    return (size_t)(u->end - u->at);
}

/* Big-endian unsigned of 1, 2, 4 or 8 bytes behind the type byte. */
static int take_width(Unpacker *u, size_t width, uint64_t *ret)
{
    if (left(u) < 1 + width)
        return -EBADMSG;
    const uint8_t *p = u->at + 1;
    *ret = width == 1 ? *p : width == 2 ? get_be16(p) : width == 4 ? get_be32(p) : get_be64(p);
    u->at += 1 + width;
    return 0;
}

static int take_int(Unpacker *u, int64_t low, int64_t high, int64_t *ret)
{
    if (left(u) < 1)
        return -EBADMSG;
    uint8_t byte = *u->at;
    int64_t v;
    if (byte <= 0x7f || byte >= 0xe0) {
        v = (int8_t)byte;
        u->at++;
    } else if (byte >= 0xcc && byte <= 0xd3) {
        uint64_t bits;
        size_t width = (size_t)1 << (byte & 3);
        if (take_width(u, width, &bits) < 0 || (byte == 0xcf && bits > INT64_MAX))
            return -EBADMSG;
        v = byte == 0xd0 ? (int8_t)bits : byte == 0xd1 ? (int16_t)bits : byte == 0xd2 ? (int32_t)bits : (int64_t)bits;
    } else {
        return -EBADMSG;
    }
    if (v < low || v > high)
        return -EBADMSG;
    *ret = v;
    return 0;
}

static bool take_nil(Unpacker *u)
{
    if (left(u) < 1 || *u->at != 0xc0)
        return false;
    u->at++;
    return true;
}

static int take_array(Unpacker *u, uint64_t *ret_n)
{
    if (left(u) < 1)
        return -EBADMSG;
    uint8_t byte = *u->at;
    if ((byte & 0xf0) == 0x90) {
        *ret_n = byte & 0x0f;
        u->at++;
        return 0;
    }
    return byte == 0xdc || byte == 0xdd ? take_width(u, byte == 0xdc ? 2 : 4, ret_n) : -EBADMSG;
}

static int take_bytes(Unpacker *u, bool text, const void **ret_ptr, int32_t *ret_len)
{
    if (left(u) < 1)
        return -EBADMSG;
    uint8_t byte = *u->at, first = text ? 0xd9 : 0xc4;
    uint64_t n;
    if (text && (byte & 0xe0) == 0xa0) {
        n = byte & 0x1f;
        u->at++;
    } else if (byte < first || byte > first + 2 || take_width(u, (size_t)1 << (byte - first), &n) < 0) {
        return -EBADMSG;
    }
    if (n > left(u) || n > INT32_MAX)
        return -EBADMSG;
    *ret_ptr = u->at;
    *ret_len = (int32_t)n;
    u->at += n;
    return 0;
}

static int unpack_struct(Unpacker *u, const KStructTable *s, void *ret);

static int unpack_int(Unpacker *u, const KField *f, void *ret)
{
    static const struct {
        int64_t low, high;
    } ranges[] = {
        [KT_I8] = {INT8_MIN, INT8_MAX}, [KT_I16] = {INT16_MIN, INT16_MAX}, [KT_U16] = {0, UINT16_MAX},
        [KT_I32] = {INT32_MIN, INT32_MAX}, [KT_U32] = {0, UINT32_MAX}, [KT_I64] = {INT64_MIN, INT64_MAX},
    };
    int64_t v;
    if (take_int(u, ranges[f->type].low, ranges[f->type].high, &v) < 0)
        return -EBADMSG;
    if (f->size == 1)
        *(int8_t *)ret = (int8_t)v;
    else if (f->size == 2)
        *(uint16_t *)ret = (uint16_t)v;
    else if (f->size == 4)
        *(uint32_t *)ret = (uint32_t)v;
    else
        *(int64_t *)ret = v;
    return 0;
}

static int unpack_double(Unpacker *u, double *ret)
{
    uint64_t bits;
    if (left(u) < 1 || *u->at != 0xcb || take_width(u, 8, &bits) < 0)
        return -EBADMSG;
    memcpy(ret, &bits, sizeof(bits));
    return 0;
}

static int unpack_uuid(Unpacker *u, Uuid *ret)
{
    const void *ptr;
    int32_t len;
    if (take_bytes(u, false, &ptr, &len) < 0 || len != sizeof(Uuid))
        return -EBADMSG;
    memcpy(ret, ptr, sizeof(Uuid));
    return 0;
}

static int unpack_span(Unpacker *u, const KField *f, void *ret)
{
    const void *ptr = NULL;
    int32_t len = -1;
    if (take_nil(u)) {
        if (u->version < f->null_since)
            return -EBADMSG;
    } else if (take_bytes(u, f->type == KT_STR, &ptr, &len) < 0) {
        return -EBADMSG;
    }
    if (f->type == KT_STR)
        *(KStr *)ret = (KStr){ptr, len};
    else
        *(KBytes *)ret = (KBytes){ptr, len};
    return 0;
}

static int unpack_one(Unpacker *u, const KField *f, void *ret)
{
    switch ((KType)f->type) {
    case KT_BOOL:
        if (left(u) < 1 || (*u->at != 0xc2 && *u->at != 0xc3))
            return -EBADMSG;
        *(bool *)ret = *u->at++ == 0xc3;
        return 0;
    case KT_F64:
        return unpack_double(u, ret);
    case KT_UUID:
        return unpack_uuid(u, ret);
    case KT_STR:
    case KT_BYTES:
        return unpack_span(u, f, ret);
    case KT_STRUCT:
        return unpack_struct(u, f->sub, ret);
    case KT_I8:
    case KT_I16:
    case KT_U16:
    case KT_I32:
    case KT_U32:
    case KT_I64:
        break;
    }
    return unpack_int(u, f, ret);
}

static int unpack_array(Unpacker *u, const KField *f, KAnyArray *ret)
{
    *ret = (KAnyArray){NULL, -1};
    if (take_nil(u))
        return u->version >= f->null_since ? 0 : -EBADMSG;
    uint64_t n;
    size_t least = f->type == KT_STRUCT ? f->sub->packed_min : f->type == KT_UUID ? 1 + sizeof(Uuid) : 1;
    if (take_array(u, &n) < 0 || n > left(u) / least)
        return -EBADMSG;
    ret->n = (int32_t)n;
    if (n == 0)
        return 0;
    uint8_t *items = arena_alloc(u->arena, n * f->size);
    if (!items)
        return -ENOMEM;
    KField element = *f;
    element.null_since = INT16_MAX;
    for (uint64_t i = 0; i < n; i++) {
        int r = unpack_one(u, &element, items + i * f->size);
        if (r < 0)
            return r;
    }
    ret->items = items;
    return 0;
}

static int unpack_field(Unpacker *u, const KField *f, void *ret)
{
    if (f->shape == KS_ARRAY)
        return unpack_array(u, f, ret);
    if (f->shape == KS_ONE)
        return unpack_one(u, f, ret);
    *(void **)ret = NULL;
    if (take_nil(u))
        return u->version >= f->null_since ? 0 : -EBADMSG;
    void *s = arena_alloc(u->arena, f->size);
    if (!s)
        return -ENOMEM;
    *(void **)ret = s;
    return unpack_struct(u, f->sub, s);
}

static int unpack_fields(Unpacker *u, const KStructTable *s, void *ret)
{
    memcpy(ret, s->defaults, s->size);
    for (uint16_t i = 0; i < s->n_fields; i++) {
        if (!k_field_is_in(&s->fields[i], u->version))
            continue;
        int r = unpack_field(u, &s->fields[i], (uint8_t *)ret + s->fields[i].offset);
        if (r < 0)
            return r;
    }
    return 0;
}

static int unpack_struct(Unpacker *u, const KStructTable *s, void *ret)
{
    uint64_t n;
    if (take_array(u, &n) < 0 || n != fields_in(s, u->version))
        return -EBADMSG;
    return unpack_fields(u, s, ret);
}

static int take_head(Unpacker *u, uint64_t *ret_n, int64_t *ret_type, int64_t *ret_version)
{
    if (take_array(u, ret_n) < 0 || *ret_n < 2 || take_int(u, 0, INT16_MAX, ret_type) < 0 ||
        take_int(u, 0, INT16_MAX, ret_version) < 0)
        return -EBADMSG;
    return 0;
}

int k_unpack_type(const void *data, size_t size, int16_t *ret_type, int16_t *ret_version)
{
    Unpacker u = {.at = data, .end = bytes_end(data, size)};
    uint64_t n;
    int64_t type, version;
    if (take_head(&u, &n, &type, &version) < 0)
        return -EBADMSG;
    *ret_type = (int16_t)type;
    *ret_version = (int16_t)version;
    return 0;
}

int k_unpack(const KMessage *m, const void *data, size_t size, Arena *arena, void *ret_struct, int16_t *ret_version)
{
    Unpacker u = {.at = data, .end = bytes_end(data, size), .arena = arena};
    uint64_t n;
    int64_t type, version;
    if (take_head(&u, &n, &type, &version) < 0 || type != m->number)
        return -EBADMSG;
    u.version = (int16_t)version;
    if (!k_message_has_version(m, u.version))
        return -EOPNOTSUPP;
    if (n != 2 + fields_in(m->root, u.version))
        return -EBADMSG;
    int r = unpack_fields(&u, m->root, ret_struct);
    if (r < 0)
        return r;
    if (u.at != u.end && !m->lenient)
        return -EBADMSG;
    if (ret_version)
        *ret_version = u.version;
    return 0;
}
