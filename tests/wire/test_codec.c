/* The codec against bytes from Kafka's own clients, against itself for every message and version, and against damage. */

#include <check.h>
#include <errno.h>
#include <msgpack.h>
#include <stdlib.h>

#include "table_random.h"
#include "wire/error.h"
#include "wire/messages.h"

#define STRUCT_MAX 1024

typedef struct Bytes {
    uint8_t data[512];
    size_t size;
} Bytes;

/* "00 01 ff": blanks and '|' are skipped. */
static Bytes hex(const char *text)
{
    Bytes b = {.size = 0};
    while (*text) {
        if (*text == ' ' || *text == '|') {
            text++;
            continue;
        }
        char pair[3] = {text[0], text[1], 0};
        b.data[b.size++] = (uint8_t)strtoul(pair, NULL, 16);
        text += 2;
    }
    return b;
}

static void expect_bytes(const Buf *buf, const char *text)
{
    Bytes b = hex(text);
    ck_assert_uint_eq(buf->size, b.size);
    ck_assert_mem_eq(buf->data, b.data, b.size);
}

/* Decodes a frame's body, checks that encoding gives the same bytes back, and leaves the struct in ret. */
static void body_round_trip(const KMessage *m, int16_t version, const uint8_t *data, size_t size, Arena *arena, void *ret)
{
    ck_assert_int_eq(k_decode(m, version, data, size, arena, ret), 0);
    Buf out = BUF_NULL;
    ck_assert_int_eq(k_encode(m, version, ret, &out), 0);
    ck_assert_uint_eq(out.size, size);
    ck_assert_mem_eq(out.data, data, size);
    buf_deinit(&out);
}

START_TEST(api_versions_request)
{
    Bytes b = hex("00 12 00 03 00 00 00 01 00 02 63 31 00 | 05 64 65 6d 6f 04 31 2e 30 00");
    KRequestHeader h;
    size_t at;
    ck_assert_int_eq(k_request_header_decode(b.data, b.size, &h, &at), 0);
    ck_assert_int_eq(h.api_key, 18);
    ck_assert_int_eq(h.api_version, 3);
    ck_assert_int_eq(h.correlation_id, 1);
    ck_assert(k_str_equal(h.client_id, "c1"));
    ck_assert_uint_eq(at, 13);
    Arena arena = ARENA_NULL;
    KApiVersionsRequest q;
    body_round_trip(&k_api_versions_request, 3, b.data + at, b.size - at, &arena, &q);
    ck_assert(k_str_equal(q.client_software_name, "demo"));
    ck_assert(k_str_equal(q.client_software_version, "1.0"));
    Buf header = BUF_NULL;
    ck_assert_int_eq(k_request_header_encode(&h, &header), 0);
    ck_assert_uint_eq(header.size, at);
    ck_assert_mem_eq(header.data, b.data, at);
    buf_deinit(&header);
    arena_deinit(&arena);
}
END_TEST

START_TEST(api_versions_response)
{
    KApiVersionsResponseApiKeys keys[] = {{0, 3, 11}, {18, 0, 4}};
    KApiVersionsResponse r;
    k_message_init(&k_api_versions_response, &r);
    r.api_keys.items = keys;
    r.api_keys.n = 2;
    Buf out = BUF_NULL;
    ck_assert_int_eq(k_response_header_encode(18, 3, 1, &out), 0);
    ck_assert_int_eq(k_encode(&k_api_versions_response, 3, &r, &out), 0);
    expect_bytes(&out, "00 00 00 01 | 00 00 03 00 00 00 03 00 0b 00 00 12 00 00 00 04 00 00 00 00 00 00");

    KApiVersionsResponseFinalizedFeatures feature = {k_str("metadata.version"), 21, 21};
    r.api_keys.items = keys + 1;
    r.api_keys.n = 1;
    r.finalized_features_epoch = 7;
    r.finalized_features.items = &feature;
    r.finalized_features.n = 1;
    const char *tagged = "00 00 02 00 12 00 00 00 04 00 00 00 00 00 02 01 08 00 00 00 00 00 00 00 07 02 17 02 11 6d 65 74 61 64 61"
                         "74 61 2e 76 65 72 73 69 6f 6e 00 15 00 15 00";
    buf_clear(&out);
    ck_assert_int_eq(k_encode(&k_api_versions_response, 3, &r, &out), 0);
    expect_bytes(&out, tagged);
    Arena arena = ARENA_NULL;
    Bytes b = hex(tagged);
    KApiVersionsResponse copy;
    body_round_trip(&k_api_versions_response, 3, b.data, b.size, &arena, &copy);
    ck_assert_int_eq(copy.finalized_features.n, 1);
    ck_assert_int_eq(copy.supported_features.n, 0);

    /* To a version that we do not know: header and body of version 0. */
    KApiVersionsResponse refusal;
    k_message_init(&k_api_versions_response, &refusal);
    refusal.error_code = K_UNSUPPORTED_VERSION;
    refusal.api_keys.items = keys + 1;
    refusal.api_keys.n = 1;
    buf_clear(&out);
    ck_assert_int_eq(k_response_header_encode(18, 99, 1, &out), 0);
    ck_assert_int_eq(k_encode(&k_api_versions_response, 0, &refusal, &out), 0);
    expect_bytes(&out, "00 00 00 01 | 00 23 00 00 00 01 00 12 00 00 00 04");
    buf_deinit(&out);
    arena_deinit(&arena);
}
END_TEST

