#pragma once

/*
 * Is the wall clock to be believed (D12)? Records and offsets expire by it, so one that jumped must not throw them away: more
 * than ten minutes against the monotonic clock, or more than a day, either way, against the time kept on disk. Then it has
 * to be steady for an hour first, or an operator accepts it.
 *
 * The time on disk is one for the node, DATA_DIR/last-time: the broker keeps it while it believes the clock, at its start,
 * every minute and when the clock is accepted; the coordinator, which starts after the broker, reads it at its own start.
 */

#include "base/compiler.h"

#define WALL_JUMP_MS   (10 * 60 * 1000LL)
#define WALL_GAP_MS    (24 * 3600 * 1000LL)
#define WALL_STEADY_MS (3600 * 1000LL)

typedef struct WallTime {
    int64_t mono_ms, wall_ms;
} WallTime;

typedef struct WallTrust {
    WallTime last;               /* when last looked at */
    int64_t distrusted_until_ms; /* monotonic; 0 = trusted */
} WallTrust;

typedef enum WallChange {
    WALL_NO_CHANGE,
    WALL_JUMPED, /* distrusted from now on, or for another hour */
    WALL_STEADY, /* trusted again */
} WallChange;

WallTime wall_time(void); /* both clocks, now */

/* @kept_ms: wall_kept(), 0 none. Return: is it trusted? */
bool wall_start(WallTrust *w, WallTime now, int64_t kept_ms);
WallChange wall_look(WallTrust *w, WallTime now);
void wall_accept(WallTrust *w, WallTime now);
static inline bool wall_is_trusted(const WallTrust *w)
{
    return w->distrusted_until_ms == 0;
}

int64_t wall_kept(const char *data_dir); /* 0: none, or not to be read */
int wall_keep(const char *data_dir, int64_t wall_ms);
