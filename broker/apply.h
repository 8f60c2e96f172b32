#pragma once

/*
 * Apply: makes this host's partitions what the metadata image says. Learns of changes from the controller's notice,
 * refreshes the image and compares: new topics get logs, deleted ones go, configs and leaders change.
 *
 * At start it opens every log a slice at a time, so that heartbeats and the status line go on during recovery.
 */

#include "broker/broker.h"

typedef struct ApplyWait ApplyWait;

struct ApplyWait { /* someone who waits for the image to show something */
    List node;
    Deadline deadline;
    bool (*is_there)(ApplyWait *w); /* asked after every change */
    void (*done)(ApplyWait *w, bool there); /* once, unless cancelled */
    Broker *broker;
};

int apply_new(Broker *b, Apply **ret);
Apply *apply_free(Apply *a);
/* Opens the metadata reader, retrying until the controller has made the environment, then recovers all logs. */
int apply_start(Apply *a);
bool apply_is_recovered(const Apply *a);
/* A long log is being read on the loop's thread: heartbeat and status go on (LogDirOptions.progress). */
void apply_progress(Apply *a, const PlogId *id, int64_t done_bytes, int64_t total_bytes);
void apply_changed(Apply *a); /* at the end of this turn the image is refreshed */
void apply_run(Apply *a);     /* the end of the turn */
/* done() at once when it is there already. */
void apply_wait(Broker *b, ApplyWait *w, int64_t timeout_ms);
void apply_cancel(Broker *b, ApplyWait *w);
void apply_close_logs(Broker *b); /* clean stop */
void apply_configs(Broker *b);    /* leat.conf was reloaded */
void apply_greet_coordinator(Broker *b); /* its session opened: timers restart, and which partitions it leads */
bool apply_is_pending(const Apply *a);