START_TEST(metadata)
{
    Bytes q = hex("00 03 00 0c 00 00 00 02 00 02 63 31 00 | 02 00000000000000000000000000000000 03 74 31 00 01 00 00");
    KRequestHeader h;
    size_t at;
    Arena arena = ARENA_NULL;
    ck_assert_int_eq(k_request_header_decode(q.data, q.size, &h, &at), 0);
    KMetadataRequest request;
    body_round_trip(&k_metadata_request, 12, q.data + at, q.size - at, &arena, &request);
    ck_assert_int_eq(request.topics.n, 1);
    ck_assert(k_str_equal(request.topics.items[0].name, "t1"));
    ck_assert(request.allow_auto_topic_creation);
    /* librdkafka 2.16 asks for all topics: null in one byte, then three of its placeholder push the rest back */
    Bytes all = hex("00 00 00 00 01 00 00");
    ck_assert_int_eq(k_decode(&k_metadata_request, 12, all.data, all.size, &arena, &request), 0);
    ck_assert_int_eq(request.topics.n, -1);

    Bytes r = hex("00 00 00 02 00 | 00 00 00 00 02 00 00 00 01 02 68 00 00 23 84 00 00 02 43 00 00 00 01 02 00 00 03 74 31"
                  "01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 00 02 00 00 00 00 00 00 00 00 00 01 00 00 00 03 02 00 00 00 01"
                  "02 00 00 00 01 01 00 80 00 00 00 00 00");
    int32_t correlation;
    ck_assert_int_eq(k_response_header_decode(3, 12, r.data, r.size, &correlation, &at), 0);
    ck_assert_int_eq(correlation, 2);
    ck_assert_uint_eq(at, 5);
    KMetadataResponse response;
    body_round_trip(&k_metadata_response, 12, r.data + at, r.size - at, &arena, &response);
    ck_assert_int_eq(response.brokers.items[0].port, 9092);
    ck_assert_int_eq(response.brokers.items[0].rack.len, -1);
    ck_assert_int_eq(response.topics.items[0].partitions.items[0].leader_epoch, 3);
    ck_assert_int_eq(response.topics.items[0].topic_authorized_operations, INT32_MIN);
    arena_deinit(&arena);
}
END_TEST

START_TEST(nullable_struct)
{
    Arena arena = ARENA_NULL;
    KConsumerGroupHeartbeatResponse r;
    Bytes b = hex("00 00 00 00 00 00 00 02 6d 00 00 00 01 00 00 13 88 ff 00");
    body_round_trip(&k_consumer_group_heartbeat_response, 0, b.data, b.size, &arena, &r);
    ck_assert_ptr_null(r.assignment);
    b = hex("00 00 00 00 00 00 00 02 6d 00 00 00 01 00 00 13 88 01 02 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 03 00 00 00"
            "00 00 00 00 02 00 00 00");
    body_round_trip(&k_consumer_group_heartbeat_response, 0, b.data, b.size, &arena, &r);
    ck_assert_int_eq(r.assignment->topic_partitions.items[0].partitions.n, 2);
    ck_assert_int_eq(r.assignment->topic_partitions.items[0].partitions.items[1], 2);
    b.data[17] = 2; /* neither null nor present */
    ck_assert_int_eq(k_decode(&k_consumer_group_heartbeat_response, 0, b.data, b.size, &arena, &r), -EBADMSG);
    arena_deinit(&arena);
}
END_TEST

