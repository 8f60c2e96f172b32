#pragma once

/*
 * One thread for work that would hold up the reactor: expanding compressed batches, making directories. run() is on the worker and touches
 * nothing but the job's own data; done() is back on the loop. First come, first served.
 */

#include "base/compiler.h"
#include "base/loop.h"

typedef struct Worker Worker;
typedef struct WorkerJob WorkerJob;

struct WorkerJob {
    WorkerJob *next;
    Worker *worker;
    void (*run)(WorkerJob *job);
    void (*done)(WorkerJob *job);
};

int worker_new(Loop *loop, Worker **ret);
Worker *worker_free(Worker *w); /* finishes what is queued; done() of those does not run */
void worker_submit(Worker *w, WorkerJob *job);
