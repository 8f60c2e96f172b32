/*
 * Assignors against their promises: whole groups made from a seed, with random topics, subscriptions and histories.
 *
 *   valid       every partition of a topic that somebody wants has exactly one owner, who subscribes to it
 *   balanced    with equal subscriptions loads differ by one at most; else no single move would level two members
 *   sticky      nothing moves when nothing changed; a member more takes only its share; a member less gives only its own
 *   cooperative in one round no partition goes to a member while another still claims it; rounds end, at a sticky result
 */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "client/assignor/assignor.h"

#define MEMBERS_MAX 12
#define TOPICS_MAX  6
#define OWNED_MAX   256

typedef struct Group {
    AssignTopic topics[TOPICS_MAX];
    AssignMember members[MEMBERS_MAX];
    AssignInput in;
    char names[TOPICS_MAX][16], ids[MEMBERS_MAX][16];
    int32_t subscriptions[MEMBERS_MAX][TOPICS_MAX];
    AssignPartition owned[MEMBERS_MAX][OWNED_MAX];
    AssignShare shares[MEMBERS_MAX];
} Group;

static void group_init(Group *g, Rng *rng, bool equal)
{
    memset(g, 0, sizeof *g);
    g->in = (AssignInput){.topics = g->topics, .members = g->members};
    g->in.n_topics = 1 + rng_below(rng, TOPICS_MAX);
    g->in.n_members = 1 + rng_below(rng, MEMBERS_MAX - 1); /* room for one more */
    for (size_t t = 0; t < g->in.n_topics; t++) {
        snprintf(g->names[t], sizeof g->names[t], "t%d", (int)(rng_below(rng, 90) * 10 + t));
        g->topics[t] = (AssignTopic){g->names[t], (int32_t)rng_below(rng, 20)};
    }
    for (size_t m = 0; m < MEMBERS_MAX; m++) {
        snprintf(g->ids[m], sizeof g->ids[m], "m%d", (int)(rng_below(rng, 900) * 100 + m));
        g->members[m] = (AssignMember){.id = g->ids[m], .topics = g->subscriptions[m], .owned = g->owned[m], .generation = -1};
        for (size_t t = 0; t < g->in.n_topics; t++)
            if (equal || rng_below(rng, 3) > 0)
                g->subscriptions[m][g->members[m].n_topics++] = (int32_t)t;
    }
}

static void group_deinit(Group *g)
{
    assign_shares_deinit(g->shares, MEMBERS_MAX);
}

static int owner_of(const Group *g, size_t topic, int32_t partition)
{
    int owner = -1;
    for (size_t m = 0; m < g->in.n_members; m++)
        for (size_t i = 0; i < g->shares[m].n; i++)
            if (g->shares[m].items[i].topic == (int32_t)topic && g->shares[m].items[i].partition == partition) {
                ck_assert_msg(owner < 0, "%s-%d has two owners", g->topics[topic].name, partition);
                owner = (int)m;
            }
    return owner;
}

static void check_valid(const Group *g, bool whole)
{
    size_t given = 0, seen = 0;
    for (size_t m = 0; m < g->in.n_members; m++)
        given += g->shares[m].n;
    for (size_t t = 0; t < g->in.n_topics; t++) {
        bool wanted = false;
        for (size_t m = 0; m < g->in.n_members; m++)
            wanted |= assign_subscribes(&g->members[m], (int32_t)t);
        for (int32_t p = 0; p < g->topics[t].partitions; p++) {
            int owner = owner_of(g, t, p);
            seen += owner >= 0;
            if (whole)
                ck_assert_int_eq(owner >= 0, wanted);
            if (owner >= 0)
                ck_assert(assign_subscribes(&g->members[owner], (int32_t)t));
        }
    }
    ck_assert_uint_eq(given, seen); /* nothing that does not exist */
}

static void check_no_move_would_level(const Group *g)
{
    for (size_t t = 0; t < g->in.n_topics; t++)
        for (int32_t p = 0; p < g->topics[t].partitions; p++) {
            int from = owner_of(g, t, p);
            for (size_t m = 0; from >= 0 && m < g->in.n_members; m++)
                if (assign_subscribes(&g->members[m], (int32_t)t))
                    ck_assert_msg(g->shares[from].n <= g->shares[m].n + 1, "%s-%d could level", g->topics[t].name, p);
        }
}