START_TEST(embedded_consumer_protocol)
{
    Arena arena = ARENA_NULL;
    KConsumerSubscription s;
    Bytes b = hex("00 01 00 00 00 01 00 02 74 31 ff ff ff ff 00 00 00 01 00 02 74 31 00 00 00 01 00 00 00 00");
    body_round_trip(&k_consumer_subscription, 1, b.data, b.size, &arena, &s);
    ck_assert(k_str_equal(s.topics.items[0], "t1"));
    ck_assert_int_eq(s.user_data.len, -1);
    ck_assert_int_eq(s.owned_partitions.items[0].partitions.items[0], 0);
    ck_assert_int_eq(s.generation_id, -1);
    ck_assert_int_eq(k_decode(&k_consumer_subscription, -1, b.data, b.size, &arena, &s), 0);
    ck_assert_int_eq(k_decode(&k_consumer_subscription, 2, b.data, b.size, &arena, &s), -EBADMSG);

    KConsumerAssignment a;
    b = hex("00 01 00 00 00 01 00 02 74 31 00 00 00 02 00 00 00 00 00 00 00 01 ff ff ff ff");
    body_round_trip(&k_consumer_assignment, 1, b.data, b.size, &arena, &a);
    ck_assert_int_eq(a.assigned_partitions.items[0].partitions.n, 2);
    /* A newer version with more fields is read as far as we know it; a key of the offsets topic is not. */
    Bytes future = hex("00 09 00 00 00 01 00 02 74 31 00 00 00 00 ff ff ff ff 00 00 00 07 61 62");
    ck_assert_int_eq(k_decode(&k_consumer_assignment, -1, future.data, future.size, &arena, &a), 0);
    ck_assert(k_str_equal(a.assigned_partitions.items[0].topic, "t1"));
    KGroupMetadataKey key;
    Bytes unknown = hex("00 03 00 01 67");
    ck_assert_int_eq(k_decode(&k_group_metadata_key, -1, unknown.data, unknown.size, &arena, &key), -EOPNOTSUPP);
    arena_deinit(&arena);
}
END_TEST

START_TEST(request_headers_that_are_refused)
{
    KRequestHeader h;
    size_t at;
    Bytes b = hex("00 12 00 63 00 00 00 05 00 02 63 31");
    ck_assert_int_eq(k_request_header_decode(b.data, b.size, &h, &at), -EOPNOTSUPP);
    ck_assert_int_eq(h.api_key, 18);
    ck_assert_int_eq(h.api_version, 99);
    ck_assert_int_eq(h.correlation_id, 5);
    b = hex("03 e7 00 00 00 00 00 05 00 02 63 31"); /* no such key */
    ck_assert_int_eq(k_request_header_decode(b.data, b.size, &h, &at), -EOPNOTSUPP);
    b = hex("00 12 00 03 00 00 00 01 00 02 63 31 00"); /* a header with empty tags, at every length */
    for (size_t n = 0; n < b.size; n++)
        ck_assert_int_eq(k_request_header_decode(b.data, n, &h, &at), -EBADMSG);
    b = hex("00 12 00 03 00 00 00 01 ff ff 01 05 02 aa bb"); /* null id, one unknown tag */
    ck_assert_int_eq(k_request_header_decode(b.data, b.size, &h, &at), 0);
    ck_assert_uint_eq(at, b.size);
    ck_assert_int_eq(h.client_id.len, -1);
    for (size_t n = 10; n < b.size; n++)
        ck_assert_int_eq(k_request_header_decode(b.data, n, &h, &at), -EBADMSG);
    b = hex("00 12 00 03 00 00 00 01 ff fe 00"); /* length -2 */
    ck_assert_int_eq(k_request_header_decode(b.data, b.size, &h, &at), -EBADMSG);
}
END_TEST

