/* The heap of deadlines against a list that is searched. */

#include <check.h>
#include <stdlib.h>

#include "base/hash.h"
#include "broker/deadline.h"

#define COUNT 200

typedef struct Item {
    Deadline d;
    int fired;
} Item;

static Item items[COUNT];
static int64_t last_fired_at;
static Deadlines heap;

static void on_fire(Deadline *d)
{
    Item *item = CONTAINER_OF(d, Item, d);
    ck_assert(!deadline_is_set(d)); /* disarmed before its fn, so that it may arm itself again */
    ck_assert_int_ge(d->at_ns, last_fired_at);
    last_fired_at = d->at_ns;
    item->fired++;
}

START_TEST(random_against_search)
{
    Rng rng;
    int64_t want[COUNT];
    rng_init(&rng, (uint64_t)_i);
    heap = (Deadlines){0};
    for (int i = 0; i < COUNT; i++) {
        items[i] = (Item){.d.fn = on_fire};
        want[i] = INT64_MAX;
    }
    int64_t now = 0;
    for (int step = 0; step < 600; step++) {
        size_t i = rng_below(&rng, COUNT);
        switch (rng_below(&rng, 4)) {
        case 0:
            deadline_clear(&heap, &items[i].d);
            want[i] = INT64_MAX;
            break;
        case 1:
            now += (int64_t)rng_below(&rng, 50);
            last_fired_at = 0;
            deadlines_run(&heap, now);
            for (int j = 0; j < COUNT; j++) {
                bool due = want[j] <= now;
                ck_assert_int_eq(items[j].fired, due);
                ck_assert(deadline_is_set(&items[j].d) == (want[j] != INT64_MAX && !due));
                if (due)
                    want[j] = INT64_MAX;
                items[j].fired = 0;
            }
            break;
        default:
            want[i] = now + 1 + (int64_t)rng_below(&rng, 1000);
            ck_assert_int_eq(deadline_set(&heap, &items[i].d, want[i]), 0);
        }
        int64_t earliest = INT64_MAX;
        for (int j = 0; j < COUNT; j++)
            earliest = MIN(earliest, want[j]);
        ck_assert_int_eq(deadlines_next(&heap), earliest);
    }
    deadlines_deinit(&heap);
}
END_TEST

static void fire_again(Deadline *d)
{
    CONTAINER_OF(d, Item, d)->fired++;
    ck_assert_int_eq(deadline_set(&heap, d, d->at_ns + 10), 0);
}

START_TEST(may_arm_itself_again)
{
    heap = (Deadlines){0};
    items[0] = (Item){.d.fn = fire_again};
    deadline_set(&heap, &items[0].d, 10);
    deadlines_run(&heap, 35);
    ck_assert_int_eq(items[0].fired, 3); /* 10, 20, 30 */
    ck_assert_int_eq(deadlines_next(&heap), 40);
    deadlines_deinit(&heap);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("deadline");
    TCase *tc = tcase_create("heap");
    tcase_add_loop_test(tc, random_against_search, 1, 6);
    tcase_add_test(tc, may_arm_itself_again);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
