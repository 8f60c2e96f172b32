#pragma once

/* A bar on a terminal (4 times a second), a plain line every 10 s elsewhere; always on stderr; silent with -q. */

#include "mqctl/mqctl.h"

typedef struct Progress {
    Mq *m;
    const char *what;
    int64_t started_ms, shown_ms;
    int64_t total; /* <= 0: unknown, no bar */
    bool bytes;    /* units are bytes */
    bool drawn;
} Progress;

void progress_begin(Progress *p, Mq *m, const char *what, int64_t total, bool bytes);
void progress_update(Progress *p, int64_t done, const char *extra); /* cheap; extra may be NULL */
void progress_end(Progress *p);                                      /* wipes the bar */
