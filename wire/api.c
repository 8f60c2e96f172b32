/* Look-ups in the tables and the headers of requests and responses (kafka-wire.md section 1). */

#include "wire/tables.h"

#include <errno.h>
#include <string.h>

#include "wire/bigendian.h"

#define API_KEY_API_VERSIONS 18

KStr k_str(const char *s)
{
    return s ? (KStr){s, (int32_t)strlen(s)} : K_STR_NULL;
}

bool k_str_equal(KStr a, const char *s)
{
    return k_str_same(a, k_str(s));
}

bool k_str_same(KStr a, KStr b)
{
    return a.len == b.len && (a.len <= 0 || memcmp(a.ptr, b.ptr, (size_t)a.len) == 0);
}

/* One code point of UTF-8; what is malformed counts as U+FFFD, one byte at a time. */
static uint32_t take_code_point(const uint8_t **inout_at, const uint8_t *end)
{
    const uint8_t *p = *inout_at;
    uint32_t c = *p++;
    int more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
    *inout_at = p;
    if (more == 0)
        return c;
    if (more < 0 || end - p < more)
        return 0xfffd;
    c &= 0x3fu >> more;
    for (int i = 0; i < more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0xfffd;
        c = c << 6 | (p[i] & 0x3f);
    }
    *inout_at = p + more;
    return c;
}

int32_t k_java_hash(KStr s)
{
    uint32_t hash = 0;
    const uint8_t *at = (const uint8_t *)s.ptr, *end = at + MAX(s.len, 0);
    while (at < end) {
        uint32_t c = take_code_point(&at, end);
        if (c >= 0x10000) { /* a surrogate pair in Java */
            hash = 31 * hash + (0xd800 + ((c - 0x10000) >> 10));
            c = 0xdc00 + ((c - 0x10000) & 0x3ff);
        }
        hash = 31 * hash + c;
    }
    return (int32_t)hash;
}

int32_t k_partition_for_id(KStr id, int32_t partitions_count)
{
    assert(partitions_count > 0);
    int32_t hash = k_java_hash(id);
    return (hash == INT32_MIN ? 0 : hash < 0 ? -hash : hash) % partitions_count;
}

const KApi *k_api_at(size_t i)
{
    return i < k_api_table_size ? &k_api_table[i] : NULL;
}

const KApi *k_api_find(int16_t key)
{
    size_t low = 0, high = k_api_table_size;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (k_api_table[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < k_api_table_size && k_api_table[low].key == key ? &k_api_table[low] : NULL;
}

const KMessage *k_message_by_type(int16_t type)
{
    for (size_t i = 0; i < k_message_table_size; i++)
        if (k_message_table[i]->number == type)
            return k_message_table[i];
    return NULL;
}

size_t k_message_struct_size(const KMessage *m)
{
    return m->root->size;
}

const char *k_message_name(const KMessage *m)
{
    return m->name;
}

void k_message_init(const KMessage *m, void *ret_struct)
{
    memcpy(ret_struct, m->root->defaults, m->root->size);
}

/* Skips a tag buffer. Return: bytes, 0 = malformed. */
static size_t tags_size(const uint8_t *data, size_t size)
{
    const uint8_t *at = data, *end = bytes_end(data, size);
    uint32_t n, tag, len;
    if (uvarint_take(&at, end, &n) < 0 || n > (size_t)(end - at) / 2)
        return 0;
    for (; n > 0; n--) {
        if (uvarint_take(&at, end, &tag) < 0 || uvarint_take(&at, end, &len) < 0 || len > (size_t)(end - at))
            return 0;
        at += len;
    }
    return (size_t)(at - data);
}

int k_request_header_decode(const void *frame, size_t size, KRequestHeader *ret, size_t *ret_header_size)
{
    const uint8_t *p = frame;
    if (size < 8)
        return -EBADMSG;
    *ret = (KRequestHeader){
        .api_key = (int16_t)get_be16(p),
        .api_version = (int16_t)get_be16(p + 2),
        .correlation_id = (int32_t)get_be32(p + 4),
        .client_id = K_STR_NULL,
    };
    const KApi *api = k_api_find(ret->api_key);
    if (!api || ret->api_version < api->version_min || ret->api_version > api->version_max)
        return -EOPNOTSUPP;
    if (size < 10)
        return -EBADMSG;
    int16_t len = (int16_t)get_be16(p + 8);
    size_t at = 10;
    if (len < -1 || (len > 0 && (size_t)len > size - at))
        return -EBADMSG;
    if (len >= 0) {
        ret->client_id = (KStr){(const char *)p + at, len};
        at += (size_t)len;
    }
    if (ret->api_version >= api->flexible_since) {
        size_t tags = tags_size(p + at, size - at);
        if (tags == 0)
            return -EBADMSG;
        at += tags;
    }
    *ret_header_size = at;
    return 0;
}

int k_request_header_encode(const KRequestHeader *h, Buf *out)
{
    const KApi *api = k_api_find(h->api_key);
    if (!api)
        return -EOPNOTSUPP;
    size_t id_size = h->client_id.len > 0 ? (size_t)h->client_id.len : 0;
    if (id_size > INT16_MAX)
        return -EINVAL;
    int r = buf_reserve(out, 11 + id_size);
    if (r < 0)
        return r;
    uint8_t *p = out->data + out->size;
    put_be16(p, (uint16_t)h->api_key);
    put_be16(p + 2, (uint16_t)h->api_version);
    put_be32(p + 4, (uint32_t)h->correlation_id);
    put_be16(p + 8, (uint16_t)h->client_id.len);
    if (id_size)
        memcpy(p + 10, h->client_id.ptr, id_size);
    out->size += 10 + id_size;
    if (h->api_version >= api->flexible_since)
        out->data[out->size++] = 0;
    return 0;
}

/* ApiVersions always answers with the old header: its client does not know yet what we understand. */
static bool response_has_tags(const KApi *api, int16_t version)
{
    return api->key != API_KEY_API_VERSIONS && version >= api->flexible_since;
}

int k_response_header_encode(int16_t api_key, int16_t api_version, int32_t correlation_id, Buf *out)
{
    const KApi *api = k_api_find(api_key);
    if (!api)
        return -EOPNOTSUPP;
    int r = buf_reserve(out, 5);
    if (r < 0)
        return r;
    put_be32(out->data + out->size, (uint32_t)correlation_id);
    out->size += 4;
    if (response_has_tags(api, api_version))
        out->data[out->size++] = 0;
    return 0;
}

int k_response_header_decode(int16_t api_key, int16_t api_version, const void *frame, size_t size, int32_t *ret_correlation_id,
                             size_t *ret_header_size)
{
    const KApi *api = k_api_find(api_key);
    if (!api)
        return -EOPNOTSUPP;
    if (size < 4)
        return -EBADMSG;
    size_t tags = 0;
    if (response_has_tags(api, api_version)) {
        tags = tags_size((const uint8_t *)frame + 4, size - 4);
        if (tags == 0)
            return -EBADMSG;
    }
    *ret_correlation_id = (int32_t)get_be32(frame);
    *ret_header_size = 4 + tags;
    return 0;
}
