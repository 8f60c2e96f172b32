#pragma once

/* Intrusive doubly linked list with a head node. A node that is in no list points to itself. */

#include "base/compiler.h"

typedef struct List {
    struct List *next, *prev;
} List;

static inline void list_init(List *l)
{
    l->next = l->prev = l;
}
static inline bool list_is_empty(const List *l)
{
    return l->next == l;
}
static inline void list_append(List *head, List *node) /* to the tail */
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
static inline void list_remove(List *node) /* idempotent */
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
static inline List *list_pop(List *head) /* NULL when empty */
{
    List *n = head->next;
    if (n == head)
        return NULL;
    list_remove(n);
    return n;
}
#define list_for_each(it, head) for (List *it = (head)->next; it != (head); it = it->next)
#define list_for_each_safe(it, head)                                                               \
    for (List *it = (head)->next, *it##_next = it->next; it != (head); it = it##_next, it##_next = it->next)
