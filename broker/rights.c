/* The table of D15 as code. See rights.h. */

#include "broker/rights.h"

static bool is_in_group(const RightsPeer *peer, gid_t gid)
{
    if (gid == (gid_t)-1)
        return false;
    for (size_t i = 0; i < peer->n_groups; i++) {
        if (peer->groups[i] == gid)
            return true;
    }
    return false;
}

uint32_t rights_of_local(const RightsRules *rules, const RightsPeer *peer)
{
    if (peer->uid == 0 || peer->uid == rules->daemon_uid || is_in_group(peer, rules->admin_gid))
        return RIGHT_ALL_CLIENT;
    return is_in_group(peer, rules->clients_gid) ? RIGHT_USE : 0;
}

uint32_t rights_of_tcp(bool loopback, bool listener_admin)
{
    if (listener_admin)
        return RIGHT_ALL_CLIENT;
    return loopback ? RIGHT_USE | RIGHT_CREATE : RIGHT_USE;
}

uint32_t rights_missing(uint32_t rights, uint32_t needed)
{
    if (needed & RIGHT_CREATE && rights & RIGHT_ADMIN)
        needed &= ~(uint32_t)RIGHT_CREATE;
    return needed & ~rights;
}
