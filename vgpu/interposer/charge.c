/* Reserves memory of the slice before the driver is asked for it. */
#include "book.h"
#include "slice.h"
#include <time.h>

#define TRIES 2000
#define BETWEEN_NS 100000

/* Refused once, it looks for processes that have ended. Then it waits for calls whose room may come back. */
bool charge(unsigned card, uint64_t bytes)
{
    if (!usage_joined())
        return false;
    enum answer answer = usage_reserve(card, bytes);
    if (answer != GRANTED && usage_reap())
        answer = usage_reserve(card, bytes);
    for (int try = 0; answer == TRY_AGAIN && try < TRIES; try++) {
        nanosleep(&(struct timespec){.tv_nsec = BETWEEN_NS}, NULL);
        answer = usage_reserve(card, bytes);
    }
    return answer == GRANTED;
}

void uncharge(unsigned card, uint64_t bytes)
{
    usage_return(card, bytes);
}

void settle(uint64_t bytes)
{
    if (usage_joined())
        usage_settle(bytes);
}
