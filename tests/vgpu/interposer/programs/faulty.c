/* A program with a fault of the named kind, by which a test sees that such faults are reported: overflow, undefined, leak, race. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static int shared;
static int *volatile lost;

static void *add(void *nothing)
{
    for (int i = 0; i < 1000; i++)
        shared++;
    return nothing;
}

static void race(void)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, add, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

int main(int count, char **words)
{
    const char *fault = count > 1 ? words[1] : "";
    volatile int large = INT_MAX, beyond = 4;
    if (strcmp(fault, "undefined") == 0)
        large = large + 1;
    if (strcmp(fault, "race") == 0)
        race();
    if (strcmp(fault, "leak") == 0)
        for (int i = 0; i < 10; i++)
            lost = malloc(1000);
    if (strcmp(fault, "leak") == 0)
        lost = NULL;
    if (strcmp(fault, "overflow") == 0)
        ((volatile int *)malloc(4 * sizeof(int)))[beyond] = 1;
    return 0;
}
