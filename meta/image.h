#pragma once

/*
 * The cluster's metadata in memory: the state machine that metadata records drive. The controller, every broker and the
 * coordinator hold one and apply the same records in the same order, so equal index means equal image.
 *
 * Decide/apply: nobody changes an image but meta_apply(). Records are the KMeta...Record messages of
 * wire/schema/metadata.txt. Pure: no I/O, no clock. Not thread-safe.
 */

#include "base/buf.h"
#include "base/text.h"
#include "wire/codec.h"

typedef struct MetaImage MetaImage;

typedef struct MetaEndpoint {
    char name[32]; /* listener name, "PLAINTEXT" */
    char host[256];
    uint16_t port;
} MetaEndpoint;
#define META_ENDPOINTS_MAX 8

typedef enum MetaDirState { META_DIR_CLEAN, META_DIR_SYNCED, META_DIR_SUSPECT } MetaDirState; /* D4 */
typedef struct MetaLogDir {
    Uuid id;
    int8_t state; /* how this incarnation found it */
} MetaLogDir;
#define META_LOG_DIRS_MAX 8
#define META_REPLICAS_MAX 128

typedef struct MetaBroker {
    int32_t id;
    int64_t epoch;       /* index of its registration record */
    Uuid incarnation_id;
    bool fenced, in_controlled_shutdown;
    char rack[64];
    MetaEndpoint endpoints[META_ENDPOINTS_MAX];
    int n_endpoints;
    MetaLogDir log_dirs[META_LOG_DIRS_MAX];
    int n_log_dirs;
} MetaBroker;

typedef struct MetaPartition {
    int32_t index;
    int32_t leader;       /* -1 none */
    int32_t leader_epoch;
    int32_t partition_epoch;
    int32_t *replicas, *isr, *elr, *last_known_elr;
    int n_replicas, n_isr, n_elr, n_last_known_elr;
    Uuid *directories; /* n_replicas */
} MetaPartition;

typedef struct MetaConfig {
    char *name, *value;
} MetaConfig;
typedef struct MetaConfigs {
    MetaConfig *items; /* sorted by name */
    size_t n;
} MetaConfigs;

typedef struct MetaTopic {
    char name[250];
    Uuid id;
    bool internal;
    MetaPartition *partitions; /* dense by index */
    int32_t n_partitions;
    MetaConfigs configs;       /* dynamic topic configs only */
} MetaTopic;

/* What a request that changed something was answered: a broker that missed the answer asks again under the same name. */
typedef struct MetaAnswer {
    int64_t number; /* counts answers; slot = number % META_ANSWERS_MAX */
    Uuid sender;
    int64_t call;
    int16_t api_key, api_version;
    void *body; /* NULL: empty slot */
    size_t size;
} MetaAnswer;
#define META_ANSWERS_MAX     512 /* kept; a broker has fewer calls under way */
#define META_ANSWER_SIZE_MAX (64u << 10)

#define META_TOPIC_OFFSETS      "__consumer_offsets"
#define META_TOPIC_TRANSACTIONS "__transaction_state"
#define META_VERSION_NAME       "metadata.version"
#define META_VERSION_NOW        1

int meta_image_new(MetaImage **ret);
MetaImage *meta_image_free(MetaImage *image);
/* Applies one record. Return: 0; -EBADMSG: unknown, malformed or contradicting record, or an index that is not above
 * meta_index(); -ENOMEM. The image is unchanged then. */
int meta_apply(MetaImage *image, uint64_t index, const void *record, size_t size);
uint64_t meta_index(const MetaImage *image);  /* of the last record applied */
uint64_t meta_digest(const MetaImage *image); /* equal images, equal digests */

/* Lookups: borrowed until the next meta_apply(). */
const MetaTopic *meta_topic(const MetaImage *image, const char *name, size_t size);
const MetaTopic *meta_topic_by_id(const MetaImage *image, const Uuid *id);
const MetaTopic *meta_topic_next(const MetaImage *image, const MetaTopic *after); /* by name; NULL begins, NULL ends */
size_t meta_topics(const MetaImage *image);
const MetaPartition *meta_partition(const MetaImage *image, const char *topic, size_t size, int32_t partition);
const MetaBroker *meta_broker(const MetaImage *image, int32_t id);
const MetaBroker *meta_broker_next(const MetaImage *image, const MetaBroker *after); /* by id */
const MetaConfigs *meta_broker_configs(const MetaImage *image, int32_t id); /* id -1: cluster default; NULL none */
const char *meta_config_value(const MetaConfigs *configs, const char *name); /* NULL: not set */
/* Sets of configs of one's own (copies, overlays); an image's change by records only. A null value removes. */
int meta_configs_set(MetaConfigs *configs, KStr name, KStr value);
void meta_configs_clear(MetaConfigs *configs);
size_t meta_brokers(const MetaImage *image);
size_t meta_partitions(const MetaImage *image); /* of all topics */
const char *meta_cluster_id(const MetaImage *image); /* "" before the cluster record */
int64_t meta_next_producer_id(const MetaImage *image);
const MetaAnswer *meta_answer(const MetaImage *image, const Uuid *sender, int64_t call); /* NULL: never given, or too long ago */
int64_t meta_next_answer(const MetaImage *image); /* its number */
int16_t meta_version(const MetaImage *image); /* metadata.version */
