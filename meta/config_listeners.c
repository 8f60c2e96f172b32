/*
 * listeners and advertised.listeners: NAME://host:port lists. Shared by the check of a configuration, the supervisor that
 * binds them and the broker that tells them to clients.
 */

#include "meta/config_keys.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool config_host_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

static int parse_name(const char *item, const char *end, MetaEndpoint *ret, char *why, size_t why_size)
{
    size_t n = (size_t)(end - item);
    if (n == 0 || n >= sizeof(ret->name))
        return text_refuse(why, why_size, -EINVAL, "\"%s\": a listener name has 1 to %zu characters", item,
                           sizeof(ret->name) - 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)item[i];
        if (!isalnum(ch) && ch != '_' && ch != '-' && ch != '.')
            return text_refuse(why, why_size, -EINVAL, "\"%s\": a listener name has letters, digits, '_', '-' and '.'", item);
        ret->name[i] = (char)toupper(ch); /* Kafka compares them in upper case */
    }
    ret->name[n] = 0;
    return 0;
}

static int parse_address(const char *item, const char *address, MetaEndpoint *ret, char *why, size_t why_size)
{
    const char *host = address, *colon = strrchr(address, ':');
    int64_t port;
    if (!colon)
        return text_refuse(why, why_size, -EINVAL, "\"%s\": the port is missing", item);
    size_t n = (size_t)(colon - host);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    } else if (memchr(host, ':', n)) {
        return text_refuse(why, why_size, -EINVAL, "\"%s\": an IPv6 address stands in brackets", item);
    }
    if (n >= sizeof(ret->host))
        return text_refuse(why, why_size, -EINVAL, "\"%s\": the host name is too long", item);
    if (parse_i64(colon + 1, &port) < 0 || port < 0 || port > UINT16_MAX)
        return text_refuse(why, why_size, -EINVAL, "\"%s\": \"%s\" is no port", item, colon + 1);
    memcpy(ret->host, host, n);
    ret->host[n] = 0;
    ret->port = (uint16_t)port;
    return 0;
}

static int parse_listener(const char *item, MetaEndpoint *ret, char *why, size_t why_size)
{
    const char *sep = strstr(item, "://");
    if (!sep)
        return text_refuse(why, why_size, -EINVAL, "\"%s\" is not NAME://host:port", item);
    int r = parse_name(item, sep, ret, why, why_size);
    return r < 0 ? r : parse_address(item, sep + 3, ret, why, why_size);
}

static bool upper_list_has(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p;) {
        while (*p == ' ' || *p == ',')
            p++;
        if (strncasecmp(p, name, n) == 0 && (p[n] == 0 || p[n] == ',' || p[n] == ' '))
            return true;
        p = strchr(p, ',');
    }
    return false;
}

/* The protocol of a listener name; without an entry, a name that is a protocol means itself. */
static int check_protocol(const Conf *conf, const char *name, char *why, size_t why_size)
{
    char entry[80];
    const char *map = config_text(conf, "listener.security.protocol.map");
    snprintf(entry, sizeof(entry), "%s:PLAINTEXT", name);
    if (upper_list_has(map, entry))
        return 0;
    static const char *const secure[] = {"SSL", "SASL_PLAINTEXT", "SASL_SSL"};
    for (size_t i = 0; i < ARRAY_SIZE(secure); i++) {
        snprintf(entry, sizeof(entry), "%s:%s", name, secure[i]);
        if (upper_list_has(map, entry) || strcmp(name, secure[i]) == 0)
            return text_refuse(why, why_size, -EINVAL, "%s needs %s, which does not exist yet", name, secure[i]);
    }
    if (strcmp(name, "PLAINTEXT") == 0)
        return 0;
    return text_refuse(why, why_size, -EINVAL, "%s has no entry in listener.security.protocol.map", name);
}

static int check_new(const Conf *conf, bool advertised, const MetaEndpoint *list, int n, const MetaEndpoint *e, char *why,
                     size_t why_size)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(list[i].name, e->name) == 0)
            return text_refuse(why, why_size, -EINVAL, "the name %s is there twice", e->name);
        if (!advertised && e->port != 0 && list[i].port == e->port)
            return text_refuse(why, why_size, -EINVAL, "port %u is there twice", e->port);
    }
    return check_protocol(conf, e->name, why, why_size);
}

int config_listeners(const Conf *conf, bool advertised, MetaEndpoint *ret, size_t max, char *why, size_t why_size)
{
    const char *list = advertised ? config_text(conf, "advertised.listeners") : NULL;
    bool own = list && list[0];
    const char *controllers = conf_get(conf, "controller.listener.names", "");
    char item[400];
    int n = 0;
    if (!own)
        list = config_text(conf, "listeners");
    for (const char *p = list; p && *p;) {
        MetaEndpoint e = {0};
        size_t size = strcspn(p, ",");
        if (size >= sizeof(item))
            return text_refuse(why, why_size, -EINVAL, "an entry is longer than %zu bytes", sizeof(item) - 1);
        memcpy(item, p, size);
        item[size] = 0;
        p += size + (p[size] == ',');
        if (item[strspn(item, " \t")] == 0)
            continue;
        char *begin = item + strspn(item, " \t"), *end = begin + strlen(begin);
        while (end[-1] == ' ' || end[-1] == '\t')
            *--end = 0;
        int r = parse_listener(begin, &e, why, why_size);
        if (r < 0)
            return r;
        if (upper_list_has(controllers, e.name))
            continue;
        if (own && (e.host[0] == 0 || strcmp(e.host, "0.0.0.0") == 0 || strcmp(e.host, "::") == 0))
            return text_refuse(why, why_size, -EINVAL, "\"%s\": clients need an address they can connect to", begin);
        if (!own && advertised && (strcmp(e.host, "0.0.0.0") == 0 || strcmp(e.host, "::") == 0))
            e.host[0] = 0;
        r = check_new(conf, advertised, ret, n, &e, why, why_size);
        if (r < 0)
            return r;
        if ((size_t)n == max)
            return text_refuse(why, why_size, -EINVAL, "more than %zu listeners", max);
        ret[n++] = e;
    }
    return n;
}