/* Members go on with what they got. */
static void adopt(Group *g, int32_t generation)
{
    for (size_t m = 0; m < g->in.n_members; m++) {
        ck_assert_uint_le(g->shares[m].n, OWNED_MAX);
        if (g->shares[m].n)
            memcpy(g->owned[m], g->shares[m].items, g->shares[m].n * sizeof(AssignPartition));
        g->members[m].n_owned = g->shares[m].n;
        g->members[m].generation = generation;
    }
    assign_shares_deinit(g->shares, MEMBERS_MAX);
}

static size_t moved(const Group *g) /* partitions whose claimant is not their owner now */
{
    size_t n = 0;
    for (size_t m = 0; m < g->in.n_members; m++)
        for (size_t i = 0; i < g->members[m].n_owned; i++)
            n += owner_of(g, (size_t)g->owned[m][i].topic, g->owned[m][i].partition) != (int)m;
    return n;
}

typedef int (*Assignor)(const AssignInput *, AssignShare *);
static const Assignor assignors[] = {assign_range, assign_roundrobin, assign_sticky, assign_cooperative};

START_TEST(every_assignor_is_valid)
{
    Rng rng;
    rng_init(&rng, (uint64_t)_i);
    for (size_t a = 0; a < ARRAY_SIZE(assignors); a++)
        for (int equal = 0; equal < 2; equal++) {
            static Group g;
            group_init(&g, &rng, equal);
            ck_assert_int_eq(assignors[a](&g.in, g.shares), 0);
            check_valid(&g, true); /* nobody claims anything: cooperative gives all at once */
            if (assignors[a] == assign_sticky)
                check_no_move_would_level(&g);
            group_deinit(&g);
        }
}
END_TEST

START_TEST(roundrobin_with_equal_subscriptions_differs_by_one)
{
    Rng rng;
    static Group g;
    rng_init(&rng, (uint64_t)_i);
    group_init(&g, &rng, true);
    ck_assert_int_eq(assign_roundrobin(&g.in, g.shares), 0);
    check_no_move_would_level(&g);
    group_deinit(&g);
}
END_TEST

START_TEST(range_is_contiguous_in_member_order)
{
    /* 7 partitions, 3 members of which one is static and so comes first: 3 + 2 + 2. */
    int32_t both[] = {0};
    AssignTopic topics[] = {{"t", 7}};
    AssignMember members[] = {{.id = "b", .topics = both, .n_topics = 1},
                              {.id = "a", .topics = both, .n_topics = 1},
                              {.id = "z", .instance_id = "i", .topics = both, .n_topics = 1}};
    AssignInput in = {topics, 1, members, 3};
    AssignShare shares[3] = {{0}};
    ck_assert_int_eq(assign_range(&in, shares), 0);
    ck_assert_uint_eq(shares[2].n, 3);
    ck_assert_int_eq(shares[2].items[0].partition, 0);
    ck_assert_int_eq(shares[2].items[2].partition, 2);
    ck_assert_int_eq(shares[1].items[0].partition, 3);
    ck_assert_int_eq(shares[1].items[1].partition, 4);
    ck_assert_int_eq(shares[0].items[0].partition, 5);
    assign_shares_deinit(shares, 3);
}
END_TEST

START_TEST(sticky_keeps_when_nothing_changed)
{
    Rng rng;
    static Group g;
    rng_init(&rng, (uint64_t)_i);
    group_init(&g, &rng, rng_below(&rng, 2));
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    adopt(&g, 1);
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    check_valid(&g, true);
    ck_assert_uint_eq(moved(&g), 0);
    group_deinit(&g);
}
END_TEST

START_TEST(sticky_moves_only_the_newcomers_share)
{
    Rng rng;
    static Group g;
    rng_init(&rng, (uint64_t)_i);
    group_init(&g, &rng, true);
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    adopt(&g, 1);
    g.in.n_members++;
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    check_valid(&g, true);
    check_no_move_would_level(&g);
    ck_assert_uint_eq(moved(&g), g.shares[g.in.n_members - 1].n);
    group_deinit(&g);
}
END_TEST

START_TEST(sticky_moves_only_what_a_leaver_had)
{
    Rng rng;
    static Group g;
    rng_init(&rng, (uint64_t)_i);
    group_init(&g, &rng, true);
    if (g.in.n_members < 2)
        g.in.n_members = 2;
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    adopt(&g, 1);
    g.in.n_members--;
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    check_valid(&g, true);
    check_no_move_would_level(&g);
    ck_assert_uint_eq(moved(&g), 0); /* of those who stayed */
    group_deinit(&g);
}
END_TEST

