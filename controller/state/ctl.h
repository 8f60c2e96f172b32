#pragma once

/*
 * The controller's core: decides what a request changes, as metadata records, and what it answers. Pure: no I/O, no clock;
 * time and seed come from outside.
 *
 * Decide/apply: ctl_decide() reads the image and returns records and a response; the caller proposes the records to the log,
 * applies them with ctl_apply() in the same order and sends the response once they are committed. A decision sees the effect of
 * every earlier one, committed or not; when the log refuses a proposal, ctl_reset() goes back to the committed image.
 *
 * Sessions of brokers (who heartbeats, how far it has applied) are soft state: never logged, lost with the process, given a
 * full time-out anew after a restart (C19).
 */

#include "base/conf.h"
#include "meta/image.h"
#include "wire/error.h"

typedef struct Ctl Ctl;

enum { /* ForwardedRequest.rights; given out by the broker */
    CTL_RIGHT_ADMIN = 2,
    CTL_RIGHT_CREATE = 4,
    CTL_RIGHT_INTERNAL = 8, /* our own daemons */
};

#define CTL_RECORDS_MAX    20000  /* of one request; beyond it POLICY_VIOLATION */
#define CTL_PARTITIONS_MAX 200000 /* of the cluster */
#define CTL_PRODUCER_BLOCK 1000

typedef struct CtlOptions {
    const Conf *conf; /* borrowed; may change its content between calls (a reload) */
    int32_t node_id;
    uint64_t seed;    /* topic ids, placement */
    int64_t now_ms;   /* monotonic */
} CtlOptions;

typedef struct CtlRequest {
    int16_t api_key, api_version;
    int32_t rights;
    Uuid sender; /* with `call` the name of the request, the same when it is sent again; zero: has none */
    int64_t call;
    bool own_host; /* came through the broker of this host: a new incarnation proves that the old process is gone */
    const void *body;
    size_t size;
    int64_t now_ms;
} CtlRequest;

typedef struct CtlRecord {
    size_t offset, size; /* in CtlOut.bytes */
} CtlRecord;

typedef struct CtlOut {
    Buf bytes; /* packed records, one atomic batch */
    CtlRecord *records;
    size_t n_records, capacity;
    Buf response; /* body in the request's version */
} CtlOut;

void ctl_out_clear(CtlOut *out);
void ctl_out_deinit(CtlOut *out);

/* @image: taken over. */
int ctl_new(const CtlOptions *o, MetaImage *image, Ctl **ret);
Ctl *ctl_free(Ctl *ctl);
const MetaImage *ctl_image(const Ctl *ctl);

/* Return: 0, out filled; -EBADMSG malformed; -EOPNOTSUPP no such API here; -ENOMEM. Nothing has changed then. */
int ctl_decide(Ctl *ctl, const CtlRequest *request, CtlOut *out);
int ctl_apply(Ctl *ctl, uint64_t index, const void *record, size_t size);
/* The log refused: back to the committed image (taken over), sessions begin anew. */
void ctl_reset(Ctl *ctl, MetaImage *image, int64_t now_ms);

/* Turns a decided answer into one whose successes carry the error: its records were not committed. */
int ctl_refuse(int16_t api_key, int16_t api_version, KafkaError error, const char *why, Buf *inout_response);

/* Records without a request. */
int ctl_bootstrap(Ctl *ctl, const char *cluster_id, int64_t wall_ms, CtlOut *out); /* first start; none if done */
int ctl_broker_died(Ctl *ctl, int32_t broker_id, CtlOut *out);                     /* fenced at once */
/* Fences at most one broker whose session is over, so that the caller applies it before the next. */
int ctl_tick(Ctl *ctl, int64_t now_ms, CtlOut *out);
int64_t ctl_deadline_ms(const Ctl *ctl); /* when ctl_tick() may have something to do; INT64_MAX never */
