/* Record formats of __consumer_offsets: the tables of wire/schema/groups.txt with their versions. */

#include "consumer-coord/offsets/records.h"

#include <errno.h>

#include "wire/bigendian.h"

int record_key_encode(const RecordKey *key, Buf *out)
{
    if (key->kind == RECORD_GROUP) {
        KGroupMetadataKey k = {.group = key->group};
        return k_encode(&k_group_metadata_key, GROUP_KEY_VERSION, &k, out);
    }
    assert(key->kind == RECORD_OFFSET);
    KOffsetCommitKey k = {.group = key->group, .topic = key->topic, .partition = key->partition};
    return k_encode(&k_offset_commit_key, OFFSET_KEY_VERSION, &k, out);
}

int record_key_decode(KBytes key, RecordKey *ret)
{
    if (key.len < 2)
        return -EBADMSG;
    Arena none = ARENA_NULL; /* keys hold no arrays: nothing is allocated */
    int version = (int16_t)get_be16(key.ptr);
    if (version == GROUP_KEY_VERSION) {
        KGroupMetadataKey k;
        int r = k_decode(&k_group_metadata_key, -1, key.ptr, (size_t)key.len, &none, &k);
        if (r == 0)
            *ret = (RecordKey){.kind = RECORD_GROUP, .group = k.group};
        return r;
    }
    if (version < 0 || version > OFFSET_KEY_VERSION) {
        *ret = (RecordKey){.kind = RECORD_UNKNOWN};
        return 0;
    }
    KOffsetCommitKey k;
    int r = k_decode(&k_offset_commit_key, -1, key.ptr, (size_t)key.len, &none, &k);
    if (r == 0)
        *ret = (RecordKey){.kind = RECORD_OFFSET, .group = k.group, .topic = k.topic, .partition = k.partition};
    return r;
}

int record_offset_encode(const CommittedOffset *o, KStr metadata, Buf *out)
{
    KOffsetCommitValue v = {
        .offset = o->offset,
        .leader_epoch = o->leader_epoch,
        .metadata = metadata.len < 0 ? k_str("") : metadata,
        .commit_timestamp = o->commit_ms,
        .expire_timestamp = o->expire_ms,
    };
    /* As Kafka does: the one version with an expiry of its own has no leader epoch. */
    return k_encode(&k_offset_commit_value, o->expire_ms >= 0 ? OFFSET_VALUE_EXPIRING : OFFSET_VALUE_VERSION, &v, out);
}

int record_offset_decode(KBytes value, CommittedOffset *ret, KStr *ret_metadata)
{
    Arena none = ARENA_NULL;
    KOffsetCommitValue v;
    int r = k_decode(&k_offset_commit_value, -1, value.ptr, (size_t)value.len, &none, &v);
    if (r < 0)
        return r;
    *ret = (CommittedOffset){
        .leader_epoch = v.leader_epoch,
        .offset = v.offset,
        .commit_ms = v.commit_timestamp,
        .expire_ms = v.expire_timestamp,
    };
    *ret_metadata = v.metadata;
    return 0;
}

int record_group_encode(const KGroupMetadataValue *value, Buf *out)
{
    return k_encode(&k_group_metadata_value, GROUP_VALUE_VERSION, value, out);
}

int record_group_decode(KBytes value, Arena *arena, KGroupMetadataValue *ret)
{
    return k_decode(&k_group_metadata_value, -1, value.ptr, (size_t)value.len, arena, ret);
}
