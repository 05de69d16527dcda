/* One of two programs that wait for each other on the card, as the ranks of a collective do. collective FILE ME STEPS: FILE has room for
   two numbers that both map. At each step the card's stream goes on only when the other's has come that far. Prints "done". */
#include "../../simulator/programs/check.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

struct step {
    _Atomic uint64_t *mine, *theirs;
    uint64_t number;
};

/* In the order of the stream: what comes after it waits. */
static void CUDA_CB meet(void *argument)
{
    struct step *step = argument;
    atomic_store(step->mine, step->number);
    while (atomic_load(step->theirs) < step->number)
        usleep(200);
}

int main(int count, char **words)
{
    char line[16];
    CUstream stream;
    if (count != 4)
        return 2;
    int file = open(words[1], O_RDWR), me = atoi(words[2]), steps = atoi(words[3]);
    _Atomic uint64_t *reached = mmap(NULL, 2 * sizeof *reached, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct step *each = calloc((size_t)steps, sizeof *each);
    if (reached == MAP_FAILED || !each)
        return 2;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 3;
    for (int i = 0; i < steps; i++) {
        each[i] = (struct step){&reached[me], &reached[1 - me], (uint64_t)i + 1};
        for (int kernel = 0; kernel < 4; kernel++)
            launch(1000, 500000, stream);
        OK(cuLaunchHostFunc(stream, meet, &each[i]));
    }
    OK(cuStreamSynchronize(stream));
    puts("done");
    fflush(stdout);
    return 0;
}
