#pragma once

/*
 * OffsetsTopic: __consumer_offsets as this daemon leads, loads and writes it, over the session with the broker.
 *
 * Life of a partition: the metadata image says that this host leads it -> once no write of ours is in flight, a subscription
 * reads it from its beginning to where the high watermark stood (ops.record for each) -> ops.loaded. A new leader epoch
 * means that somebody else may have written, so it is loaded again. Writes go out in order and survive a broken session:
 * they are sent again to the next one; twice is harmless, as a record of this topic replaces the one before.
 */

#include "consumer-coord/group/group.h"
#include "meta/image.h"
#include "shm/fab_link.h"

#define OFFSETS_TOPIC_NAME     "__consumer_offsets"
#define OFFSETS_PARTITIONS_MAX 10000

typedef struct OffsetsTopic OffsetsTopic;

/* Called from frames, completions and timers, never from within offsets_topic_write(). */
typedef struct OffsetsTopicOps {
    void (*partitions)(void *userdata, int32_t n);
    void (*loading)(void *userdata, int32_t partition);
    void (*record)(void *userdata, int32_t partition, KBytes key, KBytes value);
    void (*loaded)(void *userdata, int32_t partition, uint64_t records, int64_t took_ms);
    void (*lost)(void *userdata, int32_t partition);
    void (*written)(void *userdata, uint64_t write_id, int16_t error);
} OffsetsTopicOps;

int offsets_topic_new(Loop *loop, int32_t node_id, const OffsetsTopicOps *ops, void *userdata, OffsetsTopic **ret);
OffsetsTopic *offsets_topic_free(OffsetsTopic *t);
void offsets_topic_set_write_timeout(OffsetsTopic *t, uint32_t timeout_ms);
void offsets_topic_up(OffsetsTopic *t, FabLink *link);
void offsets_topic_down(OffsetsTopic *t);
/* The image changed, or is seen for the first time. */
void offsets_topic_image(OffsetsTopic *t, const MetaImage *image);
void offsets_topic_frame(OffsetsTopic *t, const FabDelivery *d); /* BATCHES, POSITION, ERROR */
void offsets_topic_completion(OffsetsTopic *t, const FabCqe *cqe);
/* e: GROUP_EFFECT_WRITE; copied. ops.written follows, unless the partition is lost or loaded anew before. */
void offsets_topic_write(OffsetsTopic *t, const GroupEffect *e);
size_t offsets_topic_writes(const OffsetsTopic *t); /* in flight */
bool offsets_topic_is_loading(const OffsetsTopic *t); /* some partition of ours is not read yet */
