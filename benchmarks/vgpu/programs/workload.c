/* A tenant's program. It says "ready", starts with the next line, and ends with the end of its input, printing what it did as JSON.

       workload MODE kernel_ns=N [dilation_ppm=N] [nodes=N] [flight=N] [seed=N] [mean_ns=N] [kernels=N] [on_ns=N] [off_ns=N] [pause_ns=N]

   async        one kernel after the other, until the stream has no more room
   flight       the same with at most `flight` kernels under way, as programs do that look at results now and then
   sync         waits after each
   graph        a graph of `nodes` kernels, again and again, without waiting
   cooperative  as async, by cuLaunchCooperativeKernel
   requests     Poisson arrivals, `mean_ns` apart in the mean; each is `kernels` kernels and a wait, served one after the other. A request's
                latency is from its arrival, which is set beforehand, to its end by the card's own clock (an event); what this program
                oversleeps an arrival for want of a processor is taken off
   phases       as flight for `on_ns`, then nothing for `off_ns`, and so on

   Times are simulated ones, except for the real ones (CLOCK_MONOTONIC) when phases begin and requests arrive, which is what the machine's
   sampler gives as well. */
#include "device.h"
#include <math.h>
#include <pthread.h>

#define MOST 100000

static uint64_t kernel_ns = 1000000, dilation_ppm = 1000000, nodes = 20, flight = 8, seed = 1, mean_ns = 20000000, kernels = 5, pause_ns = 0;
static uint64_t on_ns = 500000000, off_ns = 500000000;
static uint64_t launched, finished; /* by this program's own word, which no figure is made of */
static uint64_t latency_ns[MOST], began_ns[MOST];
static uint64_t latencies, beginnings;

static uint64_t real(uint64_t simulated_ns)
{
    return (uint64_t)((unsigned __int128)simulated_ns * dilation_ppm / 1000000u);
}

static void print_list(const char *name, const uint64_t *list, uint64_t count)
{
    printf(", \"%s\": [", name);
    for (uint64_t i = 0; i < count; i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)list[i]);
    printf("]");
}

/* The main thread may be anywhere, also in a wait of a second, so the program ends from here. */
static void *end(void *unused)
{
    char line[64];
    (void)unused;
    while (fgets(line, sizeof line, stdin))
        ;
    printf("{\"launched\": %llu, \"finished\": %llu", (unsigned long long)__atomic_load_n(&launched, __ATOMIC_ACQUIRE),
           (unsigned long long)__atomic_load_n(&finished, __ATOMIC_ACQUIRE));
    print_list("latency_ns", latency_ns, __atomic_load_n(&latencies, __ATOMIC_ACQUIRE));
    print_list("began_ns", began_ns, __atomic_load_n(&beginnings, __ATOMIC_ACQUIRE));
    printf("}\n");
    fflush(stdout);
    _exit(0);
}

static void count(uint64_t *counter, uint64_t amount)
{
    __atomic_fetch_add(counter, amount, __ATOMIC_RELEASE);
}

static void launch(CUstream stream)
{
    void *parameters[] = {&kernel_ns};
    OK(cuLaunchKernel(spin, wave, 1, 1, THREADS, 1, 1, 0, stream, parameters, NULL));
    count(&launched, 1);
}

static void launch_cooperative(CUstream stream)
{
    void *parameters[] = {&kernel_ns};
    OK(cuLaunchCooperativeKernel(spin, wave, 1, 1, THREADS, 1, 1, 0, stream, parameters));
    count(&launched, 1);
}

static CUgraphExec make_graph(void)
{
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode before = NULL;
    void *parameters[] = {&kernel_ns};
    OK(cuGraphCreate(&graph, 0));
    for (uint64_t i = 0; i < nodes; i++) {
        CUDA_KERNEL_NODE_PARAMS kernel = {.func = spin, .gridDimX = wave, .gridDimY = 1, .gridDimZ = 1, .blockDimX = THREADS,
                                          .blockDimY = 1, .blockDimZ = 1, .kernelParams = parameters};
        CUgraphNode node;
        OK(cuGraphAddKernelNode(&node, graph, before ? &before : NULL, before != NULL, &kernel));
        before = node;
    }
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    return exec;
}

/* Launches until `until` (real, 0: for ever), never with more than `flight` kernels under way. */
static void keep_in_flight(CUstream stream, CUevent *events, uint64_t until)
{
    uint64_t at = 0;
    for (; !until || monotonic_ns() < until; at++) {
        if (at >= flight) {
            OK(cuEventSynchronize(events[at % flight]));
            count(&finished, 1);
        }
        launch(stream);
        OK(cuEventRecord(events[at % flight], stream));
    }
    OK(cuStreamSynchronize(stream));
    count(&finished, at < flight ? at : flight);
}