START_TEST(the_newer_generation_wins_a_double_claim)
{
    int32_t t0[] = {0};
    AssignTopic topics[] = {{"t", 2}};
    AssignPartition a[] = {{0, 0}, {0, 1}}, b[] = {{0, 0}};
    AssignMember members[] = {{.id = "a", .topics = t0, .n_topics = 1, .owned = a, .n_owned = 2, .generation = 4},
                              {.id = "b", .topics = t0, .n_topics = 1, .owned = b, .n_owned = 1, .generation = 5}};
    AssignInput in = {topics, 1, members, 2};
    AssignShare shares[2] = {{0}};
    ck_assert_int_eq(assign_sticky(&in, shares), 0);
    ck_assert_uint_eq(shares[1].n, 1);
    ck_assert_int_eq(shares[1].items[0].partition, 0);
    assign_shares_deinit(shares, 2);
    /* The cooperative one waits until a has let go of it. */
    ck_assert_int_eq(assign_cooperative(&in, shares), 0);
    ck_assert_uint_eq(shares[1].n, 0);
    ck_assert_uint_eq(shares[0].n, 1);
    assign_shares_deinit(shares, 2);
}
END_TEST

START_TEST(claims_of_what_is_gone_do_no_harm)
{
    int32_t t0[] = {0};
    AssignTopic topics[] = {{"t", 1}};
    AssignPartition a[] = {{0, 7}, {3, 0}, {0, -1}, {-2, 0}, {0, 0}};
    AssignMember members[] = {{.id = "a", .topics = t0, .n_topics = 1, .owned = a, .n_owned = 5, .generation = 1}};
    AssignInput in = {topics, 1, members, 1};
    AssignShare shares[1] = {{0}};
    for (size_t k = 0; k < 2; k++) {
        ck_assert_int_eq((k ? assign_cooperative : assign_sticky)(&in, shares), 0);
        ck_assert_uint_eq(shares[0].n, 1);
        ck_assert_int_eq(shares[0].items[0].partition, 0);
        assign_shares_deinit(shares, 1);
    }
}
END_TEST

START_TEST(cooperative_hands_over_in_two_rounds)
{
    Rng rng;
    static Group g;
    rng_init(&rng, (uint64_t)_i);
    group_init(&g, &rng, rng_below(&rng, 2));
    ck_assert_int_eq(assign_sticky(&g.in, g.shares), 0);
    adopt(&g, 1);
    if (rng_below(&rng, 2) && g.in.n_members > 1)
        g.in.n_members--;
    else
        g.in.n_members++;
    for (int round = 0;; round++) {
        ck_assert_int_lt(round, 3);
        ck_assert_int_eq(assign_cooperative(&g.in, g.shares), 0);
        check_valid(&g, false);
        size_t given_up = 0;
        for (size_t m = 0; m < g.in.n_members; m++)
            for (size_t i = 0; i < g.members[m].n_owned; i++) {
                int owner = owner_of(&g, (size_t)g.owned[m][i].topic, g.owned[m][i].partition);
                ck_assert_msg(owner == (int)m || owner < 0, "handed over while another has it");
                given_up += owner < 0;
            }
        if (given_up == 0) {
            check_valid(&g, true);
            check_no_move_would_level(&g);
            break;
        }
        adopt(&g, 2 + round);
    }
    group_deinit(&g);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("assignor");
    TCase *t = tcase_create("assignor");
    tcase_add_loop_test(t, every_assignor_is_valid, 0, 60);
    tcase_add_loop_test(t, roundrobin_with_equal_subscriptions_differs_by_one, 0, 30);
    tcase_add_test(t, range_is_contiguous_in_member_order);
    tcase_add_loop_test(t, sticky_keeps_when_nothing_changed, 0, 60);
    tcase_add_loop_test(t, sticky_moves_only_the_newcomers_share, 0, 60);
    tcase_add_loop_test(t, sticky_moves_only_what_a_leaver_had, 0, 60);
    tcase_add_test(t, the_newer_generation_wins_a_double_claim);
    tcase_add_test(t, claims_of_what_is_gone_do_no_harm);
    tcase_add_loop_test(t, cooperative_hands_over_in_two_rounds, 0, 60);
    suite_add_tcase(suite, t);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
