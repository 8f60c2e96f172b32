/* ApiVersions: what the tables advertise. The software strings of newer clients are checked as Kafka checks them. */

#include "broker/api/api.h"

#include <ctype.h>

/* [a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])? */
static bool is_software_name(KStr s)
{
    if (s.len <= 0)
        return false;
    for (int32_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        bool edge = i == 0 || i == s.len - 1;
        if (c > 127 || !(isalnum(c) || (!edge && (c == '-' || c == '.'))))
            return false;
    }
    return true;
}

void api_versions_handle(Request *r)
{
    const KApiVersionsRequest *q = r->body;
    KApiVersionsResponse a;
    k_message_init(&k_api_versions_response, &a);
    if (r->version >= 3 && !(is_software_name(q->client_software_name) && is_software_name(q->client_software_version))) {
        a.error_code = K_INVALID_REQUEST;
        request_reply(r, &a);
        return;
    }
    size_t count = 0;
    while (k_api_at(count))
        count++;
    a.api_keys.items = request_alloc(r, count, sizeof(*a.api_keys.items));
    if (!a.api_keys.items) {
        request_abandon(r, "out of memory");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const KApi *api = k_api_at(i);
        if (api->advertise_min > api->advertise_max)
            continue;
        a.api_keys.items[a.api_keys.n++] = (KApiVersionsResponseApiKeys){
            .api_key = api->key, .min_version = api->advertise_min, .max_version = api->advertise_max};
    }
    request_reply(r, &a);
}
