/*
 * Random lives of groups from fixed seeds: members of every kind come, stall, commit, leave and come back while writes are
 * slow or fail, the broker's session breaks and the coordinator restarts. After each event:
 *
 *   a request is answered at most once, none after its asker is gone; at the end every other one was answered
 *   within one life of the coordinator a group's generation never falls
 *   in one generation a partition was told to one owner only, and an owner is never told two different things
 *   replay of the log gives the live state, and every acknowledged offset (or a later one) is there
 */

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lab.h"
#include "wire/error.h"

#define CLIENTS     7
#define PARTITIONS  6 /* that the leader hands out */
#define GENERATIONS 4096
#define OFFSETS     8

typedef struct Model {
    int last_generation; /* that a JoinGroup told, in this life */
    int told_count;
    int owner[GENERATIONS][PARTITIONS]; /* client + 1 */
    char told[GENERATIONS][CLIENTS][32];
    long long asked[OFFSETS], acknowledged[OFFSETS];
    char want[CLIENTS]; /* what a well-behaved client would do next: j, s or 0 */
} Model;

static const LabAsk *last_ask(const Lab *lab, int client)
{
    for (size_t i = lab->n_asks; i > 0; i--) {
        const LabAsk *a = &lab->asks[i - 1];
        if (a->client == client && (a->api_key == K_API_JOIN_GROUP || a->api_key == K_API_SYNC_GROUP))
            return a;
    }
    return NULL;
}

/* Its last JoinGroup or SyncGroup is parked. */
static bool is_waiting(const Lab *lab, int client)
{
    const LabAsk *a = last_ask(lab, client);
    return a && a->answers == 0 && !a->is_lost;
}

/* A well-behaved client forgets an id that the coordinator does not know. Of several requests the last one counts. */
static void heed(Lab *lab, Model *m, const LabAsk *ask, int16_t error, char next)
{
    if (ask->api_key != K_API_HEARTBEAT && ask != last_ask(lab, ask->client))
        return;
    m->want[ask->client] = error == K_NONE ? next : 'j';
    if (error == K_UNKNOWN_MEMBER_ID || error == K_FENCED_INSTANCE_ID)
        lab->clients[ask->client].member_id[0] = '\0';
}

static void check_sync(Lab *lab, Model *m, const LabAsk *ask, const KSyncGroupResponse *r)
{
    heed(lab, m, ask, r->error_code, 0);
    if (r->error_code != K_NONE)
        return;
    int generation = lab->clients[ask->client].generation;
    char text[32];
    snprintf(text, sizeof(text), "+%.*s", r->assignment.len, (const char *)r->assignment.ptr);
    ck_assert_int_lt(generation, GENERATIONS);
    char *told = m->told[generation][ask->client];
    if (told[0])
        ck_assert_str_eq(told, text);
    m->told_count += !told[0];
    snprintf(told, sizeof(m->told[0][0]), "%s", text);
    for (const char *p = text + 1; *p; p++) {
        int *owner = &m->owner[generation][*p - '0'];
        ck_assert_msg(*owner == 0 || *owner == ask->client + 1, "generation %d: partition %c has two owners", generation, *p);
        *owner = ask->client + 1;
    }
}

static void on_answer(Lab *lab, const LabAsk *ask, const void *response)
{
    Model *m = lab->userdata;
    if (ask->api_key == K_API_HEARTBEAT)
        heed(lab, m, ask, ((const KHeartbeatResponse *)response)->error_code, m->want[ask->client]);
    if (ask->api_key == K_API_JOIN_GROUP) {
        const KJoinGroupResponse *r = response;
        heed(lab, m, ask, r->error_code, 's');
        if (r->error_code != K_NONE)
            return;
        ck_assert_int_ge(r->generation_id, m->last_generation);
        m->last_generation = r->generation_id;
    } else if (ask->api_key == K_API_SYNC_GROUP) {
        check_sync(lab, m, ask, response);
    } else if (ask->api_key == K_API_OFFSET_COMMIT) {
        const KOffsetCommitResponse *r = response;
        if (r->topics.items[0].partitions.items[0].error_code == K_NONE) {
            int p = r->topics.items[0].partitions.items[0].partition_index;
            m->acknowledged[p] = MAX(m->acknowledged[p], ask->note);
        }
    }
}

