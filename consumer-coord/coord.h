#pragma once

/*
 * Coord: the daemon around the group core. One thread: frames of the broker's session become events of the core, its effects
 * become answers, notices and writes (topic.h). Nothing here decides about groups.
 *
 * Time: the core's next deadline is one timer of the loop; retention is looked at every offsets.retention.check.interval.ms
 * while the wall clock is believed (D12). While the session is down the core is suspended (D23).
 */

#include "base/loop.h"

typedef struct Coord Coord;

int coord_new(Loop *loop, int argc, char **argv, Coord **ret);
Coord *coord_free(Coord *c);
