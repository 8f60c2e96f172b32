#pragma once

/*
 * The node's configuration: where values come from, what a reload changes, and the text that children get.
 *
 * Precedence, the first wins: --set, LEAT_LOG_RETENTION_HOURS in the environment, RUN_DIR/conf.d, conf.d beside the main
 * file, the main file, /usr/lib/leat/conf.d (the last and the run directory's only for an installed instance), built-in.
 */

#include "base/conf.h"
#include "meta/config_keys.h"
#include "supervisor/options.h"

#define CONFIG_DIGEST_SIZE 17 /* 16 hex digits and NUL */

/* Loads and checks. Return: 0 (warnings may be in `out`); -EBADMSG with error lines in `out`; -ENOMEM. */
int node_config_load(const Options *o, Conf *ret, Buf *out);
void node_config_digest(const Conf *conf, char out[CONFIG_DIGEST_SIZE]);

typedef struct ConfigChange {
    const ConfigKey *key;
    const char *old_value, *new_value; /* NULL: the default; borrowed from the Confs */
} ConfigChange;

/* Keys whose effective value differs. *ret is malloc'ed. */
int node_config_diff(const Conf *before, const Conf *after, ConfigChange **ret, size_t *ret_n);
/* `after` with the keys that only a restart of the node can change (and those nothing can) as they are in `before`. */
int node_config_applicable(const Conf *before, const Conf *after, Conf *ret);