START_TEST(tags)
{
    Arena arena = ARENA_NULL;
    KHeartbeatResponse r;
    Bytes b = hex("00 00 00 00 00 1b 02 05 02 aa bb 07 00"); /* two unknown tags */
    ck_assert_int_eq(k_decode(&k_heartbeat_response, 4, b.data, b.size, &arena, &r), 0);
    ck_assert_int_eq(r.error_code, 27);
    b = hex("00 00 00 00 00 1b 02 07 00 05 00"); /* descending */
    ck_assert_int_eq(k_decode(&k_heartbeat_response, 4, b.data, b.size, &arena, &r), -EBADMSG);
    b = hex("00 00 00 00 00 1b 02 07 00 07 00"); /* twice */
    ck_assert_int_eq(k_decode(&k_heartbeat_response, 4, b.data, b.size, &arena, &r), -EBADMSG);
    b = hex("00 00 00 00 00 1b ff ff ff ff 0f"); /* 4 billion of them */
    ck_assert_int_eq(k_decode(&k_heartbeat_response, 4, b.data, b.size, &arena, &r), -EBADMSG);
    /* A known tag must fill its size exactly: finalized_features_epoch is 8 bytes. */
    KApiVersionsResponse v;
    b = hex("00 00 01 00 00 00 00 01 01 09 00 00 00 00 00 00 00 07 00");
    ck_assert_int_eq(k_decode(&k_api_versions_response, 3, b.data, b.size, &arena, &v), -EBADMSG);
    b = hex("00 00 01 00 00 00 00 01 01 07 00 00 00 00 00 00 07");
    ck_assert_int_eq(k_decode(&k_api_versions_response, 3, b.data, b.size, &arena, &v), -EBADMSG);
    arena_deinit(&arena);
}
END_TEST

START_TEST(nulls_where_they_are_forbidden)
{
    Arena arena = ARENA_NULL;
    Buf out = BUF_NULL;
    KMetadataRequest q;
    Bytes b = hex("ff ff ff ff");
    ck_assert_int_eq(k_decode(&k_metadata_request, 0, b.data, b.size, &arena, &q), -EBADMSG);
    ck_assert_int_eq(k_decode(&k_metadata_request, 1, b.data, b.size, &arena, &q), 0);
    ck_assert_int_eq(q.topics.n, -1);
    ck_assert(q.allow_auto_topic_creation); /* version 1 has no such field: its default */
    ck_assert_int_eq(k_encode(&k_metadata_request, 0, &q, &out), -EINVAL);
    ck_assert_uint_eq(out.size, 0);
    ck_assert_int_eq(k_encode(&k_metadata_request, 1, &q, &out), 0);
    KHeartbeatRequest h;
    k_message_init(&k_heartbeat_request, &h);
    ck_assert_int_eq(h.group_instance_id.len, -1);
    h.group_id = K_STR_NULL;
    buf_clear(&out);
    ck_assert_int_eq(k_encode(&k_heartbeat_request, 4, &h, &out), -EINVAL);
    ck_assert_int_eq(k_encode(&k_heartbeat_request, 5, &h, &out), -EOPNOTSUPP);
    b = hex("ff ff 00 00 00 01 00 01 61");
    ck_assert_int_eq(k_decode(&k_heartbeat_request, 0, b.data, b.size, &arena, &h), -EBADMSG);
    buf_deinit(&out);
    arena_deinit(&arena);
}
END_TEST

/* Copies of exactly the right size, so that a tool that watches the heap sees a read beyond the end. */
static int decode_copy(const KMessage *m, int16_t version, const uint8_t *data, size_t size, bool packed, Arena *arena)
{
    uint8_t *copy = malloc(size ? size : 1);
    alignas(16) uint8_t ret[STRUCT_MAX];
    if (size)
        memcpy(copy, data, size);
    int r = packed ? k_unpack(m, copy, size, arena, ret, NULL) : k_decode(m, version, copy, size, arena, ret);
    free(copy);
    return r;
}

