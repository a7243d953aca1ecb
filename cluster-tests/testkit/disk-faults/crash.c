/*
 * The end of the process at a call that a test has chosen, and the names of the files that counted faults meet.
 *
 * What ends it is SIGKILL to itself: nothing is put away, and nobody hears of the call. One that is to end behind the
 * call does so when the call is done and journalled, so that the journal is as whole as after any other kill.
 */
#include "watch.h"

/* Whether this is one of the names: a text with at most one `*`, which stands for anything. An empty one is all. */
static bool fits(const char *name)
{
    char names[NAMES_WORDS * sizeof(uint64_t) + 1];
    for (size_t at = 0; at < NAMES_WORDS; at++) {
        uint64_t word = get(&control->names[at]);
        memcpy(names + at * sizeof word, &word, sizeof word);
    }
    names[sizeof names - 1] = '\0';
    const char *star = strchr(names, '*');
    if (names[0] == '\0' || star == NULL) {
        return names[0] == '\0' || strcmp(name, names) == 0;
    }
    size_t length = strlen(name);
    size_t head = (size_t)(star - names);
    size_t tail = strlen(star + 1);
    return length >= head + tail && memcmp(name, names, head) == 0 &&
           memcmp(name + length - tail, star + 1, tail) == 0;
}

static bool fits_file(int fd)
{
    char path[PATH_MAX];
    if (!path_of(fd, path)) {
        return false;
    }
    const char *slash = strrchr(path, '/');
    return fits(slash != NULL ? slash + 1 : path);
}

/* Whether a counted fault may meet this file. */
bool is_meant(int fd)
{
    return get(&control->names[0]) == 0 || fits_file(fd);
}

static void die(void)
{
    add(&control->crashes, 1);
    kill(getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

/* Counts a call that fits. At the last one the process ends, at once or when the answer says so. */
static enum ending count_down(void)
{
    uint64_t seen = get(&control->crash_left);
    while (seen > 0) {
        if (atomic_compare_exchange_weak_explicit(&control->crash_left, &seen, seen - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            enum ending ending = seen == 1 ? (enum ending)get(&control->crash_moment) : NEVER;
            if (ending == BEFORE) {
                die();
            }
            return ending;
        }
    }
    return NEVER;
}

static bool is_awaited(enum call call)
{
    return get(&control->crash_left) > 0 && get(&control->crash_call) == call;
}

/* What stands before a call on the file of this name. The answer goes to `end_call` when the call is done. */
enum ending begin_call(enum call call, const char *name)
{
    return is_awaited(call) && fits(name) ? count_down() : NEVER;
}

enum ending begin_call_on(enum call call, int fd)
{
    return is_awaited(call) && fits_file(fd) ? count_down() : NEVER;
}

void end_call(enum ending ending)
{
    if (ending != NEVER) {
        die();
    }
}