static void command(Lab *lab, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void command(Lab *lab, const char *fmt, ...)
{
    char line[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    lab_command(lab, line);
    buf_clear(&lab->out);
}

static void act_join(Lab *lab, Rng *rng, int i)
{
    LabClient *c = &lab->clients[i];
    bool is_static = i < 2, stranger = rng_below(rng, 25) == 0;
    if (!is_static && stranger)
        c->member_id[0] = '\0'; /* the process was restarted */
    command(lab, "join c%d %s%s v=%d proto=range:%d session=%d rebalance=%d%s", i, is_static ? "inst=S" : "", is_static ? c->name : "",
            is_static ? 5 + (int)rng_below(rng, 5) : (int)rng_below(rng, 10), rng_below(rng, 9) == 0, 6000 + (int)rng_below(rng, 3) * 4000, 10000 + i * 1000,
            is_static && stranger ? " new" : "");
}

/* Each client offers its share of the partitions; what the leader says counts. */
static void act_sync(Lab *lab, Rng *rng, int i)
{
    char line[256];
    int n = snprintf(line, sizeof(line), "sync c%d", i);
    int shift = (int)rng_below(rng, CLIENTS);
    for (int p = 0; p < PARTITIONS; p++)
        if (lab->clients[(p + shift) % CLIENTS].member_id[0])
            n += snprintf(line + n, sizeof(line) - (size_t)n, " c%d:%d", (p + shift) % CLIENTS, p);
    command(lab, "%s", line);
}

static void act_commit(Lab *lab, Rng *rng, Model *m, int i)
{
    int p = (int)rng_below(rng, OFFSETS);
    lab->next_note = ++m->asked[p];
    command(lab, "commit c%d t/%d=%lld", i, p, m->asked[p]);
}

static void act_ack(Lab *lab, Rng *rng)
{
    if (lab->n_writes == 0)
        return;
    bool fails = rng_below(rng, 12) == 0;
    lab_ack(lab, fails ? K_NOT_ENOUGH_REPLICAS : K_NONE);
    buf_clear(&lab->out);
}

static void forget_life(Model *m)
{
    /* Generations that nobody was given an assignment in may be told again by the next coordinator. */
    m->last_generation = 0;
    for (int g = 0; g < GENERATIONS; g++)
        for (int c = 0; c < CLIENTS; c++)
            if (m->told[g][c][0])
                m->last_generation = g;
}

static void act_break(Lab *lab, Rng *rng, Model *m)
{
    if (rng_below(rng, 4) > 0) {
        command(lab, "suspend");
        command(lab, "time 5000");
        command(lab, "resume");
        return;
    }
    while (lab->n_writes > 0) /* whatever was sent before the end is in the log */
        act_ack(lab, rng);
    command(lab, "restart");
    forget_life(m);
}

static void act(Lab *lab, Rng *rng, Model *m)
{
    int i = (int)rng_below(rng, CLIENTS);
    uint64_t dice = rng_below(rng, 200);
    if (is_waiting(lab, i) && rng_below(rng, 20) > 0)
        dice = 38 + rng_below(rng, 90);
    char want = m->want[i];
    if (want && !is_waiting(lab, i) && rng_below(rng, 5) > 0) {
        m->want[i] = 0;
        if (want == 'j')
            act_join(lab, rng, i);
        else
            act_sync(lab, rng, i);
    } else if (dice < 8)
        act_join(lab, rng, i);
    else if (dice < 18)
        act_sync(lab, rng, i);
    else if (dice < 38)
        act_commit(lab, rng, m, i);
    else if (dice < 40)
        command(lab, "leave c%d", i);
    else if (dice < 110)
        act_ack(lab, rng);
    else if (dice < 122)
        command(lab, "time %d", (int)rng_below(rng, 3000));
    else if (dice < 123)
        act_break(lab, rng, m);
    else
        command(lab, "beat c%d", i);
}

static void finish(Lab *lab, const Model *m)
{
    for (int round = 0; round < 4; round++) {
        while (lab->n_writes > 0)
            lab_ack(lab, K_NONE);
        command(lab, "time 2000000");
    }
    while (lab->n_writes > 0)
        lab_ack(lab, K_NONE);
    for (size_t i = 0; i < lab->n_asks; i++)
        ck_assert_msg(lab->asks[i].answers == 1 || lab->asks[i].is_lost, "request %zu of api %d has no answer", i, lab->asks[i].api_key);
    lab_check_replay(lab);
    buf_clear(&lab->out);
    lab_command(lab, "fetch");
    buf_append(&lab->out, "", 1);
    for (int p = 0; p < OFFSETS; p++) {
        char word[16];
        snprintf(word, sizeof(word), " t/%d=", p);
        const char *at = strstr((const char *)lab->out.data, word);
        ck_assert(at || m->acknowledged[p] <= 0);
        if (at)
            ck_assert_int_ge(strtoll(at + strlen(word), NULL, 10), m->acknowledged[p]);
    }
    buf_clear(&lab->out);
    GroupsCounts counts = groups_counts(lab->groups);
    ck_assert_uint_eq(counts.members, 0); /* all sessions have ended */
}

START_TEST(random_lives)
{
    static Model model;
    for (int seed = _i * 6; seed < _i * 6 + 6; seed++) {
        static Lab lab;
        Rng rng;
        model = (Model){.last_generation = 0};
        rng_init(&rng, 1000 + (uint64_t)seed);
        lab_init(&lab);
        lab.on_answer = on_answer;
        lab.userdata = &model;
        for (int i = 0; i < CLIENTS; i++) {
            char name[8];
            snprintf(name, sizeof(name), "c%d", i);
            lab_client(&lab, name)->local = i % 3 == 0;
        }
        for (int n = 0; n < 8000; n++)
            act(&lab, &rng, &model);
        finish(&lab, &model);
        ck_assert_int_gt(model.last_generation, 40); /* or this test tests nothing */
        ck_assert_int_gt(model.told_count, 100);
        lab_deinit(&lab);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("random");
    TCase *c = tcase_create("random");
    tcase_set_timeout(c, 30);
    tcase_add_loop_test(c, random_lives, 0, 4);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