static void check_truncation(const KMessage *m, int16_t version, const Buf *full, bool packed)
{
    for (size_t n = 0; n < full->size; n += full->size > 400 ? 7 : 1) {
        Arena arena = ARENA_NULL;
        ck_assert_msg(decode_copy(m, version, full->data, n, packed, &arena) == -EBADMSG, "%s v%d cut at %zu of %zu",
                      m->name, version, n, full->size);
        arena_deinit(&arena);
    }
}

/* Damage must give an answer, and no more memory than the bytes justify. */
static void check_damage(Rng *rng, const KMessage *m, int16_t version, Buf *full, bool packed)
{
    for (int i = 0; i < 12 && full->size >= 4; i++) {
        uint8_t saved[4];
        size_t at = rng_below(rng, full->size - 3);
        memcpy(saved, full->data + at, 4);
        static const uint8_t bombs[][4] = {{0x7f, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0x07}, {0, 0xff, 0xff, 0xff}, {0xdd, 0x7f, 0xff, 0xff}};
        uint64_t which = rng_below(rng, 6);
        if (which < 4)
            memcpy(full->data + at, bombs[which], 4);
        else
            full->data[at] = (uint8_t)rng_next(rng);
        Arena arena = ARENA_NULL;
        int r = decode_copy(m, version, full->data, full->size, packed, &arena);
        ck_assert(r == 0 || r == -EBADMSG || r == -EOPNOTSUPP);
        ck_assert_uint_le(arena.used_bytes, 128 * full->size + 1024);
        arena_deinit(&arena);
        memcpy(full->data + at, saved, 4);
    }
}

static void round_trip(Rng *rng, const KMessage *m, int16_t version, bool packed)
{
    Arena arena = ARENA_NULL;
    alignas(16) uint8_t original[STRUCT_MAX], copy[STRUCT_MAX];
    ck_assert_uint_le(k_message_struct_size(m), STRUCT_MAX);
    random_struct(rng, m->root, version, &arena, original);
    Buf first = BUF_NULL, second = BUF_NULL;
    int16_t seen = version;
    if (packed) {
        ck_assert_int_eq(k_pack(m, version, original, &first), 0);
        ck_assert_int_eq(k_unpack(m, first.data, first.size, &arena, copy, &seen), 0);
        ck_assert_int_eq(k_pack(m, version, copy, &second), 0);
    } else {
        ck_assert_int_eq(k_encode(m, version, original, &first), 0);
        ck_assert_msg(k_decode(m, version, first.data, first.size, &arena, copy) == 0, "%s v%d", m->name, version);
        ck_assert_int_eq(k_encode(m, version, copy, &second), 0);
    }
    ck_assert_int_eq(seen, version);
    ck_assert_msg(same_struct(m->root, original, copy), "%s v%d", m->name, version);
    ck_assert_uint_eq(first.size, second.size);
    if (first.size)
        ck_assert_mem_eq(first.data, second.data, first.size);
    check_truncation(m, version, &first, packed);
    check_damage(rng, m, version, &first, packed);
    ck_assert_int_eq(buf_append(&first, "x", 1), 0);
    ck_assert_int_eq(decode_copy(m, version, first.data, first.size, packed, &arena), m->lenient ? 0 : -EBADMSG);
    buf_deinit(&first);
    buf_deinit(&second);
    arena_deinit(&arena);
}

START_TEST(every_message_and_version)
{
    Rng rng;
    rng_init(&rng, 20240917);
    const KMessage *m;
    for (size_t i = 0; (m = message_at(i)); i++)
        for (int16_t v = m->version_min; v <= m->version_max; v++)
            for (int round = 0; round < 3; round++) {
                round_trip(&rng, m, v, false);
                round_trip(&rng, m, v, true);
            }
}
END_TEST

