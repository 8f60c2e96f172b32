#pragma once

/*
 * The broker: one reactor thread that owns every partition, session and connection of this host.
 *
 * A turn of the loop: handlers copy what arrived (produce.h stages batches, requests start); at its end the broker appends
 * what was staged, moves high watermarks, wakes parked fetches, fills delivery rings and sends responses - so a busy broker
 * pays for a write, a wake-up and a doorbell once per turn and not once per batch.
 *
 * Other threads: the log directory's sync thread and the worker (worker.h); both only post to the loop.
 */

#include "base/clock.h"
#include "base/conf.h"
#include "base/loop.h"
#include "broker/deadline.h"
#include "broker/partition.h"
#include "broker/produce.h"
#include "broker/rights.h"
#include "broker/settings.h"
#include "meta/child.h"
#include "meta/store.h"
#include "shm/fab_server.h"
#include "storage/log_dir.h"

typedef struct Agent Agent;               /* agent.h: heartbeats of local group members */
typedef struct Apply Apply;               /* apply.h: metadata image -> partitions */
typedef struct Broker Broker;
typedef struct Daemon Daemon;             /* daemon.h: requests that another daemon answers */
typedef struct Delivery Delivery;         /* delivery.h: subscriptions of local sessions */
typedef struct Housekeeper Housekeeper;   /* housekeep.h */
typedef struct Net Net;                   /* net/net.h: Kafka on TCP */
typedef struct ProducerIds ProducerIds;   /* api/producer_id.h */
typedef struct Registration Registration; /* registration.h */
typedef struct Sessions Sessions;         /* session.h */
typedef struct Worker Worker;             /* worker.h */

typedef enum BrokerPhase { BROKER_STARTING, BROKER_RUNNING, BROKER_DRAINING, BROKER_STOPPING } BrokerPhase;

struct Broker {
    Loop *loop;
    Child *child;
    CountersRow *row;
    Conf conf; /* leat.conf with the dynamic broker configs laid over it */
    Settings settings;
    BrokerPhase phase;

    int32_t node_id;
    char cluster_id[24];
    Uuid incarnation_id;
    uint64_t session_epoch; /* differs for each start; local clients see restarts by it */

    Deadlines deadlines;
    LoopTimer *deadline_timer;
    Worker *worker;

    LogDir *log_dir;
    bool disk_low; /* refreshed once a second */
    MetaImage *image;
    MetaReader *reader;
    PartitionTable partitions;
    ProduceQueue produce;
    List fetch_woken; /* FetchOp.woken_node: look again at the end of the turn */

    Apply *apply;
    Registration *registration;
    Daemon *controller, *coordinator;
    FabServer *fabric;
    Sessions *sessions;
    Delivery *delivery;
    Agent *agent;
    ProducerIds *producer_ids;
    Net *net;
    Housekeeper *housekeeper;
    atomic_bool sync_posted; /* a `synced` notice is on its way to the loop */
    Deadline drain_limit;
    bool clean_stop;
};

int broker_new(Loop *loop, int argc, char **argv, Broker **ret);
Broker *broker_free(Broker *b);

void broker_take_settings(Broker *b); /* leat.conf or the dynamic broker configs changed */
/* A deadline in ms from now; a missing timer must not stop the caller, so failure means "at the next turn". */
void broker_set_deadline(Broker *b, Deadline *d, int64_t delay_ms);
static inline int64_t broker_now_ns(const Broker *b)
{
    return loop_now_ns(b->loop);
}