static void phases(CUstream stream, CUevent *events)
{
    for (;;) {
        uint64_t now = monotonic_ns();
        if (beginnings < MOST) {
            began_ns[beginnings] = now;
            count(&beginnings, 1);
        }
        keep_in_flight(stream, events, now + real(on_ns));
        /* A little more or less each time, so that nothing that repeats itself is met at the same place. */
        uint64_t off = off_ns + (uint64_t)rand_r(&(unsigned){(unsigned)(seed + beginnings)}) % (off_ns / 4 + 1);
        sleep_until(monotonic_ns() + real(off));
    }
}

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) + 1) / 9007199254740993.0;
}

/* An event on the idle card, and the real time at which it happened: the shortest try, before anybody has work. */
static uint64_t compare_clocks(CUstream stream, CUevent *event)
{
    uint64_t best = UINT64_MAX, zero = 0;
    CUevent tried;
    for (int i = 0; i < 20; i++) {
        OK(cuEventCreate(&tried, CU_EVENT_DEFAULT));
        uint64_t before = monotonic_ns();
        OK(cuEventRecord(tried, stream));
        OK(cuEventSynchronize(tried));
        uint64_t span = monotonic_ns() - before;
        if (span < best) {
            best = span;
            zero = before;
            *event = tried;
        }
    }
    return zero;
}

static void requests(CUstream stream, CUevent first, uint64_t card_zero)
{
    CUevent last;
    float ms;
    uint64_t state = seed * 7919 + 1, zero = monotonic_ns();
    double arrival_ns = 0;
    OK(cuEventCreate(&last, CU_EVENT_DEFAULT));
    for (;;) {
        arrival_ns -= log(uniform(&state)) * (double)mean_ns;
        uint64_t due = zero + real((uint64_t)arrival_ns), now = monotonic_ns(), overslept = 0;
        if (now < due) {
            sleep_until(due);
            overslept = monotonic_ns() - due;
        }
        for (uint64_t i = 0; i < kernels; i++)
            launch(stream);
        OK(cuEventRecord(last, stream));
        OK(cuEventSynchronize(last));
        OK(cuEventElapsedTime(&ms, first, last));
        count(&finished, kernels);
        if (latencies < MOST) {
            double ready = (double)due - (double)card_zero + (double)overslept; /* real */
            double latency = (double)ms * 1e6 - ready * 1e6 / (double)dilation_ppm;
            latency_ns[latencies] = latency > 0 ? (uint64_t)latency : 0;
            began_ns[latencies] = due;
            count(&beginnings, 1);
            count(&latencies, 1);
        }
    }
}

static bool read_option(const char *argument)
{
    static const struct {
        const char *name;
        uint64_t *value;
    } options[] = {{"kernel_ns=", &kernel_ns}, {"dilation_ppm=", &dilation_ppm}, {"nodes=", &nodes}, {"flight=", &flight}, {"seed=", &seed},
                   {"mean_ns=", &mean_ns},     {"kernels=", &kernels},           {"on_ns=", &on_ns}, {"off_ns=", &off_ns},
                   {"pause_ns=", &pause_ns}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (strncmp(argument, options[i].name, strlen(options[i].name)) == 0) {
            *options[i].value = strtoull(argument + strlen(options[i].name), NULL, 10);
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    pthread_t reader;
    CUstream stream;
    CUevent events[64];
    for (int i = 2; i < argc; i++)
        if (!read_option(argv[i])) {
            fprintf(stderr, "no option %s\n", argv[i]);
            return 2;
        }
    if (flight < 1 || flight > 64)
        return 2;
    start();
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 64; i++)
        OK(cuEventCreate(&events[i], CU_EVENT_DISABLE_TIMING));
    CUgraphExec graph = strcmp(mode, "graph") == 0 ? make_graph() : NULL;
    CUevent first = NULL;
    uint64_t card_zero = strcmp(mode, "requests") == 0 ? compare_clocks(stream, &first) : 0;
    if (!wait_for_line())
        return 0;
    if (pthread_create(&reader, NULL, end, NULL))
        return 1;
    if (strcmp(mode, "flight") == 0)
        keep_in_flight(stream, events, 0);
    else if (strcmp(mode, "requests") == 0)
        requests(stream, first, card_zero);
    else if (strcmp(mode, "phases") == 0)
        phases(stream, events);
    else if (strcmp(mode, "cooperative") == 0)
        for (;;)
            launch_cooperative(stream);
    else if (graph)
        for (;;) {
            OK(cuGraphLaunch(graph, stream));
            count(&launched, nodes);
        }
    else if (strcmp(mode, "sync") == 0)
        for (;;) {
            launch(stream);
            OK(cuStreamSynchronize(stream));
            count(&finished, 1);
            if (pause_ns)
                sleep_until(monotonic_ns() + real(pause_ns));
        }
    else if (strcmp(mode, "async") == 0)
        for (;;)
            launch(stream);
    fprintf(stderr, "no mode %s\n", mode);
    return 2;
}
