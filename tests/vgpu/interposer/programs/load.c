/* Keeps a card busy, for tests of shares. load MODE NS SECONDS: kernels of so many ns, for so many seconds of the card's own clock.
   Says "ready", waits for a line, and prints how many kernels it launched.

   MODE: async, sync (waits for each kernel), pausing (and computes for 4 ms in between), graph (of ten kernels each), cooperative, extended, capture (an endless capture of another
   stream goes on meanwhile). */
#include "../../simulator/programs/check.h"
#include <time.h>
#include <unistd.h>

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static CUgraphExec graph_of(unsigned long long ns, int count, CUstream stream)
{
    CUgraph graph;
    CUgraphExec instance;
    OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int i = 0; i < count; i++)
        launch(1000, ns, stream);
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiate(&instance, graph, 0));
    return instance;
}

int main(int count, char **words)
{
    char line[16];
    CUstream stream, other;
    CUgraphExec graph = NULL;
    if (count != 4)
        return 2;
    const char *mode = words[1];
    unsigned long long ns = strtoull(words[2], NULL, 10);
    double wanted = atof(words[3]);
    void *parameters[] = {&ns};
    long launched = 0;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    if (strcmp(mode, "graph") == 0)
        graph = graph_of(ns, 10, stream);
    if (strcmp(mode, "capture") == 0) {
        OK(cuStreamBeginCapture(other, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        launch(1, ns, other);
    }
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 3;
    for (double end = seconds() + wanted; seconds() < end; launched++) {
        if (graph)
            OK(cuGraphLaunch(graph, stream));
        else if (strcmp(mode, "cooperative") == 0)
            OK(cuLaunchCooperativeKernel(spin, 100, 1, 1, 64, 1, 1, 0, stream, parameters));
        else if (strcmp(mode, "extended") == 0)
            OK(cuLaunchKernelEx(&(CUlaunchConfig){1000, 1, 1, 64, 1, 1, 0, stream, NULL, 0}, spin, parameters, NULL));
        else
            launch(1000, ns, stream);
        if (strcmp(mode, "sync") == 0 || strcmp(mode, "pausing") == 0)
            OK(cuStreamSynchronize(stream));
        if (strcmp(mode, "pausing") == 0)
            usleep(4000);
    }
    printf("%ld\n", launched);
    fflush(stdout);
    _exit(0); /* what is still queued does not matter */
}
