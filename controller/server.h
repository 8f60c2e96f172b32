#pragma once

/*
 * The controller's shell: requests from the broker's session to the core (state/ctl.h), its records to the log (log.h), its
 * answers back once they are committed. One thread; nothing here decides anything.
 *
 * Order on the session after a commit: MetadataChanged first, then the answers, so whoever has the answer has the notice.
 * Answers wait for everything that was proposed before their request was decided, because the decision saw it.
 */

#include "controller/log.h"
#include "controller/state/ctl.h"
#include "meta/child.h"

typedef struct Server Server;

int server_new(Loop *loop, int argc, char **argv, Server **ret);
Server *server_free(Server *s);
