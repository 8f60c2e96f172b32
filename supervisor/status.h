#pragma once

/* The node as JSON, for `status` and for --ready-fd. */

#include "supervisor/node.h"
#include <jansson.h>

json_t *status_json(Node *n);         /* NULL: out of memory */
bool status_is_degraded(Node *n);
json_t *status_config_json(Node *n);  /* effective configuration with the source of each value */
