#pragma once

/*
 * The real leat-broker process with a stand-in for supervisor and controller: a thread that hands it its sockets, commits
 * metadata records to LMDB and answers the few requests that only a controller answers. Restarts and signals included.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire/codec.h"

typedef struct Rig Rig;

#define RIG_UNANSWERED "unanswered" /* the stand-in never answers who creates this topic */

typedef struct RigOptions {
    const char *exe;
    const char *conf; /* more lines of leat.conf */
} RigOptions;

Rig *rig_start(const RigOptions *o); /* returns when the broker is ready */
void rig_stop(Rig *r);               /* clean stop, checked; removes everything */
void rig_kill(Rig *r);               /* SIGKILL, waits */
void rig_respawn(Rig *r);            /* waits for READY */
pid_t rig_pid(const Rig *r);
const char *rig_dir(const Rig *r);
const char *rig_socket(const Rig *r);
/* configs: "name=value" or NULL */
void rig_create_topic(Rig *r, const char *name, int32_t partitions, const char *config);
void rig_delete_topic(Rig *r, const char *name);
void rig_replace_topic(Rig *r, const char *name); /* deleted and made anew, while no broker runs */
uint64_t rig_counter(const Rig *r, int counter_id);
/* A TCP connection with 5 s time-outs. */
int rig_connect(const Rig *r);
/* One request on it: fails the test on anything but an answer that decodes. */
void rig_ask(int fd, int16_t api_key, int16_t version, const void *request, Arena *arena, void *ret_response);
void rig_send(int fd, int16_t api_key, int16_t version, const void *request);
bool rig_is_closed(int fd, int64_t timeout_ms);
/* One batch of `count` records "v<first+i>" with keys "k<first+i>"; producer_id -1 = none. */
Buf rig_batch(int count, int first, int64_t producer_id, int32_t base_sequence);
