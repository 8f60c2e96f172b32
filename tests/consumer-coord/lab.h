#pragma once

/*
 * Lab: the group core between simulated clients and a simulated log on a virtual clock. Tests are transcripts: lines that
 * begin with '>' are commands, the lines below what must come of them, in order.
 *
 *   > join NAME [v=9] [g=g] [inst=I] [proto=range:meta,rr:meta] [session=10000] [rebalance=60000] [type=consumer] [local] [new]
 *   > sync NAME [v=5] [gen=N] [NAME:assignment ...]      > beat NAME [v=4] [gen=N]      > leave NAME [v=4] [inst=I]
 *   > commit NAME|- [v=8] [gen=N] [retention=MS] TOPIC/PARTITION=OFFSET[:metadata] ...
 *   > fetch [v=8] [g=g] [TOPIC/PARTITION ...]
 *   > describe [v=5] [g=g]   > list [v=4] [STATE]   > delete G ...   > forget [g=g] TOPIC/PARTITION ...
 *   > ack [ERROR] (the oldest write)   > time MS   > suspend   > resume   > expire   > reload   > lose   > drop TOPIC
 *
 * NAME stands for one client: its member id and generation are kept and sent by themselves; `new` sends an empty id. In the
 * output a member id is the NAME that got it, an older one of the same client NAME'.
 */

#include "consumer-coord/group/group.h"

#define LAB_CLIENTS_MAX 64

typedef struct LabClient {
    char name[32];
    char group[32];
    char member_id[160], old_id[160];
    char instance[32];
    int32_t generation;
    int64_t session_id;
    bool local;
} LabClient;

typedef struct LabAsk {
    int client; /* index, -1 none */
    int16_t api_key, version;
    int answers;
    bool is_lost; /* asked before a suspension: must not be answered any more */
    int64_t note; /* Lab.next_note when it was asked */
} LabAsk;

typedef struct LabRecord {
    int32_t partition;
    KBytes key, value; /* owned */
} LabRecord;

typedef struct LabWrite {
    uint64_t id;
    int32_t partition;
    LabRecord *records;
    size_t n;
} LabWrite;

typedef struct Lab {
    Groups *groups;
    GroupSettings settings;
    GroupEffects effects;
    int64_t now_ms, wall_ms;
    LabClient clients[LAB_CLIENTS_MAX];
    int n_clients;
    LabAsk *asks; /* tag = index + 1 */
    size_t n_asks, asks_capacity;
    LabRecord *log;
    size_t n_log, log_capacity;
    LabWrite *writes; /* not acknowledged, oldest first */
    size_t n_writes, writes_capacity;
    Buf out;
    Arena arena;
    /* called for each answer before it is printed */
    void (*on_answer)(struct Lab *lab, const LabAsk *ask, const void *response);
    void *userdata;
    int64_t next_note;
} Lab;

#define LAB_PARTITIONS 4

void lab_init(Lab *lab);
void lab_deinit(Lab *lab);
/* Runs a transcript; fails the test at the first difference. */
void lab_run(Lab *lab, const char *transcript);
void lab_command(Lab *lab, const char *line);
LabClient *lab_client(Lab *lab, const char *name);
void lab_step(Lab *lab, GroupEvent *event);
uint64_t lab_ask(Lab *lab, int client, int16_t api_key, int16_t version, const void *body);
/* error 0: the records are in the log. */
void lab_ack(Lab *lab, int16_t error);
/* A core that has replayed this lab's log; free with groups_free(). */
Groups *lab_replay(Lab *lab);
/* After everything is acknowledged: what replay gives must be what the live core says. */
void lab_check_replay(Lab *lab);
