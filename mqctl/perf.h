#pragma once

/*
 * perf shm, perf latency: producers and consumers as processes of their own, through libleat, on a real topic.
 *
 * The parent (perf.c) makes one memfd with a page of state for each worker and a bitmap per consumer and producer, starts the
 * workers (perf_worker.c: mqctl itself with a hidden verb, nothing of a client crosses a fork), lets them go together and
 * watches their counts; perf_result.c adds up what they wrote. Every value begins with {producer, sequence, time}: a sequence
 * whose bit is set already is a duplicate, one that is not above the last of its producer and partition is out of order, bits
 * never set are lost.
 *
 * Times are CLOCK_MONOTONIC, one clock for all processes. perf shm reads it once in STAMP_EVERY records and once a poll, so
 * that the clock is not what is measured; perf latency stamps each record with the time it was due (open loop).
 */

#include "mqctl/mqctl.h"

#include <stdatomic.h>
#include <sys/types.h>

#define WORKERS_MAX    64
#define PARTITIONS_MAX 1024
#define VALUE_MIN      24
#define TIMER_SLACK_NS 1 /* of producers at a rate: the kernel's 50 us would be counted as latency */
#define SUB_BITS       6 /* histogram: 64 steps per power of two, under 1.6 % error */
#define HIST_SIZE      ((64 - SUB_BITS) << SUB_BITS)

typedef struct Worker { /* written by the worker alone; a page-aligned slot of the shared memory */
    _Atomic uint32_t ready, finished, failed;
    _Atomic uint64_t count; /* records acknowledged, or consumed */
    _Atomic int64_t start_ns, end_ns;
    uint64_t bytes, duplicated, out_of_order, damaged;
    uint64_t histogram[HIST_SIZE]; /* ns */
    int64_t max_ns;
    char why[256];
} Worker;

#define WORKER_SIZE align_up(sizeof(Worker), 4096)

typedef struct Head {
    _Atomic uint32_t go, stop;
    uint64_t records; /* of one producer */
    uint32_t producers, consumers;
} Head;

typedef struct Shared {
    uint8_t *map;
    size_t size;
    Head *head;
} Shared;

typedef struct Setup {
    const char *topic;
    bool own_topic, latency, os_flush;
    int64_t value_size, records, rate, partitions, producers, consumers;
    const char *acks, *compression, *linger;
    const char *batch_size;              /* batch.size of the producers */
    int64_t pool_bytes, available_bytes; /* prewritten segments and memory for the page cache at the start; -1 unknown */
    int64_t records_in, batches_in;      /* the broker's counters at the start; -1 unknown */
} Setup;

typedef struct Run {
    Shared shared;
    pid_t pids[WORKERS_MAX];
    size_t n;
} Run;

/* ---- perf_shared.c ------------------------------------------------------------------------------------------------- */
size_t perf_shared_size(uint32_t producers, uint32_t consumers, uint64_t records);
Worker *perf_worker(const Shared *s, size_t i); /* producers first */
uint8_t *perf_bitmap(const Shared *s, size_t consumer, size_t producer);
size_t perf_hist_index(int64_t ns);
double perf_hist_ns(size_t i);
uint64_t perf_consumed(const Run *run);

/* ---- perf_result.c ------------------------------------------------------------------------------------------------- */
void perf_explain_stall(Mq *m, const Run *run); /* the disk, or something else */
void perf_look_around(Mq *m, Setup *s); /* fills in what the state of the node adds to the figures */
json_t *perf_result_doc(Mq *m, const Setup *s, const Run *run);
void perf_print(Mq *m, json_t *doc);