/* What we write is msgpack to others, and what others write shorter or longer is the same to us. */
START_TEST(msgpack_is_standard)
{
    Rng rng;
    rng_init(&rng, 7);
    KMetaRegisterBrokerRecordEndpoints endpoint = {k_str("PLAINTEXT"), k_str("localhost"), 9092};
    KMetaRegisterBrokerRecord r;
    k_message_init(&k_meta_register_broker_record, &r);
    r.broker_id = 70000;
    r.endpoints.items = &endpoint;
    r.endpoints.n = 1;
    Buf out = BUF_NULL;
    ck_assert_int_eq(k_pack(&k_meta_register_broker_record, 0, &r, &out), 0);
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t at = 0;
    ck_assert_int_eq(msgpack_unpack_next(&unpacked, (const char *)out.data, out.size, &at), MSGPACK_UNPACK_SUCCESS);
    ck_assert_uint_eq(at, out.size);
    const msgpack_object *o = &unpacked.data;
    ck_assert_int_eq(o->type, MSGPACK_OBJECT_ARRAY);
    ck_assert_uint_eq(o->via.array.size, 8);
    ck_assert_int_eq(o->via.array.ptr[0].via.i64, K_TYPE_META_REGISTER_BROKER_RECORD);
    ck_assert_int_eq(o->via.array.ptr[2].via.i64, 70000);
    ck_assert_int_eq(o->via.array.ptr[3].type, MSGPACK_OBJECT_BIN);
    ck_assert_int_eq(o->via.array.ptr[4].type, MSGPACK_OBJECT_NIL);
    msgpack_unpacked_destroy(&unpacked);
    int16_t type, version;
    ck_assert_int_eq(k_unpack_type(out.data, out.size, &type, &version), 0);
    ck_assert_int_eq(type, 3);
    ck_assert_ptr_eq(k_message_by_type(type), &k_meta_register_broker_record);
    buf_deinit(&out);

    Arena arena = ARENA_NULL;
    KMetaNoOpRecord no_op;
    Bytes wide = hex("dd 00 00 00 03 d3 00 00 00 00 00 00 00 01 cc 00 d1 ff fe"); /* long forms of [1, 0, -2] */
    ck_assert_int_eq(k_unpack(&k_meta_no_op_record, wide.data, wide.size, &arena, &no_op, &version), 0);
    ck_assert_int_eq(no_op.at_ms, -2);
    Bytes above = hex("93 01 00 cf 80 00 00 00 00 00 00 00"); /* does not fit i64 */
    ck_assert_int_eq(k_unpack(&k_meta_no_op_record, above.data, above.size, &arena, &no_op, &version), -EBADMSG);
    Bytes newer = hex("94 01 05 00 00");
    ck_assert_int_eq(k_unpack(&k_meta_no_op_record, newer.data, newer.size, &arena, &no_op, &version), -EOPNOTSUPP);
    Bytes other = hex("93 02 00 00");
    ck_assert_int_eq(k_unpack(&k_meta_no_op_record, other.data, other.size, &arena, &no_op, &version), -EBADMSG);
    arena_deinit(&arena);
}
END_TEST

START_TEST(dump_is_json)
{
    KMetadataRequestTopics topic = {.name = {"a\"\n\xff", 4}};
    KMetadataRequest q;
    k_message_init(&k_metadata_request, &q);
    q.topics.items = &topic;
    q.topics.n = 1;
    Buf out = BUF_NULL;
    ck_assert_int_eq(k_dump(&k_metadata_request, 4, &q, &out), 0);
    ck_assert_int_eq(buf_append(&out, "", 1), 0);
    ck_assert_str_eq((const char *)out.data,
                     "{\"topics\":[{\"name\":\"a\\\"\\u000a\\u00ff\"}],\"allow_auto_topic_creation\":true}");
    buf_deinit(&out);
}
END_TEST

/* Kafka keeps strings below 32768 bytes in every version; one that got in by a new version could not leave by an old one. */
START_TEST(long_strings)
{
    Arena arena = ARENA_NULL;
    Buf out = BUF_NULL;
    char *text = calloc(1, 32769);
    memset(text, 'x', 32768);
    KHeartbeatRequest q, copy;
    k_message_init(&k_heartbeat_request, &q);
    q.group_id = (KStr){text, 32767};
    for (int16_t v = 0; v <= 4; v++) {
        buf_clear(&out);
        ck_assert_int_eq(k_encode(&k_heartbeat_request, v, &q, &out), 0);
        ck_assert_int_eq(k_decode(&k_heartbeat_request, v, out.data, out.size, &arena, &copy), 0);
    }
    ck_assert_int_eq(out.data[0], 0x80); /* 32768 in a compact length */
    ck_assert_int_eq(out.data[2], 0x02);
    out.data[0] = 0x81; /* one more, and there are bytes enough */
    ck_assert_int_eq(buf_append(&out, "xxxx", 4), 0);
    ck_assert_int_eq(k_decode(&k_heartbeat_request, 4, out.data, out.size, &arena, &copy), -EBADMSG);
    q.group_id.len = 32768;
    ck_assert_int_eq(k_encode(&k_heartbeat_request, 4, &q, &out), -EINVAL);
    free(text);
    buf_deinit(&out);
    arena_deinit(&arena);
}
END_TEST

