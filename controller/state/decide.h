#pragma once

/* Inside of the core: a decision under way and what the files of state/ share. */

#include "base/hash.h"
#include "controller/state/ctl.h"
#include "meta/config_keys.h"
#include "wire/error.h"
#include "wire/messages.h"

#define K_INVALID_UPDATE_VERSION 95
#define RESOURCE_TOPIC           2
#define RESOURCE_BROKER          4

typedef struct Session { /* of a broker; soft */
    int32_t broker_id;
    int64_t heard_ms;
    int64_t metadata_index; /* reported */
    int64_t shutdown_index; /* others must have applied it before this broker may stop; 0 none */
    Uuid offline_dirs[META_LOG_DIRS_MAX];
    int n_offline_dirs;
} Session;

struct Ctl {
    MetaImage *image;
    const Conf *conf;
    int32_t node_id;
    int64_t ticked_ms; /* last ctl_tick() */
    Rng rng;
    Session *sessions;
    size_t n_sessions;
};

typedef struct Decide {
    Ctl *ctl;
    const MetaImage *image;
    const CtlRequest *q; /* NULL: not caused by a request */
    CtlOut *out;
    Arena arena; /* texts and arrays of the response */
    int error;   /* sticky: out of memory, a record that does not pack */
} Decide;

typedef int (*HandlerFn)(Decide *d, const void *request, void *response);

/* Adds a record to the batch. */
void put_record(Decide *d, const KMessage *m, const void *record);
/* Index that the next record will get. */
int64_t next_index(const Decide *d);
void *take(Decide *d, size_t size); /* arena; NULL sets d->error */
KStr say(Decide *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool may(const Decide *d, int32_t rights); /* any of them */

Session *session_find(const Ctl *ctl, int32_t broker_id);
Session *session_open(Ctl *ctl, int32_t broker_id, int64_t now_ms);

/* ---- leaders.c: what a partition should look like ---- */

typedef struct Liveness { /* the image's brokers, one of them seen differently because its record is in this very batch */
    const Ctl *ctl;
    int32_t dead;  /* -1 none */
    int32_t alive; /* -1 none */
} Liveness;

typedef struct Policy { /* configs of the topic that elections obey */
    int64_t min_isr;
    bool unclean;
    bool synced_is_clean; /* flush.messages=1 (D4) */
} Policy;

bool is_active(const Liveness *live, const MetaPartition *p, int32_t broker_id);
Policy policy_of(const ConfigView *view);
ConfigView view_of(const Decide *d, const MetaTopic *t);
/**
 * refresh_partition() - brings ISR, ELR and leader in line with who is alive; adds a record if anything changes
 * @isr: proposed ISR (AlterPartition) or NULL: the present one
 * @unclean: broker whose copy may lack records (it leaves the ELR too), -1 none
 */
void refresh_partition(Decide *d, const Liveness *live, const Policy *policy, const MetaTopic *t, const MetaPartition *p,
                       const KInt32Array *isr, int32_t unclean);
/* All partitions with a replica on this broker. */
void refresh_broker(Decide *d, const Liveness *live, int32_t broker_id);
bool in_list(const int32_t *list, int n, int32_t id);

/* ---- handlers ---- */
int decide_register(Decide *d, const void *request, void *response);
int decide_heartbeat(Decide *d, const void *request, void *response);
int decide_producer_ids(Decide *d, const void *request, void *response);
int decide_alter_partition(Decide *d, const void *request, void *response);
int decide_create_topics(Decide *d, const void *request, void *response);
int decide_delete_topics(Decide *d, const void *request, void *response);
int decide_create_partitions(Decide *d, const void *request, void *response);
int decide_alter_configs(Decide *d, const void *request, void *response);
int decide_incremental_alter_configs(Decide *d, const void *request, void *response);
void fence_broker(Decide *d, const MetaBroker *b, int8_t controlled_shutdown);

/* answers.c: requests that come again */
bool answer_again(Decide *d, int *ret); /* true: was answered before; *ret as of ctl_decide() */
void remember_answer(Decide *d, const KApi *api, void *response); /* already encoded: its lists of configs are lost */
int describe_created(Decide *d, const MetaConfigs *configs, KCreateTopicsResponseTopics *a); /* the configs of an answer */

/* topics_change.c: names, to find those that are there twice */
int compare_names(const void *a, const void *b); /* of KStr */
int count_name(const KStr *sorted, int32_t n, KStr name); /* 0, 1, 2 = several */
/* @first: the name in the first of n structs of `stride` bytes, where it is the first field. */
KStr *sorted_names(Decide *d, const void *first, size_t stride, int32_t n);

/* ---- assignment.c: replicas of new partitions ---- */

typedef struct Loads Loads; /* replicas and leaders per broker, counted once for a request */
Loads *loads_new(Decide *d);
/* @topic: existing topic that grows, or NULL. Return: ids in the arena (n_partitions * n_replicas), or NULL with *ret_why. */
int32_t *assign_replicas(Decide *d, Loads *loads, const MetaTopic *topic, int32_t n_partitions, int n_replicas, KStr *ret_why);
/* A replica list that a client names. Return: K_NONE or the error with *ret_why. */
KafkaError check_assignment(Decide *d, const KInt32Array *brokers, int32_t partition, int n_replicas, KStr *ret_why);
void put_partition(Decide *d, const Uuid *topic_id, int32_t partition, const int32_t *replicas, int n_replicas);
