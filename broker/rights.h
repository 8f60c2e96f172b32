#pragma once

/*
 * Who may do what before ACLs exist (D15), behind the interface that ACLs will use: a principal is resolved to a set of
 * rights once, when its session or connection opens; every request asks rights_missing(). Pure.
 *
 *   uid 0, the daemon's uid, group leat-admin      everything
 *   group leat-clients                             use
 *   TCP from loopback                              use, create topics
 *   TCP, listener.admin=yes                        everything
 */

#include "base/compiler.h"
#include <sys/types.h>

enum { /* bits travel in ForwardedRequest.rights */
    RIGHT_USE = 1,      /* produce, consume, groups, describe */
    RIGHT_ADMIN = 2,    /* topics, configs, groups of others */
    RIGHT_CREATE = 4,   /* create topics */
    RIGHT_INTERNAL = 8, /* our own daemons: internal topics and APIs from 1000 */
    RIGHT_ALL_CLIENT = RIGHT_USE | RIGHT_ADMIN | RIGHT_CREATE,
};

typedef struct RightsPeer {
    uid_t uid;
    const gid_t *groups; /* primary and supplementary */
    size_t n_groups;
} RightsPeer;

typedef struct RightsRules {
    uid_t daemon_uid;
    gid_t admin_gid, clients_gid; /* (gid_t)-1: the group does not exist here */
} RightsRules;

uint32_t rights_of_local(const RightsRules *rules, const RightsPeer *peer); /* 0 = refused at HELLO */
uint32_t rights_of_tcp(bool loopback, bool listener_admin);
/* What the API needs that `rights` lacks: 0 = allowed. */
uint32_t rights_missing(uint32_t rights, uint32_t needed);
