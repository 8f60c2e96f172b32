#pragma once

/*
 * Keys and values of __consumer_offsets in Kafka's format, so that Kafka's own tools read our topic and we read Kafka's.
 * A record without a value is a tombstone. Pure.
 */

#include "consumer-coord/offsets/offsets.h"
#include "wire/messages.h"

#define OFFSET_KEY_VERSION   1
#define OFFSET_VALUE_VERSION 3
#define OFFSET_VALUE_EXPIRING 1 /* the only version that says when the offset itself expires */
#define GROUP_KEY_VERSION    2
#define GROUP_VALUE_VERSION  3

typedef enum RecordKind {
    RECORD_UNKNOWN, /* of a newer broker or another kind of group: left alone */
    RECORD_OFFSET,
    RECORD_GROUP,
} RecordKind;

typedef struct RecordKey { /* strings point into the decoded key */
    RecordKind kind;
    KStr group;
    KStr topic;
    int32_t partition;
} RecordKey;

int record_key_encode(const RecordKey *key, Buf *out);
/* Return: 0 or -EBADMSG. */
int record_key_decode(KBytes key, RecordKey *ret);

int record_offset_encode(const CommittedOffset *o, KStr metadata, Buf *out);
/* *ret_metadata points into the value; ret->metadata stays NULL. Return: 0, -EBADMSG, -EOPNOTSUPP a newer version. */
int record_offset_decode(KBytes value, CommittedOffset *ret, KStr *ret_metadata);

int record_group_encode(const KGroupMetadataValue *value, Buf *out);
int record_group_decode(KBytes value, Arena *arena, KGroupMetadataValue *ret); /* as above; -ENOMEM */