START_TEST(arena_limit_is_respected)
{
    Rng rng;
    rng_init(&rng, 3);
    Buf out = BUF_NULL;
    uint8_t zeros[4000] = {0};
    ck_assert_int_eq(buf_append(&out, "\0\0\x03\xe8", 4), 0); /* 1000 ids */
    ck_assert_int_eq(buf_append(&out, zeros, 4000), 0);
    KDescribeGroupsRequest q;
    Arena arena = {.limit_bytes = 1000};
    ck_assert_int_eq(k_decode(&k_describe_groups_request, 0, out.data, out.size, &arena, &q), -ENOMEM);
    arena_deinit(&arena);
    buf_deinit(&out);
}
END_TEST

START_TEST(groups_find_their_partition)
{
    ck_assert_int_eq(k_java_hash(k_str("my-group")), -1906497762);
    ck_assert_int_eq(k_partition_for_id(k_str("my-group"), 50), 12);
    ck_assert_int_eq(k_partition_for_id(k_str("g1"), 50), 42);
    ck_assert_int_eq(k_java_hash(k_str("")), 0);
    ck_assert_int_eq(k_java_hash(k_str("gr\xc3\xbc\xc3\x9f")), ((103 * 31 + 114) * 31 + 0xfc) * 31 + 0xdf);
    ck_assert_int_eq(k_java_hash(k_str("\xf0\x9f\x98\x80")), 0xd83d * 31 + 0xde00);
    ck_assert_int_eq(k_partition_for_id(k_str("polygenelubricants"), 50), 0); /* its hash is INT32_MIN */
}
END_TEST

START_TEST(tables_agree_with_themselves)
{
    int16_t last = -1;
    for (size_t i = 0; k_api_at(i); i++) {
        const KApi *a = k_api_at(i);
        ck_assert_int_gt(a->key, last);
        last = a->key;
        ck_assert_ptr_eq(k_api_find(a->key), a);
        bool is_hidden = a->advertise_min > a->advertise_max;
        ck_assert(is_hidden || a->advertise_max <= a->version_max);
        ck_assert(is_hidden || a->key == K_API_PRODUCE || a->advertise_min >= a->version_min);
        ck_assert(is_hidden || a->key < 1000);
    }
    ck_assert_int_eq(k_api_find(K_API_PRODUCE)->advertise_min, 0); /* librdkafka drops codecs otherwise */
    ck_assert_int_eq(k_api_find(K_API_FETCH)->advertise_max, 12);
    ck_assert_ptr_null(k_api_find(4));
    ck_assert_str_eq(k_error_name(K_FENCED_INSTANCE_ID), "FENCED_INSTANCE_ID");
    ck_assert_str_eq(k_error_name(9999), "UNKNOWN(9999)");
    ck_assert(k_error_is_retriable(K_NOT_COORDINATOR));
    ck_assert(!k_error_is_retriable(K_UNKNOWN_SERVER_ERROR));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("codec");
    TCase *c = tcase_create("codec");
    tcase_set_timeout(c, 30);
    tcase_add_test(c, api_versions_request);
    tcase_add_test(c, api_versions_response);
    tcase_add_test(c, metadata);
    tcase_add_test(c, nullable_struct);
    tcase_add_test(c, embedded_consumer_protocol);
    tcase_add_test(c, request_headers_that_are_refused);
    tcase_add_test(c, tags);
    tcase_add_test(c, nulls_where_they_are_forbidden);
    tcase_add_test(c, every_message_and_version);
    tcase_add_test(c, msgpack_is_standard);
    tcase_add_test(c, dump_is_json);
    tcase_add_test(c, long_strings);
    tcase_add_test(c, arena_limit_is_respected);
    tcase_add_test(c, groups_find_their_partition);
    tcase_add_test(c, tables_agree_with_themselves);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
